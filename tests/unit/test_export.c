// link: launch
// private: launch
/* test_export.c - the model as a Hugging Face folder, written by real trainers on ranks that are threads:
 * whole or not at all whatever call fails, the same bytes from every layout, and read back as it was. */
#include "test.h"

#include "capture.h"
#include "ranks.h"
#include "tiny_run.h"
#include "trainer/trainer.h"

#include "dstrain/json.h"

enum { STEPS = 2, PATH = 600 };

static char *folder, *data;

/* cmocka cannot leave a test from the thread of a rank */
#define MUST(condition) ((condition) ? (void)0 : give_up(#condition, __LINE__))

static void give_up(const char *condition, int line)
{
    fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, line, condition);
    abort();
}

/* ---- a trainer on every rank, and something done with it */

struct job {
    struct tiny_case c;
    ds_status (*body)(struct job *job, struct ds_trainer *t);
    /* for the bodies */
    struct ds_fs *fs;
    char to[PATH], to_trained[PATH];
    uint64_t file_bytes_max;
    ds_status status; /* of rank 0's last export */
    int has_old, is_over;
    float *params;
    uint32_t tensor_count;
};

static ds_status export_to(struct job *job, struct ds_trainer *t, struct ds_fs *fs, const char *to)
{
    const struct ds_hf_write_options options = {.fs = fs,
                                                .folder = to,
                                                .has_byte_tokens = 1,
                                                .parts = {.model = t->model,
                                                          .zero = t->zero,
                                                          .mesh = ds_mesh_shape_of(t->mesh),
                                                          .world = t->options.world},
                                                .file_bytes_max = job->file_bytes_max};

    return ds_hf_write(&options);
}

static void job_rank(struct ds_comm *world, void *user)
{
    struct job *job = user;
    struct ds_trainer *t = NULL;
    struct ds_config config;
    ds_status st;

    tiny_config(&job->c, &config);
    const struct ds_trainer_options options = {.config = &config,
                                               .mode = DS_TRAINER_TRAIN,
                                               .world = world,
                                               .fs = ds_fs_posix(),
                                               .clock = ds_clock_system()};
    st = ds_trainer_open(&options, &t);
    if (st == DS_OK)
        st = job->body(job, t);
    ds_trainer_close(t);
    if (world->rank == 0)
        job->status = st;
}

static void run_job(struct job *job, uint32_t ranks, int stage)
{
    job->c.ranks = ranks;
    job->c.stage = stage;
    job->c.steps = STEPS;
    job->c.global_batch = 4;
    job->c.micro_batch = 1;
    job->c.seed = 11;
    job->c.data = data;
    assert_true(run_ranks(ranks, 60000000000u, job_rank, job));
    assert_int_equal(job->status, DS_OK);
}

/* ---- folders compared */

static size_t list(struct ds_fs *fs, const char *path, char ***names)
{
    size_t count = 0;

    *names = NULL;
    return ds_fs_readdir(fs, path, names, &count) == 0 ? count : 0;
}

static int same_file(struct ds_fs *a_fs, const char *a, struct ds_fs *b_fs, const char *b)
{
    size_t a_bytes, b_bytes;
    char *a_text, *b_text;

    MUST(ds_fs_read_file(a_fs, a, 1 << 24, &a_text, &a_bytes) == DS_OK);
    MUST(ds_fs_read_file(b_fs, b, 1 << 24, &b_text, &b_bytes) == DS_OK);
    int same = a_bytes == b_bytes && memcmp(a_text, b_text, a_bytes) == 0;
    free(a_text);
    free(b_text);
    return same;
}

