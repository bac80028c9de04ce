// link: base
// private: runtime/base
// tsan
/* test_recorder.c - what a rank did can be read by others, also after its death; a hang ends with
 * 71 and leaves an incident that names it; a stopped process is not taken for one. */
#include "dstrain/json.h"
#include "recorder_page.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

static const char *const kinds[] = {"forward", "reduce"};

/* ---- the end of the process, as the watchdog's hook sees it ---- */

static int end_count, end_code; /* atomic */

static void note_end(int code)
{
    __atomic_store_n(&end_code, code, __ATOMIC_RELEASE);
    __atomic_add_fetch(&end_count, 1, __ATOMIC_ACQ_REL);
}

static int ends(void)
{
    return __atomic_load_n(&end_count, __ATOMIC_ACQUIRE);
}

static void really_sleep(uint64_t ns)
{
    ds_clock_sleep_ns(ds_clock_system(), ns);
}

static void await_end(void)
{
    for (int i = 0; i < 4000 && ends() == 0; i++)
        really_sleep(5 * MS);
    assert_int_equal(ends(), 1);
    assert_int_equal(__atomic_load_n(&end_code, __ATOMIC_ACQUIRE), 71);
}

/* ---- a directory of its own for every test, and the log turned to a file in it ---- */

struct place {
    char root[64], pages[80], incidents[80], log[80];
    int terminal;
};

static void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;

    while (folder && (entry = readdir(folder)))
        unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder)
        closedir(folder);
    rmdir(path);
}

