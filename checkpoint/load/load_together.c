/* load_together.c - pieces out of a checkpoint, by all ranks at once: each chunk is read by one of those that want
 * something of it, who hands it on.
 *
 * All look through all tables and tell each other which chunks they want (share.h). Then come the chunks that several
 * want, turn by turn, and then those that one alone wants, so that who has many of these holds up nobody before the end.
 * A thread reads ahead meanwhile what this rank is to read, in that order.
 * Behind the bytes of a chunk goes the status of reading them. A rank on which something has failed reads no more and
 * takes no more, but goes through its turns: those behind it get its status, and bytes that nobody looks at. */
#include "load.h"
#include "read_ahead.h"
#include "share.h"

#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES (DS_PACK_CHUNK_BYTES + DS_PACK_ALIGN) /* a chunk and its status */

/* A chunk that this rank wants something of. */
struct item {
    struct ds_piece piece;
    uint64_t number; /* among all of the checkpoint's */
    uint32_t pack;   /* of the manifest */
    uint32_t chunk;  /* of its table */
    uint32_t stored_bytes;
    enum ds_dtype dtype;
    struct share_place place;
};

struct together {
    struct ds_comm *control;
    struct ds_fs *fs;
    const char *root;
    const struct ds_manifest *manifest;
    int32_t *missed;
    ds_status st; /* of this rank */
    /* owns */
    struct load_wants wants;
    struct share share;
    struct item *items;
    size_t item_count, item_room;
    uint64_t chunk_count;
    uint32_t *ranks; /* [SHARE_SLOTS][size]: who wants the chunks of a turn */
    uint8_t *
        buffers; /* [SHARE_SLOTS][BUFFER_BYTES]: what comes; behind it [READ_AHEAD_SLOTS][BUFFER_BYTES] */
    struct read_ahead_chunk *reads; /* what this rank reads, in order */
    struct read_ahead ahead;
};

/* The chunks that a rank takes together. */
struct turn {
    struct item *items[SHARE_SLOTS];
    uint8_t *at[SHARE_SLOTS]; /* their bytes, with the status behind them */
    uint32_t count;
};

_Static_assert(SHARE_SLOTS <= READ_AHEAD_SLOTS, "a rank may be the one who reads all of a turn");

/* ---- which chunks there are, and which of them this rank wants */

static ds_status add_item(struct together *t, const struct item *item)
{
    if (t->item_count == t->item_room) {
        const size_t room = 2 * t->item_room + 64;
        struct item *larger = realloc(t->items, room * sizeof *larger);

        if (!larger)
            return ds_fail(DS_ERR_NO_MEMORY, "no memory to load %zu chunks", room);
        t->items = larger;
        t->item_room = room;
    }
    t->items[t->item_count++] = *item;
    return DS_OK;
}

static ds_status list_pack(struct together *t, uint32_t index)
{
    struct ds_pack *pack = NULL;
    ds_status st = DS_OK;

    DS_TRY(ds_checkpoint_open_pack(t->fs, t->root, t->manifest, index, &pack));
    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count && st == DS_OK; i++) {
        const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[i];
        const struct item item = {.piece = ds_pack_piece(pack, &t->manifest->catalogue, i),
                                  .number = t->chunk_count++,
                                  .pack = index,
                                  .chunk = i,
                                  .stored_bytes = chunk->stored_bytes,
                                  .dtype = chunk->dtype};

        if (load_wants_any(&t->wants, &item.piece))
            st = add_item(t, &item);
    }
    ds_pack_close(pack);
    return st;
}

static ds_status list_items(struct together *t, const struct ds_piece *wants, size_t count,
                            const struct ds_checkpoint_sink *sink)
{
    const uint32_t size = t->control->size;

    DS_TRY(load_wants_init(&t->wants, &t->manifest->catalogue, wants, count, sink));
    for (uint32_t i = 0; i < t->manifest->pack_count; i++)
        if (ds_checkpoint_owns(t->manifest, &t->manifest->packs[i].pack.id))
            DS_TRY(list_pack(t, i));
    DS_TRY(share_init(&t->share, size, t->chunk_count));
    t->ranks = calloc((size_t)SHARE_SLOTS * size, sizeof *t->ranks);
    t->buffers = calloc(SHARE_SLOTS + READ_AHEAD_SLOTS, BUFFER_BYTES);
    t->reads = calloc(t->item_count + 1, sizeof *t->reads);
    if (!t->ranks || !t->buffers || !t->reads)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to load a checkpoint");
    for (size_t i = 0; i < t->item_count; i++)
        share_want(&t->share, t->control->rank, t->items[i].number);
    return DS_OK;
}

/* collective: who wants what, and from that who reads what and when */
static ds_status place_items(struct together *t)
{
    struct share *share = &t->share;
    size_t next = 0;

    DS_TRY(ds_comm_all_gather(t->control, share->bits + t->control->rank * share->row_bytes,
                              share->bits, share->row_bytes, DS_U8, NULL));
    share_begin(share, t->ranks);
    for (uint64_t number = 0; number < t->chunk_count; number++) {
        const uint32_t count = share_wanters(share, number, t->ranks);
        const struct share_place place = share_place(share, t->ranks, count);

        if (next < t->item_count && t->items[next].number == number)
            t->items[next++].place = place;
    }
    return DS_OK;
}

/* Those that several want first. */
static void list_reads(struct together *t, int are_shared)
{
    for (size_t i = 0; i < t->item_count; i++) {
        const struct item *item = &t->items[i];

        if ((item->place.count > 1) == are_shared && item->place.reader == t->control->rank)
            t->reads[t->ahead.count++] = (struct read_ahead_chunk){item->pack, item->chunk};
    }
}

