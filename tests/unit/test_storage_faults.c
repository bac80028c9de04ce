// link: storage base
// tsan
/* Operations that fail, for every n and every level: the n-th one with EIO or ENOSPC ends its own request and no other,
 * a short or interrupted one none at all. A disk that is full, and one that does not answer. */
#include "capture.h"
#include "small_disk.h"
#include "storage_row.h"

#include <errno.h>
#include <semaphore.h>

#define BLOCK ROW_BLOCK

enum { REQUESTS = 6, BLOCKS_EACH = 3, BYTES = REQUESTS * BLOCKS_EACH * (int)BLOCK };

struct outcome {
    int failed; /* requests */
    ds_status st[REQUESTS];
};

/* Writes the file anew with one request after the other. */
static struct outcome write_all(struct storage_row *row, struct ds_storage *storage, uint64_t seed)
{
    struct outcome out = {0};

    storage_row_fill(row->memory, BYTES, seed);
    row->faults.operations = 0;
    for (int i = 0; i < REQUESTS; i++) {
        const size_t at = (size_t)i * BLOCKS_EACH * BLOCK;
        struct ds_storage_request request = {.is_write = 1,
                                             .file = row->file,
                                             .data = row->memory + at,
                                             .bytes = BLOCKS_EACH * BLOCK,
                                             .offset = at};

        out.st[i] = storage_row_one(storage, &request);
        out.failed += out.st[i] != DS_OK;
    }
    return out;
}

/* What was said to be written is. */
static void expect_written(struct storage_row *row, const struct outcome *outcome)
{
    static uint8_t got[BYTES];

    for (int i = 0; i < REQUESTS; i++) {
        const size_t at = (size_t)i * BLOCKS_EACH * BLOCK;

        if (outcome->st[i] != DS_OK)
            continue;
        storage_row_read(row, got, BLOCKS_EACH * BLOCK, at);
        assert_memory_equal(got, row->memory + at, BLOCKS_EACH * BLOCK);
    }
}

static void fail_operation(struct storage_row *row, struct ds_storage *storage, uint64_t n,
                           int code)
{
    struct capture capture;

    row->faults.at = n;
    row->faults.times = 1;
    row->faults.result = -code;
    capture_begin(&capture);
    const struct outcome outcome = write_all(row, storage, n);
    const char *text = capture_end(&capture);
    assert_int_equal(outcome.failed, 1);
    assert_int_equal(outcome.st[(n - 1) / BLOCKS_EACH], DS_ERR_IO);
    assert_non_null(strstr(text, strerror(code)));
    assert_null(strchr(text, '\n')); /* told once */
    expect_written(row, &outcome);
}

static void the_nth_operation_fails_its_own_request(void **state)
{
    static const int codes[] = {EIO, ENOSPC, EDQUOT, EBADF};
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, BLOCK);

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        /* after the request that fails, there are fewer operations than the others have */
        for (uint64_t n = 1; n <= REQUESTS * BLOCKS_EACH; n++)
            fail_operation(row, storage, n, codes[i]);
    }
    row->faults.times = 0;
    const struct outcome whole = write_all(row, storage, 1000);
    assert_int_equal(whole.failed, 0);
    expect_written(row, &whole);
    ds_storage_close(storage);
}

static void nothing_is_lost(struct storage_row *row, struct ds_storage *storage, int64_t result,
                            uint64_t times)
{
    for (uint64_t n = 1; n <= REQUESTS * BLOCKS_EACH; n++) {
        row->faults.at = n;
        row->faults.times = times;
        row->faults.result = result;
        const struct outcome outcome = write_all(row, storage, n);
        assert_int_equal(outcome.failed, 0);
        assert_true(row->faults.operations > REQUESTS * BLOCKS_EACH); /* it was done again */
        expect_written(row, &outcome);
    }
}

/* A direct file goes on at a whole block: at the odd byte it would be refused. */
static void a_short_operation_is_continued(void **state)
{
    static const int64_t results[] = {1, 511, 1000, BLOCK - 1};
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, BLOCK);

    for (size_t i = 0; i < sizeof results / sizeof results[0]; i++)
        nothing_is_lost(row, storage, results[i], 1);
    ds_storage_close(storage);
}

static void an_interrupted_operation_is_done_again(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, BLOCK);

    nothing_is_lost(row, storage, -EINTR, 1);
    nothing_is_lost(row, storage, -EAGAIN, 20);
    ds_storage_close(storage);
}

