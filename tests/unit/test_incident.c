// link: base
// private: runtime/base
// tsan
/* An incident shows what every rank of the host did last, also one that is dead; and of ranks that fail waiting for each
 * other one speaks for all, and names the one that is behind. */
#include "recorder_place.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* A child that leaves a page behind by SIGKILL: no destructor, no leave mark. */
static void die_with_a_page(const struct place *place, uint32_t rank)
{
    pid_t child = fork();
    int how;

    if (child == 0) {
        struct ds_recorder *recorder = open_rank(place, rank);

        ds_recorder_section(recorder, "load", 0);
        ds_recorder_step(recorder, 3);
        for (uint32_t i = 1; i <= 20; i++)
            ds_record_end(recorder, ds_record_begin(recorder, i, 0, 0, 0, 0));
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
}

static void hang(struct ds_recorder *recorder)
{
    end_count = 0;
    ds_recorder_section(recorder, "eval", 20 * MS);
    assert_ok(ds_watchdog_start(recorder, 2 * MS, note_end));
    await_end();
    ds_watchdog_stop(recorder);
}

static void an_incident_shows_a_page_that_outlived_its_process(void **state)
{
    struct ds_recorder *recorder;
    json_t *incident, *pages, *page, *events;
    char path[128];
    struct stat about;

    die_with_a_page(*state, 1);
    page_path(*state, 1, path);
    assert_int_equal(stat(path, &about), 0);
    recorder = open_rank(*state, 0);
    hang(recorder);
    incident = read_incident(*state, 0);
    pages = json_object_get(incident, "pages");
    assert_int_equal(json_array_size(pages), 2);
    page = json_array_get(pages, 1);
    assert_int_equal(number_of(page, "rank"), 1);
    assert_text(page, "section", "load");
    assert_int_equal(number_of(page, "step"), 3);
    assert_true(json_is_null(json_object_get(page, "leave_code")));
    assert_true(json_number_value(json_object_get(page, "wtick_age_s")) >= 0.02);
    events = json_object_get(page, "events");
    assert_int_equal(json_array_size(events), 8);
    assert_int_equal(number_of(json_array_get(events, 7), "action"), 20);
    json_decref(incident);
    ds_recorder_close(recorder, 71);
}

static void an_incident_leaves_out_pages_of_other_runs_and_broken_ones(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 0), *other = NULL;
    struct ds_recorder_options options = options_of(*state, 1);
    char from[128], to[128];
    json_t *incident;
    int file;

    options.run_id = "run-8";
    assert_ok(ds_recorder_open(&options, &other));
    snprintf(from, sizeof from, "%s/run-8-1.page", options.directory);
    page_path(*state, 1, to);
    assert_int_equal(link(from, to), 0);
    page_path(*state, 2, to);
    file = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600); /* empty */
    assert_true(file >= 0);
    close(file);
    hang(recorder);
    ds_recorder_close(other, 0);
    incident = read_incident(*state, 0);
    assert_int_equal(json_array_size(json_object_get(incident, "pages")), 1);
    json_decref(incident);
    ds_recorder_close(recorder, 71);
}

static void a_neighbour_sees_the_leave_mark_of_a_hang(void **state)
{
    struct ds_recorder *first = open_rank(*state, 0), *second = open_rank(*state, 1);
    json_t *incident, *page;

    hang(first);
    hang(second);
    incident = read_incident(*state, 1);
    page = json_array_get(json_object_get(incident, "pages"), 1);
    assert_int_equal(number_of(page, "rank"), 0);
    assert_int_equal(number_of(page, "leave_code"), 71);
    json_decref(incident);
    ds_recorder_close(first, 71);
    ds_recorder_close(second, 71);
}

/* ---- a failure where ranks wait for each other ---- */

static void one_rank_of_a_host_names_the_one_that_is_behind(void **state)
{
    struct place *place = *state;
    struct ds_recorder *ranks[3];
    json_t *incident;
    char *text;

    for (uint32_t i = 0; i < 3; i++) {
        ranks[i] = open_rank(place, i);
        ds_recorder_section(ranks[i], "step", 1000 * MS);
        ds_recorder_step(ranks[i], 5);
        for (uint32_t action = 0; action < (i == 1 ? 3 : 4); action++)
            ds_record_end(ranks[i], ds_record_begin(ranks[i], action, 1, 0, 0, 0));
    }
    assert_int_equal(ds_recorder_accuse(ranks[2], 71, DS_RECORDER_NOBODY), 1);
    assert_int_equal(ds_recorder_accuse(ranks[0], 71, DS_RECORDER_NOBODY), 0);
    assert_int_equal(ds_recorder_accuse(ranks[1], 71, DS_RECORDER_NOBODY), 0);
    text = read_file(place->log);
    assert_non_null(strstr(text, "is behind: section 'step', step 5; last action 2 reduce"));
    assert_non_null(strstr(text, "error: rank 1 (process "));
    assert_null(strchr(strchr(text, '\n') + 1, '\n')); /* one line */
    free(text);
    incident = read_incident(place, 2);
    assert_int_equal(number_of(incident, "code"), 71);
    assert_int_equal(json_array_size(json_object_get(incident, "pages")), 3);
    json_decref(incident);
    for (uint32_t i = 0; i < 3; i++)
        ds_recorder_close(ranks[i], 71);
}