static ds_status start_reading(struct together *t)
{
    t->ahead = (struct read_ahead){.fs = t->fs,
                                   .root = t->root,
                                   .manifest = t->manifest,
                                   .chunks = t->reads,
                                   .buffers = t->buffers + (size_t)SHARE_SLOTS * BUFFER_BYTES,
                                   .buffer_bytes = BUFFER_BYTES,
                                   .missed = t->missed};
    list_reads(t, 1);
    list_reads(t, 0);
    return read_ahead_start(&t->ahead);
}

/* ---- one turn */

/* Puts everything in its place; what is this rank's to read is read. How many that is. */
static uint32_t read_turn(struct together *t, struct turn *turn)
{
    uint32_t read_count = 0;

    for (uint32_t slot = 0; slot < turn->count; slot++) {
        const struct item *item = turn->items[slot];

        turn->at[slot] = t->buffers + (size_t)slot * BUFFER_BYTES;
        (void)share_wanters(&t->share, item->number, t->ranks + (size_t)slot * t->control->size);
        if (item->place.reader != t->control->rank)
            continue;
        if (t->st == DS_OK) {
            t->st = read_ahead_next(&t->ahead, &turn->at[slot]);
            read_count++;
        }
        const int32_t st = (int32_t)t->st;
        memcpy(turn->at[slot] + item->stored_bytes, &st, sizeof st);
    }
    return read_count;
}

/* collective among those that want the chunks of the turn */
static ds_status hand_on(struct together *t, const struct turn *turn, uint32_t reach)
{
    struct ds_message messages[SHARE_SLOTS];
    uint32_t message_count = 0;

    for (uint32_t slot = 0; slot < turn->count; slot++) {
        const struct item *item = turn->items[slot];
        uint32_t peer = 0;
        const int hop = share_hop(t->ranks + (size_t)slot * t->control->size, item->place.count,
                                  item->place.reader, t->control->rank, reach, &peer);

        if (hop != 0)
            messages[message_count++] =
                (struct ds_message){.data = turn->at[slot],
                                    .bytes = item->stored_bytes + sizeof(int32_t),
                                    .peer = peer,
                                    .is_send = hop > 0};
    }
    return ds_comm_exchange(t->control, messages, message_count, NULL);
}

static void take_turn(struct together *t, const struct turn *turn)
{
    for (uint32_t slot = 0; slot < turn->count; slot++) {
        const struct item *item = turn->items[slot];
        int32_t st;

        memcpy(&st, turn->at[slot] + item->stored_bytes, sizeof st);
        if (t->st == DS_OK)
            t->st = (ds_status)st;
        if (t->st == DS_OK)
            t->st = load_wants_take(&t->wants, &item->piece, item->dtype, turn->at[slot]);
    }
}

/* DS_OK: talking has worked; what else has failed is in t->st */
static ds_status pass_turn(struct together *t, struct turn *turn)
{
    const uint32_t read_count = read_turn(t, turn);
    uint32_t most = 0; /* ranks that want the same chunk */

    for (uint32_t slot = 0; slot < turn->count; slot++)
        most = turn->items[slot]->place.count > most ? turn->items[slot]->place.count : most;
    for (uint32_t reach = 1; reach < most; reach *= 2)
        DS_TRY(hand_on(t, turn, reach));
    take_turn(t, turn);
    read_ahead_give_back(&t->ahead, read_count);
    turn->count = 0;
    return DS_OK;
}

/* ---- all */

static ds_status load_shared(struct together *t)
{
    struct turn turn = {.count = 0};

    for (size_t i = 0; i < t->item_count; i++) {
        struct item *item = &t->items[i];

        if (item->place.count < 2)
            continue;
        if (turn.count > 0 && item->place.turn != turn.items[0]->place.turn)
            DS_TRY(pass_turn(t, &turn));
        DS_ASSERT(turn.count < SHARE_SLOTS);
        turn.items[turn.count++] = item;
    }
    return pass_turn(t, &turn);
}

static ds_status load_own(struct together *t)
{
    for (size_t i = 0; i < t->item_count && t->st == DS_OK; i++) {
        struct turn turn = {.items = {&t->items[i]}, .count = 1};

        if (t->items[i].place.count < 2)
            DS_TRY(pass_turn(t, &turn));
    }
    return t->st;
}

static ds_status load(struct together *t, const struct ds_piece *wants, size_t count,
                      const struct ds_checkpoint_sink *sink)
{
    DS_TRY(ds_comm_agreed(t->control, list_items(t, wants, count, sink)));
    DS_TRY(place_items(t));
    t->st = start_reading(t);
    DS_TRY(load_shared(t));
    DS_TRY(load_own(t));
    return load_wants_check(&t->wants);
}

ds_status ds_checkpoint_load_together(struct ds_comm *control, struct ds_fs *fs, const char *root,
                                      const struct ds_manifest *manifest,
                                      const struct ds_piece *wants, size_t count,
                                      const struct ds_checkpoint_sink *sink, int32_t *missed)
{
    struct together t = {
        .control = control, .fs = fs, .root = root, .manifest = manifest, .missed = missed};
    const ds_status st = load(&t, wants, count, sink);

    read_ahead_stop(&t.ahead);
    load_wants_fini(&t.wants);
    share_fini(&t.share);
    free(t.items);
    free(t.ranks);
    free(t.reads);
    free(t.buffers);
    return st;
}
