// link: base
/* test_base.c - statuses and the log, clocks, dtypes and their conversions. */
#include "dstrain/clock.h"
#include "dstrain/tensor.h"
#include "test.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- statuses ---- */

/* Of two statuses the later wins an agreement: consequences, what a restart cures, what it cannot. */
static void statuses_are_ordered_by_what_has_to_be_done(void **state)
{
    static const ds_status order[] = {DS_OK,
                                      DS_LEAVE,
                                      DS_ERR_COMM,
                                      DS_ERR_DEADLINE,
                                      DS_ERR_IO,
                                      DS_ERR_NO_MEMORY,
                                      DS_ERR_DEVICE,
                                      DS_ERR_UNFIT,
                                      DS_ERR_CRASH_LOOP,
                                      DS_ERR_NO_CAPACITY,
                                      DS_ERR_DIVERGED,
                                      DS_ERR_NO_CHECKPOINT,
                                      DS_ERR_CORRUPT,
                                      DS_ERR_DATA,
                                      DS_ERR_UNSUPPORTED,
                                      DS_ERR_CONFIG,
                                      DS_ERR_FENCED};

    (void)state;
    assert_int_equal(sizeof order / sizeof *order, DS_STATUS_COUNT);
    for (int i = 0; i < DS_STATUS_COUNT; i++)
        assert_int_equal(order[i], i);
}

static void every_status_has_a_name_a_text_and_the_exit_code_of_the_manual(void **state)
{
    static const struct {
        ds_status st;
        int code;
    } codes[] = {{DS_OK, 0},
                 {DS_LEAVE, 75},
                 {DS_ERR_COMM, 70},
                 {DS_ERR_DEADLINE, 71},
                 {DS_ERR_IO, 70},
                 {DS_ERR_NO_MEMORY, 70},
                 {DS_ERR_DEVICE, 70},
                 {DS_ERR_UNFIT, 72},
                 {DS_ERR_CRASH_LOOP, 68},
                 {DS_ERR_NO_CAPACITY, 69},
                 {DS_ERR_DIVERGED, 67},
                 {DS_ERR_NO_CHECKPOINT, 66},
                 {DS_ERR_CORRUPT, 65},
                 {DS_ERR_DATA, 65},
                 {DS_ERR_UNSUPPORTED, 64},
                 {DS_ERR_CONFIG, 64},
                 {DS_ERR_FENCED, 73}};

    (void)state;
    assert_int_equal(sizeof codes / sizeof *codes, DS_STATUS_COUNT);
    for (size_t i = 0; i < DS_STATUS_COUNT; i++) {
        assert_int_equal(ds_status_exit_code(codes[i].st), codes[i].code);
        assert_true(strlen(ds_status_text(codes[i].st)) > 5);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(ds_status_name(codes[i].st), ds_status_name(codes[j].st));
    }
    assert_string_equal(ds_status_name(DS_ERR_IO), "ERR_IO");
}

static ds_status try_twice(ds_status first, ds_status second, int *calls)
{
    *calls = 1;
    DS_TRY(first);
    *calls = 2;
    DS_TRY(second);
    *calls = 3;
    return DS_OK;
}

static void try_passes_the_first_failure_on(void **state)
{
    int calls = 0;

    (void)state;
    assert_int_equal(try_twice(DS_ERR_IO, DS_ERR_DATA, &calls), DS_ERR_IO);
    assert_int_equal(calls, 1);
    assert_int_equal(try_twice(DS_OK, DS_ERR_DATA, &calls), DS_ERR_DATA);
    assert_int_equal(calls, 2);
    assert_ok(try_twice(DS_OK, DS_OK, &calls));
    assert_int_equal(calls, 3);
}

/* ---- the log, read back through a pipe ---- */

struct caught {
    struct ds_log before;
    int terminal[2], file[2];
    char terminal_text[16384], file_text[16384];
};

static struct caught *catch_log(int rank, int rank_count, enum ds_log_level level)
{
    struct caught *caught = calloc(1, sizeof *caught);

    assert_non_null(caught);
    assert_int_equal(pipe(caught->terminal), 0);
    assert_int_equal(pipe(caught->file), 0);
    caught->before = ds_log;
    ds_log = (struct ds_log){.level = level,
                             .rank = rank,
                             .rank_count = rank_count,
                             .is_leader = rank == 0,
                             .terminal = caught->terminal[1],
                             .file = caught->file[1]};
    return caught;
}

static void drain(int ends[2], char *to, size_t bytes)
{
    size_t length = 0;
    ssize_t got;

    close(ends[1]);
    while ((got = read(ends[0], to + length, bytes - 1 - length)) > 0)
        length += (size_t)got;
    close(ends[0]);
    to[length] = '\0';
}

