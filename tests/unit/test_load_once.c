// link: checkpoint
// tsan
/* Ranks that load together read each chunk once, whoever wants it, and all get the bits that they want; where one cannot
 * be read, all who want it hear of it. Ranks are threads, each with a disk of its own that counts. */
#include "damage.h"
#include "ranks.h"
#include "saved_spread.h"
#include "watch_fs.h"

#include <stdatomic.h>

#define DEADLINE_NS 60000000000u

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { FROM_STRIDE = 3, DRAWN = 2, TROUBLES = 6 }; /* every way to go is in each */
#else
enum { FROM_STRIDE = 1, DRAWN = 10, TROUBLES = 12 };
#endif

/* A chunk's place on the disk. */
struct place {
    char path[160];
    uint64_t offset, bytes;
    struct ds_piece piece;
    atomic_uint_fast64_t read_bytes; /* by all ranks */
};

struct disk {
    struct watch_fs watch; /* first */
    struct job *job;
    uint64_t reads; /* of chunks */
    uint64_t fail_at;
};

struct job {
    struct rig *rig;
    struct ds_manifest manifest;
    struct place *places;
    size_t place_count;
    uint32_t rank_count;
    struct rank ranks[RANKS_MAX];
    struct target targets[RANKS_MAX];
    struct disk disks[RANKS_MAX];
    ds_status status[RANKS_MAX], agreed[RANKS_MAX];
};

/* ---- disks */

static struct place *place_at(struct job *job, const char *path, uint64_t offset)
{
    for (size_t i = 0; i < job->place_count; i++)
        if (job->places[i].offset == offset && strcmp(job->places[i].path, path) == 0)
            return &job->places[i];
    return NULL;
}

static int64_t count_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    struct disk *disk = (struct disk *)fs;
    struct place *place = place_at(disk->job, watch_path(fs, file), offset);

    if (place && ++disk->reads == disk->fail_at)
        return -EIO;
    const int64_t got = ds_fs_pread(disk->watch.inner, file, to, bytes, offset);
    if (place && got > 0)
        atomic_fetch_add(&place->read_bytes, (uint64_t)got);
    return got;
}

static void disk_open(struct job *job, struct disk *disk)
{
    static struct ds_fs_ops ops;

    ops = watch_ops;
    ops.pread = count_pread;
    *disk = (struct disk){.watch = {.fs = {&ops}, .inner = job->rig->fs}, .job = job};
}

static void list_places(struct job *job)
{
    const struct ds_manifest *manifest = &job->manifest;

    for (uint32_t i = 0; i < manifest->pack_count; i++) {
        struct ds_pack *pack;

        assert_ok(ds_checkpoint_open_pack(job->rig->fs, ROOT, manifest, i, &pack));
        const uint32_t count = ds_pack_info(pack)->chunk_count;
        job->places = realloc(job->places, (job->place_count + count + 1) * sizeof *job->places);
        for (uint32_t n = 0; n < count; n++) {
            const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[n];
            struct place *place = &job->places[job->place_count++];

            snprintf(place->path, sizeof place->path, "%s", ds_pack_path(pack));
            place->offset = chunk->offset;
            place->bytes = chunk->stored_bytes;
            place->piece = ds_pack_piece(pack, &manifest->catalogue, n);
            atomic_init(&place->read_bytes, 0);
        }
        ds_pack_close(pack);
    }
}

/* ---- jobs */

static void job_open(struct rig *rig, const struct spread_case *to, struct job *job)
{
    *job = (struct job){.rig = rig, .rank_count = ds_mesh_rank_count(&to->mesh)};
    assert_true(job->rank_count <= RANKS_MAX);
    assert_ok(ds_checkpoint_read_manifest(rig->fs, ROOT, &(struct ds_manifest_id){1, 10},
                                          &job->manifest));
    list_places(job);
    for (uint32_t i = 0; i < job->rank_count; i++) {
        rank_open(rig, to, i, &job->ranks[i]);
        target_open(&job->ranks[i], &job->targets[i]);
        disk_open(job, &job->disks[i]);
    }
}

static void job_close(struct job *job)
{
    for (uint32_t i = 0; i < job->rank_count; i++) {
        target_close(&job->targets[i]);
        rank_close(&job->ranks[i]);
    }
    ds_manifest_fini(&job->manifest);
    free(job->places);
}