static int same_folder(struct ds_fs *a_fs, const char *a, struct ds_fs *b_fs, const char *b)
{
    char **a_names, **b_names, from[2 * PATH], to[2 * PATH];
    size_t count = list(a_fs, a, &a_names);
    int same = count > 0 && list(b_fs, b, &b_names) == count;

    for (size_t i = 0; same && i < count; i++) {
        snprintf(from, sizeof from, "%s/%s", a, a_names[i]);
        snprintf(to, sizeof to, "%s/%s", b, b_names[i]);
        same = strcmp(a_names[i], b_names[i]) == 0 && same_file(a_fs, from, b_fs, to);
    }
    free(a_names);
    if (count > 0)
        free(b_names);
    return same;
}

static void copy_folder(struct ds_fs *from_fs, const char *from, struct ds_fs *to_fs,
                        const char *to)
{
    char **names, path[2 * PATH], *text;
    size_t count = list(from_fs, from, &names), bytes;

    MUST(count > 0);
    MUST(ds_fs_mkdirs(to_fs, to, 0750) == 0);
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", from, names[i]);
        MUST(ds_fs_read_file(from_fs, path, 1 << 24, &text, &bytes) == DS_OK);
        snprintf(path, sizeof path, "%s/%s", to, names[i]);
        MUST(ds_fs_write_file(to_fs, path, text, bytes) == DS_OK);
        free(text);
    }
    free(names);
}

static int is_there(struct ds_fs *fs, const char *path)
{
    struct ds_fs_stat stat;

    return ds_fs_stat(fs, path, &stat) == 0;
}

/* ---- the n-th call fails */

/* one export into a simulated disk whose call number `fail_at` fails; rank 0 has it */
struct disk {
    struct ds_fs *sim, *faulty;
};

static void open_disk(struct job *job, struct disk *disk, uint64_t fail_at)
{
    MUST(ds_fs_sim_open(&disk->sim) == DS_OK);
    MUST(ds_fs_mkdirs(disk->sim, "run", 0750) == 0);
    if (job->has_old)
        copy_folder(ds_fs_posix(), job->to, disk->sim, "run/export");
    MUST(ds_fs_fsync_dir(disk->sim, "run") == 0);
    MUST(ds_fs_fsync_dir(disk->sim, ".") == 0);
    MUST(ds_fs_fault_open(disk->sim, fail_at, &disk->faulty) == DS_OK);
}

static void check_disk(struct job *job, struct disk *disk, ds_status st)
{
    const int is_new = same_folder(disk->sim, "run/export", ds_fs_posix(), job->to_trained);
    const int is_old = same_folder(disk->sim, "run/export", ds_fs_posix(), job->to);

    if (st == DS_OK)
        MUST(is_new);
    else if (job->has_old)
        MUST(is_old);
    else
        MUST(!is_there(disk->sim, "run/export"));
    MUST(!is_there(disk->sim, "run/export.tmp"));
    MUST(!is_there(disk->sim, "run/export.old"));
    MUST(ds_fs_sim_open_files(disk->sim) == 0);
}

/* Power is lost afterwards: what was said to be done is there, and nothing is half there. */
static void check_after_crash(struct job *job, struct disk *disk, ds_status st, uint64_t seed)
{
    ds_fs_sim_crash(disk->sim, seed);
    if (st == DS_OK)
        MUST(same_folder(disk->sim, "run/export", ds_fs_posix(), job->to_trained));
    else if (is_there(disk->sim, "run/export"))
        MUST(same_folder(disk->sim, "run/export", ds_fs_posix(), job->to) ||
             same_folder(disk->sim, "run/export", ds_fs_posix(), job->to_trained));
}

static ds_status one_failure(struct job *job, struct ds_trainer *t, uint64_t fail_at)
{
    const int is_writer = t->options.world->rank == 0;
    struct disk disk = {0};
    struct capture capture;
    ds_status st;

    if (is_writer) {
        open_disk(job, &disk, fail_at);
        capture_begin(&capture);
    }
    st = export_to(job, t, disk.faulty, "run/export");
    if (is_writer) {
        const char *said = capture_end(&capture);
        job->is_over = !ds_fs_fault_hit(disk.faulty);
        MUST(st == DS_OK || !job->is_over);
        MUST(st == DS_OK || strncmp(said, "dstrain: error: ", 16) == 0);
        MUST(!strchr(said, '\n'));
        check_disk(job, &disk, st);
        check_after_crash(job, &disk, st, fail_at % 3);
        ds_fs_fault_close(disk.faulty);
        ds_fs_sim_close(disk.sim);
    }
    return ds_comm_barrier(t->options.world);
}

