// link: checkpoint storage base
/* Incremental saves against a model that remembers what every pack holds: whatever a save refers to is there, what
 * has not changed lies in two packs from its second save on, and frozen states cost next to nothing. */
#include "pack_case.h"

#include "dstrain/delta.h"

#define CHUNKS    PACK_CASE_TENSORS
#define SAVES_MAX 4096

struct world {
    struct pack_case c;
    struct ds_pack_plan plan;
    struct ds_delta *delta;
    void *delta_memory;
    struct ds_random random;
    uint64_t drawn;
    struct ds_fs *fs;
    /* per save (its step is its number): what its pack holds */
    struct ds_digest held[SAVES_MAX][CHUNKS];
    uint8_t is_held[SAVES_MAX][CHUNKS];
    uint64_t version[CHUNKS]; /* of each chunk's bytes now */
    uint64_t same_since[CHUNKS], written_at[CHUNKS];
    uint64_t writes[CHUNKS];
    uint64_t places[CHUNKS][2]; /* saves whose packs the last one has it in; 0: none */
    uint64_t committed;         /* saves */
};

static void world_open(struct world *w, uint64_t seed, uint32_t chunks_max)
{
    struct ds_piece pieces[PACK_CASE_TENSORS];

    memset(w, 0, sizeof *w);
    w->random = ds_random_of(seed, DS_RANDOM_TEST, 0);
    assert_ok(ds_fs_sim_open(&w->fs));
    pack_case_open(&w->c, w->fs, 0);
    size_t count = pack_case_pieces(&w->c, 0, pieces);
    assert_ok(ds_pack_plan_make(&w->c.catalogue, pieces, count, chunks_max, &w->plan));
    assert_int_equal(w->plan.chunk_count, CHUNKS);
    w->delta_memory = malloc(ds_delta_bytes(CHUNKS));
    w->delta = ds_delta_make(&w->plan, w->delta_memory);
}

static void world_close(struct world *w)
{
    free(w->delta_memory);
    ds_pack_plan_fini(&w->plan);
    pack_case_close(&w->c);
    ds_fs_sim_close(w->fs);
}

static struct ds_digest digest_of(const struct world *w, uint32_t chunk)
{
    const uint64_t what[2] = {chunk, w->version[chunk]};

    return ds_digest_of(what, sizeof what);
}

static uint64_t offset_of(uint64_t step, uint32_t chunk)
{
    return (1 + step % 7 + chunk * 8u) * DS_PACK_ALIGN;
}

/* Is this chunk in that pack, at that place, as it is now? */
static void assert_is_there(const struct world *w, const struct ds_pack_other *pack,
                            uint64_t offset, uint32_t chunk)
{
    const struct ds_digest now = digest_of(w, chunk);

    const struct ds_pack_part *part = &w->plan.parts[pack->id.part];

    assert_true(chunk >= part->first && chunk < part->first + part->count);
    assert_true(w->is_held[pack->id.step][chunk]);
    assert_true(ds_digest_equal(&w->held[pack->id.step][chunk], &now));
    assert_true(offset == offset_of(pack->id.step, chunk));
}

/* What a pack of a save holds of chunks, as it lies there. */
static uint64_t bytes_held(const struct world *w, uint64_t step, uint32_t part)
{
    const struct ds_pack_part *at = &w->plan.parts[part];
    uint64_t bytes = 0;

    for (uint32_t i = at->first; i < at->first + at->count; i++)
        bytes += w->is_held[step][i] ? w->plan.chunks[i].stored_bytes : 0;
    return bytes;
}

/* The length of its file. */
static uint64_t file_bytes(const struct world *w, uint64_t step, uint32_t part)
{
    const struct ds_pack_part *at = &w->plan.parts[part];
    uint64_t bytes = at->file_bytes_max + bytes_held(w, step, part);

    for (uint32_t i = at->first; i < at->first + at->count; i++)
        bytes -= w->plan.chunks[i].stored_bytes;
    return bytes;
}

