/* delta.c - remembers the table of the last committed save, whatever files it is spread over, with the packs that it
 * names as numbers of one list. */
#include "dstrain/delta.h"

#include <string.h>

/* One save's table. */
struct table {
    struct ds_pack_chunk *chunks; /* pack, copy_pack: of `packs`; DS_PACK_HERE: no place */
    uint32_t *ages;               /* saves since it was written */
    struct ds_pack_other packs[DS_PACK_OTHERS_MAX];
    uint32_t pack_count;
};

struct ds_delta {
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

/* ---- memory: the struct, two tables, their ages */

size_t ds_delta_bytes(uint64_t chunk_count)
{
    return sizeof(struct ds_delta) +
           2 * (size_t)chunk_count * (sizeof(struct ds_pack_chunk) + sizeof(uint32_t));
}

struct ds_delta *ds_delta_make(const struct ds_pack_plan *plan, void *memory)
{
    const uint32_t wanted = DS_DELTA_PACKS_MAX * plan->part_count, count = plan->chunk_count;
    struct ds_delta *delta = memory;
    struct ds_pack_chunk *chunks = (struct ds_pack_chunk *)(delta + 1);
    uint32_t *ages = (uint32_t *)(chunks + 2 * (size_t)count);

    *delta = (struct ds_delta){.last = {.chunks = chunks, .ages = ages},
                               .next = {.chunks = chunks + count, .ages = ages + count},
                               .plan = plan};
    /* the list has this save's own files behind the others */
    delta->others_max = plan->part_count >= DS_PACK_OTHERS_MAX ? 0
                        : wanted + plan->part_count <= DS_PACK_OTHERS_MAX
                            ? wanted
                            : DS_PACK_OTHERS_MAX - plan->part_count;
    clear(delta, &delta->last);
    clear(delta, &delta->next);
    return delta;
}

void ds_delta_forget(struct ds_delta *delta)
{
    clear(delta, &delta->last);
}

/* ---- which older packs a save may refer to */

/* What of each is still used, as it lies there. */
static void count_live(const struct ds_delta *delta, const struct table *table,
                       uint64_t live[DS_PACK_OTHERS_MAX])
{
    memset(live, 0, DS_PACK_OTHERS_MAX * sizeof *live);
    for (uint32_t i = 0; i < delta->plan->chunk_count; i++) {
        const struct ds_pack_chunk *chunk = &table->chunks[i];

        if (chunk->pack != DS_PACK_HERE)
            live[chunk->pack] += chunk->stored_bytes;
        if (chunk->copy_pack != DS_PACK_HERE)
            live[chunk->copy_pack] += chunk->stored_bytes;
    }
}

/* What was written of chunks: a file without what each of its part has, too. */
static uint64_t data_bytes(const struct ds_delta *delta, const struct ds_pack_other *pack)
{
    const struct ds_pack_part *part = &delta->plan->parts[pack->id.part];
    uint64_t other_bytes = part->file_bytes_max;

    for (uint32_t i = part->first; i < part->first + part->count; i++)
        other_bytes -= delta->plan->chunks[i].stored_bytes;
    return pack->file_bytes - other_bytes;
}

static int is_newer(const struct ds_pack_id *a, const struct ds_pack_id *b)
{
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->step > b->step;
}

static uint32_t newest_of(const struct table *table, const uint64_t live[DS_PACK_OTHERS_MAX])
{
    uint32_t newest = DS_PACK_HERE;

    for (uint32_t i = 0; i < table->pack_count; i++)
        if (live[i] > 0 &&
            (newest == DS_PACK_HERE || is_newer(&table->packs[i].id, &table->packs[newest].id)))
            newest = i;
    return newest;
}

/* Gives the newest packs that are used new numbers. Others have none: those beyond so many, and those with which less
 * than half of all that is kept would be of use to anybody. */
static void renumber(struct ds_delta *delta, uint32_t numbers[DS_PACK_OTHERS_MAX])
{
    struct table *last = &delta->last;
    struct ds_pack_other kept[DS_PACK_OTHERS_MAX];
    uint64_t live[DS_PACK_OTHERS_MAX], live_bytes = 0, bytes = 0;
    uint32_t count = 0, newest;

    count_live(delta, last, live);
    memset(numbers, 0xff, DS_PACK_OTHERS_MAX * sizeof *numbers); /* DS_PACK_HERE */
    while (count < delta->others_max && (newest = newest_of(last, live)) != DS_PACK_HERE) {
        const uint64_t in_it = data_bytes(delta, &last->packs[newest]);

        if (2 * (live_bytes + live[newest]) >= bytes + in_it) {
            live_bytes += live[newest];
            bytes += in_it;
            numbers[newest] = count;
            kept[count++] = last->packs[newest];
        }
        live[newest] = 0;
    }
    memcpy(last->packs, kept, count * sizeof *kept);
    last->pack_count = count;
}

static uint32_t number_of(const uint32_t numbers[DS_PACK_OTHERS_MAX], uint32_t pack)
{
    return pack == DS_PACK_HERE ? pack : numbers[pack];
}

/* Where only the second place is left, it is the first; where none is, the chunk is written again. */
static void renumber_chunk(struct ds_pack_chunk *chunk, const uint32_t numbers[DS_PACK_OTHERS_MAX])
{
    chunk->pack = number_of(numbers, chunk->pack);
    chunk->copy_pack = number_of(numbers, chunk->copy_pack);
    if (chunk->pack == DS_PACK_HERE && chunk->copy_pack != DS_PACK_HERE) {
        chunk->pack = chunk->copy_pack;
        chunk->offset = chunk->copy_offset;
        chunk->copy_pack = DS_PACK_HERE;
    }
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

int ds_delta_knows(const struct ds_delta *delta, uint32_t chunk)
{
    return delta->last.chunks[chunk].pack != DS_PACK_HERE;
}

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
    uint64_t live[DS_PACK_OTHERS_MAX];
    uint32_t count = 0;

    count_live(delta, &delta->next, live);
    for (uint32_t i = 0; i < delta->last.pack_count; i++)
        if (live[i] > 0)
            to[count++] = delta->next.packs[i];
    return count;
}

void ds_delta_committed(struct ds_delta *delta)
{
    const struct table old = delta->last;

    delta->last = delta->next;
    delta->next = old; /* its memory */
}

/* ---- what an earlier launch has committed */

static int is_same_chunk(const struct ds_pack_chunk *a, const struct ds_pack_chunk *b)
{
    return a->tensor == b->tensor && a->box == b->box && a->kind == b->kind &&
           a->dtype == b->dtype && a->begin == b->begin && a->end == b->end;
}

/* Could a file of the plan be as long? Nobody vouches for what stands in one. */
static int is_file_of_plan(const struct ds_delta *delta, const struct ds_pack_other *pack)
{
    return pack->id.part < delta->plan->part_count &&
           pack->file_bytes <= delta->plan->parts[pack->id.part].file_bytes_max &&
           data_bytes(delta, pack) <= delta->plan->parts[pack->id.part].file_bytes_max;
}

static int is_of_plan(const struct ds_delta *delta, uint32_t part_index, const struct ds_pack *pack)
{
    const struct ds_pack_plan *plan = delta->plan;
    const struct ds_pack_part *part = &plan->parts[part_index];
    const struct ds_pack_info *info = ds_pack_info(pack);
    int is_same = info->chunk_count == part->count && info->box_count == plan->box_count;

    for (uint32_t i = 0; i < info->other_count && is_same; i++)
        is_same = is_file_of_plan(delta, &info->others[i]);
    for (uint32_t i = 0; i < plan->box_count && is_same; i++)
        is_same = ds_box_equal(&ds_pack_boxes(pack)[i], &plan->boxes[i]);
    for (uint32_t i = 0; i < part->count && is_same; i++)
        is_same = is_same_chunk(&ds_pack_chunks(pack)[i], &plan->chunks[part->first + i]);
    return is_same;
}

/* Its number in the list, where it is put if it is not there. DS_PACK_HERE: there are too many. */
static uint32_t list_pack(struct table *table, const struct ds_pack_other *pack)
{
    for (uint32_t i = 0; i < table->pack_count; i++)
        if (ds_pack_id_equal(&table->packs[i].id, &pack->id))
            return i;
    if (table->pack_count == DS_PACK_OTHERS_MAX)
        return DS_PACK_HERE;
    table->packs[table->pack_count] = *pack;
    return table->pack_count++;
}

int ds_delta_recall(struct ds_delta *delta, uint32_t part_index, const struct ds_pack *pack,
                    const struct ds_pack_other *name)
{
    const struct ds_pack_part *part = &delta->plan->parts[part_index];
    const struct ds_pack_other *others = ds_pack_info(pack)->others;
    struct table *last = &delta->last;

    if (!is_file_of_plan(delta, name) || !is_of_plan(delta, part_index, pack))
        return 0;
    for (uint32_t i = 0; i < part->count; i++) {
        struct ds_pack_chunk *chunk = &last->chunks[part->first + i];

        *chunk = ds_pack_chunks(pack)[i];
        chunk->pack = list_pack(last, chunk->pack == DS_PACK_HERE ? name : &others[chunk->pack]);
        if (chunk->pack == DS_PACK_HERE)
            return 0;
        if (chunk->copy_pack != DS_PACK_HERE)
            chunk->copy_pack = list_pack(last, &others[chunk->copy_pack]);
        last->ages[part->first + i] = 0;
    }
    return 1;
}

void ds_delta_drop(struct ds_delta *delta, const struct ds_pack_id *id)
{
    uint32_t numbers[DS_PACK_OTHERS_MAX];
    struct table *last = &delta->last;

    for (uint32_t i = 0; i < last->pack_count; i++)
        numbers[i] = ds_pack_id_equal(&last->packs[i].id, id) ? DS_PACK_HERE : i;
    for (uint32_t i = 0; i < delta->plan->chunk_count; i++)
        renumber_chunk(&last->chunks[i], numbers);
}
