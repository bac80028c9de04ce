// link: storage base
// tsan
/* Queues of block reads and writes: one body for threads on the disk, threads on the simulated disk and
 * io_uring; what is not available here is reported as skipped. */
#include "test.h"

#include "dstrain/storage.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 4096u

struct row {
    const char *backend;
    struct ds_fs *fs;
    int is_sim;
    char root[64], path[128];
    int file;
};

static const char *backend_of(const char *name)
{
    return strcmp(name, "io_uring") == 0 ? "io_uring" : "threads";
}

static int open_row(void **state)
{
    struct row *row = calloc(1, sizeof *row);

    row->backend = backend_of(*state);
    row->is_sim = strcmp(*state, "threads on sim") == 0;
    *state = row;
    strcpy(row->root, row->is_sim ? "/" : "/tmp/test_storage.XXXXXX");
    if (row->is_sim && ds_fs_sim_open(&row->fs) != DS_OK)
        return -1;
    if (!row->is_sim && !mkdtemp(row->root))
        return -1;
    if (!row->is_sim)
        row->fs = ds_fs_posix();
    snprintf(row->path, sizeof row->path, "%s/f", row->root);
    row->file = ds_fs_open(row->fs, row->path, DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE, 0644);
    return row->file >= 0 ? 0 : -1;
}

static int close_row(void **state)
{
    struct row *row = *state;

    (void)ds_fs_close(row->fs, row->file);
    if (row->is_sim)
        ds_fs_sim_close(row->fs);
    else
        (void)ds_fs_remove_tree(row->fs, row->root);
    free(row);
    return 0;
}

static struct ds_storage *open_storage_or_skip(struct row *row, uint32_t depth)
{
    struct ds_storage *storage = NULL;

    ds_log.terminal = -1;
    ds_status st = ds_storage_open(row->fs, row->backend, depth, &storage);
    ds_log.terminal = 2;
    if (st == DS_ERR_UNSUPPORTED && strcmp(row->backend, "threads") != 0)
        skip();
    assert_int_equal(st, DS_OK);
    assert_string_equal(ds_storage_name(storage), row->backend);
    assert_int_equal(ds_storage_in_flight(storage), 0);
    return storage;
}

static void fill_pattern(uint8_t *bytes, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)((seed + i) * 0x9e3779b97f4a7c15u >> 56);
}

static ds_status run_one(struct ds_storage *storage, struct ds_storage_request *request)
{
    struct ds_storage_request *done = NULL;

    assert_ok(ds_storage_submit(storage, request));
    assert_int_equal(ds_storage_in_flight(storage), 1);
    assert_ok(ds_storage_reap(storage, &done));
    assert_int_equal(ds_storage_in_flight(storage), 0);
    assert_ptr_equal(done, request);
    return done->status;
}

static void round_trip_returns_the_same_bytes(void **state)
{
    struct row *row = *state;
    struct ds_storage *storage = open_storage_or_skip(row, 1);
    uint8_t sent[3 * BLOCK + 5], got[sizeof sent] = {0};
    struct ds_storage_request request = {.is_write = 1, .file = row->file, .data = sent};

    fill_pattern(sent, sizeof sent, 1);
    request.bytes = sizeof sent;
    request.offset = 100;
    assert_ok(ds_storage_pin(storage, sent, sizeof sent));
    assert_ok(run_one(storage, &request));
    assert_ok(ds_storage_flush(storage, row->file));
    request.is_write = 0;
    request.data = got;
    assert_ok(run_one(storage, &request));
    assert_memory_equal(sent, got, sizeof sent);
    ds_storage_close(storage);
}

/* Many blocks, as many in flight as the queue takes, in an order of the seed; each request comes back
 * once, with its own user pointer, and the file holds every block in its place. */
static void every_request_comes_back_once(void **state)
{
    enum { COUNT = 300, DEPTH = 7 };
    struct row *row = *state;
    struct ds_storage *storage = open_storage_or_skip(row, DEPTH);
    static struct ds_storage_request requests[COUNT];
    uint8_t *sent = malloc((size_t)COUNT * BLOCK), *got = calloc(COUNT, BLOCK);
    uint64_t seed = test_seed("every_request_comes_back_once");

    fill_pattern(sent, (size_t)COUNT * BLOCK, seed);
    for (int pass = 0; pass < 2; pass++) { /* write all, then read all */
        int seen[COUNT] = {0}, submitted = 0;

        for (int reaped = 0; reaped < COUNT; reaped++) {
            while (submitted < COUNT && ds_storage_in_flight(storage) < DEPTH) {
                size_t block = (size_t)(submitted * 7 + (int)(seed % COUNT)) % COUNT;

                requests[submitted] = (struct ds_storage_request){
                    .is_write = pass == 0,
                    .file = row->file,
                    .data = (pass == 0 ? sent : got) + block * BLOCK,
                    .bytes = BLOCK,
                    .offset = block * BLOCK,
                    .user = &seen[submitted],
                };
                assert_ok(ds_storage_submit(storage, &requests[submitted++]));
            }
            struct ds_storage_request *done;
            assert_ok(ds_storage_reap(storage, &done));
            assert_int_equal(done->status, DS_OK);
            assert_true(done >= requests && done < requests + COUNT);
            assert_ptr_equal(done->user, &seen[done - requests]);
            ++*(int *)done->user;
        }
        assert_int_equal(ds_storage_in_flight(storage), 0);
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(seen[i], 1);
    }
    assert_memory_equal(sent, got, (size_t)COUNT * BLOCK);
    ds_storage_close(storage);
    free(sent);
    free(got);
}