/* Packs are kept for others' sake only as long as half of what is in them together is of use. */
static void check_use(const struct world *w, const struct ds_pack_other *others,
                      uint32_t other_count)
{
    uint64_t used = 0, held = 0;

    for (uint32_t i = 0; i < other_count; i++) {
        const struct ds_pack_part *part = &w->plan.parts[others[i].id.part];

        held += bytes_held(w, others[i].id.step, others[i].id.part);
        for (uint32_t chunk = part->first; chunk < part->first + part->count; chunk++)
            for (int place = 0; place < 2; place++)
                if (w->places[chunk][place] == others[i].id.step)
                    used += w->plan.chunks[chunk].stored_bytes;
    }
    assert_true(held <= 2 * used);
}

/* One chunk of a save, as a writer would note it in its table. */
static void write_chunk(struct world *w, uint64_t step, uint32_t chunk,
                        const struct ds_pack_other *others, struct ds_pack_chunk *line)
{
    const struct ds_digest digest = digest_of(w, chunk);
    struct ds_pack_chunk where = {0};
    const enum ds_delta_choice choice = ds_delta_choose(w->delta, chunk, &digest, &where);

    *line = w->plan.chunks[chunk];
    line->digest = digest;
    if (choice != DS_DELTA_PUT)
        assert_is_there(w, &others[where.pack], where.offset, chunk);
    if (choice == DS_DELTA_REFER) {
        assert_true(where.copy_pack != where.pack);
        assert_is_there(w, &others[where.copy_pack], where.copy_offset, chunk);
        *line = where;
        return;
    }
    line->pack = line->copy_pack = DS_PACK_HERE;
    line->offset = offset_of(step, chunk);
    if (choice == DS_DELTA_PUT_COPY) {
        line->copy_pack = where.pack;
        line->copy_offset = where.offset;
    }
    w->held[step][chunk] = digest;
    w->is_held[step][chunk] = 1;
}

static void check_committed(struct world *w, uint64_t step, const struct ds_pack_chunk *table,
                            const struct ds_pack_other *others, uint32_t other_count)
{
    struct ds_pack_other needed[DS_PACK_OTHERS_MAX];
    const uint32_t needed_count = ds_delta_needed(w->delta, needed);
    uint32_t used = 0;

    assert_true(other_count <= DS_DELTA_PACKS_MAX * w->plan.part_count);
    for (uint32_t i = 0; i < other_count; i++) {
        int is_used = 0;

        for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
            is_used |= table[chunk].pack == i || table[chunk].copy_pack == i;
        used += (uint32_t)is_used;
        for (uint32_t j = 0; j < needed_count && is_used; j++)
            if (ds_pack_id_equal(&needed[j].id, &others[i].id))
                is_used = 0;
        assert_false(is_used); /* used, and nobody named it */
    }
    assert_int_equal(used, needed_count);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
        const int is_here = table[chunk].pack == DS_PACK_HERE;

        if (is_here) {
            w->written_at[chunk] = w->committed;
            w->writes[chunk]++;
        }
        assert_true(w->committed - w->written_at[chunk] < DS_DELTA_REWRITE_SAVES);
        const uint32_t copy = table[chunk].copy_pack;

        if (w->committed > w->same_since[chunk] && w->places[chunk][1] == 0)
            assert_true(copy != DS_PACK_HERE); /* the second save that has it alone */
        w->places[chunk][0] = is_here ? step : others[table[chunk].pack].id.step;
        w->places[chunk][1] = copy == DS_PACK_HERE ? 0 : others[copy].id.step;
    }
}

/* `change`: chances out of 8 that a chunk has changed; chunk 3 never has. */
static void save(struct world *w, uint64_t step, uint64_t change, int is_committed)
{
    struct ds_pack_chunk table[CHUNKS];
    const struct ds_pack_other *others;
    uint32_t other_count;

    for (uint32_t chunk = 0; chunk < 3; chunk++)
        if (ds_random_below(w->random, w->drawn++, 8) < change) {
            w->version[chunk]++;
            w->same_since[chunk] = w->committed;
        }
    ds_delta_begin(w->delta, &others, &other_count);
    check_use(w, others, other_count);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
        write_chunk(w, step, chunk, others, &table[chunk]);
    for (uint32_t part = 0; part < w->plan.part_count; part++) {
        const struct ds_pack_other pack = {.id = {1, step, 0, part, 0},
                                           .file_bytes = file_bytes(w, step, part)};

        ds_delta_wrote(w->delta, part, table + w->plan.parts[part].first, &pack);
    }
    if (is_committed) {
        check_committed(w, step, table, others, other_count);
        ds_delta_committed(w->delta);
        w->committed++;
    } else {
        memset(w->is_held[step], 0, sizeof w->is_held[step]); /* its packs go */
    }
}

