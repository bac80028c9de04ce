// link: storage base
/* Files for states: of their whole size from the start, zeros, whole or absent whatever call fails, gone at the end; no two
 * runs have the same place, and what a killed one has left is in nobody's way. */
#include "capture.h"
#include "hooked_disk.h"
#include "test.h"

#include "dstrain/swap_file.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 300032u

static char root[512];

static struct ds_swap_file_options options_of(struct ds_fs *fs, uint32_t local_rank)
{
    return (struct ds_swap_file_options){.fs = fs,
                                         .clock = ds_clock_system(),
                                         .who = "c.ini:9: [offload] directories",
                                         .directory = root,
                                         .local_rank = local_rank,
                                         .bytes = BYTES};
}

static int make_root(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "%s/test_swap_file.XXXXXX", DS_BINARY_DIR);
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return ds_fs_remove_tree(ds_fs_posix(), root);
}

static size_t count_names(void)
{
    char **names;
    size_t count;

    assert_int_equal(ds_fs_readdir(ds_fs_posix(), root, &names, &count), 0);
    free(names);
    return count;
}

/* Another clock than the system's: two seconds of patience pass at once. */
static ds_status open_now(const struct ds_swap_file_options *options, struct ds_swap_file *out)
{
    struct ds_swap_file_options now = *options;
    struct ds_clock_manual manual;

    ds_clock_manual_init(&manual);
    now.clock = &manual.clock;
    return ds_swap_file_open(&now, out);
}

static void assert_zeros(const struct ds_swap_file *file)
{
    static uint8_t got[4096] __attribute__((aligned(4096)));

    for (uint64_t at = 0; at < BYTES / 4096 * 4096; at += 4096) {
        assert_int_equal(ds_fs_read_all(ds_fs_posix(), file->file, got, sizeof got, at), 0);
        for (size_t i = 0; i < sizeof got; i++)
            assert_int_equal(got[i], 0);
    }
}

static void a_file_has_its_size_at_once_and_goes(void **state)
{
    const struct ds_swap_file_options options = options_of(ds_fs_posix(), 3);
    struct ds_swap_file file;
    struct ds_fs_stat stat;

    (void)state;
    assert_ok(ds_swap_file_open(&options, &file));
    assert_int_equal(ds_fs_fstat(ds_fs_posix(), file.file, &stat), 0);
    assert_int_equal(stat.bytes, BYTES);
    assert_zeros(&file);
    assert_int_equal(count_names(), 1);
    assert_int_equal(ds_fs_stat(ds_fs_posix(), file.path, &stat), 0);
    assert_true(stat.bytes <= 4096);
    ds_swap_file_close(ds_fs_posix(), &file);
    assert_int_equal(file.file, -1);
    ds_swap_file_close(ds_fs_posix(), &file); /* a second time does nothing */
    assert_int_equal(count_names(), 0);
}

/* Another process that has a file, until it is killed. */
static pid_t hold(const struct ds_swap_file_options *options)
{
    int ready[2];
    pid_t child;
    char word = 0;

    assert_int_equal(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        struct ds_swap_file file;

        if (ds_swap_file_open(options, &file) == DS_OK)
            word = 1;
        (void)!write(ready[1], &word, 1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &word, 1), 1);
    assert_int_equal(word, 1);
    close(ready[0]);
    close(ready[1]);
    return child;
}

static uint64_t bytes_there(void)
{
    char **names, path[1024];
    struct ds_fs_stat stat;
    uint64_t bytes = 0;
    size_t count;

    assert_int_equal(ds_fs_readdir(ds_fs_posix(), root, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        assert_int_equal(ds_fs_stat(ds_fs_posix(), path, &stat), 0);
        bytes += stat.bytes;
    }
    free(names);
    return bytes;
}

static const char *refusal(const struct ds_swap_file_options *options, struct capture *capture)
{
    struct ds_swap_file second;

    capture_begin(capture);
    assert_int_equal(open_now(options, &second), DS_ERR_CONFIG);
    return capture_end(capture);
}

/* Killed, it leaves its name alone: the space is free at once. */
static void a_second_run_is_refused_and_told_who_is_there(void **state)
{
    const struct ds_swap_file_options options = options_of(ds_fs_posix(), 0);
    const pid_t first = hold(&options);
    struct ds_swap_file second;
    struct capture capture;
    const char *said;
    char owner[64];

    (void)state;
    said = refusal(&options, &capture);
    snprintf(owner, sizeof owner, "process %ld on host ", (long)first);
    assert_non_null(strstr(said, owner));
    assert_non_null(strstr(said, options.who));
    assert_non_null(strstr(said, root));
    assert_int_equal(kill(first, SIGKILL), 0);
    assert_int_equal(waitpid(first, NULL, 0), first);
    assert_int_equal(count_names(), 1);
    assert_true(bytes_there() <= 4096);
    assert_ok(open_now(&options, &second));
    assert_zeros(&second);
    ds_swap_file_close(ds_fs_posix(), &second);
    assert_int_equal(count_names(), 0);
}

/* "one,./one", or a link to it. */
static void a_directory_in_other_words_is_no_other_run(void **state)
{
    const struct ds_swap_file_options options = options_of(ds_fs_posix(), 0);
    struct ds_swap_file first;
    struct capture capture;

    (void)state;
    assert_ok(ds_swap_file_open(&options, &first));
    assert_non_null(strstr(refusal(&options, &capture), "is named twice"));
    assert_zeros(&first); /* unharmed */
    ds_swap_file_close(ds_fs_posix(), &first);
    assert_int_equal(count_names(), 0);
}

/* As after a SIGKILL: the name is there, and the lock is gone. */
static void leave_dead(uint32_t local_rank)
{
    const struct ds_swap_file_options options = options_of(ds_fs_posix(), local_rank);
    static const uint8_t ones[4096] __attribute__((aligned(4096))) = {1, 1, 1};
    struct ds_swap_file file;

    assert_ok(ds_swap_file_open(&options, &file));
    assert_int_equal(ds_fs_write_all(ds_fs_posix(), file.file, ones, sizeof ones, 4096), 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file.file), 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file.lock), 0);
}

