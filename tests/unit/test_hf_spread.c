/* test_hf_spread.c - a model spread over tensor ranks, stages, shards and replicas, and its folder: an export
 * has every element at its place whatever the layout, any layout reads it back, and whichever call fails on
 * whichever rank, all ranks say so and nothing is half there. */
// link: checkpoint
#include "capture.h"
#include "ranks.h"
#include "spread.h"

enum { RANKS_MAX = 8, CASES = 12 };

struct job {
    struct spread_case c;
    uint64_t seed;
    struct ds_fs *fs; /* of the export: rank 0's; of loading: everybody's */
    uint64_t file_bytes_max;
    uint32_t failing_rank; /* whose device fails, at copy number failing_copy */
    int failing_copy;
    ds_status status[RANKS_MAX];
};

static uint32_t rank_count(const struct job *job)
{
    return ds_mesh_rank_count(&job->c.mesh);
}

static float weight_at(uint64_t seed, uint32_t param, uint64_t whole)
{
    return (float)ds_random_unit(ds_random_of(seed, DS_RANDOM_TEST, 100 + param), whole) - 0.5f;
}

/* ---- weights by place */

static void set_weight(void *user, const struct spread_rank *r, uint32_t param, uint64_t whole,
                       float *value)
{
    (void)r;
    *value = weight_at(*(const uint64_t *)user, param, whole);
}

static void expect_weight(void *user, const struct spread_rank *r, uint32_t param, uint64_t whole,
                          float *value)
{
    if (*value != weight_at(*(const uint64_t *)user, param, whole))
        spread_print(r->c);
    SPREAD_MUST(*value == weight_at(*(const uint64_t *)user, param, whole));
}

static void write_weights(const struct spread_rank *r, uint64_t seed)
{
    for (uint32_t u = 0; u < r->model->unit_count; u++) {
        if (!r->has_unit[u])
            continue;
        const uint64_t count = ds_zero_unit_layout(r->zero, u)->shard_elems;
        float *shard = calloc(count, sizeof *shard);
        SPREAD_MUST(shard);
        spread_each(r, u, shard, set_weight, &seed);
        SPREAD_MUST(ds_zero_write_shard(r->zero, u, 0, count, shard) == DS_OK);
        free(shard);
    }
    SPREAD_MUST(ds_zero_publish(r->zero) == DS_OK);
}

/* ---- a device whose n-th copy fails */

static _Thread_local int copies_left; /* of this rank; 0: all succeed */

static ds_status copy_or_fail(struct ds_stream *stream, void *to, const void *from, size_t bytes)
{
    if (copies_left > 0 && --copies_left == 0)
        return ds_fail(DS_ERR_DEVICE, "a copy fails");
    return ds_device_cpu_ops.copy(stream, to, from, bytes);
}

/* ---- on every rank */

static struct ds_hf_parts parts_of(const struct job *job, const struct spread_rank *r,
                                   struct ds_comm *world)
{
    return (struct ds_hf_parts){.model = r->model,
                                .zero = r->zero,
                                .mesh = &job->c.mesh,
                                .stage_of_unit = job->c.stage_of_unit,
                                .world = world};
}

static void export_rank(struct ds_comm *world, void *user)
{
    struct job *job = user;
    struct ds_device_ops ops = ds_device_cpu_ops;
    struct spread_rank r;

    ops.copy = copy_or_fail;
    spread_open(&job->c, world, &ops, &r);
    write_weights(&r, job->seed);
    copies_left = world->rank == job->failing_rank ? job->failing_copy : 0;
    const struct ds_hf_write_options options = {.fs = world->rank == 0 ? job->fs : NULL,
                                                .folder = "run/export",
                                                .parts = parts_of(job, &r, world),
                                                .file_bytes_max = job->file_bytes_max};
    job->status[world->rank] = ds_hf_write(&options);
    spread_close(&r);
}

static void check_gathered(struct job *job, const struct spread_rank *r, struct ds_comm *world)
{
    const struct ds_hf_parts parts = parts_of(job, r, world);
    float *to = world->rank == 0 ? malloc(r->model->elems_total * sizeof *to) : NULL;
    struct ds_hf_gather *gather;

    SPREAD_MUST(ds_hf_gather_open(&parts, &gather) == DS_OK);
    for (uint32_t i = 0; i < r->model->param_count; i++) {
        SPREAD_MUST(ds_hf_gather_param(gather, i, to) == DS_OK);
        for (uint64_t at = 0; to && at < ds_param_whole_elems(&r->model->params[i]); at++)
            expect_weight(&job->seed, r, i, at, &to[at]);
    }
    ds_hf_gather_close(gather);
    free(to);
}