static void load_one(struct ds_comm *world, void *user)
{
    struct job *job = user;
    const uint32_t rank = world->rank;
    const struct ds_checkpoint_sink sink = {take, &job->targets[rank]};

    job->status[rank] =
        ds_checkpoint_load_together(world, &job->disks[rank].watch.fs, ROOT, &job->manifest,
                                    job->targets[rank].wants, job->ranks[rank].count, &sink, NULL);
    job->agreed[rank] = ds_comm_agreed(world, job->status[rank]);
}

static void load_all(struct job *job)
{
    assert_true(run_ranks(job->rank_count, DEADLINE_NS, load_one, job));
}

static int wants(const struct job *job, uint32_t rank, const struct ds_piece *piece)
{
    for (uint32_t i = 0; i < job->ranks[rank].count; i++) {
        struct ds_overlap_cursor cursor;
        struct ds_overlap run;

        if (job->targets[rank].wants[i].tensor != piece->tensor)
            continue;
        ds_overlap_begin(&cursor, piece, &job->targets[rank].wants[i]);
        if (ds_overlap_next(&cursor, &run))
            return 1;
    }
    return 0;
}

/* ---- layouts */

struct layout {
    uint32_t replica, shard, tp, pp;
};
static const struct layout layouts[] = {
    {4, 1, 1, 1},               /* all want all */
    {1, 4, 1, 1}, {1, 1, 4, 1}, /* with kv heads that two have, and norms that all have */
    {1, 1, 2, 2},               /* the tied embedding is on two stages */
    {2, 2, 2, 1}, {1, 1, 1, 1},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static void set_layout(const struct layout *layout, struct spread_case *c)
{
    char why[256];

    for (int axis = 0; axis < DS_AXIS_COUNT; axis++)
        c->mesh.size[axis] = 1;
    c->mesh.size[DS_AXIS_REPLICA] = layout->replica;
    c->mesh.size[DS_AXIS_SHARD] = layout->shard;
    c->mesh.size[DS_AXIS_TP] = layout->tp;
    c->mesh.size[DS_AXIS_PP] = layout->pp;
    c->unit_count = (uint32_t)c->config.num_hidden_layers + 2;
    for (uint32_t u = 0; u < c->unit_count; u++)
        c->stage_of_unit[u] = u * layout->pp / c->unit_count;
    assert_true(ds_model_may_share(&c->config, layout->tp, why, sizeof why));
}

static void set_config(struct spread_case *c, uint64_t vocabulary)
{
    ds_model_config_default(DS_FAMILY_QWEN3, &c->config);
    c->config.num_key_value_heads = 2;
    c->config.num_attention_heads = 4;
    c->config.head_dim = 8;
    c->config.hidden_size = 24;
    c->config.vocab_size = vocabulary;
    c->config.intermediate_size = 37;
    c->config.num_hidden_layers = 2;
    c->config.max_position_embeddings = 32;
    c->config.tie_word_embeddings = 1;
    assert_ok(ds_model_config_check("test", &c->config));
}

static void check_once(struct rig *rig, const struct spread_case *to)
{
    struct job job;

    job_open(rig, to, &job);
    load_all(&job);
    for (uint32_t i = 0; i < job.rank_count; i++) {
        assert_int_equal(job.agreed[i], DS_OK);
        target_check(&job.targets[i]);
    }
    for (size_t i = 0; i < job.place_count; i++)
        assert_int_equal(atomic_load(&job.places[i].read_bytes), job.places[i].bytes);
    job_close(&job);
}

static void each_chunk_is_read_once(void **state)
{
    (void)state;
    for (int from = 0; from < LAYOUTS; from += FROM_STRIDE) {
        struct spread_case c = {0};
        struct rig rig;

        rig_open(&rig);
        set_config(&c, 61);
        set_layout(&layouts[from], &c);
        save(&rig, &c, 10);
        for (int to = 0; to < LAYOUTS; to++) {
            set_layout(&layouts[to], &c);
            check_once(&rig, &c);
        }
        rig_close(&rig);
    }
}

/* No rank reads more than its part where all want all. */
static void readers_take_turns(void **state)
{
    struct spread_case c = {0};
    uint64_t least = UINT64_MAX, most = 0;
    struct rig rig;
    struct job job;

    (void)state;
    rig_open(&rig);
    set_config(&c, 61);
    set_layout(&layouts[0], &c);
    save(&rig, &c, 10);
    job_open(&rig, &c, &job);
    load_all(&job);
    for (uint32_t i = 0; i < job.rank_count; i++) {
        least = job.disks[i].reads < least ? job.disks[i].reads : least;
        most = job.disks[i].reads > most ? job.disks[i].reads : most;
    }
    assert_true(least > 0 && most <= least + 1);
    job_close(&job);
    rig_close(&rig);
}

static void chunks_of_full_size_are_read_once(void **state)
{
    struct spread_case c = {0};
    struct rig rig;

    (void)state;
    rig_open(&rig);
    set_config(&c, DS_PACK_CHUNK_BYTES / 4 / 24 + 1000); /* a full chunk and a bit */
    set_layout(&layouts[5], &c);
    save(&rig, &c, 10);
    set_layout(&layouts[2], &c);
    check_once(&rig, &c);
    rig_close(&rig);
}

static void drawn_layouts_read_once(void **state)
{
    struct spread_draw draw = {ds_random_of(test_seed("test_load_once"), DS_RANDOM_TEST, 0), 0};

    (void)state;
    for (int trial = 0; trial < (test_is_long() ? 400 : DRAWN); trial++) {
        struct spread_case c = {0};
        struct rig rig;

        rig_open(&rig);
        spread_draw_config(&draw, &c.config);
        spread_draw_layout(&draw, &c, RANKS_MAX);
        save(&rig, &c, 10);
        spread_draw_layout(&draw, &c, RANKS_MAX);
        check_once(&rig, &c);
        rig_close(&rig);
    }
}

/* ---- what cannot be read */

/* The byte is wrong on every disk: who wants it fails, whoever has read it. */
static void check_damage(struct job *job, struct place *place)
{
    damage_flip(job->rig->fs, place->path, place->offset);
    load_all(job);
    for (uint32_t i = 0; i < job->rank_count; i++) {
        assert_int_equal(job->agreed[i], DS_ERR_CORRUPT);
        assert_true(job->status[i] == DS_ERR_CORRUPT ||
                    (job->status[i] == DS_OK && !wants(job, i, &place->piece)));
    }
    assert_int_equal(atomic_load(&place->read_bytes), place->bytes);
    damage_flip(job->rig->fs, place->path, place->offset);
}

/* One rank's disk fails: that rank and those that would have got something from it. */
static void check_failure(struct job *job, uint32_t rank, uint64_t fail_at)
{
    job->disks[rank].fail_at = fail_at;
    load_all(job);
    const int has_failed = job->disks[rank].reads >= fail_at;
    assert_int_equal(job->status[rank], has_failed ? DS_ERR_IO : DS_OK);
    for (uint32_t i = 0; i < job->rank_count; i++)
        assert_int_equal(job->agreed[i], has_failed ? DS_ERR_IO : DS_OK);
    for (size_t i = 0; i < job->place_count; i++) /* nobody steps in */
        assert_true(atomic_load(&job->places[i].read_bytes) <= job->places[i].bytes);
}

static void all_hear_of_what_cannot_be_read(void **state)
{
    struct spread_draw draw = {ds_random_of(test_seed("test_load_once"), DS_RANDOM_TEST, 1), 0};

    (void)state;
    for (int trial = 0; trial < (test_is_long() ? 400 : TROUBLES); trial++) {
        struct spread_case c = {0};
        struct rig rig;
        struct job job;

        rig_open(&rig);
        set_config(&c, 61);
        set_layout(&layouts[spread_below(&draw, LAYOUTS)], &c);
        save(&rig, &c, 10);
        set_layout(&layouts[trial / 2 % LAYOUTS], &c);
        job_open(&rig, &c, &job);
        ds_log.terminal = -1;
        if (trial % 2)
            check_damage(&job, &job.places[spread_below(&draw, (uint32_t)job.place_count)]);
        else
            check_failure(&job, spread_below(&draw, job.rank_count), 1 + spread_below(&draw, 8));
        ds_log.terminal = 2;
        job_close(&job);
        check_once(&rig, &c); /* it was this alone */
        rig_close(&rig);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(each_chunk_is_read_once),           cmocka_unit_test(readers_take_turns),
    cmocka_unit_test(chunks_of_full_size_are_read_once), cmocka_unit_test(drawn_layouts_read_once),
    cmocka_unit_test(all_hear_of_what_cannot_be_read),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
