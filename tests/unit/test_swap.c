// link: storage device base
// tsan
/* Blocks that live in files and travel by the streams of a device: whatever is queued, what is loaded is what was stored
 * last, on every level, over several drives, with few slots, inline and deferred. What a disk loses, changes or refuses is
 * found, and no stream waits for ever. */
#include "sharing_disk.h"
#include "test.h"

#include "dstrain/device.h"
#include "dstrain/digest.h"
#include "dstrain/random.h"
#include "dstrain/swap.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

enum { BLOCK = 8192, BLOCKS = 11, DRIVES_MAX = 3, HEADER = 4096 };

struct rig {
    const char *level;
    enum ds_device_mode mode;
    struct ds_device *device;
    struct ds_stream *load, *store;
    struct ds_swap *swap;
    struct ds_swap_shape shape;
    void *slots;
    char root[512], paths[DRIVES_MAX][600];
    int files[DRIVES_MAX];
    struct ds_storage_faults faults;
};

static const struct ds_device_ops *ops = &ds_device_cpu_ops;

static void open_files(struct rig *r, struct ds_swap_drive *drives)
{
    snprintf(r->root, sizeof r->root, "%s/test_swap.XXXXXX", DS_BINARY_DIR);
    assert_non_null(mkdtemp(r->root));
    for (uint32_t i = 0; i < r->shape.drive_count; i++) {
        const char *why;

        snprintf(r->paths[i], sizeof r->paths[i], "%s/drive-%u", r->root, i);
        r->files[i] = ds_fs_create_direct(ds_fs_posix(), r->paths[i], 0600, &why);
        assert_true(r->files[i] >= 0);
        assert_int_equal(ds_fs_fallocate(ds_fs_posix(), r->files[i],
                                         HEADER + ds_swap_file_bytes(r->swap, i) +
                                             ds_swap_kept_bytes(r->swap, i)),
                         0);
        drives[i] = (struct ds_swap_drive){r->files[i], HEADER, r->paths[i]};
    }
}

/* "fixed inline": a level and a mode; skips where the level is not to be had here */
static void rig_open(struct rig *r, const char *row, uint32_t drives, uint32_t slots, uint64_t seed)
{
    const struct ds_device_options options = {.mode = strstr(row, "deferred") ? DS_DEVICE_DEFERRED
                                                                              : DS_DEVICE_INLINE,
                                              .seed = seed,
                                              .thread_count = 1,
                                              .clock = ds_clock_system()};
    struct ds_swap_drive places[DRIVES_MAX];

    r->level = strstr(row, "fixed") ? "fixed" : strstr(row, "plain") ? "plain" : "threads";
    r->shape = (struct ds_swap_shape){.drive_count = drives,
                                      .slot_bytes = BLOCK,
                                      .slot_count = {slots, slots, 1},
                                      .block_count = BLOCKS};
    assert_ok(ops->open(0, &options, &r->device));
    assert_ok(ops->stream_open(r->device, DS_STREAM_WORKER, &r->load));
    assert_ok(ops->stream_open(r->device, DS_STREAM_WORKER, &r->store));
    assert_ok(
        ops->alloc(r->device, DS_MEMORY_PINNED, ds_swap_slots_bytes(&r->shape), 0, &r->slots));
    assert_ok(ds_swap_open(&r->shape, r->slots, &r->swap));
    assert_int_equal(ds_swap_reserve(r->swap, BLOCK, BLOCKS - 2), 0);
    assert_int_equal(ds_swap_reserve(r->swap, BLOCK / 2, 2), BLOCKS - 2);
    ds_swap_keep(r->swap, 1, BLOCKS - 2); /* neither the first nor the last */
    open_files(r, places);
    const struct ds_swap_files files = {sharing_disk(), places, r->level, ds_clock_system(),
                                        &r->faults};
    const ds_status st = ds_swap_start(r->swap, &files);
    if (st == DS_ERR_UNSUPPORTED)
        skip();
    assert_ok(st);
}

static void rig_close(struct rig *r)
{
    ds_swap_abandon(r->swap);
    ops->stream_close(r->load);
    ops->stream_close(r->store);
    ds_swap_close(r->swap);
    ops->release(r->device, DS_MEMORY_PINNED, r->slots, ds_swap_slots_bytes(&r->shape));
    ops->close(r->device);
    for (uint32_t i = 0; i < r->shape.drive_count; i++)
        (void)ds_fs_close(ds_fs_posix(), r->files[i]);
    (void)ds_fs_remove_tree(ds_fs_posix(), r->root);
}

/* ---- what a run does with it */