static ds_status fail_each_call(struct job *job, struct ds_trainer *t)
{
    uint64_t fail_at = 0;

    DS_TRY(export_to(job, t, ds_fs_posix(), job->to));
    DS_TRY(ds_trainer_run(t));
    DS_TRY(export_to(job, t, ds_fs_posix(), job->to_trained));
    do {
        fail_at++;
        DS_TRY(one_failure(job, t, fail_at));
    } while (!job->is_over);
    MUST(fail_at > 30);
    return DS_OK;
}

static void a_failed_call_leaves_the_old_export_or_none(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        struct job job = {.body = fail_each_call,
                          .has_old = variant & 1,
                          .file_bytes_max = variant & 2 ? 20000 : 0};
        snprintf(job.to, sizeof job.to, "%s/old-%d", folder, variant);
        snprintf(job.to_trained, sizeof job.to_trained, "%s/new-%d", folder, variant);
        run_job(&job, 2, 3);
    }
}

static ds_status put_in_order(struct job *job, struct ds_trainer *t)
{
    const int is_writer = t->options.world->rank == 0;
    char old[PATH + 8], tmp[PATH + 8];

    snprintf(old, sizeof old, "%s.old", job->to);
    snprintf(tmp, sizeof tmp, "%s.tmp", job->to);
    if (is_writer) {
        MUST(ds_fs_mkdirs(ds_fs_posix(), tmp, 0750) == 0);
        MUST(ds_fs_mkdirs(ds_fs_posix(), old, 0750) == 0);
    }
    DS_TRY(export_to(job, t, ds_fs_posix(), job->to));
    if (is_writer) {
        MUST(!is_there(ds_fs_posix(), old));
        MUST(!is_there(ds_fs_posix(), tmp));
    }
    return DS_OK;
}

static void what_a_killed_export_left_is_put_in_order(void **state)
{
    struct job job = {.body = put_in_order};

    (void)state;
    snprintf(job.to, sizeof job.to, "%s/killed", folder);
    run_job(&job, 1, 0);
    run_job(&job, 1, 0); /* the same where an export stands */
}

static ds_status export_over_more(struct job *job, struct ds_trainer *t)
{
    static const char *const first[] = {"%s/notes.txt", "%s.kept-2/notes.txt"};
    struct ds_fs *fs = ds_fs_posix();
    char path[PATH + 32], kept[PATH + 32];
    struct capture capture;

    for (int i = 0; i < 2; i++) { /* 0: kept-1 is taken; 1: nothing of somebody's */
        DS_TRY(export_to(job, t, fs, job->to));
        snprintf(kept, sizeof kept, "%s.kept-%d", job->to, i + 1);
        MUST(i || ds_fs_mkdirs(fs, kept, 0750) == 0);
        snprintf(path, sizeof path, first[0], job->to);
        MUST(i || ds_fs_write_file(fs, path, "mine", 4) == DS_OK);
        capture_begin(&capture);
        ds_status st = export_to(job, t, fs, job->to);
        const char *said = capture_end(&capture);
        MUST(st == DS_OK && !is_there(fs, path));
        MUST(i ? said[0] == '\0' : strstr(said, ".kept-2") != NULL);
        snprintf(path, sizeof path, first[1], job->to);
        MUST(is_there(fs, path));
    }
    snprintf(path, sizeof path, "%s.kept-3", job->to);
    MUST(!is_there(fs, path));
    return DS_OK;
}