static void release_log(struct caught *caught)
{
    ds_log = caught->before;
    drain(caught->terminal, caught->terminal_text, sizeof caught->terminal_text);
    drain(caught->file, caught->file_text, sizeof caught->file_text);
}

static void a_failure_is_one_line_and_comes_back(void **state)
{
    struct caught *caught = catch_log(3, 4, DS_LOG_INFO);
    ds_status io = ds_fail(DS_ERR_IO, "disk %d", 7);
    ds_status config = ds_fail(DS_ERR_CONFIG, "key '%s'", "x");

    (void)state;
    release_log(caught);
    assert_int_equal(io, DS_ERR_IO);
    assert_int_equal(config, DS_ERR_CONFIG);
    assert_non_null(
        strstr(caught->terminal_text, "dstrain [rank 3]: error: disk 7 (tests/unit/test_base.c:"));
    assert_non_null(strstr(caught->terminal_text, "dstrain [rank 3]: error: key 'x'\n"));
    assert_string_equal(caught->terminal_text, caught->file_text);
    free(caught);
}

static void a_line_about_memory_begins_with_what_it_is(void **state)
{
    struct caught *caught = catch_log(0, 1, DS_LOG_INFO);
    ds_status st = ds_fail(DS_ERR_NO_MEMORY, "%d slots", 3);

    (void)state;
    release_log(caught);
    assert_int_equal(st, DS_ERR_NO_MEMORY);
    assert_non_null(strstr(caught->terminal_text, "dstrain: error: out of memory: 3 slots ("));
    free(caught);
}

static void only_the_leader_informs_the_terminal_and_all_warn(void **state)
{
    (void)state;
    for (int rank = 0; rank < 2; rank++) {
        struct caught *caught = catch_log(rank, 2, DS_LOG_INFO);

        ds_debug("small");
        ds_info("hello");
        ds_warn("careful");
        release_log(caught);
        assert_true((strstr(caught->terminal_text, "hello\n") != NULL) == (rank == 0));
        assert_non_null(strstr(caught->terminal_text, "warning: careful\n"));
        assert_null(strstr(caught->terminal_text, "small"));
        assert_non_null(strstr(caught->file_text, "hello\n"));
        free(caught);
    }
}

static void let_files_have(rlim_t bytes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* The terminal is told once each time, whatever is lost; of the line that was torn a part stays, and the next one is
 * whole. */
static void a_log_that_cannot_be_written_is_told_of_once(void **state)
{
    static const char wanted[] = "one\ntw\nfive\nsix\nsev";
    struct caught *caught = catch_log(0, 1, DS_LOG_INFO);
    const int file = memfd_create("log", MFD_CLOEXEC), pipe_end = ds_log.file;
    struct rlimit before;
    char text[64] = "";

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    ds_log.file = file;
    let_files_have(6);
    ds_info("one");
    ds_info("two");
    ds_info("three");
    ds_warn("four");
    let_files_have(19);
    ds_info("five");
    ds_info("six");
    ds_info("seven");
    ds_info("eight");
    let_files_have(before.rlim_cur);
    (void)signal(SIGXFSZ, SIG_DFL);
    assert_true(pread(file, text, sizeof text - 1, 0) >= 0);
    close(file);
    ds_log.file = pipe_end;
    release_log(caught);
    assert_string_equal(text, wanted);
    const char *said = strstr(caught->terminal_text, "a line could not be written: File too large");
    assert_non_null(said);
    assert_true(said > strstr(caught->terminal_text, "two\n") && said < strstr(said, "three\n"));
    said = strstr(said + 1, "a line could not be written");
    assert_non_null(said);
    assert_null(strstr(said + 1, "a line could not be written"));
    free(caught);
}

static void a_line_that_is_too_long_is_cut_and_still_ends(void **state)
{
    struct caught *caught = catch_log(0, 1, DS_LOG_INFO);
    char *text = malloc(20000);

    (void)state;
    assert_non_null(text);
    memset(text, 'x', 19999);
    text[19999] = '\0';
    (void)ds_fail(DS_ERR_IO, "%s", text);
    ds_info("%s", text);
    release_log(caught);
    assert_int_equal(caught->terminal_text[strlen(caught->terminal_text) - 1], '\n');
    assert_true(strlen(caught->terminal_text) > 10000);
    free(text);
    free(caught);
}

static void a_broken_assertion_ends_the_process_and_says_which(void **state)
{
    struct caught *caught = catch_log(0, 1, DS_LOG_INFO);
    pid_t child = fork();
    int how = 0;

    (void)state;
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        DS_ASSERT(child == 1);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    release_log(caught);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGABRT);
    assert_non_null(strstr(caught->terminal_text, "bug: child == 1 does not hold"));
    free(caught);
}

