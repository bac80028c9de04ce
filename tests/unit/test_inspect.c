// link: launch
// private: launch
/* `dstrain inspect` and `dstrain verify` of a run's checkpoints: what is good is listed, what is damaged, another's or
 * not understood ends with the exit code that says so, in words, and nothing is changed. */
#include "capture.h"
#include "checkpoint_rig.h"
#include "damage.h"

#include "command.h"

#include "dstrain/safetensors.h"

#include <stdio.h>
#include <unistd.h>

#define MANIFEST RIG_ROOT "/manifests/M-000001-000000000030.json"

static struct ds_fs *disk;

/* ---- the commands; what they print goes to a file */

static char printed[1 << 16];

static ds_status call(ds_status (*command)(struct ds_command *), const char *path, const char *more)
{
    char texts[2][256], *argv[] = {texts[0], texts[1], NULL};
    struct ds_command made = {.argc = more ? 2 : 1, .argv = argv, .fs = disk};
    const int before = dup(1), file = memfd_create("out", MFD_CLOEXEC);

    snprintf(texts[0], sizeof texts[0], "%s", path);
    snprintf(texts[1], sizeof texts[1], "%s", more ? more : "");
    fflush(stdout);
    assert_true(before >= 0 && file >= 0 && dup2(file, 1) == 1);
    const ds_status st = command(&made);
    fflush(stdout);
    assert_int_equal(dup2(before, 1), 1);
    const ssize_t bytes = pread(file, printed, sizeof printed - 1, 0);
    printed[bytes > 0 ? bytes : 0] = '\0';
    close(before);
    close(file);
    return st;
}

static void save_some(void)
{
    struct launch l;
    int committed = 0;

    assert_ok(ds_fs_sim_open(&disk));
    assert_int_equal(ds_fs_mkdir(disk, "/run", 0755), 0);
    launch_init(&l, disk, 1);
    assert_ok(launch_start(&l, UINT64_MAX));
    for (uint64_t step = 10; step <= 30; step += 10)
        assert_ok(launch_save(&l, step, &committed));
    launch_fini(&l);
}

/* ---- damages */

static void nothing(void)
{
}

static void lose_a_pack(void)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    ds_checkpoint_pack_path(RIG_ROOT, 1, &(struct ds_pack_id){1, 30, 1, 0, 2}, path);
    assert_int_equal(ds_fs_unlink(disk, path), 0);
}

static void damage_the_manifest(void)
{
    damage_flip(disk, MANIFEST, 40);
}

static void damage_all_manifests(void)
{
    damage_flip(disk, MANIFEST, 40);
    damage_flip(disk, RIG_ROOT "/manifests/M-000001-000000000020.json", 300);
    damage_flip(disk, RIG_ROOT "/manifests/M-000001-000000000010.json", 77);
}

static void remove_all_manifests(void)
{
    assert_int_equal(ds_fs_remove_tree(disk, RIG_ROOT "/manifests"), 0);
    assert_int_equal(ds_fs_mkdir(disk, RIG_ROOT "/manifests", 0755), 0);
}

static void make_the_manifest_newer(void)
{
    damage_forge(disk, MANIFEST, "\"version\":1", "\"version\":2");
}

static void take_the_manifest_of_another_run(void)
{
    damage_forge(disk, MANIFEST, "\"run\":\"6", "\"run\":\"7");
}

static void rename_a_manifest(void)
{
    assert_int_equal(ds_fs_rename(disk, RIG_ROOT "/manifests/M-000001-000000000020.json", MANIFEST),
                     0);
}

static void make_the_directory_newer(void)
{
    damage_forge(disk, RIG_ROOT "/RUN.json", "\"version\":1", "\"version\":2");
}

static void damage_the_directory(void)
{
    damage_flip(disk, RIG_ROOT "/RUN.json", 50);
}

static void make_it_another_directory(void)
{
    assert_int_equal(ds_fs_unlink(disk, RIG_ROOT "/RUN.json"), 0);
}

