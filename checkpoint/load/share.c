/* share.c - see share.h.
 *
 * A chunk that several ranks want is read by the one of them that has least to read. Turns order the chunks: the turns of
 * a rank's chunks never go back from one chunk to the next, and none has more than SHARE_SLOTS of them. So a rank takes
 * its turns in order, in each it reads its part, then all of the turn is handed on together; nobody waits for a rank that
 * waits for a later turn. */
#include "share.h"

#include <stdlib.h>

ds_status share_init(struct share *s, uint32_t rank_count, uint64_t chunk_count)
{
    const uint64_t row_bytes = chunk_count / 8 + 1;

    *s = (struct share){.rank_count = rank_count,
                        .chunk_count = chunk_count,
                        .row_bytes = row_bytes,
                        .bits = calloc(rank_count, row_bytes),
                        .reads = calloc(rank_count, sizeof *s->reads),
                        .turn = calloc(rank_count, sizeof *s->turn),
                        .used = calloc(rank_count, sizeof *s->used)};
    if (!s->bits || !s->reads || !s->turn || !s->used)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to share out %llu chunks",
                       (unsigned long long)chunk_count);
    return DS_OK;
}

void share_fini(struct share *s)
{
    free(s->bits);
    free(s->reads);
    free(s->turn);
    free(s->used);
    *s = (struct share){0};
}

void share_want(struct share *s, uint32_t rank, uint64_t chunk)
{
    DS_ASSERT(rank < s->rank_count && chunk < s->chunk_count);
    s->bits[rank * s->row_bytes + chunk / 8] |= (uint8_t)(1u << chunk % 8);
}

uint32_t share_wanters(const struct share *s, uint64_t chunk, uint32_t *ranks)
{
    uint32_t count = 0;

    for (uint32_t rank = 0; rank < s->rank_count; rank++)
        if (s->bits[rank * s->row_bytes + chunk / 8] >> chunk % 8 & 1)
            ranks[count++] = rank;
    return count;
}

void share_begin(struct share *s, uint32_t *ranks)
{
    for (uint64_t chunk = 0; chunk < s->chunk_count; chunk++)
        if (share_wanters(s, chunk, ranks) == 1)
            s->reads[ranks[0]]++;
}

/* The first turn in which all of them have a buffer free. */
static uint64_t turn_of(const struct share *s, const uint32_t *ranks, uint32_t count)
{
    uint64_t turn = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint64_t next = s->turn[ranks[i]] + (s->used[ranks[i]] == SHARE_SLOTS);

        turn = next > turn ? next : turn;
    }
    return turn;
}

struct share_place share_place(struct share *s, const uint32_t *ranks, uint32_t count)
{
    struct share_place place = {.reader = count > 0 ? ranks[0] : 0, .count = count};

    if (count < 2)
        return place;
    place.turn = turn_of(s, ranks, count);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t rank = ranks[i];

        if (s->reads[rank] < s->reads[place.reader])
            place.reader = rank;
        s->used[rank] = s->turn[rank] == place.turn ? s->used[rank] + 1 : 1;
        s->turn[rank] = place.turn;
    }
    s->reads[place.reader]++;
    return place;
}

static uint32_t index_of(const uint32_t *ranks, uint32_t count, uint32_t rank)
{
    uint32_t index = 0;

    while (index < count && ranks[index] != rank)
        index++;
    DS_ASSERT(index < count);
    return index;
}

int share_hop(const uint32_t *ranks, uint32_t count, uint32_t reader, uint32_t rank, uint32_t reach,
              uint32_t *peer)
{
    const uint32_t root = index_of(ranks, count, reader);
    const uint32_t place = (index_of(ranks, count, rank) + count - root) % count;

    if (place < reach && place + reach < count) {
        *peer = ranks[(root + place + reach) % count];
        return 1;
    }
    if (place >= reach && place < 2 * reach) {
        *peer = ranks[(root + place - reach) % count];
        return -1;
    }
    return 0;
}
