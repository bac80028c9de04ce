// link: launch
// private: launch
/* `dstrain export`: from the files of a checkpoint alone come the bytes that the run itself exports at that step, for
 * every precision and every layout; what is damaged, another's or not to be written to is refused in a line, with
 * nothing changed and nothing left behind; memory does not grow with the model. */
#include "test.h"

#include "capture.h"
#include "damage.h"
#include "peak_memory.h"
#include "ranks.h"
#include "tiny_run.h"

#include "command.h"
#include "trainer/trainer.h"

#include "dstrain/export.h"

#include <stdio.h>
#include <unistd.h>

enum { STEPS = 4, PATH = 600 };

static char *folder, *data;
static char root[PATH], exported[PATH], out[PATH];

/* ---- a run that saves, and exports what it has at its end */

struct run {
    struct tiny_case c;
    uint64_t interval, file_bytes_max;
    int compute, master, is_text;
    const char *from; /* model.path */
    uint64_t vocab;
    ds_status status;
};

static ds_status export_cut(const struct run *run, struct ds_trainer *t)
{
    const struct ds_hf_write_options options = {.fs = ds_fs_posix(),
                                                .folder = exported,
                                                .file_bytes_max = run->file_bytes_max,
                                                .parts = {.model = t->model,
                                                          .zero = t->zero,
                                                          .mesh = ds_mesh_shape_of(t->mesh),
                                                          .stage_of_unit = t->stage_of_unit,
                                                          .world = t->options.world}};

    return ds_hf_write(&options);
}

static void run_config(const struct run *run, struct ds_config *config)
{
    tiny_config(&run->c, config);
    config->precision.compute = run->compute;
    config->precision.master = run->master;
    config->checkpoint.interval = run->interval ? run->interval : STEPS;
    config->checkpoint.keep = 10;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
    if (run->from)
        snprintf(config->model.path, sizeof config->model.path, "%s", run->from);
    if (run->vocab)
        config->model.vocab_size = run->vocab;
    if (run->vocab)
        config->model.hidden_size = 256;
}

static void run_rank(struct ds_comm *world, void *user)
{
    struct run *run = user;
    struct ds_trainer *t = NULL;
    struct ds_config config;

    run_config(run, &config);
    const struct ds_trainer_options options = {.config = &config,
                                               .mode = DS_TRAINER_TRAIN,
                                               .uses_checkpoints = 1,
                                               .world = world,
                                               .fs = ds_fs_posix(),
                                               .clock = ds_clock_system()};
    ds_status st = ds_trainer_open(&options, &t);
    if (st == DS_OK)
        st = ds_trainer_run(t);
    if (st == DS_OK)
        st = run->file_bytes_max ? export_cut(run, t) : ds_trainer_export(t, exported);
    ds_trainer_close(t);
    if (world->rank == 0)
        run->status = st;
}

static void start_over(void)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), exported), 0);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
}

static ds_status launch(struct run run, uint64_t steps)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), exported), 0);
    run.c.ranks = run.c.ranks ? run.c.ranks : 1;
    run.c.steps = steps;
    run.c.global_batch = 4;
    run.c.micro_batch = 1;
    run.c.seed = 7;
    run.c.data = data;
    assert_true(run_ranks(run.c.ranks, 60000000000u, run_rank, &run));
    return run.status;
}

static void go_on(struct run run, uint64_t steps)
{
    assert_ok(launch(run, steps));
}

static void train(struct run run)
{
    start_over();
    go_on(run, STEPS);
}

/* A checkpoint of every step, each of a launch of its own. */
static void train_in_launches(void)
{
    start_over();
    for (uint64_t steps = 1; steps <= STEPS; steps++)
        go_on((struct run){.interval = 1}, steps);
}

/* ---- the command */