/* Who spoke first may be gone, and its page with it, before another one's wait ends. */
static void a_second_rank_stays_quiet_after_the_first_has_left(void **state)
{
    struct place *place = *state;
    struct ds_recorder *ranks[3];

    for (uint32_t speaker = 0; speaker < 2; speaker++) {
        for (uint32_t i = 0; i < 3; i++)
            ranks[i] = open_rank(place, i);
        assert_int_equal(ds_recorder_accuse(ranks[speaker], 71, DS_RECORDER_NOBODY), 1);
        ds_recorder_close(ranks[0], 71);
        assert_int_equal(ds_recorder_accuse(ranks[speaker == 0 ? 1 : 2], 71, DS_RECORDER_NOBODY),
                         0);
        ds_recorder_close(ranks[1], 71);
        assert_int_equal(ds_recorder_accuse(ranks[2], 71, DS_RECORDER_NOBODY), 0);
        ds_recorder_close(ranks[2], 71);
    }
}

/* The rank that all were waiting for finds out itself, later: it ends, and the one story stays the only one. */
static void a_watchdog_stays_quiet_after_a_rank_has_spoken(void **state)
{
    struct place *place = *state;
    struct ds_recorder *waiting = open_rank(place, 0), *hanging = open_rank(place, 1);
    char path[128], *said[2];

    ds_recorder_section(waiting, "start", 0);
    assert_int_equal(ds_recorder_accuse(waiting, 71, 1), 1);
    said[0] = read_file(place->log);
    ds_recorder_section(hanging, "start", 20 * MS);
    assert_ok(ds_watchdog_start(hanging, 2 * MS, note_end));
    await_end();
    ds_watchdog_stop(hanging);
    said[1] = read_file(place->log);
    assert_string_equal(said[1], said[0]);
    free(said[0]);
    free(said[1]);
    snprintf(path, sizeof path, "%s/I-1.json", place->incidents);
    assert_int_not_equal(access(path, F_OK), 0);
    ds_recorder_close(hanging, 71);
    ds_recorder_close(waiting, 71);
}

static void nobody_is_named_where_all_came_equally_far(void **state)
{
    struct place *place = *state;
    struct ds_recorder *first = open_rank(place, 0), *second = open_rank(place, 1);
    char *text;

    assert_int_equal(ds_recorder_accuse(second, 71, DS_RECORDER_NOBODY), 1);
    text = read_file(place->log);
    assert_string_equal(text, "");
    free(text);
    ds_recorder_close(first, 71);
    ds_recorder_close(second, 71);
}

/* Outside of steps ranks are equally far: who was waited for is known. */
static void who_was_waited_for_is_named_where_all_came_equally_far(void **state)
{
    struct place *place = *state;
    struct ds_recorder *ranks[3];
    char *text;

    for (uint32_t i = 0; i < 3; i++) {
        ranks[i] = open_rank(place, i);
        ds_recorder_section(ranks[i], "start", 1000 * MS);
    }
    ds_record_end(ranks[0], ds_record_begin(ranks[0], 0, 1, 0, 0, 0));
    assert_int_equal(ds_recorder_accuse(ranks[0], 71, 1), 1);
    text = read_file(place->log);
    assert_non_null(strstr(text, "error: rank 1 (process "));
    assert_non_null(strstr(text, "is behind: section 'start', step 0; no action yet"));
    free(text);
    for (uint32_t i = 0; i < 3; i++)
        ds_recorder_close(ranks[i], 71);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_PLACE(an_incident_shows_a_page_that_outlived_its_process),
        IN_A_PLACE(an_incident_leaves_out_pages_of_other_runs_and_broken_ones),
        IN_A_PLACE(a_neighbour_sees_the_leave_mark_of_a_hang),
        IN_A_PLACE(one_rank_of_a_host_names_the_one_that_is_behind),
        IN_A_PLACE(a_second_rank_stays_quiet_after_the_first_has_left),
        IN_A_PLACE(a_watchdog_stays_quiet_after_a_rank_has_spoken),
        IN_A_PLACE(nobody_is_named_where_all_came_equally_far),
        IN_A_PLACE(who_was_waited_for_is_named_where_all_came_equally_far),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