static void what_is_not_of_an_export_is_kept(void **state)
{
    struct job job = {.body = export_over_more, .file_bytes_max = 20000};

    (void)state;
    snprintf(job.to, sizeof job.to, "%s/more", folder);
    run_job(&job, 1, 0);
}

/* ---- layouts */

static ds_status export_only(struct job *job, struct ds_trainer *t)
{
    return export_to(job, t, ds_fs_posix(), job->to);
}

static ds_status export_trained(struct job *job, struct ds_trainer *t)
{
    DS_TRY(ds_trainer_run(t));
    return export_to(job, t, ds_fs_posix(), job->to);
}

static void every_layout_writes_the_same_bytes(void **state)
{
    char first[PATH];

    (void)state;
    snprintf(first, sizeof first, "%s/layout-1-0", folder);
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 2)
        for (int stage = 0; stage <= 3; stage += 3) {
            struct job job = {.body = export_only};
            snprintf(job.to, sizeof job.to, "%s/layout-%u-%d", folder, ranks, stage);
            run_job(&job, ranks, stage);
            assert_true(same_folder(ds_fs_posix(), job.to, ds_fs_posix(), first));
        }
}

static void every_stage_writes_the_same_bytes_after_training(void **state)
{
    char first[PATH];

    (void)state;
    snprintf(first, sizeof first, "%s/stage-0", folder);
    for (int stage = 0; stage <= 3; stage++) {
        struct job job = {.body = export_trained};
        snprintf(job.to, sizeof job.to, "%s/stage-%d", folder, stage);
        run_job(&job, 2, stage);
        assert_true(same_folder(ds_fs_posix(), job.to, ds_fs_posix(), first));
    }
}

/* ---- read back */

static ds_status read_all(struct ds_trainer *t, float *params)
{
    for (uint32_t i = 0; i < t->model->param_count; i++) {
        DS_TRY(ds_trainer_read_param(t, t->model->params[i].name, params));
        if (params)
            params += ds_param_whole_elems(&t->model->params[i]);
    }
    return DS_OK;
}

/* train, export, forget, load: the weights are those that were trained */
static ds_status export_and_load(struct job *job, struct ds_trainer *t)
{
    const struct ds_hf_target target = {
        .model = t->model, .zero = t->zero, .shard_rank = t->shard_rank};
    const size_t bytes = (size_t)t->model->elems_total * sizeof(float);
    const int is_reader = t->options.world->rank == 0;
    float *trained = malloc(bytes), *loaded = malloc(bytes);
    struct ds_model_config config;
    struct ds_hf *hf = NULL;

    MUST(trained && loaded);
    DS_TRY(ds_trainer_run(t));
    DS_TRY(export_to(job, t, ds_fs_posix(), job->to));
    DS_TRY(read_all(t, trained));
    MUST(ds_hf_init(&target, 99) == DS_OK);
    MUST(ds_zero_publish(t->zero) == DS_OK);
    DS_TRY(read_all(t, loaded));
    MUST(!is_reader || memcmp(trained, loaded, bytes) != 0);
    MUST(ds_hf_read_config(ds_fs_posix(), job->to, &config) == DS_OK);
    MUST(memcmp(&config, &t->model->config, sizeof config) == 0);
    MUST(ds_hf_open(ds_fs_posix(), job->to, &hf) == DS_OK);
    MUST(ds_hf_check(hf, t->model) == DS_OK);
    MUST(ds_hf_load(hf, &target) == DS_OK);
    ds_hf_close(hf);
    MUST(ds_zero_publish(t->zero) == DS_OK);
    DS_TRY(read_all(t, loaded));
    MUST(!is_reader || memcmp(trained, loaded, bytes) == 0);
    job->tensor_count = t->model->param_count;
    free(trained);
    free(loaded);
    return DS_OK;
}

