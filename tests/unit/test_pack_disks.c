// link: checkpoint storage base
/* Packs on real disks: every level of storage, around the page cache and through it, leaves the same bytes; on a disk
 * that is full or slow a pack is whole or not there, and the writer goes on. */
#include "capture.h"
#include "pack_case.h"
#include "small_disk.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define POOL_SLOTS  4u
#define TMPFS_MAGIC 0x01021994

static const struct ds_pack_id id_of_test = {.epoch = 7, .step = 100, .rank = 1, .attempt = 2};
static const char *const levels[] = {"fixed", "plain", "threads"};

/* A state of two chunks and more, in memory that is registered, and a writer for it. */
struct rig {
    struct pack_case c; /* on the simulated disk */
    struct ds_fs *fs;   /* where packs are written */
    struct ds_pack_plan plan;
    struct ds_storage *storage;
    struct ds_pack_writer *writer;
    struct ds_pack_other written;
    uint8_t *pool;
    uint32_t slots_out; /* bits */
    int is_cached;
};

static void rig_open(struct rig *rig, struct ds_fs *fs)
{
    struct ds_piece pieces[PACK_CASE_TENSORS];
    struct ds_fs *sim;

    *rig = (struct rig){.fs = fs};
    assert_ok(ds_fs_sim_open(&sim));
    pack_case_open(&rig->c, sim, 1);
    for (uint32_t i = 0; i < PACK_CASE_TENSORS; i++) {
        const struct ds_box box = ds_box_whole(&rig->c.tensors[i]);

        pieces[i] = (struct ds_piece){i, box, 0, ds_box_elems(&box)};
    }
    assert_ok(ds_pack_plan_make(&rig->c.catalogue, pieces, PACK_CASE_TENSORS, DS_PACK_CHUNKS_MAX,
                                &rig->plan));
    assert_int_equal(rig->plan.chunk_count, PACK_CASE_TENSORS + 1);
    rig->pool = aligned_alloc(DS_PACK_ALIGN, POOL_SLOTS * (size_t)DS_PACK_CHUNK_BYTES);
}

static void rig_writer_close(struct rig *rig)
{
    ds_pack_writer_close(rig->writer);
    ds_storage_close(rig->storage);
    rig->writer = NULL;
    rig->storage = NULL;
    assert_int_equal(rig->slots_out, 0);
}

/* 0: this level is not to be had here */
static int rig_writer_open(struct rig *rig, const char *level)
{
    const struct ds_storage_memory memory = {rig->pool, POOL_SLOTS * (size_t)DS_PACK_CHUNK_BYTES};
    const struct ds_storage_options options = {
        .level = level, .depth = 2, .block_bytes = 1u << 20, .memory = &memory, .memory_count = 1};

    rig_writer_close(rig);
    ds_log.terminal = -1;
    ds_status st = ds_storage_open_with(rig->fs, &options, &rig->storage);
    ds_log.terminal = 2;
    if (st == DS_ERR_UNSUPPORTED)
        return 0;
    assert_ok(st);
    assert_ok(ds_pack_writer_open(rig->fs, rig->storage, 2, &rig->plan, &rig->writer));
    return 1;
}

static void rig_close(struct rig *rig)
{
    struct ds_fs *sim = rig->c.fs;

    rig_writer_close(rig);
    ds_pack_plan_fini(&rig->plan);
    pack_case_close(&rig->c);
    ds_fs_sim_close(sim);
    free(rig->pool);
}

/* ---- one pack */

static void slot_back(void *user, void *data)
{
    struct rig *rig = user;
    const size_t slot = (size_t)((uint8_t *)data - rig->pool) / DS_PACK_CHUNK_BYTES;

    assert_true(rig->slots_out & (1u << slot));
    rig->slots_out &= ~(1u << slot);
}

static uint8_t *slot_take(struct rig *rig)
{
    uint32_t slot = 0;

    while (rig->slots_out & (1u << slot))
        slot++;
    assert_true(slot < POOL_SLOTS); /* a chunk on its way for each of the depth, and one to fill */
    rig->slots_out |= 1u << slot;
    return rig->pool + (size_t)slot * DS_PACK_CHUNK_BYTES;
}

static ds_status put_chunk(struct rig *rig, uint32_t chunk)
{
    const struct ds_piece piece = pack_case_piece(&rig->plan, chunk);
    uint8_t *data = slot_take(rig);

    pack_case_fill(&rig->c, &piece, data);
    const struct ds_digest sealed = ds_digest_of(data, rig->plan.chunks[chunk].body_bytes);
    return ds_pack_put(rig->writer, data, &sealed, NULL);
}