static ds_status load(struct rig *r, uint32_t block, void *to)
{
    struct ds_swap_slot slot;

    DS_TRY(ds_swap_queue(r->swap, DS_SWAP_LOAD, block, &slot));
    DS_TRY(ds_stream_await(r->load, slot.full));
    DS_TRY(ops->copy(r->load, to, slot.at, ds_swap_block_bytes(r->swap, block)));
    return ds_stream_signal(r->load, slot.empty);
}

static ds_status store(struct rig *r, uint32_t block, const void *from)
{
    struct ds_swap_slot slot;

    DS_TRY(ds_swap_queue(r->swap, DS_SWAP_STORE, block, &slot));
    DS_TRY(ds_stream_await(r->store, slot.empty));
    DS_TRY(ops->copy(r->store, slot.at, from, ds_swap_block_bytes(r->swap, block)));
    return ds_stream_signal(r->store, slot.full);
}

static void fill(uint8_t *to, uint64_t seed, uint64_t number)
{
    for (size_t i = 0; i < BLOCK; i++)
        to[i] = (uint8_t)ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, number), i, 256);
}

/* Everything is queued before anything is waited for, some of it far ahead of its data. */
static void what_is_loaded_is_what_was_stored_last(void **state)
{
    enum { ROUNDS = 4, JOBS = 60 };
    static uint8_t data[JOBS][BLOCK], got[JOBS][BLOCK];
    const uint64_t seed = test_seed(*state);
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 1);

    for (uint64_t round = 0, drawn = 0; round < ROUNDS; round++) {
        const uint32_t drives = 1 + (uint32_t)ds_random_below(random, drawn++, DRIVES_MAX);
        const uint32_t slots = 1 + (uint32_t)ds_random_below(random, drawn++, 4);
        int last[BLOCKS], want[JOBS];
        struct rig r = {0};

        rig_open(&r, *state, drives, slots, seed + round);
        memset(last, -1, sizeof last);
        memset(got, 0, sizeof got);
        for (int i = 0; i < JOBS; i++) {
            const uint32_t block = (uint32_t)ds_random_below(random, drawn++, BLOCKS);

            want[i] = last[block];
            fill(data[i], seed, (uint64_t)i + 2);
            if (ds_random_below(random, drawn++, 2)) {
                assert_ok(store(&r, block, data[i]));
                last[block] = i;
                want[i] = -2;
            } else {
                assert_ok(load(&r, block, got[i]));
            }
        }
        assert_ok(ops->stream_sync(r.store));
        assert_ok(ops->stream_sync(r.load));
        for (int i = 0; i < JOBS; i++) {
            static const uint8_t zeros[BLOCK];
            if (want[i] >= -1) /* the shortest block is half of one */
                assert_memory_equal(got[i], want[i] < 0 ? zeros : data[want[i]], BLOCK / 2);
        }
        assert_ok(ds_swap_status(r.swap));
        rig_close(&r);
    }
}

/* The host writes and reads between two steps. */
static void the_host_may_take_a_streams_place(void **state)
{
    static uint8_t sent[BLOCK], got[BLOCK];
    struct rig r = {0};

    rig_open(&r, *state, 2, 1, 1);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        fill(sent, 7, block);
        assert_int_equal(ds_swap_version(r.swap, block), 0);
        assert_ok(ds_swap_write(r.swap, block, sent));
        assert_int_equal(ds_swap_version(r.swap, block), 1);
    }
    for (uint32_t block = 0; block < BLOCKS; block++) {
        fill(sent, 7, block);
        assert_ok(load(&r, block, got));
        assert_ok(ops->stream_sync(r.load));
        assert_memory_equal(got, sent, ds_swap_block_bytes(r.swap, block));
        memset(got, 0, sizeof got);
        assert_ok(ds_swap_read(r.swap, block, got));
        assert_memory_equal(got, sent, ds_swap_block_bytes(r.swap, block));
    }
    rig_close(&r);
}