static json_t *read_json(const char *base, const char *name)
{
    char path[2 * PATH], *text;
    size_t bytes;
    json_t *json;

    snprintf(path, sizeof path, "%s/%s", base, name);
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1 << 24, &text, &bytes));
    assert_ok(ds_json_parse(path, text, bytes, &json));
    free(text);
    return json;
}

static void an_export_is_read_back_as_it_was(void **state)
{
    (void)state;
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        struct job job = {.body = export_and_load, .c.is_tied = is_tied};
        snprintf(job.to, sizeof job.to, "%s/back-%d", folder, is_tied);
        run_job(&job, 2, 3);
    }
}

static int has_tensor(const char *base, const char *name)
{
    struct ds_safetensors *file;
    char path[2 * PATH];

    snprintf(path, sizeof path, "%s/model.safetensors", base);
    assert_ok(ds_safetensors_open(ds_fs_posix(), path, &file));
    int has = ds_safetensors_find(file, name) != NULL;
    ds_safetensors_close(file);
    return has;
}

static void only_an_untied_model_has_a_head_of_its_own(void **state)
{
    (void)state;
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        struct job job = {.body = export_only, .c.is_tied = is_tied};
        snprintf(job.to, sizeof job.to, "%s/tied-%d", folder, is_tied);
        run_job(&job, 2, 3);
        assert_true(has_tensor(job.to, "model.embed_tokens.weight"));
        assert_int_equal(has_tensor(job.to, "lm_head.weight"), !is_tied);
        json_t *config = read_json(job.to, "config.json");
        assert_int_equal(json_is_true(json_object_get(config, "tie_word_embeddings")), is_tied);
        json_decref(config);
        json_t *tokenizer = read_json(job.to, "tokenizer.json");
        json_t *vocabulary = json_object_get(json_object_get(tokenizer, "model"), "vocab");
        assert_int_equal(json_object_size(vocabulary) +
                             json_array_size(json_object_get(tokenizer, "added_tokens")),
                         DS_BYTE_VOCAB);
        json_decref(tokenizer);
    }
}

/* Several files, each small, together every tensor once; the index says in which. */
static void a_large_model_is_cut_into_files_with_an_index(void **state)
{
    struct job job = {.body = export_and_load, .file_bytes_max = 20000};
    json_t *file, *files = json_object();
    const char *name;

    (void)state;
    snprintf(job.to, sizeof job.to, "%s/cut", folder);
    run_job(&job, 2, 3);
    json_t *index = read_json(job.to, "model.safetensors.index.json");
    json_t *map = json_object_get(index, "weight_map");
    assert_int_equal(json_object_size(map), job.tensor_count);
    json_object_foreach(map, name, file)
    {
        struct ds_safetensors *opened;
        char path[2 * PATH];
        snprintf(path, sizeof path, "%s/%s", job.to, json_string_value(file));
        assert_ok(ds_safetensors_open(ds_fs_posix(), path, &opened));
        assert_non_null(ds_safetensors_find(opened, name));
        ds_safetensors_close(opened);
        json_object_set(files, json_string_value(file), file);
    }
    json_decref(index);
    assert_true(json_object_size(files) >= 3);
    json_decref(files);
}

static int make_folder(void **state)
{
    (void)state;
    folder = tiny_folder();
    data = tiny_data(folder, 5, 32);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    free(data);
    tiny_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_call_leaves_the_old_export_or_none),
        cmocka_unit_test(what_a_killed_export_left_is_put_in_order),
        cmocka_unit_test(what_is_not_of_an_export_is_kept),
        cmocka_unit_test(every_layout_writes_the_same_bytes),
        cmocka_unit_test(every_stage_writes_the_same_bytes_after_training),
        cmocka_unit_test(an_export_is_read_back_as_it_was),
        cmocka_unit_test(only_an_untied_model_has_a_head_of_its_own),
        cmocka_unit_test(a_large_model_is_cut_into_files_with_an_index),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