static void what_a_killed_run_left_is_in_nobodys_way(void **state)
{
    const struct ds_swap_file_options options = options_of(ds_fs_posix(), 0);
    const struct ds_swap_file_options neighbour = options_of(ds_fs_posix(), 1);
    struct ds_swap_file file, other;
    char foreign[600];

    (void)state;
    for (uint32_t rank = 0; rank < 4; rank++)
        leave_dead(rank);
    snprintf(foreign, sizeof foreign, "%s/dstrain-elsewhere-0000.states", root);
    assert_ok(ds_fs_write_file(ds_fs_posix(), foreign, "x", 1));
    assert_ok(open_now(&options, &file));
    assert_ok(open_now(&neighbour, &other));
    assert_zeros(&file);
    ds_swap_file_sweep(&options);
    assert_int_equal(count_names(), 3); /* both that live, and another host's */
    assert_zeros(&other);
    ds_swap_file_close(ds_fs_posix(), &file);
    ds_swap_file_close(ds_fs_posix(), &other);
    assert_int_equal(count_names(), 1);
}

/* ---- what cannot be */

static int why_not;

static int refuses_space(const struct disk_call *call)
{
    return strcmp(call->what, "fallocate") == 0 ? why_not : 0;
}

static void no_space_is_said_in_bytes(void **state)
{
    const struct ds_swap_file_options options = options_of(hooked_disk(refuses_space), 0);
    struct ds_swap_file_options huge = options_of(ds_fs_posix(), 0);
    struct ds_swap_file file;
    struct capture capture;
    const char *said;

    (void)state;
    why_not = -EFBIG;
    assert_non_null(strstr(refusal(&options, &capture), "ulimit -f"));
    why_not = -ENOSPC;
    capture_begin(&capture);
    assert_int_equal(ds_swap_file_open(&options, &file), DS_ERR_CONFIG);
    said = capture_end(&capture);
    assert_non_null(strstr(said, "300032 bytes are needed"));
    assert_non_null(strstr(said, "are free"));
    huge.bytes = (uint64_t)1 << 60;
    capture_begin(&capture);
    assert_int_equal(ds_swap_file_open(&huge, &file), DS_ERR_CONFIG);
    said = capture_end(&capture);
    assert_non_null(strstr(said, "1152921504606846976 bytes are needed"));
    assert_int_equal(count_names(), 0);
}

static void a_directory_must_be_there(void **state)
{
    struct ds_swap_file_options options = options_of(ds_fs_posix(), 0);
    char path[600];
    struct ds_swap_file file;

    (void)state;
    snprintf(path, sizeof path, "%s/missing", root);
    options.directory = path;
    assert_int_equal(ds_swap_file_open(&options, &file), DS_ERR_CONFIG);
    ds_swap_file_close(ds_fs_posix(), &file);
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, "x", 1));
    assert_int_equal(ds_swap_file_open(&options, &file), DS_ERR_CONFIG);
    assert_int_equal(count_names(), 1);
}

/* The 1st, 2nd, 3rd ... call fails, until none does. What could not be taken away then is at the next start. */
static void whatever_call_fails_the_next_run_begins(void **state)
{
    ds_status st = DS_ERR_IO;
    uint64_t fail_at;

    (void)state;
    for (fail_at = 1; st != DS_OK; fail_at++) {
        struct ds_swap_file file;
        struct ds_fs *faulty;

        assert_true(fail_at < 100);
        leave_dead(0);
        assert_ok(ds_fs_fault_open(ds_fs_posix(), fail_at, &faulty));
        const struct ds_swap_file_options options = options_of(faulty, 0),
                                          sound = options_of(ds_fs_posix(), 0);
        const ds_status opened = open_now(&options, &file);
        ds_swap_file_close(faulty, &file);
        if (!ds_fs_fault_hit(faulty))
            st = opened;
        ds_fs_fault_close(faulty);
        assert_ok(open_now(&sound, &file));
        assert_zeros(&file);
        ds_swap_file_close(ds_fs_posix(), &file);
        assert_int_equal(count_names(), 0);
    }
    assert_true(fail_at > 8);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_has_its_size_at_once_and_goes, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(a_second_run_is_refused_and_told_who_is_there, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(a_directory_in_other_words_is_no_other_run, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(what_a_killed_run_left_is_in_nobodys_way, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(no_space_is_said_in_bytes, make_root, remove_root),
        cmocka_unit_test_setup_teardown(a_directory_must_be_there, make_root, remove_root),
        cmocka_unit_test_setup_teardown(whatever_call_fails_the_next_run_begins, make_root,
                                        remove_root),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