static ds_status export_with(struct ds_fs *fs, const char *const *words, int count)
{
    char texts[8][DS_CHECKPOINT_PATH_BYTES], *argv[9] = {NULL};
    struct ds_command command = {.argc = count, .argv = argv, .fs = fs};

    for (int i = 0; i < count; i++) {
        snprintf(texts[i], sizeof texts[i], "%s", words[i]);
        argv[i] = texts[i];
    }
    return ds_export_main(&command);
}
#define EXPORT(...)                                                \
    export_with(ds_fs_posix(), (const char *const[]){__VA_ARGS__}, \
                (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

/* ---- what is on the disk */

static int is_there(const char *path)
{
    struct ds_fs_stat stat;

    return ds_fs_stat(ds_fs_posix(), path, &stat) == 0;
}

static void assert_same_folders(const char *what)
{
    if (tree_sum(ds_fs_posix(), out, 0) != tree_sum(ds_fs_posix(), exported, 0))
        fail_msg("%s: other bytes than the run's own export", what);
}

/* One byte of a pack, in the middle of its first run. */
static void flip(uint64_t step)
{
    const struct ds_pack_id id = {.epoch = step, .step = step}; /* train_in_launches */
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_pack *pack;

    ds_checkpoint_pack_path(root, 0, &id, path);
    assert_ok(ds_pack_open(ds_fs_posix(), path, NULL, &pack));
    const uint64_t at = ds_pack_info(pack)->header_bytes + 7;
    ds_pack_close(pack);
    damage_flip(ds_fs_posix(), path, at);
}

/* ---- the bytes of the run's own export */

static void every_precision_gives_the_bytes_of_the_run(void **state)
{
    static const int rows[][2] = {{DS_PRECISION_FP32, DS_MASTER_KEY_FP32},
                                  {DS_PRECISION_BF16, DS_MASTER_KEY_FP32},
                                  {DS_PRECISION_BF16, DS_MASTER_KEY_REMAINDER16},
                                  {DS_PRECISION_BF16, DS_MASTER_KEY_NONE},
                                  {DS_PRECISION_FP16, DS_MASTER_KEY_FP32}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char what[64];

        train((struct run){.compute = rows[i][0], .master = rows[i][1], .c.is_tied = (int)i & 1});
        snprintf(what, sizeof what, "compute %d, master %d", rows[i][0], rows[i][1]);
        assert_ok(EXPORT(root, out));
        assert_same_folders(what);
    }
}

static void every_layout_gives_the_bytes_of_the_run(void **state)
{
    static const struct {
        uint32_t ranks, tensor, pipeline, kv_heads;
        int stage, is_tied, family;
    } rows[] = {{2, 1, 1, 2, 3, 0, DS_FAMILY_LLAMA},
                {4, 2, 2, 1, 1, 1, DS_FAMILY_QWEN3}, /* copies of a kv head */
                {4, 4, 1, 2, 3, 0, DS_FAMILY_QWEN2},
                {8, 2, 2, 2, 2, 1, DS_FAMILY_LLAMA}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char what[64];

        train((struct run){.c = {.ranks = rows[i].ranks,
                                 .tensor = rows[i].tensor,
                                 .pipeline = rows[i].pipeline,
                                 .kv_heads = rows[i].kv_heads,
                                 .stage = rows[i].stage,
                                 .is_tied = rows[i].is_tied,
                                 .family = rows[i].family}});
        snprintf(what, sizeof what, "tensor %u, pipeline %u of %u ranks", rows[i].tensor,
                 rows[i].pipeline, rows[i].ranks);
        assert_ok(EXPORT(root, out));
        assert_same_folders(what);
    }
}

/* A library's call, since the program has no key for the size of files. */
static void several_files_have_the_bytes_of_the_run(void **state)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES] __attribute__((aligned(64)));
    struct ds_export_model model;
    struct ds_manifest manifest;
    char first[2 * PATH];

    (void)state;
    train((struct run){.file_bytes_max = 20000, .c = {.ranks = 2, .tensor = 2}});
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &(struct ds_manifest_id){1, STEPS},
                                          &manifest));
    assert_ok(ds_export_model_read("a test", &manifest.state, &model));
    const struct ds_export_from from = {.fs = ds_fs_posix(),
                                        .root = root,
                                        .manifest = &manifest,
                                        .config = &model.config,
                                        .buffer = buffer};
    const struct ds_hf_write_options to = {
        .fs = ds_fs_posix(), .folder = out, .file_bytes_max = 20000};
    assert_ok(ds_export_checkpoint(&from, &to));
    assert_same_folders("several files");
    snprintf(first, sizeof first, "%s/model.safetensors.index.json", out);
    assert_true(is_there(first));
    ds_manifest_fini(&manifest);
}

