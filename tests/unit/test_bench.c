// link: launch checkpoint parallel data optim model zero comm kernels device storage base
// private: launch
/* test_bench.c - what `dstrain bench` prints and leaves behind. No time is asserted: figures are kept in
 * tests/bench/RESULTS.md. */
#include "bench_lines.h"
#include "capture.h"
#include "tiny_run.h"

#include "bench/bench.h"
#include "bench/bench_kernels.h"

#include <math.h>

static struct ds_comm *self;

static int open_self(void **state)
{
    (void)state;
    return ds_comm_self_open(ds_clock_system(), &self) != DS_OK;
}

static int close_self(void **state)
{
    (void)state;
    ds_comm_close(self);
    return 0;
}

static void a_spread_is_of_sorted_samples(void **state)
{
    double samples[25];

    (void)state;
    for (int i = 0; i < 25; i++)
        samples[i] = (i * 7 + 3) % 25; /* 0..24 in another order */
    const struct bench_spread spread = bench_spread_of(samples, 25);
    assert_true(spread.min == 0 && spread.median == 12 && spread.p90 == 22);
}

static int is_measured(const struct rig_kernel *kernel, const char *dtype)
{
    return (kernel->when != RIG_16_BITS || strcmp(dtype, "f32") != 0) &&
           (kernel->when != RIG_BF16 || strcmp(dtype, "bf16") == 0);
}

static void measure_every_kernel(const char *dtype)
{
    struct bench_lines lines;
    char words[128];
    size_t count = 0;

    snprintf(words, sizeof words, "kernels --quick --device cpu --dtype %s", dtype);
    bench_lines_run(self, words, &lines);
    assert_ok(lines.status);
    assert_true(bench_lines_are_whole(&lines, "kernels"));
    for (size_t i = 0; i < rig_kernel_count; i++) {
        const int wanted = is_measured(&rig_kernels[i], dtype);

        assert_int_equal(bench_lines_of(&lines, rig_kernels[i].name), wanted);
        count += (size_t)wanted;
    }
    assert_int_equal(lines.count, count);
    for (size_t i = 0; i < count; i++)
        assert_true(bench_number(lines.lines[i], "gflop_per_s") > 0 ||
                    bench_number(lines.lines[i], "of_copy") > 0);
    bench_lines_fini(&lines);
}

static void every_kernel_is_measured_and_right(void **state)
{
    (void)state;
    measure_every_kernel("f32");
    measure_every_kernel("bf16");
    measure_every_kernel("f16");
}

/* The bytes of a call are those of its arrays: states of 16 bits are half as many. */
static void bytes_follow_the_precision(void **state)
{
    static const struct {
        const char *name;
        double bytes; /* of each of 5000 parameters */
    } cases[] = {{"adamw", 30},
                 {"adamw_moments16", 22},
                 {"adamw_remainder16", 28},
                 {"adamw_none", 24},
                 {"adamw_all16", 14}};
    struct bench_lines lines;

    (void)state;
    bench_lines_run(self, "kernels --quick --device cpu --dtype bf16 --only adamw", &lines);
    assert_ok(lines.status);
    assert_int_equal(lines.count, sizeof cases / sizeof *cases);
    for (size_t i = 0; i < lines.count; i++) {
        assert_int_equal(bench_lines_of(&lines, cases[i].name), 1);
        assert_true(bench_number(lines.lines[i], "bytes") == 5000 * cases[i].bytes);
    }
    bench_lines_fini(&lines);
}

static void kernels_are_chosen_by_the_beginning_of_their_names(void **state)
{
    struct bench_lines lines;

    (void)state;
    bench_lines_run(self, "kernels --quick --device cpu --only matmul_l", &lines);
    assert_ok(lines.status);
    assert_int_equal(lines.count, 1);
    assert_int_equal(bench_lines_of(&lines, "matmul_linear"), 1);
    bench_lines_fini(&lines);
    bench_lines_run(self, "kernels --quick --device cpu --only attention --shape tiny", &lines);
    assert_ok(lines.status);
    assert_int_equal(lines.count, 2);
    bench_lines_fini(&lines);
}

static size_t names_in(const char *folder)
{
    char **names = NULL;
    size_t count = 0;

    assert_int_equal(ds_fs_readdir(ds_fs_posix(), folder, &names, &count), 0);
    free(names);
    return count;
}

