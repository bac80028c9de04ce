// link: base
// private: runtime/base
// tsan
/* A hang ends with 71, once, and says who hangs where, whoever reads the log; beats and new sections put it off, and a
 * stopped process is not taken for one that hangs. */
#include "recorder_place.h"

#include <sys/wait.h>

static double seconds_after(const char *text, const char *words)
{
    const char *at = strstr(text, words);

    assert_non_null(at);
    return strtod(at + strlen(words), NULL);
}

static void a_passed_deadline_ends_with_71_once_and_says_who_hangs_where(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 2);
    json_t *incident, *page, *event;
    char *log;

    ds_recorder_step(recorder, 17);
    ds_record_begin(recorder, 14, 1, 2, 5, 3);
    ds_recorder_section(recorder, "st\"ep", 50 * MS);
    assert_ok(ds_watchdog_start(recorder, 2 * MS, note_end));
    await_end();
    really_sleep(150 * MS);
    assert_int_equal(ends(), 1);
    log = read_file(((struct place *)*state)->log);
    const double late_s =
        seconds_after(log, "error: rank 2 hangs in section 'st\"ep', step 17: no beat for ");
    assert_true(late_s >= 0.05);
    assert_true(seconds_after(log, " s, the deadline is 0.050 s; action 14 reduce (micro 2, block "
                                   "3, unit 5) has run for ") >= late_s);
    assert_ptr_equal(strchr(log, '\n'), log + strlen(log) - 1);
    free(log);
    incident = read_incident(*state, 2);
    assert_text(incident, "section", "st\"ep");
    assert_int_equal(number_of(incident, "code"), 71);
    assert_int_equal(number_of(incident, "rank"), 2);
    assert_int_equal(number_of(incident, "step"), 17);
    assert_true(json_real_value(json_object_get(incident, "late_s")) >= 0.05);
    page = json_array_get(json_object_get(incident, "pages"), 0);
    assert_int_equal(number_of(page, "rank"), 2);
    assert_int_equal(number_of(page, "pid"), getpid());
    event = json_array_get(json_object_get(page, "events"), 0);
    assert_text(event, "kind", "reduce");
    assert_int_equal(number_of(event, "unit"), 5);
    assert_true(json_is_null(json_object_get(event, "end_age_s")));
    json_decref(incident);
    ds_recorder_close(recorder, 71);
}

/* Time passes, and the watchdog sees it: no tick is late on that clock, however late it is for real. */
static void pass(struct ds_recorder *recorder, struct ds_clock_manual *manual, uint64_t ns)
{
    ds_clock_manual_advance(manual, ns);
    const uint64_t now_ns = ds_clock_mono_ns(&manual->clock);

    for (int i = 0; i < 20000 && ends() == 0; i++) {
        if (PAGE_LOAD(&recorder->page->wtick_ns) == now_ns)
            return;
        really_sleep(MS);
    }
    assert_true(ends() > 0); /* a watchdog that has ended the process ticks no more */
}

static void beats_and_new_sections_put_the_deadline_off(void **state)
{
    struct ds_clock_manual manual;
    struct ds_recorder *recorder = open_on_clock(*state, &manual);

    ds_recorder_section(recorder, "load", 250 * MS);
    assert_ok(ds_watchdog_start(recorder, MS, note_end));
    for (int i = 0; i < 60; i++) {
        pass(recorder, &manual, 200 * MS);
        if (i % 2 == 0)
            ds_recorder_beat(recorder);
        else
            ds_recorder_section(recorder, "step", 250 * MS);
    }
    assert_int_equal(ends(), 0);
    for (int i = 0; i < 60; i++) { /* a section without a deadline */
        ds_recorder_section(recorder, "wait", 0);
        pass(recorder, &manual, 200 * MS);
    }
    assert_int_equal(ends(), 0);
    ds_recorder_section(recorder, "step", 250 * MS);
    for (int i = 0; i < 4; i++) /* and it was awake all the time */
        pass(recorder, &manual, 100 * MS);
    await_end();
    ds_recorder_close(recorder, 71);
}

/* After the gap the whole deadline has to pass again, in ticks that come in time. */
static void a_stopped_process_is_armed_anew_and_the_gap_is_kept(void **state)
{
    struct ds_clock_manual manual;
    struct ds_recorder *recorder = open_on_clock(*state, &manual);
    json_t *incident, *page;
    ds_recorder_section(recorder, "step", 5000 * MS);
    assert_ok(ds_watchdog_start(recorder, MS, note_end));
    pass(recorder, &manual, 60000 * MS);
    for (int i = 0; i < 20; i++)
        pass(recorder, &manual, 250 * MS);
    really_sleep(20 * MS); /* of the last tick */
    assert_int_equal(ends(), 0);
    pass(recorder, &manual, 250 * MS);
    await_end();
    incident = read_incident(*state, 0);
    page = json_array_get(json_object_get(incident, "pages"), 0);
    assert_true(json_number_value(json_object_get(page, "gap_s")) > 0.3);
    assert_true(json_number_value(json_object_get(page, "gap_age_s")) > 4.9);
    json_decref(incident);
    ds_recorder_close(recorder, 71);
}

static void a_log_that_nobody_reads_does_not_keep_the_end_away(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 0);
    const int terminal = ds_log.terminal;
    const char junk[4096] = {0};
    char drained[4096];
    int pipe_ends[2];

    assert_int_equal(pipe(pipe_ends), 0);
    fcntl(pipe_ends[1], F_SETFL, O_NONBLOCK);
    while (write(pipe_ends[1], junk, sizeof junk) > 0) {
    }
    fcntl(pipe_ends[1], F_SETFL, 0);
    ds_log.terminal = pipe_ends[1];
    ds_recorder_section(recorder, "step", 20 * MS);
    assert_ok(ds_watchdog_start(recorder, 2 * MS, note_end));
    await_end();
    fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 100; i++) /* let the writer go */
        if (read(pipe_ends[0], drained, sizeof drained) <= 0)
            really_sleep(MS);
    ds_watchdog_stop(recorder);
    ds_log.terminal = terminal;
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    ds_recorder_close(recorder, 71);
}

static void without_a_hook_the_process_really_ends(void **state)
{
    pid_t child = fork();
    json_t *incident;
    int how;

    if (child == 0) {
        struct ds_recorder *recorder = open_rank(*state, 0);

        ds_recorder_section(recorder, "step", 50 * MS);
        (void)!ds_watchdog_start(recorder, 2 * MS, NULL);
        really_sleep(20000 * MS);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 71);
    incident = read_incident(*state, 0);
    assert_text(incident, "section", "step");
    json_decref(incident);
}

static void a_watchdog_can_be_stopped_and_started_again(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 0);

    for (int i = 0; i < 20; i++) {
        assert_ok(ds_watchdog_start(recorder, 1000 * MS, note_end));
        ds_watchdog_stop(recorder);
        ds_watchdog_stop(recorder);
    }
    assert_int_equal(ends(), 0);
    ds_recorder_close(recorder, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_PLACE(a_passed_deadline_ends_with_71_once_and_says_who_hangs_where),
        IN_A_PLACE(beats_and_new_sections_put_the_deadline_off),
        IN_A_PLACE(a_stopped_process_is_armed_anew_and_the_gap_is_kept),
        IN_A_PLACE(a_log_that_nobody_reads_does_not_keep_the_end_away),
        IN_A_PLACE(without_a_hook_the_process_really_ends),
        IN_A_PLACE(a_watchdog_can_be_stopped_and_started_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