/* A file that ends inside the block, at its start, or long before: an error, and the queue goes on. */
static void a_read_behind_the_end_fails_alone(void **state)
{
    struct row *row = *state;
    struct ds_storage *storage = open_storage_or_skip(row, 2);
    uint8_t data[BLOCK] = {7};
    static const uint64_t offsets[] = {1, BLOCK, 10 * BLOCK};
    struct ds_storage_request request = {.is_write = 1, .file = row->file, .data = data};

    request.bytes = BLOCK;
    assert_ok(run_one(storage, &request));
    request.is_write = 0;
    ds_log.terminal = -1;
    for (int i = 0; i < 3; i++) {
        request.offset = offsets[i];
        assert_int_equal(run_one(storage, &request), DS_ERR_IO);
    }
    request.file = row->file + 1000; /* no such descriptor */
    request.offset = 0;
    struct ds_storage_request *done;
    if (ds_storage_submit(storage, &request) == DS_OK) {
        assert_ok(ds_storage_reap(storage, &done));
        assert_int_equal(done->status, DS_ERR_IO);
    }
    ds_log.terminal = 2;
    request.file = row->file;
    assert_ok(run_one(storage, &request));
    ds_storage_close(storage);
}

static void closing_waits_for_what_is_in_flight(void **state)
{
    struct row *row = *state;
    struct ds_storage *storage = open_storage_or_skip(row, 8);
    static uint8_t data[8][BLOCK], got[BLOCK];
    struct ds_storage_request requests[8] = {0};

    for (uint32_t i = 0; i < 8; i++) {
        fill_pattern(data[i], BLOCK, i);
        requests[i] = (struct ds_storage_request){
            .is_write = 1, .file = row->file, .data = data[i], .bytes = BLOCK, .offset = i * BLOCK};
        assert_ok(ds_storage_submit(storage, &requests[i]));
    }
    ds_storage_close(storage);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(ds_fs_read_all(row->fs, row->file, got, BLOCK, i * BLOCK), 0);
        assert_memory_equal(got, data[i], BLOCK);
    }
    ds_storage_close(NULL);
}

static void the_nth_completion_fails_and_only_that_one(void **state)
{
    struct row *row = *state;
    struct ds_storage *storage = open_storage_or_skip(row, 4);
    uint8_t data[BLOCK] = {1};
    struct ds_storage_request request = {.is_write = 1, .file = row->file, .data = data};

    request.bytes = BLOCK;
    assert_ok(ds_storage_fault_open(storage, 3, &storage));
    assert_string_equal(ds_storage_name(storage), "fault");
    ds_log.terminal = -1;
    for (int i = 1; i <= 5; i++)
        assert_int_equal(run_one(storage, &request), i == 3 ? DS_ERR_IO : DS_OK);
    ds_log.terminal = 2;
    assert_ok(ds_storage_submit(storage, &request)); /* closing reaps through the fault, too */
    ds_storage_close(storage);
}

/* ---- the queue's limit is a bug to pass, so it ends the process: seen from a child */

