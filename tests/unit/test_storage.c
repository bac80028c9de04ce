// link: storage base
// tsan
/* Queues of block reads and writes: one body for every level, around the page cache and through it, on the disk and on
 * the simulated one. */
#include "storage_row.h"

#include "dstrain/random.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#define BLOCK ROW_BLOCK

/* Three blocks, and where the page cache allows it some bytes more at an odd place. */
static void round_trip_returns_the_same_bytes(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 1, 0);
    const size_t bytes = 3 * BLOCK + (row->is_direct ? 0 : 5);
    uint8_t *sent = row->memory, *got = row->memory + 8 * BLOCK;
    struct ds_storage_request request = {.is_write = 1, .file = row->file, .data = sent};

    storage_row_fill(sent, bytes, 1);
    memset(got, 0, bytes);
    request.bytes = bytes;
    request.offset = row->is_direct ? BLOCK : 100;
    assert_ok(storage_row_one(storage, &request));
    assert_ok(ds_storage_flush(storage, row->file));
    request.is_write = 0;
    request.data = got;
    assert_ok(storage_row_one(storage, &request));
    assert_memory_equal(sent, got, bytes);
    ds_storage_close(storage);
}

/* The direct rows test nothing of their own if the file is not what it is called. */
static void a_direct_file_is_one(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 1, 0);

    if (row->is_sim) { /* which is strict */
        const int64_t odd = ds_fs_pwrite(row->fs, row->file, row->memory, BLOCK, 1);
        assert_int_equal(odd, row->is_direct ? -EINVAL : (int64_t)BLOCK);
    } else {
        assert_int_equal((fcntl(row->file, F_GETFL) & O_DIRECT) != 0, row->is_direct);
    }
    ds_storage_close(storage);
}

struct pass {
    struct storage_row *row;
    struct ds_storage *storage;
    int is_write, start;
    uint8_t *data;
};

enum { COUNT = 300, DEPTH = 7 };

static void submit_next(const struct pass *pass, struct ds_storage_request *request, int number,
                        int *seen)
{
    const size_t block = (size_t)(number * 7 + pass->start) % COUNT;

    *request = (struct ds_storage_request){.is_write = (uint8_t)pass->is_write,
                                           .file = pass->row->file,
                                           .data = pass->data + block * BLOCK,
                                           .bytes = BLOCK,
                                           .offset = block * BLOCK,
                                           .user = seen};
    assert_ok(ds_storage_submit(pass->storage, request));
}

static void move_every_block(const struct pass *pass)
{
    static struct ds_storage_request requests[COUNT];
    int seen[COUNT] = {0}, submitted = 0;

    for (int reaped = 0; reaped < COUNT; reaped++) {
        struct ds_storage_request *done;

        for (; submitted < COUNT && ds_storage_in_flight(pass->storage) < DEPTH; submitted++)
            submit_next(pass, &requests[submitted], submitted, &seen[submitted]);
        assert_ok(ds_storage_reap(pass->storage, &done));
        assert_int_equal(done->status, DS_OK);
        assert_true(done >= requests && done < requests + COUNT);
        assert_ptr_equal(done->user, &seen[done - requests]);
        ++*(int *)done->user;
    }
    assert_int_equal(ds_storage_in_flight(pass->storage), 0);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(seen[i], 1);
}

/* Many blocks, as many in flight as the queue takes, in an order of the seed; each request comes back
 * once, with its own user pointer, and the file holds every block in its place. */
static void every_request_comes_back_once(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, DEPTH, 0);
    const uint64_t seed = test_seed("every_request_comes_back_once");
    struct pass pass = {row, storage, 1, (int)(seed % COUNT), row->memory};
    uint8_t *got = row->memory + (size_t)COUNT * BLOCK;

    storage_row_fill(row->memory, (size_t)COUNT * BLOCK, seed);
    memset(got, 0, (size_t)COUNT * BLOCK);
    move_every_block(&pass);
    pass.is_write = 0;
    pass.data = got;
    move_every_block(&pass);
    assert_memory_equal(row->memory, got, (size_t)COUNT * BLOCK);
    ds_storage_close(storage);
}

/* Requests may lie in memory that was not registered. */
static void memory_of_any_kind_is_moved(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, 0);
    uint8_t *other = aligned_alloc(BLOCK, 2 * BLOCK), got[2 * BLOCK];
    struct ds_storage_request request = {
        .is_write = 1, .file = row->file, .data = other, .bytes = 2 * BLOCK};

    storage_row_fill(other, 2 * BLOCK, 9);
    assert_ok(storage_row_one(storage, &request));
    storage_row_read(row, got, sizeof got, 0);
    assert_memory_equal(got, other, sizeof got);
    ds_storage_close(storage);
    free(other);
}