/* Every number of a config.json comes back from a manifest's values. */
static void a_manifest_knows_the_whole_model(void **state)
{
    static const char *const cases[] = {"llama_gqa_tied_rope3", "llama_mha", "llama_yarn",
                                        "qwen2_bias", "qwen3_qknorm"};
    struct ds_export_model first, second;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ds_values values = {0};

        first = (struct ds_export_model){.has_byte_tokens = (int)i & 1, .has_tokenizer = 0};
        snprintf(first.companions, sizeof first.companions, "%s/tests/golden/%s", DS_SOURCE_DIR,
                 cases[i]);
        assert_ok(ds_hf_read_config(ds_fs_posix(), first.companions, &first.config));
        assert_ok(ds_export_describe(ds_fs_posix(), &first, &values));
        assert_ok(ds_export_model_read("a test", &values, &second));
        assert_memory_equal(&second.config, &first.config, sizeof first.config);
        assert_string_equal(second.companions, first.companions);
        assert_int_equal(second.has_byte_tokens, first.has_byte_tokens);
        assert_int_equal(second.has_tokenizer, 0);
        ds_values_fini(&values);
    }
}

/* ---- which one */

static void the_newest_that_verifies_is_taken(void **state)
{
    char manifest[DS_CHECKPOINT_PATH_BYTES];

    (void)state;
    train_in_launches();
    const uint64_t before = tree_sum(ds_fs_posix(), root, 1);
    assert_ok(EXPORT(root, out));
    assert_same_folders("the newest");
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    assert_ok(EXPORT(root, out, "--step", "2"));
    const uint64_t second = tree_sum(ds_fs_posix(), out, 0);
    assert_true(second != tree_sum(ds_fs_posix(), exported, 0));
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    assert_true(tree_sum(ds_fs_posix(), root, 1) == before);
    flip(4);
    flip(3);
    ds_log.terminal = -1;
    assert_ok(EXPORT(root, out));
    assert_true(tree_sum(ds_fs_posix(), out, 0) == second);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    assert_int_equal(EXPORT(root, out, "--step", "4"), DS_ERR_CORRUPT);
    assert_int_equal(EXPORT(root, out, "--step", "5"), DS_ERR_NO_CHECKPOINT);
    ds_checkpoint_manifest_path(root, &(struct ds_manifest_id){3, 3}, manifest);
    assert_int_equal(EXPORT(manifest, out), DS_ERR_CORRUPT);
    flip(2);
    flip(1);
    assert_int_equal(EXPORT(root, out), DS_ERR_NO_CHECKPOINT);
    ds_log.terminal = 2;
    assert_false(is_there(out));
}

/* ---- the tokenizer: what a run copies, as long as it is the same */

static void write_tokenizer(const char *where, const char *text)
{
    char path[2 * PATH];

    snprintf(path, sizeof path, "%s/tokenizer.json", where);
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, text, strlen(text)));
}