/* ...but not for ever: nobody would hear of it. */
static void patience_ends(void **state)
{
    static const int64_t results[] = {-EAGAIN, 17};
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, BLOCK);

    for (int i = 0; i < 2; i++) {
        row->faults.at = 4;
        row->faults.times = UINT64_MAX;
        row->faults.result = results[i];
        ds_log.terminal = -1;
        const struct outcome outcome = write_all(row, storage, 1);
        ds_log.terminal = 2;
        assert_int_equal(outcome.st[0], DS_OK);
        for (int r = 1; r < REQUESTS; r++)
            assert_int_equal(outcome.st[r], DS_ERR_IO);
    }
    ds_storage_close(storage);
}

/* ---- a tmpfs of 256 KiB */

#define DISK_BYTES ((size_t)256 << 10)

/* Twice as many blocks as there is place for; how many were taken. */
static size_t fill_disk(struct ds_storage *storage, int file, uint8_t *data)
{
    size_t written = 0;

    for (uint64_t at = 0; at < 2 * DISK_BYTES; at += 4 * BLOCK) {
        struct ds_storage_request request = {
            .is_write = 1, .file = file, .data = data, .bytes = 4 * BLOCK, .offset = at};

        written += storage_row_one(storage, &request) == DS_OK;
    }
    return written;
}

static void a_full_disk_refuses_and_takes_again(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, BLOCK);
    char folder[64], path[80];
    struct capture capture;

    if (!small_disk_mount(DISK_BYTES, folder, sizeof folder)) {
        ds_storage_close(storage);
        skip();
    }
    snprintf(path, sizeof path, "%s/f", folder);
    const int file = ds_fs_open(row->fs, path, DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE, 0644);
    assert_true(file >= 0);
    capture_begin(&capture);
    const size_t written = fill_disk(storage, file, row->memory);
    assert_non_null(strstr(capture_end(&capture), strerror(ENOSPC)));
    assert_int_equal(written, DISK_BYTES / (4 * BLOCK));
    assert_int_equal(ds_fs_truncate(row->fs, file, 0), 0);
    struct ds_storage_request request = {
        .is_write = 1, .file = file, .data = row->memory, .bytes = DISK_BYTES};
    assert_ok(storage_row_one(storage, &request));
    ds_storage_close(storage);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    small_disk_unmount(folder);
}

/* ---- a disk that does not answer until it is told to */

static sem_t may_write;

static int64_t waiting_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                              uint64_t offset)
{
    (void)fs;
    while (sem_wait(&may_write) != 0)
        ;
    return ds_fs_pwrite(ds_fs_posix(), file, from, bytes, offset);
}

/* Who submits never waits for the disk: all requests are taken before one of them is written. */
static void submitting_does_not_wait(void **state)
{
    enum { WAITING = 12 };
    struct storage_row *row = *state;
    const struct ds_fs_ops ops = {.name = "waiting", .pwrite = waiting_pwrite};
    struct ds_fs fs = {&ops};
    struct ds_storage_request requests[WAITING] = {0}, *done;
    struct ds_storage *storage = NULL;

    assert_int_equal(sem_init(&may_write, 0, 0), 0);
    assert_ok(ds_storage_open(&fs, "threads", WAITING, &storage));
    for (int i = 0; i < WAITING; i++) {
        requests[i].is_write = 1;
        requests[i].file = row->file;
        requests[i].data = row->memory;
        requests[i].bytes = BLOCK;
        assert_ok(ds_storage_submit(storage, &requests[i]));
    }
    for (int i = 0; i < WAITING; i++)
        sem_post(&may_write);
    for (int i = 0; i < WAITING; i++) {
        assert_ok(ds_storage_reap(storage, &done));
        assert_int_equal(done->status, DS_OK);
    }
    ds_storage_close(storage);
    sem_destroy(&may_write);
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
    assert_int_equal(storage_row_one(storage, &request), DS_OK);
    assert_int_equal(storage_row_one(storage, &request), DS_ERR_IO);
    assert_int_equal(storage_row_one(storage, &request), DS_OK);
    ds_log.terminal = 2;
    ds_storage_close(storage);
    assert_int_equal(ds_fs_close(faulty, request.file), 0);
    ds_fs_fault_close(faulty);
    ds_fs_sim_close(sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOR_EACH_ROW(the_nth_operation_fails_its_own_request),
        FOR_EACH_ROW(a_short_operation_is_continued),
        FOR_EACH_ROW(an_interrupted_operation_is_done_again),
        FOR_EACH_ROW(patience_ends),
        ROW(a_full_disk_refuses_and_takes_again, "fixed"),
        ROW(a_full_disk_refuses_and_takes_again, "plain"),
        ROW(a_full_disk_refuses_and_takes_again, "threads"),
        ROW(submitting_does_not_wait, "threads"),
        cmocka_unit_test(a_disk_fault_is_the_status_of_one_request),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