static int make_place(void **state)
{
    struct place *place = calloc(1, sizeof *place);

    assert_non_null(place);
    strcpy(place->root, "/tmp/dstrain-recorder-XXXXXX");
    assert_non_null(mkdtemp(place->root));
    snprintf(place->pages, sizeof place->pages, "%s/pages", place->root);
    snprintf(place->incidents, sizeof place->incidents, "%s/incidents", place->root);
    snprintf(place->log, sizeof place->log, "%s/log", place->root);
    place->terminal = ds_log.terminal;
    ds_log.terminal = open(place->log, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(ds_log.terminal >= 0);
    end_count = 0;
    *state = place;
    return 0;
}

static int remove_place(void **state)
{
    struct place *place = *state;

    close(ds_log.terminal);
    ds_log.terminal = place->terminal;
    remove_folder(place->pages);
    remove_folder(place->incidents);
    remove_folder(place->root);
    free(place);
    return 0;
}

static struct ds_recorder_options options_of(const struct place *place, uint32_t rank)
{
    return (struct ds_recorder_options){.directory = place->pages,
                                        .run_id = "run-7",
                                        .incidents = place->incidents,
                                        .kind_names = kinds,
                                        .kind_count = 2,
                                        .rank = rank,
                                        .rank_count = 3,
                                        .clock = ds_clock_system()};
}

static struct ds_recorder *open_rank(const struct place *place, uint32_t rank)
{
    const struct ds_recorder_options options = options_of(place, rank);
    struct ds_recorder *recorder = NULL;

    assert_ok(ds_recorder_open(&options, &recorder));
    return recorder;
}

/* A rank whose time the test owns. */
static struct ds_recorder *open_on_clock(const struct place *place, struct ds_clock_manual *manual)
{
    struct ds_recorder_options options = options_of(place, 0);
    struct ds_recorder *recorder = NULL;

    ds_clock_manual_init(manual);
    options.clock = &manual->clock;
    assert_ok(ds_recorder_open(&options, &recorder));
    return recorder;
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

static char *read_file(const char *path)
{
    char *text = calloc(1, 1 << 20);
    int file = open(path, O_RDONLY | O_CLOEXEC);

    assert_non_null(text);
    if (file < 0)
        fail_msg("%s: %s", path, strerror(errno));
    assert_true(read(file, text, (1 << 20) - 1) >= 0);
    close(file);
    return text;
}

static json_t *read_incident(const struct place *place, uint32_t rank)
{
    json_t *incident = NULL;
    char path[128];
    char *text;

    snprintf(path, sizeof path, "%s/I-%u.json", place->incidents, rank);
    text = read_file(path);
    assert_ok(ds_json_parse(path, text, strlen(text), &incident));
    free(text);
    return incident;
}

static void assert_text(const json_t *object, const char *key, const char *want)
{
    const char *got = json_string_value(json_object_get(object, key));

    assert_non_null(got);
    assert_string_equal(got, want);
}

static int64_t number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* ---- the page ---- */

static void events_are_read_back_as_they_were_written(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 0);
    struct ds_record events[4], *open;

    assert_int_equal(ds_recorder_last(recorder, events, 4), 0);
    ds_recorder_step(recorder, 41);
    ds_record_end(recorder, ds_record_begin(recorder, 10, 0, 1, 2, 3));
    ds_recorder_step(recorder, 42);
    open = ds_record_begin(recorder, 11, 1, 4, 5, 6);
    assert_int_equal(ds_recorder_last(recorder, events, 4), 2);
    assert_int_equal(events[0].sequence, 1);
    assert_int_equal(events[0].step, 41);
    assert_int_equal(events[0].action, 10);
    assert_int_equal(events[0].kind, 0);
    assert_int_equal(events[0].micro, 1);
    assert_int_equal(events[0].unit, 2);
    assert_int_equal(events[0].block, 3);
    assert_true(events[0].end_ns >= events[0].begin_ns && events[0].begin_ns > 0);
    assert_int_equal(events[1].step, 42);
    assert_int_equal(events[1].action, 11);
    assert_int_equal(events[1].end_ns, 0);
    ds_record_end(recorder, open);
    assert_int_equal(ds_recorder_last(recorder, events, 1), 1);
    assert_int_equal(events[0].action, 11);
    assert_true(events[0].end_ns >= events[1].begin_ns);
    ds_recorder_close(recorder, 0);
}

static void the_ring_keeps_the_last_256_events(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 0);
    struct ds_record events[300];

    for (uint32_t i = 1; i <= 1000; i++)
        ds_record_end(recorder, ds_record_begin(recorder, i, 0, 0, 0, 0));
    assert_int_equal(ds_recorder_last(recorder, events, 300), DS_RECORDER_EVENTS);
    for (uint32_t i = 0; i < DS_RECORDER_EVENTS; i++)
        assert_int_equal(events[i].action, 1000 - DS_RECORDER_EVENTS + 1 + i);
    ds_recorder_close(recorder, 0);
}

struct reader {
    const struct ds_recorder *recorder;
    int stop, passes, is_torn; /* atomic */
};

static void *read_events(void *args)
{
    struct reader *reader = args;
    struct ds_record events[DS_RECORDER_EVENTS];

    while (!__atomic_load_n(&reader->stop, __ATOMIC_ACQUIRE)) {
        size_t count = ds_recorder_last(reader->recorder, events, DS_RECORDER_EVENTS);

        for (size_t i = 0; i < count; i++)
            if (events[i].action != (uint32_t)events[i].sequence ||
                events[i].micro != events[i].action || events[i].block != events[i].action ||
                (i > 0 && events[i].sequence <= events[i - 1].sequence))
                __atomic_store_n(&reader->is_torn, 1, __ATOMIC_RELEASE);
        __atomic_add_fetch(&reader->passes, 1, __ATOMIC_ACQ_REL);
    }
    return NULL;
}

static void a_reader_never_sees_half_an_event(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 0);
    struct reader reader = {.recorder = recorder};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, read_events, &reader), 0);
    for (uint32_t i = 1; i <= 10000000 && __atomic_load_n(&reader.passes, __ATOMIC_ACQUIRE) < 20000;
         i++)
        ds_record_end(recorder, ds_record_begin(recorder, i, 0, i, 0, i));
    __atomic_store_n(&reader.stop, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    assert_false(reader.is_torn);
    ds_recorder_close(recorder, 0);
}