static void the_tokenizer_is_the_one_it_was_trained_with(void **state)
{
    char model[PATH], other[PATH], written[2 * PATH];
    struct capture capture;

    (void)state;
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    snprintf(written, sizeof written, "%s/tokenizer.json", out);
    train((struct run){.c.seed = 3});
    assert_int_equal(ds_fs_rename(ds_fs_posix(), exported, model), 0);
    write_tokenizer(model, "{\"mine\": 1}");
    train((struct run){.from = model});
    assert_ok(EXPORT(root, out));
    assert_same_folders("with a tokenizer");
    assert_true(is_there(written));
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    write_tokenizer(model, "{\"mine\": 2}");
    capture_begin(&capture);
    assert_int_equal(EXPORT(root, out), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "--tokenizer"));
    assert_false(is_there(out));
    assert_int_equal(ds_fs_rename(ds_fs_posix(), model, other), 0);
    capture_begin(&capture);
    assert_ok(EXPORT(root, out));
    assert_non_null(strstr(capture_end(&capture), "no tokenizer is written"));
    assert_false(is_there(written));
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    ds_log.terminal = -1;
    assert_ok(EXPORT(root, out, "--tokenizer", other));
    assert_true(is_there(written));
    assert_int_equal(EXPORT(root, out, "--tokenizer", model), DS_ERR_CONFIG); /* out is there */
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    assert_int_equal(EXPORT(root, out, "--tokenizer", model), DS_ERR_DATA);
    ds_log.terminal = 2;
}

/* ---- other dtypes */

static void a_narrower_dtype_is_the_nearest(void **state)
{
    static const struct {
        const char *name, *said;
        enum ds_dtype dtype;
    } rows[] = {{"bf16", "\"bfloat16\"", DS_BF16}, {"fp16", "\"float16\"", DS_F16}};
    const char *const name = "model.layers.0.mlp.down_proj.weight";
    char path[2 * PATH];

    (void)state;
    train((struct run){.compute = DS_PRECISION_FP32});
    for (size_t i = 0; i < 2; i++) {
        struct ds_safetensors *wide, *narrow;
        uint16_t got[64], want[64];
        float from[64];
        size_t bytes;
        char *text;

        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
        assert_ok(EXPORT(root, out, "--dtype", rows[i].name));
        snprintf(path, sizeof path, "%s/config.json", out);
        assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1 << 20, &text, &bytes));
        assert_non_null(strstr(text, rows[i].said));
        free(text);
        snprintf(path, sizeof path, "%s/model.safetensors", exported);
        assert_ok(ds_safetensors_open(ds_fs_posix(), path, &wide));
        snprintf(path, sizeof path, "%s/model.safetensors", out);
        assert_ok(ds_safetensors_open(ds_fs_posix(), path, &narrow));
        assert_ok(ds_safetensors_read(wide, ds_safetensors_find(wide, name), 100, 64, from));
        assert_ok(ds_safetensors_read(narrow, ds_safetensors_find(narrow, name), 100, 64, got));
        assert_true(ds_dtype_from_f32(want, rows[i].dtype, from, 64));
        assert_memory_equal(got, want, sizeof got);
        ds_safetensors_close(wide);
        ds_safetensors_close(narrow);
    }
}

/* A file that nobody can load is none. */
static void a_number_that_the_dtype_has_not_is_refused(void **state)
{
    const float large = 1e6f;
    char model[PATH], path[PATH + 32];
    struct ds_safetensors *file;
    struct capture capture;

    (void)state;
    snprintf(model, sizeof model, "%s/model-large", folder);
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    train((struct run){.interval = 2});
    assert_int_equal(ds_fs_rename(ds_fs_posix(), exported, model), 0);
    assert_ok(ds_safetensors_open(ds_fs_posix(), path, &file));
    const uint64_t offset = ds_safetensors_at(file, 0)->offset;
    ds_safetensors_close(file);
    int weights = ds_fs_open(ds_fs_posix(), path, DS_FS_WRITE, 0);
    assert_int_equal(ds_fs_write_all(ds_fs_posix(), weights, &large, sizeof large, offset), 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), weights), 0);
    train((struct run){.from = model});
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    capture_begin(&capture);
    assert_int_equal(EXPORT(root, out, "--dtype", "fp16"), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "too large for F16"));
    assert_false(is_there(out));
    ds_log.terminal = -1;
    assert_ok(EXPORT(root, out, "--dtype", "bf16"));
    ds_log.terminal = 2;
}

/* ---- what is refused */