static void storage_measures_beside_a_loop_and_leaves_nothing(void **state)
{
    struct bench_lines lines;
    char *folder = tiny_folder(), words[1024];

    (void)state;
    snprintf(words, sizeof words, "storage %s --quick --buffered", folder);
    bench_lines_run(self, words, &lines);
    assert_ok(lines.status);
    assert_true(bench_lines_of(&lines, "threads") >= 4);
    assert_true(bench_lines_are_whole(&lines, "storage"));
    for (size_t i = 0; i < lines.count; i++)
        assert_true(bench_number(lines.lines[i], "gb_per_s") > 0 &&
                    bench_number(lines.lines[i], "loop_median") > 0);
    assert_int_equal(bench_lines_of(&lines, "threads save buffered"), 1);
    assert_int_equal(bench_lines_of(&lines, "threads save direct"), 0);
    assert_int_equal(names_in(folder), 0);
    bench_lines_fini(&lines);
    tiny_remove(folder);
}

static int knows_direct(const char *folder)
{
    const char *why = NULL;
    char path[1024];

    snprintf(path, sizeof path, "%s/f", folder);
    const int file = ds_fs_create_direct(ds_fs_posix(), path, 0600, &why);
    assert_true(file >= 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
    return why == NULL;
}

/* One line, of the level, the block and the depth that were asked for, direct where the folder knows that. */
static void storage_is_measured_in_one_go(void **state)
{
    static const char *const ways[] = {"read", "write"};
    struct bench_lines lines;
    char *folder = tiny_folder(), words[1024], what[64];

    (void)state;
    for (int i = 0; i < 2; i++) {
        snprintf(words, sizeof words,
                 "storage %s --stream %s --level threads --mib 5 --depth 3 --block-kib 512", folder,
                 ways[i]);
        bench_lines_run(self, words, &lines);
        assert_ok(lines.status);
        assert_int_equal(lines.count, 1);
        assert_true(bench_lines_are_whole(&lines, "storage"));
        snprintf(what, sizeof what, "threads stream %s %s block 524288 depth", ways[i],
                 knows_direct(folder) ? "direct" : "buffered");
        assert_int_equal(bench_lines_of(&lines, what), 1);
        assert_true(bench_number(lines.lines[0], "bytes") == 5 << 20 &&
                    bench_number(lines.lines[0], "depth") == 3 &&
                    bench_number(lines.lines[0], "gb_per_s") > 0);
        assert_int_equal(names_in(folder), 0);
        bench_lines_fini(&lines);
    }
    tiny_remove(folder);
}

static void updates_by_the_host_are_measured_beside_a_triad(void **state)
{
    struct bench_lines lines;

    (void)state;
    bench_lines_run(self, "host --quick --threads 1", &lines);
    assert_ok(lines.status);
    assert_true(bench_lines_are_whole(&lines, "host"));
    assert_int_equal(bench_lines_of(&lines, "adamw"), 1);
    assert_int_equal(bench_lines_of(&lines, "triad"), 1);
    assert_true(bench_number(lines.lines[0], "of_triad") > 0);
    bench_lines_fini(&lines);
}

static void a_tokenizer_is_measured_on_a_text(void **state)
{
    struct bench_lines lines;
    char words[2048];

    (void)state;
    snprintf(words, sizeof words,
             "tokenizer %s/tests/golden/tokenizers/qwen3 "
             "%s/tests/golden/tokenizers/learned/text.txt --quick",
             DS_SOURCE_DIR, DS_SOURCE_DIR);
    bench_lines_run(self, words, &lines);
    assert_ok(lines.status);
    assert_int_equal(lines.count, 3);
    assert_true(bench_lines_are_whole(&lines, "tokenizer"));
    for (size_t i = 0; i < lines.count; i++)
        assert_true(bench_number(lines.lines[i], "mb_per_s") > 0 &&
                    bench_number(lines.lines[i], "tokens") > 100);
    bench_lines_fini(&lines);
}

/* A line for each level that is here, direct where the folder knows that, and buffered, of as many bytes as asked. */
static void storage_measures_whole_files(void **state)
{
    static const char *const levels[] = {"fixed", "plain", "threads"};
    struct bench_lines lines;
    char *folder = tiny_folder(), words[1024], what[64];
    const int direct = knows_direct(folder);

    (void)state;
    snprintf(words, sizeof words, "storage %s --quick --saves --mib 8 --depth 3 --block-mib 2",
             folder);
    bench_lines_run(self, words, &lines);
    assert_ok(lines.status);
    assert_true(bench_lines_are_whole(&lines, "storage"));
    for (int i = 0; i < 3; i++) {
        snprintf(what, sizeof what, "%s save buffered", levels[i]);
        const int is_here = bench_lines_of(&lines, what);
        assert_true(i < 2 ? is_here <= 1 : is_here == 1);
        snprintf(what, sizeof what, "%s save direct", levels[i]);
        assert_int_equal(bench_lines_of(&lines, what), direct * is_here);
    }
    for (size_t i = 0; i < lines.count; i++)
        assert_true(bench_number(lines.lines[i], "bytes") == 8 << 20 &&
                    bench_number(lines.lines[i], "depth") == 3 &&
                    bench_number(lines.lines[i], "block_bytes") == 2 << 20);
    assert_int_equal(names_in(folder), 0);
    bench_lines_fini(&lines);
    tiny_remove(folder);
}

static const char tiny_ini[] =
    "[model]\nvocab_size = 61\nhidden_size = 32\nintermediate_size = 48\n"
    "num_hidden_layers = 2\nnum_attention_heads = 4\n"
    "[train]\nsteps = 1000\nglobal_batch_size = 4\nseq_length = 16\n"
    /* of a long run, and without meaning in a measurement */
    "eval_interval = 100\neval_samples = 4\n[data]\neval = nowhere.txt\n"
    "[schedule]\nkind = wsd\nwarmup_steps = 10\ndecay_steps = 100\nmin_learning_rate = 1e-5\n"
    "[checkpoint]\ninterval = 100\nkeep_every = 200\nexport = 200\n";

/* The first step ended after the bench had begun and before now, and the process is older than the bench. */
static int first_step_is_between(const json_t *line, uint64_t began_ns)
{
    const double at_ms = bench_number(line, "first_step_at_ms");
    const double now_ms = (double)ds_clock_real_ns(ds_clock_system()) * 1e-6;
    const double began_ms = (double)began_ns * 1e-6;

    return at_ms >= floor(began_ms) && at_ms <= now_ms &&
           bench_number(line, "first_step_s") * 1e3 >= at_ms - began_ms - 30 &&
           bench_number(line, "first_step_s") < 3600;
}

static void a_step_is_measured_without_data(void **state)
{
    const uint64_t began_ns = ds_clock_real_ns(ds_clock_system());
    struct bench_lines lines;
    char *folder = tiny_folder(), words[1024], path[600];

    (void)state;
    snprintf(path, sizeof path, "%s/tiny.ini", folder);
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, tiny_ini, sizeof tiny_ini - 1));
    assert_int_equal(setenv("TMPDIR", folder, 1), 0);
    snprintf(words, sizeof words, "step %s run.device=cpu run.threads=1 --quick", path);
    bench_lines_run(self, words, &lines);
    unsetenv("TMPDIR");
    assert_ok(lines.status);
    assert_int_equal(lines.count, 3);
    assert_true(bench_lines_are_whole(&lines, "step"));
    /* 2 layers of 4 C C + 3 C I, and the head; 6 FLOPs for each of 64 tokens */
    assert_true(bench_number(lines.lines[0], "gemm_flops") ==
                6.0 * 64 * (2 * (4 * 32 * 32 + 3 * 32 * 48) + 61 * 32));
    assert_true(bench_number(lines.lines[0], "tokens_per_s") > 0);
    assert_true(bench_number(lines.lines[0], "gemm_fraction") > 0);
    assert_true(bench_number(lines.lines[0], "wait_comm_s") == 0); /* of one rank */
    assert_true(bench_number(lines.lines[0], "bubble") == 0);      /* of one stage */
    assert_true(bench_number(lines.lines[0], "bubble_ideal") == 0);
    assert_true(bench_number(lines.lines[0], "bubble_played") == 0);
    assert_true(json_is_null(json_object_get(lines.lines[0], "bubble_over_ideal")));
    assert_true(json_is_null(json_object_get(lines.lines[0], "mfu"))); /* the cpu has no peak */
    assert_true(bench_number(lines.lines[0], "tokens_per_s_rank") ==
                bench_number(lines.lines[0], "tokens_per_s"));
    assert_true(bench_number(lines.lines[0], "device_peak_bytes") > 0);
    assert_true(bench_number(lines.lines[0], "host_peak_bytes") > 0);
    assert_true(first_step_is_between(lines.lines[0], began_ns));
    assert_true(json_is_null(json_object_get(lines.lines[0], "played_s")));
    assert_int_equal(names_in(folder), 1); /* the configuration */
    bench_lines_fini(&lines);
    tiny_remove(folder);
}