/* What a graph does again and again is queued again with it; in between others go their way. */
static void a_tape_is_queued_by_each_launch(void **state)
{
    static uint8_t kept[3][BLOCK];
    struct ds_swap_slot slots[6];
    struct rig r = {0};

    rig_open(&r, *state, 1, 2, 3);
    ds_swap_record_begin(r.swap, 1);
    for (uint32_t i = 0; i < 3; i++) { /* a block goes to the next one */
        assert_ok(ds_swap_queue(r.swap, DS_SWAP_LOAD, i, &slots[2 * i]));
        assert_ok(ds_swap_queue(r.swap, DS_SWAP_STORE, i + 1, &slots[2 * i + 1]));
    }
    ds_swap_record_end(r.swap);
    fill(kept[0], 5, 5);
    assert_ok(ds_swap_write(r.swap, 0, kept[0]));
    for (int launch = 0; launch < 3; launch++) {
        assert_ok(ds_swap_launch(r.swap, 1));
        for (int i = 0; i < 3; i++) {
            struct ds_event *event;

            assert_ok(ops->event_open(r.device, &event));
            assert_ok(ds_stream_await(r.load, slots[2 * i].full));
            assert_ok(ops->copy(r.load, kept[i], slots[2 * i].at, BLOCK));
            assert_ok(ds_stream_signal(r.load, slots[2 * i].empty));
            assert_ok(ds_stream_after(r.store, r.load, event));
            assert_ok(ds_stream_await(r.store, slots[2 * i + 1].empty));
            assert_ok(ops->copy(r.store, slots[2 * i + 1].at, kept[i], BLOCK));
            assert_ok(ds_stream_signal(r.store, slots[2 * i + 1].full));
            assert_ok(ops->stream_sync(r.store));
            ops->event_close(event);
        }
        assert_ok(ops->stream_sync(r.load));
        assert_ok(ds_swap_read(r.swap, 3, kept[1]));
        fill(kept[2], 5, 5);
        assert_memory_equal(kept[1], kept[2], BLOCK);
    }
    rig_close(&r);
}

/* ---- as it was at one moment */

struct moment {
    int files[DRIVES_MAX];
    struct ds_swap_still stills[BLOCKS];
};

static void open_moment(const struct rig *r, struct moment *m)
{
    for (uint32_t i = 0; i < r->shape.drive_count; i++) {
        char path[700];

        snprintf(path, sizeof path, "%s.still", r->paths[i]);
        m->files[i] =
            ds_fs_open(ds_fs_posix(), path, DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE, 0600);
        assert_true(m->files[i] >= 0);
    }
}

static ds_status await_frozen(struct rig *r, struct moment *m)
{
    ds_status st;

    while (!ds_swap_frozen(r->swap, &st))
        usleep(100);
    if (st == DS_OK)
        ds_swap_stills(r->swap, m->stills);
    return st;
}

/* Neither what was written before and is still on its way is missing, nor is anything there that was written later. */
static void what_is_frozen_is_what_had_been_stored(void **state)
{
    enum { ROUNDS = 3, STORES = 40 };
    static uint8_t data[STORES + 1][BLOCK], got[BLOCK];
    const uint64_t seed = test_seed(*state);
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 2);

    for (uint64_t round = 0, drawn = 0; round < ROUNDS; round++) {
        const uint32_t drives = 1 + (uint32_t)ds_random_below(random, drawn++, DRIVES_MAX);
        int last[BLOCKS] = {0}, then[BLOCKS] = {0}, before[BLOCKS];
        struct rig r = {0};
        struct moment m;

        rig_open(&r, *state, drives, 1 + (uint32_t)ds_random_below(random, drawn++, 4),
                 seed + round);
        open_moment(&r, &m);
        for (int i = 1; i <= STORES; i++) {
            const uint32_t block = (uint32_t)ds_random_below(random, drawn++, BLOCKS);

            if (i == STORES / 3 || i == STORES / 2) {
                if (i == STORES / 2) { /* the second one, which says what is new since the first */
                    assert_ok(ops->stream_sync(r.store));
                    assert_ok(await_frozen(&r, &m));
                }
                memcpy(before, then, sizeof then);
                memcpy(then, last, sizeof then);
                assert_ok(ds_swap_freeze(r.swap, m.files));
            }
            fill(data[i], seed, (uint64_t)i + 900);
            assert_ok(store(&r, block, data[i]));
            last[block] = i;
        }
        assert_ok(ops->stream_sync(r.store));
        assert_ok(await_frozen(&r, &m));
        for (uint32_t b = 1; b + 1 < BLOCKS; b++) {
            const struct ds_swap_still *still = &m.stills[b];

            assert_int_equal(still->bytes, ds_swap_block_bytes(r.swap, b));
            assert_int_equal(ds_fs_read_all(ds_fs_posix(), m.files[still->drive], got, still->bytes,
                                            still->offset),
                             0);
            assert_memory_equal(got, data[then[b]], still->bytes);
            assert_int_equal(ds_crc32c(0, got, still->bytes), still->sum);
            assert_int_equal(still->is_fresh, then[b] != before[b]);
        }
        for (uint32_t b = 0; b < BLOCKS; b++) { /* and what is loaded is what was stored last */
            assert_ok(ds_swap_read(r.swap, b, got));
            assert_memory_equal(got, data[last[b]], ds_swap_block_bytes(r.swap, b));
        }
        assert_ok(ds_swap_status(r.swap));
        for (uint32_t i = 0; i < drives; i++)
            (void)ds_fs_close(ds_fs_posix(), m.files[i]);
        rig_close(&r);
    }
}

