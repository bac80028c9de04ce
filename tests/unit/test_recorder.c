// link: base
// private: runtime/base
// tsan
/* What a rank did can be read by others, also after its death: in a page that nobody else can reach, that never shows half
 * an event, and that is removed with its recorder or, once nobody has it, when it is old. */
#include "recorder_place.h"

#include <pthread.h>
#include <sys/stat.h>

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
        IN_A_PLACE(old_pages_that_nobody_has_are_removed),
        IN_A_PLACE(a_page_is_old_by_the_recorders_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