/* ---- clocks ---- */

static void the_system_clock_goes_forward_and_sleeps(void **state)
{
    const struct ds_clock *clock = ds_clock_system();
    uint64_t before = ds_clock_mono_ns(clock), after;

    (void)state;
    ds_clock_sleep_ns(clock, 3000000);
    after = ds_clock_mono_ns(clock);
    assert_true(after - before >= 3000000);
    assert_true(ds_clock_real_ns(clock) / 1000000000u > 1600000000u);
}

static void a_manual_clock_moves_only_when_told(void **state)
{
    struct ds_clock_manual manual;
    uint64_t start;

    (void)state;
    ds_clock_manual_init(&manual);
    start = ds_clock_mono_ns(&manual.clock);
    assert_true(start > 0);
    assert_true(ds_clock_mono_ns(&manual.clock) == start);
    ds_clock_manual_advance(&manual, 5);
    ds_clock_sleep_ns(&manual.clock, 7);
    assert_true(ds_clock_mono_ns(&manual.clock) == start + 12);
    assert_true(ds_clock_real_ns(&manual.clock) == start + 12);
}

/* ---- dtypes ---- */

static void dtype_names_are_read_back(void **state)
{
    enum ds_dtype got = DS_U64;

    (void)state;
    for (int i = 0; i < DS_DTYPE_COUNT; i++) {
        assert_true(ds_dtype_parse(ds_dtype_name((enum ds_dtype)i), &got));
        assert_int_equal(got, i);
    }
    got = DS_I16;
    assert_false(ds_dtype_parse("f32", &got));
    assert_false(ds_dtype_parse("", &got));
    assert_int_equal(got, DS_I16);
    assert_int_equal(ds_dtype_bytes(DS_F8_E4M3), 1);
    assert_int_equal(ds_dtype_bytes(DS_BF16), 2);
    assert_int_equal(ds_dtype_bytes(DS_U32), 4);
    assert_int_equal(ds_dtype_bytes(DS_I64), 8);
}

/* What a code of a small float means, from its definition, in double. */
static double meaning(uint32_t code, int exponent_bits, int mantissa_bits)
{
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (int)(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const double fraction = (double)(code & ((1u << mantissa_bits) - 1)) / (1 << mantissa_bits);
    const double sign = code >> (exponent_bits + mantissa_bits) & 1 ? -1 : 1;

    if (exponent == (1 << exponent_bits) - 1)
        return fraction > 0 ? NAN : sign * INFINITY;
    return exponent == 0 ? sign * fraction * pow(2, 1 - bias)
                         : sign * (1 + fraction) * pow(2, exponent - bias);
}

static int is_same(double got, double want)
{
    return (isnan(got) && isnan(want)) || (got == want && signbit(got) == signbit(want));
}

static const struct small_float {
    enum ds_dtype dtype;
    int exponent_bits, mantissa_bits;
} halves[] = {{DS_F16, 5, 10}, {DS_BF16, 8, 7}};

static void every_16_bit_code_means_what_it_should_and_comes_back(void **state)
{
    (void)state;
    for (int h = 0; h < 2; h++)
        for (uint32_t code = 0; code < 65536; code++) {
            const uint16_t from = (uint16_t)code;
            uint16_t back = 0;
            float wide;

            assert_true(ds_dtype_to_f32(&wide, &from, halves[h].dtype, 1));
            assert_true(
                is_same(wide, meaning(code, halves[h].exponent_bits, halves[h].mantissa_bits)));
            assert_true(ds_dtype_from_f32(&back, halves[h].dtype, &wide, 1));
            if (isnan(wide)) {
                float again;

                assert_true(ds_dtype_to_f32(&again, &back, halves[h].dtype, 1));
                assert_true(isnan(again));
            } else {
                assert_int_equal(back, code);
            }
        }
}

static void every_8_bit_code_means_what_it_should(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        const uint8_t from = (uint8_t)code;
        double want = meaning(code, 4, 3);
        float wide;

        assert_true(ds_dtype_to_f32(&wide, &from, DS_F8_E5M2, 1));
        assert_true(is_same(wide, meaning(code, 5, 2)));
        if ((code & 0x78) == 0x78) /* E4M3 spends its last exponent on numbers, but for one NaN */
            want = (code & 7) == 7 ? NAN : (code & 0x80 ? -1 : 1) * (1 + (code & 7) / 8.0) * 256;
        assert_true(ds_dtype_to_f32(&wide, &from, DS_F8_E4M3, 1));
        assert_true(is_same(wide, want));
    }
}