/* A request that begins inside what is registered and ends behind it. */
static void a_request_may_leave_the_registered_memory(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = NULL;
    uint8_t got[4 * BLOCK];
    const struct ds_storage_memory memory[] = {{row->memory + BLOCK, BLOCK},
                                               {row->memory + 2 * BLOCK, BLOCK}};
    struct ds_storage_request request = {
        .is_write = 1, .file = row->file, .data = row->memory, .bytes = 4 * BLOCK};

    ds_storage_close(storage_row_or_skip(row, 1, 0));
    assert_ok(ds_storage_open_with(
        row->fs,
        &(struct ds_storage_options){
            .level = row->level, .depth = 1, .memory = memory, .memory_count = 2},
        &storage));
    storage_row_fill(row->memory, sizeof got, 4);
    for (int first = 0; first < 3; first++) {
        request.data = row->memory + (size_t)first * BLOCK;
        request.bytes = (size_t)(4 - first) * BLOCK;
        assert_ok(storage_row_one(storage, &request));
        storage_row_read(row, got, request.bytes, 0);
        assert_memory_equal(got, request.data, request.bytes);
    }
    ds_storage_close(storage);
}

/* A file that ends inside the block, at its start, or long before: an error, and the queue goes on. */
static void a_read_behind_the_end_fails_alone(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, 0);
    const uint64_t offsets[] = {row->is_direct ? 0 : 1, BLOCK, 10 * BLOCK};
    struct ds_storage_request request = {
        .is_write = 1, .file = row->file, .data = row->memory, .bytes = BLOCK};

    memset(row->memory, 7, BLOCK);
    assert_ok(storage_row_one(storage, &request));
    assert_int_equal(ds_fs_truncate(row->fs, row->file, BLOCK - 1), 0);
    request.is_write = 0;
    ds_log.terminal = -1;
    for (int i = 0; i < 3; i++) {
        request.offset = offsets[i];
        assert_int_equal(storage_row_one(storage, &request), DS_ERR_IO);
    }
    request.file = row->file + 1000; /* no such descriptor */
    request.offset = 0;
    assert_int_equal(storage_row_one(storage, &request), DS_ERR_IO);
    ds_log.terminal = 2;
    request.file = row->file;
    assert_int_equal(ds_fs_truncate(row->fs, row->file, BLOCK), 0);
    assert_ok(storage_row_one(storage, &request));
    ds_storage_close(storage);
}

static void closing_waits_for_what_is_in_flight(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 8, 0);
    struct ds_storage_request requests[8];
    uint8_t got[8 * BLOCK];

    storage_row_fill(row->memory, sizeof got, 5);
    for (uint32_t i = 0; i < 8; i++) {
        requests[i] = (struct ds_storage_request){.is_write = 1,
                                                  .file = row->file,
                                                  .data = row->memory + (size_t)i * BLOCK,
                                                  .bytes = BLOCK,
                                                  .offset = i * BLOCK};
        assert_ok(ds_storage_submit(storage, &requests[i]));
    }
    ds_storage_close(storage);
    storage_row_read(row, got, sizeof got, 0);
    assert_memory_equal(got, row->memory, sizeof got);
    ds_storage_close(NULL);
}

/* However large a request is, an operation moves a block of the queue at most. */
static void a_long_request_goes_in_blocks(void **state)
{
    struct storage_row *row = *state;
    struct ds_storage *storage = storage_row_or_skip(row, 2, 4 * BLOCK);
    uint8_t *got = row->memory + 64 * BLOCK;
    struct ds_storage_request request = {
        .is_write = 1, .file = row->file, .data = row->memory, .bytes = 11 * BLOCK};

    storage_row_fill(row->memory, request.bytes, 6);
    assert_ok(storage_row_one(storage, &request));
    assert_int_equal(row->faults.operations, 3);
    request.is_write = 0;
    request.data = got;
    assert_ok(storage_row_one(storage, &request));
    assert_int_equal(row->faults.operations, 6);
    assert_memory_equal(got, row->memory, request.bytes);
    ds_storage_close(storage);
}

/* ---- the queue's limit is a bug to pass, so it ends the process: seen from a child */