static void load_rank(struct ds_comm *world, void *user)
{
    struct job *job = user;
    struct spread_rank r;
    struct ds_hf *hf;

    spread_open(&job->c, world, NULL, &r);
    const struct ds_hf_target target = spread_target(&r);
    SPREAD_MUST(ds_hf_open(job->fs, "run/export", &hf) == DS_OK);
    SPREAD_MUST(ds_hf_check(hf, r.model) == DS_OK);
    SPREAD_MUST(ds_hf_load(hf, &target) == DS_OK);
    ds_hf_close(hf);
    SPREAD_MUST(ds_zero_publish(r.zero) == DS_OK);
    spread_check(&r, expect_weight, &job->seed);
    check_gathered(job, &r, world);
    spread_close(&r);
}

static void run(struct job *job, ranks_body *body)
{
    assert_true(run_ranks(rank_count(job), 60000000000u, body, job));
    for (uint32_t r = 1; r < rank_count(job); r++)
        assert_int_equal(job->status[r], job->status[0]);
}

/* ---- the folder, looked at without any model's layout */

static void check_file(struct job *job, const struct ds_model *model, const char *path,
                       uint32_t *seen)
{
    struct ds_safetensors *file;

    assert_ok(ds_safetensors_open(job->fs, path, &file));
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_safetensors_entry *entry = ds_safetensors_find(file, model->params[i].name);
        if (!entry)
            continue;
        float *values = malloc(entry->elems * sizeof *values);
        assert_ok(ds_safetensors_read(file, entry, 0, entry->elems, values));
        assert_int_equal(entry->dtype, DS_F32);
        assert_memory_equal(entry->shape, model->params[i].shape,
                            entry->dim_count * sizeof *entry->shape);
        for (uint64_t at = 0; at < entry->elems; at++)
            if (values[at] != weight_at(job->seed, i, at))
                fail_msg("%s[%llu]", model->params[i].name, (unsigned long long)at);
        free(values);
        (*seen)++;
    }
    ds_safetensors_close(file);
}

static void check_folder(struct job *job)
{
    struct ds_model_config config;
    struct ds_model *model;
    char **names, path[300];
    size_t count = 0;
    uint32_t seen = 0;

    assert_ok(ds_model_open(&job->c.config, NULL, &model));
    assert_ok(ds_hf_read_config(job->fs, "run/export", &config));
    assert_memory_equal(&config, &model->config, sizeof config);
    assert_int_equal(ds_fs_readdir(job->fs, "run/export", &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        const char *end = strstr(names[i], ".safetensors");
        snprintf(path, sizeof path, "run/export/%s", names[i]);
        if (end && strcmp(end, ".safetensors") == 0)
            check_file(job, model, path, &seen);
    }
    assert_int_equal(seen, model->param_count);
    free(names);
    ds_model_close(model);
}

static void open_disk(struct job *job)
{
    assert_ok(ds_fs_sim_open(&job->fs));
    assert_int_equal(ds_fs_mkdirs(job->fs, "run", 0750), 0);
}

/* ---- every layout */

static void through_a_folder(struct spread_draw *draw, struct job *job)
{
    open_disk(job);
    spread_draw_layout(draw, &job->c, RANKS_MAX);
    spread_print(&job->c);
    run(job, export_rank);
    assert_int_equal(job->status[0], DS_OK);
    check_folder(job);
    spread_draw_layout(draw, &job->c, RANKS_MAX);
    run(job, load_rank);
    ds_fs_sim_close(job->fs);
}

static void an_export_of_any_layout_is_read_by_any_other(void **state)
{
    uint64_t seed = test_seed("any layout");
    struct spread_draw draw = {ds_random_of(seed, DS_RANDOM_TEST, 2), 0};

    (void)state;
    for (int n = 0; n < CASES; n++) {
        struct job job = {.seed = seed + (uint64_t)n, .file_bytes_max = n % 3 ? 0 : 30000};
        spread_draw_config(&draw, &job.c.config);
        through_a_folder(&draw, &job);
    }
}

/* Eight ranks, each of which owns something of some parameter: shard 2, two stages, two tensor ranks with
 * copies of one kv head; the embedding is tied and has an odd number of rows. */
static struct job eight_ranks(int is_tied)
{
    struct job job = {.c = {.mesh = {.size = {1, 2, 1, 2, 1, 2}, .tp_copies = 2},
                            .stage_of_unit = {0, 0, 1, 1},
                            .unit_count = 4,
                            .zero_stage = 3},
                      .seed = 7};
    struct ds_model_config *c = &job.c.config;

    ds_model_config_default(DS_FAMILY_QWEN2, c);
    c->num_attention_heads = 4;
    c->num_key_value_heads = 1;
    c->head_dim = 8;
    c->hidden_size = 32;
    c->vocab_size = 509;
    c->intermediate_size = 73;
    c->num_hidden_layers = 2;
    c->max_position_embeddings = 32;
    c->tie_word_embeddings = is_tied;
    return job;
}

static void copies_odd_rows_and_a_tied_embedding_are_put_together(void **state)
{
    (void)state;
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        struct job job = eight_ranks(is_tied);
        open_disk(&job);
        run(&job, export_rank);
        assert_int_equal(job.status[0], DS_OK);
        check_folder(&job);
        run(&job, load_rank);
        ds_fs_sim_close(job.fs);
    }
}