/* A file system that cannot costs a freeze, and nothing else. */
static void a_freeze_that_is_refused_stops_nothing(void **state)
{
    static uint8_t sent[BLOCK], got[BLOCK];
    struct rig r = {0};
    struct moment m;

    rig_open(&r, *state, 2, 2, 1);
    open_moment(&r, &m);
    fill(sent, 5, 5);
    assert_ok(ds_swap_write(r.swap, 2, sent));
    sharing.refuses = -EOPNOTSUPP;
    assert_ok(ds_swap_freeze(r.swap, m.files));
    assert_int_equal(await_frozen(&r, &m), DS_ERR_IO);
    sharing.refuses = 0;
    assert_ok(ds_swap_read(r.swap, 2, got));
    assert_memory_equal(sent, got, BLOCK);
    assert_ok(ds_swap_freeze(r.swap, m.files));
    assert_ok(await_frozen(&r, &m));
    assert_true(m.stills[2].is_fresh); /* the one that failed has no part in it */
    assert_ok(ds_swap_write(r.swap, 2, sent));
    sharing.renew_refuses = -ENOSPC; /* for the place that it has left */
    assert_ok(ds_swap_freeze(r.swap, m.files));
    assert_int_equal(await_frozen(&r, &m), DS_ERR_IO);
    fill(sent, 5, 6);
    assert_ok(ds_swap_write(r.swap, 2, sent));
    assert_ok(ds_swap_read(r.swap, 2, got));
    assert_memory_equal(sent, got, BLOCK);
    sharing.renew_refuses = 0;
    for (uint32_t i = 0; i < 2; i++)
        (void)ds_fs_close(ds_fs_posix(), m.files[i]);
    rig_close(&r);
}

static int is_in_file(const struct rig *r, const uint8_t *data)
{
    enum { PLACES = 2 * BLOCKS };
    static uint8_t all[HEADER + PLACES * BLOCK];
    const uint64_t bytes = HEADER + ds_swap_file_bytes(r->swap, 0) + ds_swap_kept_bytes(r->swap, 0);

    const int file = ds_fs_open(ds_fs_posix(), r->paths[0], DS_FS_READ, 0);
    assert_int_equal(ds_fs_read_all(ds_fs_posix(), file, all, bytes, 0), 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
    return memmem(all, bytes, data, BLOCK) != NULL;
}

/* Where files share what lies there, a write would need room that may not be there. */
static void what_is_frozen_is_not_written_over(void **state)
{
    enum { ROUNDS = 4 };
    static uint8_t data[ROUNDS][2][BLOCK];
    struct rig r = {0};
    struct moment m;

    rig_open(&r, *state, 1, 2, 1);
    open_moment(&r, &m);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        fill(data[i][0], 7, 2 * i);
        fill(data[i][1], 7, 2 * i + 1);
        assert_ok(ds_swap_write(r.swap, 4, data[i][0]));
        assert_ok(ds_swap_freeze(r.swap, m.files));
        assert_ok(await_frozen(&r, &m));
        for (int k = 0; k < 2; k++) { /* the second time in place */
            data[i][1][0] ^= 1;
            assert_ok(ds_swap_write(r.swap, 4, data[i][1]));
            assert_ok(ds_swap_read(r.swap, 4, data[i][1]));
            assert_true(is_in_file(&r, data[i][0]) && is_in_file(&r, data[i][1]));
        }
    }
    (void)ds_fs_close(ds_fs_posix(), m.files[0]);
    rig_close(&r);
}

/* ---- bad luck */