static void one_more_than_the_depth_is_a_bug(void **state)
{
    struct row *row = *state;
    uint8_t data[BLOCK] = {0};
    struct ds_storage_request requests[3] = {0};
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        struct ds_storage *storage;

        ds_log.terminal = -1;
        signal(SIGABRT, SIG_DFL);
        if (ds_storage_open(row->fs, row->backend, 2, &storage) != DS_OK)
            _exit(77);
        for (int i = 0; i < 3; i++) {
            requests[i] = (struct ds_storage_request){
                .is_write = 1, .file = row->file, .data = data, .bytes = BLOCK};
            if (ds_storage_submit(storage, &requests[i]) != DS_OK || i == 2)
                _exit(1);
        }
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- the choice */

static void auto_takes_threads_where_there_are_no_kernel_descriptors(void **state)
{
    struct ds_fs *sim, *faulty;
    struct ds_storage *storage;

    (void)state;
    assert_ok(ds_fs_sim_open(&sim));
    assert_ok(ds_storage_open(sim, "auto", 4, &storage));
    assert_string_equal(ds_storage_name(storage), "threads");
    ds_storage_close(storage);
    assert_ok(ds_fs_fault_open(ds_fs_posix(), 0, &faulty));
    assert_ok(ds_storage_open(faulty, "auto", 4, &storage));
    assert_string_equal(ds_storage_name(storage), "threads");
    ds_storage_close(storage);
    ds_log.terminal = -1;
    assert_int_equal(ds_storage_open(sim, "io_uring", 4, &storage), DS_ERR_UNSUPPORTED);
    assert_int_equal(ds_storage_open(sim, "spdk", 4, &storage), DS_ERR_UNSUPPORTED);
    ds_log.terminal = 2;
    ds_fs_fault_close(faulty);
    ds_fs_sim_close(sim);
}

static void auto_takes_io_uring_where_it_is_permitted(void **state)
{
    struct ds_storage *storage, *best;

    (void)state;
    ds_log.terminal = -1;
    ds_status st = ds_storage_open(ds_fs_posix(), "io_uring", 4, &storage);
    ds_log.terminal = 2;
    assert_ok(ds_storage_open(ds_fs_posix(), "auto", 4, &best));
    assert_string_equal(ds_storage_name(best), st == DS_OK ? "io_uring" : "threads");
    ds_storage_close(best);
    if (st != DS_OK)
        skip();
    ds_storage_close(storage);
}

/* A disk that moves a thousand bytes a call. */
static int64_t short_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    (void)fs;
    return ds_fs_pread(ds_fs_posix(), file, to, bytes < 1000 ? bytes : 1000, offset);
}

static int64_t short_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                            uint64_t offset)
{
    (void)fs;
    return ds_fs_pwrite(ds_fs_posix(), file, from, bytes < 1000 ? bytes : 1000, offset);
}

static void short_counts_are_continued(void **state)
{
    struct row *row = *state;
    const struct ds_fs_ops ops = {.name = "short", .pread = short_pread, .pwrite = short_pwrite};
    struct ds_fs fs = {&ops};
    struct ds_storage *storage;
    uint8_t sent[BLOCK], got[BLOCK] = {0};
    struct ds_storage_request request = {
        .is_write = 1, .file = row->file, .data = sent, .bytes = BLOCK, .offset = 7};

    fill_pattern(sent, BLOCK, 3);
    assert_ok(ds_storage_open(&fs, "auto", 2, &storage));
    assert_ok(run_one(storage, &request));
    request.is_write = 0;
    request.data = got;
    assert_ok(run_one(storage, &request));
    assert_memory_equal(sent, got, BLOCK);
    ds_storage_close(storage);
}

/* A disk fault below the threads comes up as the status of one request. */
static void a_disk_fault_is_the_status_of_one_request(void **state)
{
    struct ds_fs *sim, *faulty;
    struct ds_storage *storage;
    uint8_t data[BLOCK] = {0};
    struct ds_storage_request request = {.is_write = 1, .data = data, .bytes = BLOCK};

    (void)state;
    assert_ok(ds_fs_sim_open(&sim));
    assert_ok(ds_fs_fault_open(sim, 3, &faulty)); /* open, write, write */
    request.file = ds_fs_open(faulty, "/f", DS_FS_WRITE | DS_FS_CREATE, 0644);
    assert_ok(ds_storage_open(faulty, "threads", 1, &storage));
    ds_log.terminal = -1;
    assert_int_equal(run_one(storage, &request), DS_OK);
    assert_int_equal(run_one(storage, &request), DS_ERR_IO);
    assert_int_equal(run_one(storage, &request), DS_OK);
    ds_log.terminal = 2;
    ds_storage_close(storage);
    assert_int_equal(ds_fs_close(faulty, request.file), 0);
    ds_fs_fault_close(faulty);
    ds_fs_sim_close(sim);
}

/* clang-format off */
#define ROW(test, name) {#test "/" name, test, open_row, close_row, name}
#define FOR_EACH_BACKEND(test) \
    ROW(test, "threads"), ROW(test, "threads on sim"), ROW(test, "io_uring")
/* clang-format on */

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOR_EACH_BACKEND(round_trip_returns_the_same_bytes),
        FOR_EACH_BACKEND(every_request_comes_back_once),
        FOR_EACH_BACKEND(a_read_behind_the_end_fails_alone),
        FOR_EACH_BACKEND(closing_waits_for_what_is_in_flight),
        FOR_EACH_BACKEND(the_nth_completion_fails_and_only_that_one),
        FOR_EACH_BACKEND(one_more_than_the_depth_is_a_bug),
        ROW(short_counts_are_continued, "threads"),
        cmocka_unit_test(auto_takes_threads_where_there_are_no_kernel_descriptors),
        cmocka_unit_test(auto_takes_io_uring_where_it_is_permitted),
        cmocka_unit_test(a_disk_fault_is_the_status_of_one_request),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