static const struct {
    void (*damage)(void);
    int of_all, of_newest; /* exit codes: for the directory, for its newest manifest */
    const char *said;      /* of the directory, in one line, by inspect */
} rows[] = {
    {nothing, 0, 0, ""},
    {lose_a_pack, 65, 65, "1 of 3 checkpoints cannot be used"},
    {damage_the_manifest, 65, 65, "M-000001-000000000030.json"},
    {make_the_manifest_newer, 65, 65, "format version 2; this program knows 1"},
    {take_the_manifest_of_another_run, 65, 65, "another run's"},
    {rename_a_manifest, 65, 65, "another checkpoint's manifest"},
    {damage_all_manifests, 66, 65, "no checkpoint is usable"},
    {remove_all_manifests, 66, 65, "there is no checkpoint yet"},
    {make_the_directory_newer, 65, 65, "format version 2; this program knows 1"},
    {damage_the_directory, 64, 64, "RUN.json is damaged"},
    {make_it_another_directory, 64, 64, "no"},
};

static void expect(const char *what, size_t row, ds_status st, int code)
{
    if (ds_status_exit_code(st) != code)
        fail_msg("%s, row %zu: %s, %d is right", what, row, ds_status_text(st), code);
}

static void the_exit_code_says_what_is_wrong(void **state)
{
    struct capture capture;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        save_some();
        rows[i].damage();
        const uint64_t before = tree_sum(disk, "/run", 1);
        capture_begin(&capture);
        const ds_status listed = call(ds_inspect_main, "/run", NULL);
        const char *said = capture_end(&capture);
        expect("inspect of all", i, listed, rows[i].of_all);
        if (!strstr(said, rows[i].said) || (rows[i].of_all == 0) != (said[0] == '\0'))
            fail_msg("row %zu: '%s' should say '%s'", i, said, rows[i].said);
        ds_log.terminal = -1;
        expect("verify of all", i, call(ds_verify_main, RIG_ROOT, NULL), rows[i].of_all);
        expect("inspect", i, call(ds_inspect_main, MANIFEST, NULL), rows[i].of_newest);
        expect("verify", i, call(ds_verify_main, MANIFEST, NULL), rows[i].of_newest);
        ds_log.terminal = 2;
        assert_true(tree_sum(disk, "/run", 1) == before);
        assert_int_equal(ds_fs_sim_open_files(disk), 0);
        ds_fs_sim_close(disk);
    }
}

/* Whatever is wrong with the file that says whose a directory is, one line says so. */
static void a_damaged_directory_is_told_by_one_line(void **state)
{
    static const char text[] = "{\"format\":\"dstrain run\",\"version\":1,\n";
    struct capture capture;

    (void)state;
    for (int i = 0; i < 4; i++) {
        save_some();
        if (i == 0)
            damage_the_directory();
        else if (i == 1)
            assert_ok(ds_fs_write_file(disk, RIG_ROOT "/RUN.json", text, sizeof text - 1));
        else if (i == 2)
            damage_forge(disk, RIG_ROOT "/RUN.json", "\"keys\"", "\"kids\"");
        else
            assert_ok(ds_fs_write_file(disk, RIG_ROOT "/RUN.json", printed, sizeof printed));
        capture_begin(&capture);
        const ds_status st = call(ds_inspect_main, RIG_ROOT, NULL);
        const char *said = capture_end(&capture);
        expect("inspect", (size_t)i, st, 64);
        if (!strstr(said, RIG_ROOT) || strchr(said, '\n'))
            fail_msg("damage %d: '%s' should be one line of the directory", i, said);
        ds_fs_sim_close(disk);
    }
}

/* ---- what is good */

static void a_list_has_a_line_for_each(void **state)
{
    (void)state;
    save_some();
    assert_ok(call(ds_inspect_main, "/run", NULL));
    assert_string_equal(printed,
                        "/run/checkpoints: run 612072756e2773206f776e206e616d65, 3 checkpoints\n"
                        "        step  epoch            bytes           tokens\n"
                        "          30      1            57344                -  usable\n"
                        "          20      1            73728                -  usable\n"
                        "          10      1            73728                -  usable\n");
    assert_ok(call(ds_inspect_main, MANIFEST, NULL));
    assert_string_equal(
        printed, "checkpoint of step 30 (epoch 1)\n"
                 "  written by   2 ranks: data 2 (shard 2), tensor 1, pipeline 1\n"
                 "  states       4 tensors, 2216 elements: master F32, exp_avg BF16, "
                 "exp_avg_sq F64\n"
                 "  packs        2 of its own, 57344 bytes; 4 of older ones, 147456 bytes\n");
    assert_ok(call(ds_inspect_main, MANIFEST, "--verbose"));
    assert_non_null(strstr(printed, "model.norm.weight  "));
    assert_non_null(strstr(printed, "    step = 30\n"));
    ds_fs_sim_close(disk);
}