/* As a run does: refused before anything is taken. */
static void a_step_that_does_not_fit_is_refused(void **state)
{
    struct bench_lines lines;
    struct capture capture;
    char *folder = tiny_folder(), words[1024], path[600];

    (void)state;
    snprintf(path, sizeof path, "%s/tiny.ini", folder);
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, tiny_ini, sizeof tiny_ini - 1));
    assert_int_equal(setenv("TMPDIR", folder, 1), 0);
    snprintf(words, sizeof words,
             "step %s run.device=cpu run.threads=1 memory.device_limit=4096 --quick", path);
    capture_begin(&capture);
    bench_lines_run(self, words, &lines);
    const char *said = capture_end(&capture);
    unsetenv("TMPDIR");
    assert_int_equal(lines.status, DS_ERR_CONFIG);
    assert_non_null(strstr(said, "the run does not fit"));
    assert_int_equal(names_in(folder), 1); /* the configuration */
    bench_lines_fini(&lines);
    tiny_remove(folder);
}

static void wrong_words_are_refused_in_one_line(void **state)
{
    static const char *const wrong[] = {"",
                                        "everything",
                                        "kernels 7",
                                        "comm",
                                        "storage a b",
                                        "storage --mib 0",
                                        "storage --depth 33",
                                        "storage --block-mib 5",
                                        "storage --stream both",
                                        "storage --stream read --saves",
                                        "storage --stream read --block-kib 6",
                                        "storage --stream read --block-kib 8192",
                                        "storage --block-kib 64",
                                        "step",
                                        "tokenizer",
                                        "tokenizer a",
                                        "tokenizer a b c",
                                        "kernels --threads two",
                                        "kernels --dtype",
                                        "storage --mib",
                                        "step /nowhere/x.ini"};

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct bench_lines lines;
        struct capture capture;
        const char *text;

        capture_begin(&capture);
        bench_lines_run(self, wrong[i], &lines);
        text = capture_end(&capture);
        assert_int_equal(lines.status, DS_ERR_CONFIG);
        assert_int_equal(lines.count, 0);
        assert_true(text[0] != '\0' && !strchr(text, '\n'));
    }
}

