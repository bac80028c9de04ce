/* load_together.c - pieces out of a checkpoint, by all ranks at once: each chunk is read by one of those that want
 * something of it, who hands it on.
 *
 * All look through all tables and tell each other which chunks they want (share.h). Then come the chunks that several
 * want, turn by turn, and then those that one alone wants, so that who has many of these holds up nobody before the end.
 * Behind the bytes of a chunk goes the status of reading them. A rank on which something has failed reads no more and
 * takes no more, but goes through its turns: those behind it get its status, and bytes that nobody looks at. */
#include "load.h"
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
    ds_status st; /* of this rank */
    /* owns */
    struct load_wants wants;
    struct share share;
    struct item *items;
    size_t item_count, item_room;
    uint64_t chunk_count;
    uint32_t *ranks;  /* [SHARE_SLOTS][size]: who wants the chunks of a turn */
    uint8_t *buffers; /* [SHARE_SLOTS][BUFFER_BYTES] */
    struct ds_pack *pack;
    uint32_t pack_at; /* its number in the manifest */
};

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
    t->buffers = calloc(SHARE_SLOTS, BUFFER_BYTES);
    if (!t->ranks || !t->buffers)
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

/* ---- one turn */

static ds_status read_item(struct together *t, const struct item *item, void *to)
{
    DS_TRY(t->st);
    if (t->pack && t->pack_at != item->pack) {
        ds_pack_close(t->pack);
        t->pack = NULL;
    }
    if (!t->pack)
        DS_TRY(ds_checkpoint_open_pack(t->fs, t->root, t->manifest, item->pack, &t->pack));
    t->pack_at = item->pack;
    return ds_checkpoint_read_chunk(t->fs, t->root, t->manifest, t->pack, item->chunk, to);
}

/* Reads what is this rank's to read of a turn. How many ranks want the chunk that most want. */
static uint32_t read_turn(struct together *t, struct item *const *turn, uint32_t count)
{
    uint32_t most = 0;

    for (uint32_t slot = 0; slot < count; slot++) {
        const struct item *item = turn[slot];
        uint8_t *buffer = t->buffers + (size_t)slot * BUFFER_BYTES;

        (void)share_wanters(&t->share, item->number, t->ranks + (size_t)slot * t->control->size);
        most = item->place.count > most ? item->place.count : most;
        if (item->place.reader != t->control->rank)
            continue;
        const int32_t st = (int32_t)read_item(t, item, buffer);
        memcpy(buffer + item->stored_bytes, &st, sizeof st);
    }
    return most;
}

/* collective among those that want the chunks of the turn */
static ds_status hand_on(struct together *t, struct item *const *turn, uint32_t count,
                         uint32_t reach)
{
    struct ds_message messages[SHARE_SLOTS];
    uint32_t message_count = 0;

    for (uint32_t slot = 0; slot < count; slot++) {
        const struct item *item = turn[slot];
        uint32_t peer = 0;
        const int hop = share_hop(t->ranks + (size_t)slot * t->control->size, item->place.count,
                                  item->place.reader, t->control->rank, reach, &peer);

        if (hop != 0)
            messages[message_count++] =
                (struct ds_message){.data = t->buffers + (size_t)slot * BUFFER_BYTES,
                                    .bytes = item->stored_bytes + sizeof(int32_t),
                                    .peer = peer,
                                    .is_send = hop > 0};
    }
    return ds_comm_exchange(t->control, messages, message_count, NULL);
}

static void take_turn(struct together *t, struct item *const *turn, uint32_t count)
{
    for (uint32_t slot = 0; slot < count; slot++) {
        const struct item *item = turn[slot];
        const uint8_t *buffer = t->buffers + (size_t)slot * BUFFER_BYTES;
        int32_t st;

        memcpy(&st, buffer + item->stored_bytes, sizeof st);
        if (t->st == DS_OK)
            t->st = (ds_status)st;
        if (t->st == DS_OK)
            t->st = load_wants_take(&t->wants, &item->piece, item->dtype, buffer);
    }
}

/* DS_OK: talking has worked; what else has failed is in t->st */
static ds_status pass_turn(struct together *t, struct item *const *turn, uint32_t count)
{
    const uint32_t most = read_turn(t, turn, count);

    for (uint32_t reach = 1; reach < most; reach *= 2)
        DS_TRY(hand_on(t, turn, count, reach));
    take_turn(t, turn, count);
    return DS_OK;
}

/* ---- all */

static ds_status load_shared(struct together *t)
{
    struct item *turn[SHARE_SLOTS];
    uint32_t count = 0;

    for (size_t i = 0; i < t->item_count; i++) {
        struct item *item = &t->items[i];

        if (item->place.count < 2)
            continue;
        if (count > 0 && item->place.turn != turn[0]->place.turn) {
            DS_TRY(pass_turn(t, turn, count));
            count = 0;
        }
        DS_ASSERT(count < SHARE_SLOTS);
        turn[count++] = item;
    }
    return pass_turn(t, turn, count);
}

static ds_status load_own(struct together *t)
{
    for (size_t i = 0; i < t->item_count && t->st == DS_OK; i++) {
        struct item *item = &t->items[i];

        if (item->place.count < 2)
            DS_TRY(pass_turn(t, &item, 1));
    }
    return t->st;
}

static ds_status load(struct together *t, const struct ds_piece *wants, size_t count,
                      const struct ds_checkpoint_sink *sink)
{
    DS_TRY(ds_comm_agreed(t->control, list_items(t, wants, count, sink)));
    DS_TRY(place_items(t));
    DS_TRY(load_shared(t));
    DS_TRY(load_own(t));
    return load_wants_check(&t->wants);
}

ds_status ds_checkpoint_load_together(struct ds_comm *control, struct ds_fs *fs, const char *root,
                                      const struct ds_manifest *manifest,
                                      const struct ds_piece *wants, size_t count,
                                      const struct ds_checkpoint_sink *sink)
{
    struct together t = {.control = control, .fs = fs, .root = root, .manifest = manifest};
    const ds_status st = load(&t, wants, count, sink);

    ds_pack_close(t.pack);
    load_wants_fini(&t.wants);
    share_fini(&t.share);
    free(t.items);
    free(t.ranks);
    free(t.buffers);
    return st;
}