/* A parameter of several pieces from each owner, as rows and as columns. */
static void a_large_parameter_travels_in_pieces(void **state)
{
    struct job job = eight_ranks(0);

    (void)state;
    job.c.config.intermediate_size = 70001;
    job.c.mesh.size[DS_AXIS_SHARD] = 1;
    open_disk(&job);
    run(&job, export_rank);
    assert_int_equal(job.status[0], DS_OK);
    check_folder(&job);
    run(&job, load_rank);
    ds_fs_sim_close(job.fs);
}

/* ---- failures */

static int is_there(struct ds_fs *fs, const char *path)
{
    struct ds_fs_stat stat;

    return ds_fs_stat(fs, path, &stat) == 0;
}

static void check_nothing_is_left(struct ds_fs *disk)
{
    assert_false(is_there(disk, "run/export"));
    assert_false(is_there(disk, "run/export.tmp"));
    assert_false(is_there(disk, "run/export.old"));
    assert_int_equal(ds_fs_sim_open_files(disk), 0);
}

/* One line of whoever failed, the same status everywhere. */
static ds_status run_to_fail(struct job *job)
{
    struct capture capture;

    capture_begin(&capture);
    const int made = run_ranks(rank_count(job), 60000000000u, export_rank, job);
    const char *said = capture_end(&capture);
    assert_true(made);
    assert_null(strchr(said, '\n'));
    assert_int_equal(said[0] != '\0', job->status[0] != DS_OK);
    for (uint32_t r = 1; r < rank_count(job); r++)
        assert_int_equal(job->status[r], job->status[0]);
    return job->status[0];
}

static void a_failed_call_of_the_writer_leaves_nothing(void **state)
{
    uint64_t fail_at = 0;
    int is_over = 0;

    (void)state;
    while (!is_over) {
        struct job job = eight_ranks(1);
        struct ds_fs *disk;
        open_disk(&job);
        disk = job.fs;
        assert_ok(ds_fs_fault_open(disk, ++fail_at, &job.fs));
        ds_status st = run_to_fail(&job);
        is_over = !ds_fs_fault_hit(job.fs);
        assert_true(st == DS_OK || !is_over);
        ds_fs_fault_close(job.fs);
        job.fs = disk;
        if (st == DS_OK)
            check_folder(&job);
        else
            check_nothing_is_left(disk);
        ds_fs_sim_close(disk);
    }
    assert_true(fail_at > 20);
}

static void a_rank_that_cannot_read_its_own_stops_all(void **state)
{
    (void)state;
    for (uint32_t rank = 0; rank < 8; rank++) {
        struct job job = eight_ranks(0);
        job.failing_rank = rank;
        job.failing_copy = 1;
        open_disk(&job);
        assert_int_equal(run_to_fail(&job), DS_ERR_DEVICE);
        check_nothing_is_left(job.fs);
        ds_fs_sim_close(job.fs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_export_of_any_layout_is_read_by_any_other),
        cmocka_unit_test(copies_odd_rows_and_a_tied_embedding_are_put_together),
        cmocka_unit_test(a_large_parameter_travels_in_pieces),
        cmocka_unit_test(a_failed_call_of_the_writer_leaves_nothing),
        cmocka_unit_test(a_rank_that_cannot_read_its_own_stops_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