/* These open the device, which is said before. */
static void a_choice_of_no_kernel_is_refused(void **state)
{
    static const struct {
        const char *line, *says;
    } wrong[] = {
        {"kernels --quick --device cpu --dtype f8", "--dtype = 'f8' must be f32, bf16 or f16"},
        {"kernels --quick --device cpu --only nothing",
         "--only = 'nothing': no kernel's name begins so"},
        {"kernels --quick --device cpu --shape 70b",
         "--shape = '70b': no shape's name begins so; there are tiny, linear"},
        {"kernels --quick --device cpu --only rmsnorm --shape linear",
         "no kernel that begins with 'rmsnorm' is measured in shapes that begin with 'linear'"}};

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct bench_lines lines;
        struct capture capture;

        capture_begin(&capture);
        bench_lines_run(self, wrong[i].line, &lines);
        assert_non_null(strstr(capture_end(&capture), wrong[i].says));
        assert_int_equal(lines.status, DS_ERR_CONFIG);
        assert_int_equal(lines.count, 0);
    }
}

static void a_folder_that_is_not_there_is_an_error(void **state)
{
    struct bench_lines lines;
    struct capture capture;

    (void)state;
    capture_begin(&capture);
    bench_lines_run(self, "storage /nowhere --quick", &lines);
    assert_non_null(strstr(capture_end(&capture), "/nowhere"));
    assert_int_equal(lines.status, DS_ERR_CONFIG);
    assert_int_equal(lines.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_spread_is_of_sorted_samples),
        cmocka_unit_test(every_kernel_is_measured_and_right),
        cmocka_unit_test(bytes_follow_the_precision),
        cmocka_unit_test(kernels_are_chosen_by_the_beginning_of_their_names),
        cmocka_unit_test(a_choice_of_no_kernel_is_refused),
        cmocka_unit_test(storage_measures_beside_a_loop_and_leaves_nothing),
        cmocka_unit_test(storage_measures_whole_files),
        cmocka_unit_test(storage_is_measured_in_one_go),
        cmocka_unit_test(updates_by_the_host_are_measured_beside_a_triad),
        cmocka_unit_test(a_tokenizer_is_measured_on_a_text),
        cmocka_unit_test(a_step_is_measured_without_data),
        cmocka_unit_test(a_step_that_does_not_fit_is_refused),
        cmocka_unit_test(wrong_words_are_refused_in_one_line),
        cmocka_unit_test(a_folder_that_is_not_there_is_an_error),
    };

    return cmocka_run_group_tests(tests, open_self, close_self);
}