static ds_status write_pack(struct rig *rig, const char *path)
{
    const struct ds_pack_new pack = {.path = path,
                                     .run = "a run's own name",
                                     .id = id_of_test,
                                     .is_cached = rig->is_cached,
                                     .done = slot_back,
                                     .user = rig};
    ds_status st = ds_pack_begin(rig->writer, &pack);

    for (uint32_t i = 0; i < rig->plan.chunk_count && st == DS_OK; i++)
        st = put_chunk(rig, i);
    if (st == DS_OK)
        st = ds_pack_finish(rig->writer, &rig->written);
    if (st != DS_OK)
        ds_pack_abandon(rig->writer);
    return st;
}

static void expect_verifies(struct rig *rig, const char *path)
{
    struct ds_pack *pack = NULL;

    assert_ok(ds_pack_open(ds_fs_posix(), path, &rig->written, &pack));
    assert_ok(ds_pack_verify(pack, &rig->c.catalogue, rig->pool));
    ds_pack_close(pack);
}

static void expect_absent(const char *path)
{
    struct ds_fs_stat stat;

    assert_int_equal(ds_fs_stat(ds_fs_posix(), path, &stat), -ENOENT);
}

/* ---- every level, direct and cached, two file systems that may differ in what they know */

static char *simulated_pack(struct rig *rig, size_t *bytes)
{
    char *text;

    rig->fs = rig->c.fs;
    assert_true(rig_writer_open(rig, "threads"));
    assert_ok(write_pack(rig, "/pack"));
    assert_ok(ds_fs_read_file(rig->fs, "/pack", 1 << 28, &text, bytes));
    rig_writer_close(rig);
    rig->fs = ds_fs_posix();
    return text;
}

static void expect_same(struct rig *rig, const char *folder, const char *wanted, size_t bytes)
{
    char path[4096], *real;
    size_t real_bytes;

    snprintf(path, sizeof path, "%s/test_pack-%d", folder, (int)getpid());
    assert_ok(write_pack(rig, path));
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1 << 28, &real, &real_bytes));
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
    assert_int_equal(real_bytes, bytes);
    assert_memory_equal(real, wanted, bytes);
    free(real);
}

static void every_storage_writes_the_same_file(void **state)
{
    static const char *const folders[] = {"/dev/shm", DS_BINARY_DIR};
    struct rig rig;
    size_t bytes;

    (void)state;
    rig_open(&rig, ds_fs_posix());
    char *wanted = simulated_pack(&rig, &bytes);
    for (int i = 0; i < 3 * 2 * 2; i++) {
        rig.is_cached = i / 2 % 2;
        if (rig_writer_open(&rig, levels[i / 4]))
            expect_same(&rig, folders[i % 2], wanted, bytes);
    }
    free(wanted);
    rig_close(&rig);
}

/* Pages of the file that lie in memory, of all. */
static double resident_part(const char *path)
{
    const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_READ, 0);
    struct ds_fs_stat stat;
    const void *at = NULL;
    size_t resident = 0;

    assert_int_equal(ds_fs_fstat(ds_fs_posix(), file, &stat), 0);
    assert_int_equal(ds_fs_map(ds_fs_posix(), file, stat.bytes, &at), 0);
    const size_t count = (stat.bytes + 4095) / 4096;
    unsigned char *pages = calloc(count, 1);
    assert_int_equal(mincore((void *)at, stat.bytes, pages), 0);
    for (size_t i = 0; i < count; i++)
        resident += pages[i] & 1;
    free(pages);
    ds_fs_unmap(ds_fs_posix(), at, stat.bytes);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
    return (double)resident / (double)count;
}

/* Checkpoints are not read soon: the memory that they would take is the training's. */
static void a_pack_does_not_stay_in_the_page_cache(void **state)
{
    char path[4096];
    struct statfs info;
    struct rig rig;

    (void)state;
    assert_int_equal(statfs(DS_BINARY_DIR, &info), 0);
    if (info.f_type == TMPFS_MAGIC)
        skip(); /* it is the page cache */
    snprintf(path, sizeof path, "%s/test_pack_cache-%d", DS_BINARY_DIR, (int)getpid());
    rig_open(&rig, ds_fs_posix());
    for (rig.is_cached = 0; rig.is_cached < 2; rig.is_cached++) {
        assert_true(rig_writer_open(&rig, "threads"));
        assert_ok(write_pack(&rig, path));
        assert_true(resident_part(path) < 0.1);
        assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
    }
    rig_close(&rig);
}