static void flip(const struct rig *r, uint64_t offset)
{
    const int file = ds_fs_open(ds_fs_posix(), r->paths[0], DS_FS_READ | DS_FS_WRITE, 0);
    uint8_t byte;

    assert_int_equal(ds_fs_pread(ds_fs_posix(), file, &byte, 1, offset), 1);
    byte ^= 0x10;
    assert_int_equal(ds_fs_pwrite(ds_fs_posix(), file, &byte, 1, offset), 1);
    assert_int_equal(ds_fs_fsync(ds_fs_posix(), file), 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
}

static void a_flipped_bit_is_found(void **state)
{
    static uint8_t sent[BLOCK], got[BLOCK];
    struct rig r = {0};

    rig_open(&r, *state, 1, 2, 1);
    fill(sent, 1, 1);
    assert_ok(ds_swap_write(r.swap, 3, sent));
    assert_ok(ds_swap_read(r.swap, 3, got)); /* it is there */
    flip(&r, HEADER + 3 * BLOCK + 77);
    assert_ok(ds_swap_status(r.swap));
    assert_ok(load(&r, 3, got));
    assert_ok(ops->stream_sync(r.load)); /* nobody waits for ever */
    assert_int_equal(ds_swap_status(r.swap), DS_ERR_CORRUPT);
    for (int i = 0; i < BLOCK; i++)
        assert_int_equal(got[i], 0xff);
    rig_close(&r);
}

/* The n-th operation fails for every n: it is found at once, nothing hangs, and what came before it was right. */
static void a_failed_operation_is_found(void **state)
{
    static uint8_t sent[BLOCK], got[BLOCK];

    fill(sent, 2, 2);
    for (uint64_t at = 1; at <= 6; at++) {
        struct rig r = {.faults = {.at = at, .times = 1, .result = -EIO}};

        rig_open(&r, *state, 1, 2, at);
        for (uint64_t i = 1; i <= 6; i++) {
            const int is_write = i % 2 == 1;
            ds_status st;

            memset(got, 0, sizeof got);
            assert_ok(is_write ? store(&r, 1, sent) : load(&r, 1, got));
            assert_ok(ops->stream_sync(is_write ? r.store : r.load));
            while (atomic_load(&r.faults.operations) < (i < at ? i : at))
                usleep(100); /* a write is on its way when its stream is through */
            st = ds_swap_status(r.swap);
            if (!is_write) {
                assert_int_equal(st, i < at ? DS_OK : DS_ERR_IO);
                assert_int_equal(got[0], i < at ? sent[0] : 0xff);
            }
        }
        rig_close(&r);
    }
}

/* A drive that moves a part only is asked for the rest. */
static void short_counts_are_continued(void **state)
{
    static uint8_t sent[BLOCK], got[BLOCK];
    struct rig r = {.faults = {.at = 1, .times = 1000, .result = 4096}};

    rig_open(&r, *state, 1, 1, 1);
    fill(sent, 3, 3);
    assert_ok(ds_swap_write(r.swap, 0, sent));
    assert_ok(ds_swap_read(r.swap, 0, got));
    assert_memory_equal(sent, got, BLOCK);
    assert_true(atomic_load(&r.faults.operations) >= 4);
    rig_close(&r);
}

/* Behind a write whose data never comes, as when the stream that brings it has failed. */
static void abandoned_streams_come_to_an_end(void **state)
{
    static uint8_t got[BLOCK];
    struct ds_swap_slot never;
    struct rig r = {0};

    rig_open(&r, *state, 1, 2, 1);
    assert_ok(ds_swap_queue(r.swap, DS_SWAP_STORE, 0, &never));
    for (int i = 0; i < 5; i++)
        assert_ok(load(&r, 0, got));
    ds_swap_abandon(r.swap);
    assert_ok(ops->stream_sync(r.load));
    rig_close(&r);
}

/* clang-format off */
#define FOR_EACH_ROW(test)                                          \
    {#test "/fixed inline", test, NULL, NULL, "fixed inline"},      \
    {#test "/fixed deferred", test, NULL, NULL, "fixed deferred"},  \
    {#test "/plain inline", test, NULL, NULL, "plain inline"},      \
    {#test "/plain deferred", test, NULL, NULL, "plain deferred"},  \
    {#test "/threads inline", test, NULL, NULL, "threads inline"},  \
    {#test "/threads deferred", test, NULL, NULL, "threads deferred"}
/* clang-format on */

int main(void)
{
    static const struct CMUnitTest tests[] = {
        FOR_EACH_ROW(what_is_loaded_is_what_was_stored_last),
        FOR_EACH_ROW(the_host_may_take_a_streams_place),
        FOR_EACH_ROW(a_tape_is_queued_by_each_launch),
        FOR_EACH_ROW(what_is_frozen_is_what_had_been_stored),
        FOR_EACH_ROW(what_is_frozen_is_not_written_over),
        FOR_EACH_ROW(a_freeze_that_is_refused_stops_nothing),
        FOR_EACH_ROW(a_flipped_bit_is_found),
        FOR_EACH_ROW(a_failed_operation_is_found),
        FOR_EACH_ROW(short_counts_are_continued),
        FOR_EACH_ROW(abandoned_streams_come_to_an_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