static void what_cannot_be_exported_is_refused_in_a_line(void **state)
{
    char taken[2 * PATH], manifest[DS_CHECKPOINT_PATH_BYTES], broken[PATH];
    struct capture capture;

    (void)state;
    train((struct run){.interval = 2});
    ds_checkpoint_manifest_path(root, &(struct ds_manifest_id){1, 2}, manifest);
    snprintf(taken, sizeof taken, "%s/notes.txt", out);
    snprintf(broken, sizeof broken, "%s/none", folder);
    const uint64_t before = tree_sum(ds_fs_posix(), root, 1);
    const struct {
        const char *words[4];
        int count;
        ds_status st;
        const char *said;
    } rows[] = {{{root}, 1, DS_ERR_CONFIG, "usage: dstrain export"},
                {{folder, out}, 2, DS_ERR_CONFIG, "no RUN.json"},
                {{broken, out}, 2, DS_ERR_DATA, "No such file"},
                {{data, out}, 2, DS_ERR_DATA, "neither a directory nor a manifest"},
                {{root, out, "--dtype", "int8"}, 4, DS_ERR_CONFIG, "fp32, bf16 or fp16"},
                {{root, out, "--step", "0"}, 4, DS_ERR_CONFIG, "whole number"},
                {{root, out, "--step", "9"}, 4, DS_ERR_NO_CHECKPOINT, "no checkpoint of step 9"},
                {{manifest, out, "--step", "2"}, 4, DS_ERR_CONFIG, "beside a manifest"},
                {{root, "."}, 2, DS_ERR_CONFIG, "a name of its own"},
                {{root, root}, 2, DS_ERR_CONFIG, "not empty"},
                {{root, data}, 2, DS_ERR_CONFIG, "no directory"},
                {{root, out, "--tokenizer", broken}, 4, DS_ERR_DATA, "no such folder"},
                {{DS_SOURCE_DIR "/tests/golden/checkpoint_1", out},
                 2,
                 DS_ERR_DATA,
                 "which model it is of"}};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        capture_begin(&capture);
        const ds_status st = export_with(ds_fs_posix(), rows[i].words, rows[i].count);
        const char *said = capture_end(&capture);

        if (st != rows[i].st || !strstr(said, rows[i].said) || strchr(said, '\n'))
            fail_msg("row %zu: %s: %s", i, ds_status_text(st), said);
        assert_false(is_there(out));
    }
    assert_true(tree_sum(ds_fs_posix(), root, 1) == before);
}

/* The folder that the run begins from holds another model now. */
static void a_run_does_not_go_on_with_another_model(void **state)
{
    char model[PATH], manifests[PATH + 16], packs[PATH + 16];
    struct capture capture;

    (void)state;
    snprintf(model, sizeof model, "%s/model-2", folder);
    snprintf(manifests, sizeof manifests, "%s/manifests", root);
    snprintf(packs, sizeof packs, "%s/data", root);
    train((struct run){.interval = 2});
    assert_int_equal(ds_fs_rename(ds_fs_posix(), exported, model), 0);
    start_over();
    go_on((struct run){.from = model}, 2);
    const uint64_t before =
        tree_sum(ds_fs_posix(), manifests, 1) ^ tree_sum(ds_fs_posix(), packs, 1);
    char aside[PATH];
    snprintf(aside, sizeof aside, "%s/model-3", folder);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), root, aside), 0);
    train((struct run){.vocab = 80});
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), model), 0);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), exported, model), 0);
    start_over();
    assert_int_equal(ds_fs_rename(ds_fs_posix(), aside, root), 0);
    capture_begin(&capture);
    const ds_status st = launch((struct run){.from = model}, 4);
    const char *said = capture_end(&capture);
    assert_int_equal(st, DS_ERR_DATA);
    assert_non_null(strstr(said, "another model"));
    assert_null(strchr(said, '\n'));
    assert_true((tree_sum(ds_fs_posix(), manifests, 1) ^ tree_sum(ds_fs_posix(), packs, 1)) ==
                before);
}

/* ---- the n-th call fails */

