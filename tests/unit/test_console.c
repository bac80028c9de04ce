/* test_console.c - what people read while a run goes on, and when a terminal is one. */
// link: launch
// private: launch
#include "capture.h"
#include "console.h"
#include "test.h"

#include <fcntl.h>
#include <math.h>
#include <pty.h>
#include <sys/ioctl.h>

static void numbers_are_short(void **state)
{
    static const struct {
        double value;
        const char *count, *seconds;
    } rows[] = {{0, "0", "0s"},
                {7, "7", "7s"},
                {59.6, "59.6", "1m00s"},
                {999.4, "999.4", "16m39s"},
                {1000, "1.00k", "16m40s"},
                {12345, "12.3k", "3h25m"},
                {999600, "1.00M", "11d13h"},
                {1.5e9, "1.50G", "-"},
                {NAN, "-", "-"},
                {-1, "-1", "-"}};
    static const struct {
        uint64_t value;
        const char *text;
    } bytes[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1.0 KiB"},
                 {123u << 20, "123 MiB"},
                 {(uint64_t)3 << 40, "3.0 TiB"}};
    char text[32];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ds_console_count(rows[i].value, text, sizeof text);
        assert_string_equal(text, rows[i].count);
        ds_console_seconds(rows[i].value, text, sizeof text);
        assert_string_equal(text, rows[i].seconds);
    }
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
        ds_console_bytes(bytes[i].value, text, sizeof text);
        assert_string_equal(text, bytes[i].text);
    }
}

/* One of a thing is one thing. */
static void the_first_lines_count_in_english(void **state)
{
    static const struct {
        struct ds_console_banner banner;
        const char *layout, *batch;
    } rows[] = {
        {{.rank_count = 1,
          .data = 1,
          .shard = 1,
          .global_batch = 1,
          .micro_batch = 1,
          .micro_count = 1,
          .seq_length = 1,
          .steps = 1,
          .samples = 1},
         ": 1 rank, device",
         "1 replica x 1 shard, ZeRO stage 0\n"
         "batch:   1 sequence of 1 = 1 token an update (1 x 1 x 1 rank), 1 step; an epoch has 1 "
         "sequence\n"},
        {{.rank_count = 4,
          .data = 4,
          .shard = 2,
          .global_batch = 8,
          .micro_batch = 1,
          .micro_count = 2,
          .seq_length = 16,
          .steps = 5,
          .samples = 30},
         ": 4 ranks, device",
         "2 replicas x 2 shards, ZeRO stage 0\n"
         "batch:   8 sequences of 16 = 128 tokens an update (2 x 1 x 4 ranks), 5 steps; an epoch "
         "has 30 sequences\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct capture capture;

        capture_begin(&capture);
        ds_console_first_lines(&rows[i].banner);
        const char *said = capture_end(&capture);
        assert_non_null(strstr(said, rows[i].layout));
        assert_non_null(strstr(said, rows[i].batch));
    }
}

static void lines_come_at_the_interval_at_the_first_and_at_the_last_step(void **state)
{
    struct ds_console console;
    struct capture capture;
    const char *at;
    size_t lines = 0;

    (void)state;
    capture_begin(&capture);
    ds_console_init(&console, 25, 10, ds_clock_system());
    for (uint64_t step = 1; step <= 25; step++)
        ds_console_step(&console, &(struct ds_console_row){.step = step,
                                                           .loss = 2.5,
                                                           .lr = 3e-4,
                                                           .grad_norm = 0.75,
                                                           .step_s = 2,
                                                           .tokens_per_s = 12345,
                                                           .mfu = NAN,
                                                           .memory_bytes = 123u << 20,
                                                           .is_skipped = step == 20});
    capture_end(&capture);
    assert_null(strchr(capture.text, '\r')); /* a file is no terminal */
    assert_string_equal(capture.text, "step 1/25 | loss 2.5000 | lr 0.0003 | norm 0.75 | 12.3k "
                                      "tokens/s | MFU - | 123 MiB | 48s left\n"
                                      "step 10/25 | loss 2.5000 | lr 0.0003 | norm 0.75 | 12.3k "
                                      "tokens/s | MFU - | 123 MiB | 30s left\n"
                                      "step 20/25 | loss 2.5000 | lr 0.0003 | norm 0.75 | 12.3k "
                                      "tokens/s | MFU - | 123 MiB | 10s left | skipped\n"
                                      "step 25/25 | loss 2.5000 | lr 0.0003 | norm 0.75 | 12.3k "
                                      "tokens/s | MFU - | 123 MiB | 0s left");
    for (at = capture.text; *at; at++)
        lines += *at == '\n';
    assert_int_equal(lines, 3);
}

/* The bits of a NaN have a sign, which tells nobody anything. */
static void a_loss_that_is_no_number_has_no_sign(void **state)
{
    struct ds_console console;
    char line[DS_CONSOLE_LINE_MAX];

    (void)state;
    ds_console_init(&console, 1, 1, ds_clock_system());
    ds_console_line(
        &console, &(struct ds_console_row){.step = 1, .loss = -NAN, .grad_norm = -NAN, .mfu = NAN},
        line);
    assert_non_null(strstr(line, "| loss nan |"));
    assert_non_null(strstr(line, "| norm nan |"));
}

/* mpirun gives every rank a pty of size 0x0 */
static void a_terminal_has_a_size(void **state)
{
    int master, slave;
    struct winsize none = {0}, some = {.ws_row = 24, .ws_col = 80};

    (void)state;
    if (openpty(&master, &slave, NULL, NULL, &none) != 0)
        skip();
    assert_false(ds_console_is_terminal(slave));
    assert_int_equal(ioctl(slave, TIOCSWINSZ, &some), 0);
    assert_true(ds_console_is_terminal(slave));
    close(slave);
    close(master);
    slave = open("/dev/null", O_WRONLY);
    assert_false(ds_console_is_terminal(slave));
    close(slave);
}

static void progress_is_drawn_over_itself_on_a_terminal_and_nowhere_else(void **state)
{
    struct ds_clock_manual clock;
    struct ds_console console;
    struct capture capture;

    (void)state;
    ds_clock_manual_init(&clock);
    capture_begin(&capture);
    ds_console_init(&console, 10, 10, &clock.clock);
    ds_console_progress(&console, "preparing", 1, 2);
    ds_console_clear(&console);
    assert_string_equal(capture_end(&capture), "");
    capture_begin(&capture);
    console.is_terminal = 1;
    ds_console_progress(&console, "preparing", 512, 1024);
    ds_console_progress(&console, "preparing", 600, 1024); /* too soon */
    ds_clock_manual_advance(&clock, 200000000u);
    ds_console_progress(&console, "preparing", 768, 1024);
    ds_console_clear(&console);
    assert_string_equal(capture_end(&capture),
                        "\rpreparing [############............]  50% 512 B of 1.0 KiB\x1b[K\r"
                        "\rpreparing [##################......]  75% 768 B of 1.0 KiB\x1b[K\r"
                        "\r\x1b[K");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_short),
        cmocka_unit_test(the_first_lines_count_in_english),
        cmocka_unit_test(lines_come_at_the_interval_at_the_first_and_at_the_last_step),
        cmocka_unit_test(a_loss_that_is_no_number_has_no_sign),
        cmocka_unit_test(a_terminal_has_a_size),
        cmocka_unit_test(progress_is_drawn_over_itself_on_a_terminal_and_nowhere_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