static void write_config(const char *text)
{
    assert_ok(ds_fs_write_file(disk, "/run/config.ini", text, strlen(text)));
}

/* Of a run directory: where its checkpoints are, if not in it, and their mirror, which stands in for them. */
static void what_the_configuration_says_is_looked_at(void **state)
{
    static const char words[] = "its mirror, not looked at: /run/mirror\n";
    struct capture capture;

    (void)state;
    save_some();
    write_config("[checkpoint]\ndir = /run/checkpoints\nmirror = /run/mirror\n");
    assert_ok(call(ds_inspect_main, "/run", NULL));
    assert_non_null(strstr(printed, words));
    assert_ok(call(ds_verify_main, "/run", NULL));
    assert_non_null(strstr(printed, words));
    assert_ok(call(ds_inspect_main, RIG_ROOT, NULL)); /* no run directory */
    assert_null(strstr(printed, "mirror"));

    damage_all_manifests();
    capture_begin(&capture);
    assert_int_equal(call(ds_verify_main, "/run", NULL), DS_ERR_NO_CHECKPOINT);
    assert_non_null(strstr(capture_end(&capture), "/run/mirror is its mirror: name that"));
    ds_fs_sim_close(disk);

    save_some();
    assert_int_equal(ds_fs_rename(disk, RIG_ROOT, "/run/mirror"), 0);
    write_config("[checkpoint]\ndir = /run/mirror\n");
    assert_ok(call(ds_inspect_main, "/run", NULL));
    assert_non_null(strstr(printed, "/run/mirror: run 6120"));
    write_config("[checkpoint]\ndir = /run/checkpoints\nmirror = /run/mirror\n");
    capture_begin(&capture);
    const ds_status st = call(ds_verify_main, "/run", NULL);
    assert_non_null(strstr(capture_end(&capture), "these are those of its mirror"));
    assert_int_equal(st, DS_OK);
    assert_non_null(strstr(printed, "step 30 (epoch 1): good"));
    ds_fs_sim_close(disk);
}

static void what_may_not_be_loaded_is_said(void **state)
{
    struct launch l;

    (void)state;
    save_some();
    launch_init(&l, disk, 1);
    assert_ok(launch_start(&l, 20)); /* a later launch goes back behind step 30 */
    assert_ok(ds_checkpoint_bury(l.dir, &(struct ds_manifest_id){1, 10}, "a test"));
    launch_fini(&l);
    assert_ok(call(ds_inspect_main, "/run", NULL));
    assert_non_null(strstr(printed, "          30      1            57344                -  left"));
    assert_non_null(strstr(printed, "          20      1            73728                -  usa"));
    assert_non_null(strstr(printed, "          10      1            73728                -  mark"));
    ds_fs_sim_close(disk);
}

/* A pack is a safetensors file: for other tools, and for this one. */
static void a_pack_is_a_file_of_tensors(void **state)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    (void)state;
    save_some();
    ds_checkpoint_pack_path(RIG_ROOT, 0, &(struct ds_pack_id){1, 10, 0, 0, 0}, path);
    assert_ok(call(ds_inspect_main, path, NULL));
    assert_non_null(strstr(printed, "__dstrain__.table"));
    ds_log.terminal = -1;
    assert_int_equal(call(ds_inspect_main, path, "--all"), DS_ERR_CONFIG);
    assert_int_equal(call(ds_inspect_main, "/run/none", NULL), DS_ERR_DATA);
    assert_int_equal(call(ds_inspect_main, RIG_ROOT "/data", NULL), DS_ERR_CONFIG);
    ds_log.terminal = 2;
    ds_fs_sim_close(disk);
}