static void overfill(struct storage_row *row)
{
    struct ds_storage_request requests[3];
    struct ds_storage *storage = NULL;

    ds_log.terminal = -1;
    signal(SIGABRT, SIG_DFL);
    if (storage_row_try(row, 2, 0, &storage) != DS_OK)
        _exit(77);
    for (int i = 0; i < 3; i++) {
        requests[i] = (struct ds_storage_request){
            .is_write = 1, .file = row->file, .data = row->memory, .bytes = BLOCK};
        if (ds_storage_submit(storage, &requests[i]) != DS_OK || i == 2)
            _exit(1);
    }
}

static void one_more_than_the_depth_is_a_bug(void **state)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        overfill(*state);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- random reads and writes beside a plain array, while single operations come up short */

enum { MODEL_BLOCKS = 64, BATCH = 6, BATCHES = 60 };

struct random_case {
    struct storage_row *row;
    struct ds_storage *storage;
    struct ds_random random;
    uint64_t drawn;
    uint8_t model[MODEL_BLOCKS * BLOCK];
    struct ds_storage_request requests[BATCH];
};

static uint64_t draw(struct random_case *c, uint64_t below)
{
    return ds_random_u32(c->random, c->drawn++) % below;
}

/* Request i of a batch has a part of the file to itself, since no order is promised between them. */
static void submit_random(struct random_case *c, int i)
{
    const uint64_t part = MODEL_BLOCKS / BATCH * (uint64_t)BLOCK,
                   unit = c->row->is_direct ? BLOCK : 1;
    const uint64_t begin = draw(c, part / unit) * unit;
    const uint64_t bytes = (1 + draw(c, (part - begin) / unit)) * unit;
    struct ds_storage_request *request = &c->requests[i];

    *request = (struct ds_storage_request){.is_write = draw(c, 2) == 0,
                                           .file = c->row->file,
                                           .data = c->row->memory + (uint64_t)i * part,
                                           .bytes = bytes,
                                           .offset = (uint64_t)i * part + begin};
    if (request->is_write) {
        storage_row_fill(request->data, bytes, draw(c, UINT32_MAX));
        memcpy(c->model + request->offset, request->data, bytes);
    }
    assert_ok(ds_storage_submit(c->storage, request));
}

static void run_batch(struct random_case *c)
{
    struct ds_storage_request *done;

    c->row->faults.at = c->row->faults.operations + 1 + draw(c, BATCH);
    c->row->faults.times = draw(c, 3);
    c->row->faults.result = draw(c, 4) == 0 ? -EINTR : (int64_t)draw(c, 3 * BLOCK) + 1;
    for (int i = 0; i < BATCH; i++)
        submit_random(c, i);
    while (ds_storage_in_flight(c->storage) > 0) {
        assert_ok(ds_storage_reap(c->storage, &done));
        assert_int_equal(done->status, DS_OK);
        assert_memory_equal(done->data, c->model + done->offset, done->bytes);
    }
}

static void reads_and_writes_are_those_of_an_array(void **state)
{
    struct storage_row *row = *state;
    static struct random_case c;
    static uint8_t got[sizeof c.model];
    const uint64_t seed = test_seed("reads_and_writes_are_those_of_an_array");

    c = (struct random_case){.row = row, .random = ds_random_of(seed, DS_RANDOM_TEST, 0)};
    c.storage = storage_row_or_skip(row, BATCH, 2 * BLOCK);
    assert_int_equal(ds_fs_truncate(row->fs, row->file, sizeof c.model), 0);
    for (int i = 0; i < BATCHES; i++)
        run_batch(&c);
    storage_row_read(row, got, sizeof got, 0);
    assert_memory_equal(got, c.model, sizeof got);
    ds_storage_close(c.storage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOR_EACH_ROW(round_trip_returns_the_same_bytes),
        FOR_EACH_ROW(a_direct_file_is_one),
        FOR_EACH_ROW(every_request_comes_back_once),
        FOR_EACH_ROW(memory_of_any_kind_is_moved),
        FOR_EACH_ROW(a_request_may_leave_the_registered_memory),
        FOR_EACH_ROW(a_read_behind_the_end_fails_alone),
        FOR_EACH_ROW(closing_waits_for_what_is_in_flight),
        FOR_EACH_ROW(a_long_request_goes_in_blocks),
        FOR_EACH_ROW(one_more_than_the_depth_is_a_bug),
        FOR_EACH_ROW(reads_and_writes_are_those_of_an_array),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
