/* delta.c - remembers the table of the last committed save, whatever files it is spread over, with the packs that it
 * names as numbers of one list. */
#include "dstrain/delta.h"

#include <stdlib.h>
#include <string.h>

/* One save's table. */
struct table {
    struct ds_pack_chunk *chunks; /* pack, copy_pack: of `packs`; DS_PACK_HERE: no place */
    uint32_t *ages;               /* saves since it was written */
    struct ds_pack_other packs[DS_PACK_OTHERS_MAX];
    uint32_t pack_count;
};

struct ds_delta {
    /* owns */
    struct table last, next; /* committed, and being written */
    /* borrows */
    const struct ds_pack_plan *plan;
    uint32_t others_max;
};

static void clear(const struct ds_delta *delta, struct table *table)
{
    table->pack_count = 0;
    for (uint32_t i = 0; i < delta->plan->chunk_count; i++)
        table->chunks[i].pack = table->chunks[i].copy_pack = DS_PACK_HERE;
}

static int take(const struct ds_delta *delta, struct table *table)
{
    table->chunks = calloc(delta->plan->chunk_count + 1u, sizeof *table->chunks);
    table->ages = calloc(delta->plan->chunk_count + 1u, sizeof *table->ages);
    if (!table->chunks || !table->ages)
        return 0;
    clear(delta, table);
    return 1;
}

ds_status ds_delta_open(const struct ds_pack_plan *plan, struct ds_delta **out)
{
    struct ds_delta *delta = calloc(1, sizeof *delta);
    const uint32_t wanted = DS_DELTA_PACKS_MAX * plan->part_count;

    if (!delta)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for what is saved");
    delta->plan = plan;
    /* the list has this save's own files behind the others */
    delta->others_max = plan->part_count >= DS_PACK_OTHERS_MAX ? 0
                        : wanted + plan->part_count <= DS_PACK_OTHERS_MAX
                            ? wanted
                            : DS_PACK_OTHERS_MAX - plan->part_count;
    if (!take(delta, &delta->last) || !take(delta, &delta->next)) {
        ds_delta_close(delta);
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for what is saved");
    }
    *out = delta;
    return DS_OK;
}

void ds_delta_close(struct ds_delta *delta)
{
    if (!delta)
        return;
    free(delta->last.chunks);
    free(delta->last.ages);
    free(delta->next.chunks);
    free(delta->next.ages);
    free(delta);
}

void ds_delta_forget(struct ds_delta *delta)
{
    clear(delta, &delta->last);
}

/* ---- which older packs a save may refer to */

static void mark_used(const struct ds_delta *delta, const struct table *table,
                      uint8_t used[DS_PACK_OTHERS_MAX])
{
    memset(used, 0, DS_PACK_OTHERS_MAX);
    for (uint32_t i = 0; i < delta->plan->chunk_count; i++) {
        if (table->chunks[i].pack != DS_PACK_HERE)
            used[table->chunks[i].pack] = 1;
        if (table->chunks[i].copy_pack != DS_PACK_HERE)
            used[table->chunks[i].copy_pack] = 1;
    }
}

static int is_newer(const struct ds_pack_id *a, const struct ds_pack_id *b)
{
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->step > b->step;
}

/* Gives the newest packs that are used new numbers; others have none. */
static void renumber(struct ds_delta *delta, uint32_t numbers[DS_PACK_OTHERS_MAX])
{
    struct table *last = &delta->last;
    struct ds_pack_other kept[DS_PACK_OTHERS_MAX];
    uint8_t used[DS_PACK_OTHERS_MAX];
    uint32_t count = 0;

    mark_used(delta, last, used);
    memset(numbers, 0xff, DS_PACK_OTHERS_MAX * sizeof *numbers); /* DS_PACK_HERE */
    while (count < delta->others_max) {
        uint32_t newest = DS_PACK_HERE;

        for (uint32_t i = 0; i < last->pack_count; i++)
            if (used[i] &&
                (newest == DS_PACK_HERE || is_newer(&last->packs[i].id, &last->packs[newest].id)))
                newest = i;
        if (newest == DS_PACK_HERE)
            break;
        used[newest] = 0;
        numbers[newest] = count;
        kept[count++] = last->packs[newest];
    }
    memcpy(last->packs, kept, count * sizeof *kept);
    last->pack_count = count;
}

static uint32_t number_of(const uint32_t numbers[DS_PACK_OTHERS_MAX], uint32_t pack)
{
    return pack == DS_PACK_HERE ? pack : numbers[pack];
}

/* A chunk whose first place has no number any more is written again. */
static void renumber_chunk(struct ds_pack_chunk *chunk, const uint32_t numbers[DS_PACK_OTHERS_MAX])
{
    chunk->pack = number_of(numbers, chunk->pack);
    chunk->copy_pack = number_of(numbers, chunk->copy_pack);
}

void ds_delta_begin(struct ds_delta *delta, const struct ds_pack_other **others, uint32_t *count)
{
    uint32_t numbers[DS_PACK_OTHERS_MAX];

    renumber(delta, numbers);
    for (uint32_t i = 0; i < delta->plan->chunk_count; i++)
        renumber_chunk(&delta->last.chunks[i], numbers);
    clear(delta, &delta->next);
    memcpy(delta->next.packs, delta->last.packs, sizeof delta->last.packs);
    delta->next.pack_count = delta->last.pack_count;
    *others = delta->last.packs;
    *count = delta->last.pack_count;
}

/* ---- chunks */

enum ds_delta_choice ds_delta_choose(const struct ds_delta *delta, uint32_t chunk,
                                     const struct ds_digest *digest, struct ds_pack_chunk *where)
{
    const struct ds_pack_chunk *last = &delta->last.chunks[chunk];

    DS_ASSERT(chunk < delta->plan->chunk_count);
    if (last->pack == DS_PACK_HERE || !ds_digest_equal(&last->digest, digest))
        return DS_DELTA_PUT;
    *where = *last;
    if (last->copy_pack == DS_PACK_HERE || delta->last.ages[chunk] + 1 >= DS_DELTA_REWRITE_SAVES)
        return DS_DELTA_PUT_COPY;
    return DS_DELTA_REFER;
}

void ds_delta_wrote(struct ds_delta *delta, uint32_t part_index, const struct ds_pack_chunk *table,
                    const struct ds_pack_other *pack)
{
    const struct ds_pack_part *part = &delta->plan->parts[part_index];
    struct table *next = &delta->next;

    DS_ASSERT(part_index < delta->plan->part_count);
    if (next->pack_count == DS_PACK_OTHERS_MAX)
        return; /* more files than can be named: their chunks are whole every time */
    for (uint32_t i = 0; i < part->count; i++) {
        const uint32_t chunk = part->first + i;
        const int is_here = table[i].pack == DS_PACK_HERE;

        next->chunks[chunk] = table[i];
        if (is_here)
            next->chunks[chunk].pack = next->pack_count;
        next->ages[chunk] = is_here ? 0 : delta->last.ages[chunk] + 1;
    }
    next->packs[next->pack_count++] = *pack;
}

uint32_t ds_delta_needed(const struct ds_delta *delta, struct ds_pack_other *to)
{
    uint8_t used[DS_PACK_OTHERS_MAX];
    uint32_t count = 0;

    mark_used(delta, &delta->next, used);
    for (uint32_t i = 0; i < delta->last.pack_count; i++)
        if (used[i])
            to[count++] = delta->next.packs[i];
    return count;
}

void ds_delta_committed(struct ds_delta *delta)
{
    const struct table old = delta->last;

    delta->last = delta->next;
    delta->next = old; /* its memory */
}