static void a_recorder_without_a_directory_works_in_memory(void **state)
{
    struct ds_recorder_options options = options_of(*state, 0);
    struct ds_recorder *recorder = NULL;
    struct ds_record event;

    options.directory = options.incidents = NULL;
    assert_ok(ds_recorder_open(&options, &recorder));
    ds_record_begin(recorder, 5, 0, 0, 0, 0);
    assert_int_equal(ds_recorder_last(recorder, &event, 1), 1);
    assert_int_equal(event.action, 5);
    ds_recorder_close(recorder, 0);
}

static void page_path(const struct place *place, uint32_t rank, char to[128])
{
    snprintf(to, 128, "%s/run-7-%u.page", place->pages, rank);
}

static void a_page_is_private_and_goes_with_its_recorder(void **state)
{
    struct ds_recorder *recorder = open_rank(*state, 2);
    struct stat about;
    char path[128];

    page_path(*state, 2, path);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_size, DS_RECORDER_PAGE_BYTES);
    assert_int_equal(about.st_mode & 0777, 0600);
    assert_int_equal(stat(((struct place *)*state)->pages, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0700);
    ds_recorder_close(recorder, 0);
    assert_int_equal(stat(path, &about), -1);
}

/* As a relaunch does, whose predecessor was killed. */
static void a_new_page_replaces_the_one_of_an_earlier_life(void **state)
{
    struct ds_recorder *old = open_rank(*state, 1), *new;
    struct ds_record event;
    struct stat about;
    char path[128];

    ds_record_begin(old, 1, 0, 0, 0, 0);
    new = open_rank(*state, 1);
    assert_int_equal(ds_recorder_last(new, &event, 1), 0);
    assert_int_equal(ds_recorder_last(old, &event, 1), 1);
    ds_recorder_close(old, 70); /* its name is no longer its own */
    page_path(*state, 1, path);
    assert_int_equal(stat(path, &about), 0);
    ds_recorder_close(new, 0);
    assert_int_equal(stat(path, &about), -1);
}

static void assert_hidden(const struct place *place, const char *says)
{
    const struct ds_recorder_options options = options_of(place, 0);
    struct ds_recorder *recorder = NULL;
    struct ds_record event;
    char path[128];

    assert_ok(ds_recorder_open(&options, &recorder));
    if (!strstr(ds_recorder_why_hidden(recorder), says))
        fail_msg("'%s' does not say '%s'", ds_recorder_why_hidden(recorder), says);
    ds_record_begin(recorder, 5, 0, 0, 0, 0);
    assert_int_equal(ds_recorder_last(recorder, &event, 1), 1);
    page_path(place, 0, path);
    assert_int_equal(access(path, F_OK), -1);
    ds_recorder_close(recorder, 0);
}

static void a_page_directory_that_others_can_reach_gets_no_page(void **state)
{
    struct place *place = *state;
    char other[128];

    assert_int_equal(mkdir(place->pages, 0700), 0);
    assert_int_equal(chmod(place->pages, 0711), 0);
    assert_hidden(place, "mode 0711");
    assert_int_equal(chmod(place->pages, 0700), 0);
    if (geteuid() == 0) { /* only root can give a directory away */
        assert_int_equal(chown(place->pages, 12345, (gid_t)-1), 0);
        assert_hidden(place, "user 12345");
    }
    snprintf(other, sizeof other, "%s/incidents", place->root);
    assert_int_equal(rmdir(place->pages), 0);
    assert_int_equal(mkdir(other, 0700), 0);
    assert_int_equal(symlink(other, place->pages), 0);
    assert_hidden(place, "open '");
    unlink(place->pages);
    assert_int_equal(mkdir(place->pages, 0700), 0); /* mended: the page is there again */
    ds_recorder_close(open_rank(place, 0), 0);
}