/* ---- quantised matrices */

#define QUANTISED DS_SOURCE_DIR "/tests/golden/quantised/bitsandbytes.safetensors"

/* Those tensors of one matrix whose place among them is even, or odd, to a file of their own. */
static void copy_some(const struct ds_safetensors *from, const char *to, size_t odd,
                      const char *but)
{
    static const char stem[] = "whole.weight";
    const struct ds_safetensors_entry *entries[8];
    struct ds_safetensors_item items[8] = {{0}};
    struct ds_safetensors_writer *writer;
    size_t count = 0, seen = 0;
    uint8_t bytes[4096];

    for (size_t i = 0; i < ds_safetensors_count(from); i++) {
        const struct ds_safetensors_entry *e = ds_safetensors_at(from, i);

        if (strncmp(e->name, stem, strlen(stem)) == 0 && seen++ % 2 == odd &&
            strcmp(e->name + strlen(stem), but) != 0) {
            entries[count] = e;
            items[count++] = (struct ds_safetensors_item){.name = e->name,
                                                          .dtype = e->dtype,
                                                          .dim_count = e->dim_count,
                                                          .shape = {e->shape[0], e->shape[1]}};
        }
    }
    assert_ok(ds_safetensors_create(disk, to, items, count, NULL, &writer));
    for (size_t i = 0; i < count; i++) {
        assert_true(entries[i]->bytes <= sizeof bytes);
        assert_ok(ds_safetensors_read(from, entries[i], 0, entries[i]->elems, bytes));
        assert_ok(ds_safetensors_write(writer, i, 0, entries[i]->elems, bytes));
    }
    assert_ok(ds_safetensors_commit(writer));
}

static void quantised_matrices_are_named(void **state)
{
    (void)state;
    disk = ds_fs_posix();
    assert_ok(call(ds_inspect_main, QUANTISED, NULL));
    assert_non_null(strstr(printed, " nf4 [171, 100] of BF16, absmax quantised, too\n"));
    assert_non_null(strstr(printed, " nf4 [16, 64] of F32\n"));
    assert_non_null(strstr(printed, " int8 [5, 36]\n"));
    assert_non_null(strstr(printed, "nf4: 3 matrices, 18424 elements, "));
    assert_non_null(strstr(printed, "int8: 1 matrices, 180 elements, 201 bytes: 8.933 bits"));
}

/* Its parts may lie in two files of a folder; without one of them it is damaged. */
static void a_matrix_may_lie_in_several_files(void **state)
{
    struct ds_safetensors *from;
    struct capture capture;

    (void)state;
    assert_ok(ds_safetensors_open(ds_fs_posix(), QUANTISED, &from));
    assert_ok(ds_fs_sim_open(&disk));
    assert_int_equal(ds_fs_mkdir(disk, "/m", 0755), 0);
    copy_some(from, "/m/a.safetensors", 0, ".none");
    copy_some(from, "/m/b.safetensors", 1, ".none");
    assert_ok(call(ds_inspect_main, "/m", NULL));
    assert_non_null(strstr(printed, "nf4: 1 matrices, 1024 elements, "));
    copy_some(from, "/m/a.safetensors", 0, ".absmax");
    copy_some(from, "/m/b.safetensors", 1, ".absmax");
    capture_begin(&capture);
    assert_int_equal(call(ds_inspect_main, "/m", NULL), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "but whole.weight.absmax is missing"));
    ds_safetensors_close(from);
    ds_fs_sim_close(disk);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_exit_code_says_what_is_wrong),
    cmocka_unit_test(a_damaged_directory_is_told_by_one_line),
    cmocka_unit_test(a_list_has_a_line_for_each),
    cmocka_unit_test(what_the_configuration_says_is_looked_at),
    cmocka_unit_test(what_may_not_be_loaded_is_said),
    cmocka_unit_test(a_pack_is_a_file_of_tensors),
    cmocka_unit_test(quantised_matrices_are_named),
    cmocka_unit_test(a_matrix_may_lie_in_several_files),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