/* A pack that the last save rests on is not to be relied on: from here on it holds nothing. */
static void drop(struct world *w)
{
    const uint32_t chunk = (uint32_t)ds_random_below(w->random, w->drawn++, CHUNKS);
    const uint64_t step = w->places[chunk][ds_random_below(w->random, w->drawn++, 2)];

    if (step == 0)
        return;
    for (uint32_t i = 0; i < w->plan.part_count; i++) {
        const struct ds_pack_part *part = &w->plan.parts[i];

        if (chunk < part->first || chunk >= part->first + part->count)
            continue;
        memset(w->is_held[step] + part->first, 0, part->count);
        ds_delta_drop(w->delta, &(struct ds_pack_id){1, step, 0, i, 0});
    }
    for (uint32_t i = 0; i < CHUNKS; i++)
        w->same_since[i] = w->committed;
}

static void what_is_dropped_is_not_referred_to(void **state)
{
    const uint64_t seed = test_seed("test_delta");
    struct world *w = malloc(sizeof *w);

    (void)state;
    for (uint64_t trial = 0; trial < 40; trial++) {
        world_open(w, seed + trial, trial % 2 ? DS_PACK_CHUNKS_MAX : 3);
        for (uint64_t step = 1; step < 200; step++) {
            if (ds_random_below(w->random, w->drawn++, 4) == 0)
                drop(w);
            save(w, step, trial % 8, 1);
        }
        world_close(w);
    }
    free(w);
}

static void what_is_referred_to_is_there_twice(void **state)
{
    const uint64_t seed = test_seed("test_delta");
    struct world *w = malloc(sizeof *w);

    (void)state;
    for (uint64_t trial = 0; trial < 40; trial++) {
        world_open(w, seed + trial, trial % 2 ? DS_PACK_CHUNKS_MAX : 3);
        for (uint64_t step = 1; step < 200; step++) {
            if (ds_random_below(w->random, w->drawn++, 50) == 0) {
                ds_delta_forget(w->delta);
                for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
                    w->same_since[chunk] = w->committed;
            }
            save(w, step, trial % 8, ds_random_below(w->random, w->drawn++, 5) > 0);
        }
        world_close(w);
    }
    free(w);
}

static void frozen_states_cost_next_to_nothing(void **state)
{
    struct world *w = malloc(sizeof *w);

    (void)state;
    world_open(w, 1, DS_PACK_CHUNKS_MAX);
    for (uint64_t step = 1; step <= 202; step++)
        save(w, step, 0, 1);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
        assert_true(w->writes[chunk] <= 2 + 202 / DS_DELTA_REWRITE_SAVES + 1);
    world_close(w);
    free(w);
}

/* A quarter that is frozen would keep three quarters of nothing: it is written every other time. */
static void what_is_left_of_old_packs_is_moved(void **state)
{
    struct world *w = malloc(sizeof *w);

    (void)state;
    world_open(w, 1, DS_PACK_CHUNKS_MAX);
    for (uint64_t step = 1; step <= 202; step++)
        save(w, step, 8, 1);
    assert_int_equal(w->writes[0], 202); /* it changes every time */
    assert_true(w->writes[3] > 40 && w->writes[3] <= 110);
    world_close(w);
    free(w);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_is_referred_to_is_there_twice),
    cmocka_unit_test(what_is_dropped_is_not_referred_to),
    cmocka_unit_test(frozen_states_cost_next_to_nothing),
    cmocka_unit_test(what_is_left_of_old_packs_is_moved),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
