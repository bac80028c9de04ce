/* recorder_place.h - recorders of a few ranks in a directory of its own for every test, with what they leave in it: pages,
 * incidents, and the log, which is turned to a file; and the end of the process, as the watchdog's hook sees it. */
#ifndef DSTRAIN_TEST_RECORDER_PLACE_H
#define DSTRAIN_TEST_RECORDER_PLACE_H

#include "dstrain/json.h"
#include "recorder_page.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

static const char *const kinds[] = {"forward", "reduce"};

/* ---- the end of the process, as the watchdog's hook sees it ---- */

static int end_count, end_code; /* atomic */

static inline void note_end(int code)
{
    __atomic_store_n(&end_code, code, __ATOMIC_RELEASE);
    __atomic_add_fetch(&end_count, 1, __ATOMIC_ACQ_REL);
}

static inline int ends(void)
{
    return __atomic_load_n(&end_count, __ATOMIC_ACQUIRE);
}

static inline void really_sleep(uint64_t ns)
{
    ds_clock_sleep_ns(ds_clock_system(), ns);
}

static inline void await_end(void)
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

static inline void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;

    while (folder && (entry = readdir(folder)))
        unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder)
        closedir(folder);
    rmdir(path);
}

static inline int make_place(void **state)
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

static inline int remove_place(void **state)
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

static inline struct ds_recorder_options options_of(const struct place *place, uint32_t rank)
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

static inline struct ds_recorder *open_rank(const struct place *place, uint32_t rank)
{
    const struct ds_recorder_options options = options_of(place, rank);
    struct ds_recorder *recorder = NULL;

    assert_ok(ds_recorder_open(&options, &recorder));
    return recorder;
}

/* A rank whose time the test owns. */
static inline struct ds_recorder *open_on_clock(const struct place *place,
                                                struct ds_clock_manual *manual)
{
    struct ds_recorder_options options = options_of(place, 0);
    struct ds_recorder *recorder = NULL;

    ds_clock_manual_init(manual);
    options.clock = &manual->clock;
    assert_ok(ds_recorder_open(&options, &recorder));
    return recorder;
}

static inline void page_path(const struct place *place, uint32_t rank, char to[128])
{
    snprintf(to, 128, "%s/run-7-%u.page", place->pages, rank);
}

static inline char *read_file(const char *path)
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

static inline json_t *read_incident(const struct place *place, uint32_t rank)
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

static inline void assert_text(const json_t *object, const char *key, const char *want)
{
    const char *got = json_string_value(json_object_get(object, key));

    assert_non_null(got);
    assert_string_equal(got, want);
}

static inline int64_t number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

#define IN_A_PLACE(test) cmocka_unit_test_setup_teardown(test, make_place, remove_place)

#endif