static void the_way_of_writes_is_told_once(void **state)
{
    struct capture capture;
    char path[4096];
    struct rig rig;

    (void)state;
    snprintf(path, sizeof path, "%s/test_pack_told-%d", DS_BINARY_DIR, (int)getpid());
    rig_open(&rig, ds_fs_posix());
    rig.is_cached = 1;
    assert_true(rig_writer_open(&rig, "threads"));
    capture_begin(&capture);
    for (int i = 0; i < 2; i++) {
        assert_ok(write_pack(&rig, path));
        assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
    }
    const char *text = capture_end(&capture);
    assert_non_null(strstr(text, "page cache: as asked for"));
    assert_null(strchr(text, '\n'));
    rig_close(&rig);
}

/* ---- a disk of 8 MiB, of which 5 are taken; the pack has nearly 5 */

static int reserve_nothing(struct ds_fs *fs, int file, uint64_t bytes)
{
    (void)fs;
    (void)file;
    (void)bytes;
    return 0;
}

static void make_ballast(const char *path)
{
    const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_WRITE | DS_FS_CREATE, 0600);

    assert_true(file >= 0);
    assert_int_equal(ds_fs_fallocate(ds_fs_posix(), file, 5u << 20), 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
}

/* No room: told, and nothing stays. Then there is room: the same writer writes a whole pack. */
static void fill_and_recover(struct rig *rig, const char *folder)
{
    char ballast[128], path[128];
    struct capture capture;

    snprintf(ballast, sizeof ballast, "%s/ballast", folder);
    snprintf(path, sizeof path, "%s/pack", folder);
    make_ballast(ballast);
    capture_begin(&capture);
    assert_int_equal(write_pack(rig, path), DS_ERR_IO);
    assert_non_null(strstr(capture_end(&capture), strerror(ENOSPC)));
    assert_int_equal(rig->slots_out, 0);
    expect_absent(path);
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), ballast), 0);
    assert_ok(write_pack(rig, path));
    expect_verifies(rig, path);
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
}

/* Once where the size is reserved before the first chunk, once where that cannot be done and a write meets the end. */
static void a_full_disk_has_no_half_packs(void **state)
{
    struct ds_fs_ops careless_ops = *ds_fs_posix()->ops;
    struct ds_fs careless = {&careless_ops};
    char folder[64];
    struct rig rig;

    (void)state;
    if (!small_disk_mount(8u << 20, folder, sizeof folder))
        skip();
    careless_ops.fallocate = reserve_nothing;
    rig_open(&rig, ds_fs_posix());
    for (int i = 0; i < 3 * 2; i++) {
        rig.fs = i % 2 ? &careless : ds_fs_posix();
        if (rig_writer_open(&rig, levels[i / 2]))
            fill_and_recover(&rig, folder);
    }
    rig_close(&rig);
    small_disk_unmount(folder);
}

/* ---- a disk of 10 MB/s */

#define SLOW_BYTES_PER_S 10e6

static int64_t slow_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                           uint64_t offset)
{
    const double seconds = (double)bytes / SLOW_BYTES_PER_S;
    const struct timespec time = {(time_t)seconds,
                                  (long)((seconds - (double)(time_t)seconds) * 1e9)};

    (void)fs;
    nanosleep(&time, NULL);
    return ds_fs_pwrite(ds_fs_posix(), file, from, bytes, offset);
}

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* It takes its time, with no more memory than on a fast one (slot_take), and is whole. */
static void a_slow_disk_gets_whole_packs(void **state)
{
    struct ds_fs_ops slow_ops = *ds_fs_posix()->ops;
    struct ds_fs slow = {&slow_ops};
    char path[4096];
    struct rig rig;

    (void)state;
    slow_ops.pwrite = slow_pwrite;
    slow_ops.native = NULL; /* io_uring would not be slow */
    snprintf(path, sizeof path, "%s/test_pack_slow-%d", DS_BINARY_DIR, (int)getpid());
    rig_open(&rig, &slow);
    assert_true(rig_writer_open(&rig, "threads"));
    const double start_s = now_s();
    assert_ok(write_pack(&rig, path));
    /* two writes at a time, each at that rate */
    assert_true(now_s() - start_s >= (double)rig.written.file_bytes / SLOW_BYTES_PER_S / 2);
    expect_verifies(&rig, path);
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_storage_writes_the_same_file),
        cmocka_unit_test(a_pack_does_not_stay_in_the_page_cache),
        cmocka_unit_test(the_way_of_writes_is_told_once),
        cmocka_unit_test(a_full_disk_has_no_half_packs),
        cmocka_unit_test(a_slow_disk_gets_whole_packs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