static void assert_rounds_to(enum ds_dtype dtype, float value, uint16_t want)
{
    uint16_t got;

    assert_true(ds_dtype_from_f32(&got, dtype, &value, 1));
    if (got != want)
        fail_msg("%s: %a becomes 0x%04x and not 0x%04x", ds_dtype_name(dtype), (double)value, got,
                 want);
}

/* Between all finite neighbours: just below the middle, the middle (to even), just above it. */
static void rounding_is_to_the_nearest_and_to_even_between_all_neighbours(void **state)
{
    (void)state;
    for (int h = 0; h < 2; h++) {
        const int e = halves[h].exponent_bits, m = halves[h].mantissa_bits;
        const uint16_t infinity = (uint16_t)(((1u << e) - 1) << m);

        for (uint16_t low = 0; low < infinity; low++) {
            const uint16_t high = (uint16_t)(low + 1);
            /* the step above the largest number is as wide as the one below it */
            const double top = high < infinity ? meaning(high, e, m)
                                               : 2 * meaning(low, e, m) - meaning(low - 1u, e, m);
            const float middle = (float)((meaning(low, e, m) + top) / 2);

            assert_rounds_to(halves[h].dtype, middle, low % 2 == 0 ? low : high);
            assert_rounds_to(halves[h].dtype, nextafterf(middle, 0), low);
            assert_rounds_to(halves[h].dtype, nextafterf(middle, INFINITY), high);
            assert_rounds_to(halves[h].dtype, -middle,
                             (uint16_t)(0x8000u | (low % 2 == 0 ? low : high)));
        }
        assert_rounds_to(halves[h].dtype, INFINITY, infinity);
    }
}

static void wide_floats_pass_and_integers_are_refused(void **state)
{
    const float values[] = {0.0f, -0.0f, 1.5f, 3.0e38f, 1e-45f, -INFINITY};
    float back[6];
    double wide[6];
    int64_t integers[6] = {0};

    (void)state;
    assert_true(ds_dtype_from_f32(wide, DS_F64, values, 6));
    assert_true(ds_dtype_to_f32(back, wide, DS_F64, 6));
    assert_memory_equal(back, values, sizeof values);
    assert_true(ds_dtype_from_f32(wide, DS_F32, values, 6));
    assert_true(ds_dtype_to_f32(back, wide, DS_F32, 6));
    assert_memory_equal(back, values, sizeof values);
    assert_false(ds_dtype_to_f32(back, integers, DS_I64, 6));
    assert_false(ds_dtype_to_f32(back, integers, DS_U8, 6));
    assert_false(ds_dtype_from_f32(integers, DS_I32, values, 6));
}

static void tensors_carry_their_shape(void **state)
{
    float data[24];
    struct ds_tensor t = ds_tensor3(data, DS_F32, 2, 3, 4);

    (void)state;
    assert_int_equal(t.dim_count, 3);
    assert_int_equal(t.shape[0] * t.shape[1] * t.shape[2] * t.shape[3], 24);
    assert_int_equal(ds_tensor1(data, DS_F32, 5).dim_count, 1);
    assert_int_equal(ds_tensor2(data, DS_F32, 5, 6).shape[1], 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statuses_are_ordered_by_what_has_to_be_done),
        cmocka_unit_test(every_status_has_a_name_a_text_and_the_exit_code_of_the_manual),
        cmocka_unit_test(try_passes_the_first_failure_on),
        cmocka_unit_test(a_failure_is_one_line_and_comes_back),
        cmocka_unit_test(a_line_about_memory_begins_with_what_it_is),
        cmocka_unit_test(only_the_leader_informs_the_terminal_and_all_warn),
        cmocka_unit_test(a_log_that_cannot_be_written_is_told_of_once),
        cmocka_unit_test(a_line_that_is_too_long_is_cut_and_still_ends),
        cmocka_unit_test(a_broken_assertion_ends_the_process_and_says_which),
        cmocka_unit_test(the_system_clock_goes_forward_and_sleeps),
        cmocka_unit_test(a_manual_clock_moves_only_when_told),
        cmocka_unit_test(dtype_names_are_read_back),
        cmocka_unit_test(every_16_bit_code_means_what_it_should_and_comes_back),
        cmocka_unit_test(every_8_bit_code_means_what_it_should),
        cmocka_unit_test(rounding_is_to_the_nearest_and_to_even_between_all_neighbours),
        cmocka_unit_test(wide_floats_pass_and_integers_are_refused),
        cmocka_unit_test(tensors_carry_their_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