static void a_run_id_that_is_no_file_name_is_refused(void **state)
{
    static const char *const bad[] = {
        "", "a/b", "a b", "../x",
        "0123456789012345678901234567890123456789012345678901234567890123"};
    struct ds_recorder_options options = options_of(*state, 0);
    struct ds_recorder *recorder = NULL;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        options.run_id = bad[i];
        assert_int_equal(ds_recorder_open(&options, &recorder), DS_ERR_CONFIG);
        assert_null(recorder);
    }
}

/* ---- the watchdog ---- */

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

static void old_pages_that_nobody_has_are_removed(void **state)
{
    static const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
    struct place *place = *state;
    struct ds_recorder *alive = open_rank(place, 1), *other;
    char path[3][128];

    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"dead-0.page", "young-0.page", "run-7-1.page"};
        snprintf(path[i], sizeof path[i], "%s/%s", place->pages, names[i]);
    }
    for (int i = 0; i < 2; i++)
        close(open(path[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    assert_int_equal(utimensat(AT_FDCWD, path[0], long_ago, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, path[2], long_ago, 0), 0);
    other = open_rank(place, 0);
    assert_int_equal(access(path[0], F_OK), -1);
    assert_int_equal(access(path[1], F_OK), 0);
    assert_int_equal(access(path[2], F_OK), 0);
    ds_recorder_close(other, 0);
    ds_recorder_close(alive, 0);
}

static void a_page_is_old_by_the_recorders_clock(void **state)
{
    static const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
    struct place *place = *state;
    struct ds_clock_manual manual; /* its time is that of 1970: nothing is old yet */
    char path[128];
    int file;

    ds_recorder_close(open_on_clock(place, &manual), 0); /* makes the folder */
    snprintf(path, sizeof path, "%s/dead-0.page", place->pages);
    file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);
    ds_recorder_close(open_on_clock(place, &manual), 0);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(path), 0);
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

#define IN_A_PLACE(test) cmocka_unit_test_setup_teardown(test, make_place, remove_place)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_PLACE(events_are_read_back_as_they_were_written),
        IN_A_PLACE(the_ring_keeps_the_last_256_events),
        IN_A_PLACE(a_reader_never_sees_half_an_event),
        IN_A_PLACE(a_recorder_without_a_directory_works_in_memory),
        IN_A_PLACE(a_page_is_private_and_goes_with_its_recorder),
        IN_A_PLACE(a_new_page_replaces_the_one_of_an_earlier_life),
        IN_A_PLACE(a_page_directory_that_others_can_reach_gets_no_page),
        IN_A_PLACE(a_run_id_that_is_no_file_name_is_refused),
        IN_A_PLACE(a_passed_deadline_ends_with_71_once_and_says_who_hangs_where),
        IN_A_PLACE(an_incident_shows_a_page_that_outlived_its_process),
        IN_A_PLACE(an_incident_leaves_out_pages_of_other_runs_and_broken_ones),
        IN_A_PLACE(a_neighbour_sees_the_leave_mark_of_a_hang),
        IN_A_PLACE(one_rank_of_a_host_names_the_one_that_is_behind),
        IN_A_PLACE(a_second_rank_stays_quiet_after_the_first_has_left),
        IN_A_PLACE(a_watchdog_stays_quiet_after_a_rank_has_spoken),
        IN_A_PLACE(nobody_is_named_where_all_came_equally_far),
        IN_A_PLACE(who_was_waited_for_is_named_where_all_came_equally_far),
        IN_A_PLACE(old_pages_that_nobody_has_are_removed),
        IN_A_PLACE(a_page_is_old_by_the_recorders_clock),
        IN_A_PLACE(beats_and_new_sections_put_the_deadline_off),
        IN_A_PLACE(a_stopped_process_is_armed_anew_and_the_gap_is_kept),
        IN_A_PLACE(a_log_that_nobody_reads_does_not_keep_the_end_away),
        IN_A_PLACE(without_a_hook_the_process_really_ends),
        IN_A_PLACE(a_watchdog_can_be_stopped_and_started_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