static void a_failed_call_leaves_nothing_behind(void **state)
{
    char temporary[PATH + 8];
    uint64_t fail_at = 0;
    int is_over = 0;

    (void)state;
    train((struct run){.c = {.ranks = 2, .tensor = 2}});
    snprintf(temporary, sizeof temporary, "%s.tmp", out);
    const uint64_t before = tree_sum(ds_fs_posix(), root, 1);
    ds_log.terminal = -1;
    while (!is_over) {
        struct ds_fs *faulty;

        assert_ok(ds_fs_fault_open(ds_fs_posix(), ++fail_at, &faulty));
        const ds_status st = export_with(faulty, (const char *const[]){root, out}, 2);
        is_over = !ds_fs_fault_hit(faulty);
        ds_fs_fault_close(faulty);
        if (st == DS_OK) /* what failed was not needed, or done again */
            assert_same_folders("after a call that failed");
        else
            assert_false(is_there(out));
        assert_true(!is_over || st == DS_OK);
        assert_false(is_there(temporary));
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), out), 0);
    }
    ds_log.terminal = 2;
    assert_true(fail_at > 40);
    assert_true(tree_sum(ds_fs_posix(), root, 1) == before);
}

/* Of somebody else, it lies where an export is made. */
static void what_is_not_of_an_export_stays(void **state)
{
    char temporary[PATH + 8], notes[PATH + 64];

    (void)state;
    train((struct run){.interval = 2});
    snprintf(temporary, sizeof temporary, "%s.tmp", out);
    snprintf(notes, sizeof notes, "%s/notes.txt", temporary);
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), temporary, 0750), 0);
    assert_ok(ds_fs_write_file(ds_fs_posix(), notes, "mine", 4));
    ds_log.terminal = -1;
    assert_ok(EXPORT(root, out));
    ds_log.terminal = 2;
    snprintf(notes, sizeof notes, "%s.kept-1/notes.txt", out);
    assert_true(is_there(notes));
    assert_false(is_there(temporary));
    snprintf(notes, sizeof notes, "%s.kept-1", out);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), notes), 0);
}

/* ---- memory */

/* One tensor is larger than all that may be taken. */
static void memory_does_not_grow_with_the_model(void **state)
{
    uint64_t before;

    (void)state;
    train((struct run){.vocab = 24000});
    if (!peak_forget(&before))
        skip();
    assert_ok(EXPORT(root, out));
    const uint64_t taken = peak_since(before);
    print_message("%llu KiB for a tensor of 24000 KiB\n", (unsigned long long)taken / 1024);
    assert_true(taken < 10u << 20);
    assert_same_folders("large");
}

static int make_folder(void **state)
{
    (void)state;
    folder = tiny_folder();
    data = tiny_data(folder, 5, 32);
    snprintf(root, sizeof root, "%s/run/checkpoints", folder);
    snprintf(exported, sizeof exported, "%s/run-export", folder);
    snprintf(out, sizeof out, "%s/out", folder);
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
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_precision_gives_the_bytes_of_the_run),
        cmocka_unit_test(every_layout_gives_the_bytes_of_the_run),
        cmocka_unit_test(several_files_have_the_bytes_of_the_run),
        cmocka_unit_test(a_manifest_knows_the_whole_model),
        cmocka_unit_test(the_newest_that_verifies_is_taken),
        cmocka_unit_test(the_tokenizer_is_the_one_it_was_trained_with),
        cmocka_unit_test(a_narrower_dtype_is_the_nearest),
        cmocka_unit_test(a_number_that_the_dtype_has_not_is_refused),
        cmocka_unit_test(what_cannot_be_exported_is_refused_in_a_line),
        cmocka_unit_test(a_run_does_not_go_on_with_another_model),
        cmocka_unit_test(a_failed_call_leaves_nothing_behind),
        cmocka_unit_test(what_is_not_of_an_export_stays),
        cmocka_unit_test(memory_does_not_grow_with_the_model),
    };

    ds_log.is_leader = 0;
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
