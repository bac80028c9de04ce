// link: data storage base
// private: runtime/data
/* From text to token shards: what is left when something fails on the way, and what becomes of texts and shards that are
 * not what they should be. */
#include "prepare_disk.h"

/* ---- what fails, and what is left then */

/* Fails with DS_ERR_DATA and one line that is `wanted`. */
static void assert_refused(struct ds_fs *fs, const char *source, const char *wanted)
{
    struct ds_prepare_report report = {0};
    struct capture log;
    char *shard = NULL;

    capture_begin(&log);
    ds_status st = prepare(fs, source, &shard, &report);
    const char *said = capture_end(&log);
    if (!strstr(said, wanted) || strchr(said, '\n'))
        fail_msg("wanted: %s\nsaid: %s", wanted, said);
    assert_int_equal(st, DS_ERR_DATA);
    assert_null(shard);
    assert_int_equal(report.files_made + report.bytes + report.tokens + report.documents, 0);
    assert_int_equal(names_in(fs, "cache/data", ""), 0);
}

static void a_source_without_text_is_refused_with_its_path(void **state)
{
    struct ds_fs *fs = *state;

    assert_int_equal(ds_fs_mkdir(fs, "bare", 0755), 0);
    put_text(fs, "bare/.hidden", "text");
    put_text(fs, "bare/empty", "");
    assert_refused(fs, "missing", "missing: cannot read this text: No such file or directory");
    assert_refused(fs, "bare/empty", "bare/empty: no text: this file is empty");
    assert_refused(fs, "bare",
                   "bare: no text: this directory has no regular file that is neither "
                   "empty nor hidden");
}

/* Wraps the disk. At the n-th read of a text it writes to that text, or, where it has none to write,
 * reads a wrong byte. A `big` one is a text of so many zeros, and keeps nothing of what is written. */
struct meddler {
    struct ds_fs fs;
    struct ds_fs_ops ops;
    struct ds_fs *inner;
    const char *path, *text;
    int reads, meddle_at;
    uint64_t big_bytes, written_bytes, end;
};

static int64_t meddling_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    struct meddler *m = (struct meddler *)fs;
    int is_now = ++m->reads == m->meddle_at;

    if (is_now && m->path) {
        int handle = ds_fs_open(m->inner, m->path, DS_FS_WRITE | DS_FS_TRUNCATE, 0);
        assert_int_equal(ds_fs_write_all(m->inner, handle, m->text, strlen(m->text), 0), 0);
        assert_int_equal(ds_fs_close(m->inner, handle), 0);
    }
    int64_t got = ds_fs_pread(m->inner, file, to, bytes, offset);
    if (is_now && !m->path)
        *(char *)to ^= 1;
    return got;
}

#define FORWARD(type, name, arguments, ...)                              \
    static type forward_##name arguments                                 \
    {                                                                    \
        return ds_fs_##name(((struct meddler *)fs)->inner, __VA_ARGS__); \
    }
FORWARD(int, open, (struct ds_fs * fs, const char *p, uint32_t flags, uint32_t mode), p, flags,
        mode)
FORWARD(int, close, (struct ds_fs * fs, int file), file)
FORWARD(int64_t, pwrite, (struct ds_fs * fs, int f, const void *b, size_t n, uint64_t at), f, b, n,
        at)
FORWARD(int, fallocate, (struct ds_fs * fs, int file, uint64_t bytes), file, bytes)
FORWARD(int, fsync, (struct ds_fs * fs, int file), file)
FORWARD(int, fsync_dir, (struct ds_fs * fs, const char *path), path)
FORWARD(int, rename, (struct ds_fs * fs, const char *from, const char *to), from, to)
FORWARD(int, unlink, (struct ds_fs * fs, const char *path), path)
FORWARD(int, mkdir, (struct ds_fs * fs, const char *path, uint32_t mode), path, mode)
FORWARD(int, stat, (struct ds_fs * fs, const char *path, struct ds_fs_stat *out), path, out)
FORWARD(int, fstat, (struct ds_fs * fs, int file, struct ds_fs_stat *out), file, out)
FORWARD(int, readdir, (struct ds_fs * fs, const char *path, char ***names, size_t *count), path,
        names, count)

static struct meddler meddler_of(struct ds_fs *inner, const char *path, const char *text, int at)
{
    return (struct meddler){
        .ops = {.name = "meddler",
                .open = forward_open,
                .close = forward_close,
                .pread = meddling_pread,
                .pwrite = forward_pwrite,
                .fallocate = forward_fallocate,
                .fsync = forward_fsync,
                .fsync_dir = forward_fsync_dir,
                .rename = forward_rename,
                .unlink = forward_unlink,
                .mkdir = forward_mkdir,
                .stat = forward_stat,
                .fstat = forward_fstat,
                .readdir = forward_readdir},
        .inner = inner,
        .path = path,
        .text = text,
        .meddle_at = at,
    };
}

static void a_text_that_changes_while_it_is_read_is_refused(void **state)
{
    static const char *const others[] = {"SECOND", "longer than it was", "x"};
    struct ds_fs *fs = *state;

    put_folder(fs);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        for (int at = 1; at <= 4; at++) { /* two files, read twice */
            struct meddler meddler = meddler_of(fs, "in/b", others[i], at);
            meddler.fs.ops = &meddler.ops;
            put_text(fs, "in/b", "second");
            assert_refused(&meddler.fs, "in",
                           "in/b: changed while it was being prepared; start again when nothing "
                           "writes to it");
            assert_true(meddler.reads >= at);
        }
    assert_int_equal(made(fs, "in"), 1);
}

static void a_disk_that_reads_differently_the_second_time_is_noticed(void **state)
{
    struct ds_fs *fs = *state;

    put_folder(fs);
    for (int at = 1; at <= 4; at++) {
        struct meddler meddler = meddler_of(fs, NULL, NULL, at);
        meddler.fs.ops = &meddler.ops;
        assert_refused(&meddler.fs, "in", "in: changed while it was being prepared");
    }
    assert_int_equal(made(fs, "in"), 1);
}

/* ---- a text that does not fit 32 bits */

static int64_t big_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    const uint64_t end = ((struct meddler *)fs)->big_bytes;

    (void)file;
    if (offset >= end)
        return 0;
    bytes = bytes < end - offset ? bytes : (size_t)(end - offset);
    memset(to, 0, bytes);
    return (int64_t)bytes;
}

static int64_t big_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                          uint64_t offset)
{
    struct meddler *m = (struct meddler *)fs;

    (void)file;
    (void)from;
    m->written_bytes += bytes;
    m->end = offset + bytes > m->end ? offset + bytes : m->end;
    return (int64_t)bytes;
}

static int big_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    (void)fs;
    (void)file;
    (void)bytes;
    return 0;
}

static int big_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out)
{
    int code = forward_fstat(fs, file, out);

    out->bytes = ((struct meddler *)fs)->big_bytes;
    return code;
}

static int big_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out)
{
    int code = forward_stat(fs, path, out);

    if (strcmp(path, "text") == 0)
        out->bytes = ((struct meddler *)fs)->big_bytes;
    return code;
}

static void a_text_beyond_4_gib_is_written_to_its_end(void **state)
{
    const uint64_t bytes = (1ull << 32) + 12345;
    struct ds_fs *fs = *state;
    struct meddler big = meddler_of(fs, NULL, NULL, 0);
    struct ds_prepare_report report = {0};
    char *shard = NULL;

    if (!test_is_long())
        skip();
    big.fs.ops = &big.ops;
    big.ops.pread = big_pread;
    big.ops.pwrite = big_pwrite;
    big.ops.fallocate = big_fallocate;
    big.ops.fstat = big_fstat;
    big.ops.stat = big_stat;
    big.big_bytes = bytes;
    put_text(fs, "text", "text");
    assert_ok(prepare(&big.fs, "text", &shard, &report));
    assert_int_equal(report.bytes, bytes);
    assert_int_equal(report.tokens, bytes + 2);
    assert_int_equal(big.written_bytes, big.end); /* everything, once */
    assert_in_range(big.end, 2 * (bytes + 2) + 16, 2 * (bytes + 2) + 16 + 1024);
    free(shard);
}

/* Every call fails once. No failure may leave a half-made shard, none may let a shard of less through. */
static void at_every_failing_call_nothing_half_made_stays(void **state)
{
    struct ds_fs *sim = *state;
    uint64_t fail_at = 1;

    put_folder(sim);
    for (int hit = 1; hit; fail_at++) {
        struct ds_prepare_report report = {0};
        struct capture log;
        struct ds_fs *fault = NULL;
        char *shard = NULL;
        assert_int_equal(ds_fs_remove_tree(sim, "cache"), 0);
        assert_ok(ds_fs_fault_open(sim, fail_at, &fault));
        capture_begin(&log);
        ds_status st = prepare(fault, "in", &shard, &report);
        const char *said = capture_end(&log);
        hit = ds_fs_fault_hit(fault);
        if (st != DS_OK && said[0] == '\0')
            fail_msg("call %llu failed without a word", (unsigned long long)fail_at);
        assert_true((st == DS_OK) == (shard != NULL));
        assert_int_equal(names_in(sim, "cache/data", ".tmp"), 0);
        free(shard);
        shard = NULL;
        assert_int_equal(ds_fs_sim_open_files(sim), 0);
        assert_ok(prepare(sim, "in", &shard, &report));
        assert_shard(sim, shard, (const char *const[]){"first \xff\x80 bytes", "second", NULL});
        assert_int_equal(names_in(sim, "cache/data", ""), 1);
        free(shard);
        ds_fs_fault_close(fault);
    }
    assert_true(fail_at > 20); /* it does make calls */
}

static void a_call_that_fails_while_reusing_leaves_a_sound_shard(void **state)
{
    struct ds_fs *sim = *state;
    int hit = 1;

    put_folder(sim);
    assert_int_equal(made(sim, "in"), 1);
    for (uint64_t fail_at = 1; hit; fail_at++) {
        struct ds_prepare_report report = {0};
        struct capture log;
        struct ds_fs *fault = NULL;
        char *shard = NULL;
        assert_ok(ds_fs_fault_open(sim, fail_at, &fault));
        capture_begin(&log);
        ds_status st = prepare(fault, "in", &shard, &report);
        capture_end(&log);
        hit = ds_fs_fault_hit(fault);
        free(shard);
        ds_fs_fault_close(fault);
        if (st != DS_OK)
            assert_int_equal(st, DS_ERR_DATA); /* the listing; the shard itself can be made again */
        assert_int_equal(names_in(sim, "cache/data", ""), 1);
        assert_int_equal(made(sim, "in"), 0);
    }
}

static void after_a_power_cut_the_shard_is_whole_or_made_again(void **state)
{
    struct ds_fs *sim = *state;
    struct capture log;

    put_folder(sim);
    assert_int_equal(ds_fs_fsync_dir(sim, "in"), 0);
    assert_int_equal(ds_fs_fsync_dir(sim, "/"), 0);
    (void)made(sim, "in");
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct ds_prepare_report report = {0};
        char *shard = NULL;
        ds_fs_sim_crash(sim, seed);
        capture_begin(&log);
        ds_status st = prepare(sim, "in", &shard, &report);
        capture_end(&log);
        assert_ok(st);
        assert_shard(sim, shard, (const char *const[]){"first \xff\x80 bytes", "second", NULL});
        free(shard);
    }
}

/* ---- hostile shards */

struct shard_parts {
    const char *tokens_name, *documents_name;
    enum ds_dtype tokens_dtype, documents_dtype;
    uint64_t documents[3];
    const char *checksum, *why;
};

static void put_shard(struct ds_fs *fs, const char *path, const struct shard_parts *parts)
{
    static const uint16_t tokens[10] = {256, 'a', 'b', 257, 256, 'c', 'd', 'e', 'f', 257};
    const struct ds_safetensors_item items[] = {
        {parts->tokens_name, parts->tokens_dtype, 1, {10}},
        {parts->documents_name, parts->documents_dtype, 1, {3}},
    };
    const char *const metadata[] = {"checksum", parts->checksum, NULL};
    struct ds_safetensors_writer *writer = NULL;

    assert_ok(ds_safetensors_create(fs, path, items, 2, metadata, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 10, tokens));
    assert_ok(ds_safetensors_write(writer, 1, 0, 3, parts->documents));
    assert_ok(ds_safetensors_commit(writer));
}

static ds_status open_shard(struct ds_fs *fs, const char *path, uint64_t seq_length)
{
    const char *const paths[] = {path};
    const struct ds_dataset_options options = {.fs = fs,
                                               .format = DS_DATA_SHARDS,
                                               .paths = paths,
                                               .path_count = 1,
                                               .seq_length = seq_length,
                                               .vocab_size = DS_BYTE_VOCAB};
    struct ds_dataset *dataset = NULL;
    ds_status st = ds_dataset_open(&options, &dataset);

    ds_dataset_close(dataset);
    return st;
}

static void a_hostile_shard_is_refused_with_its_path_and_what_to_do(void **state)
{
    static const struct shard_parts cases[] = {
        {"tokens", "offsets", DS_U16, DS_U64, {0, 4, 10}, "0", "there is no 'documents' U64 [2"},
        {"ids", "documents", DS_U16, DS_U64, {0, 4, 10}, "0", "there is no 'tokens' U16 [1"},
        {"tokens", "documents", DS_I16, DS_U64, {0, 4, 10}, "0", "there is no 'tokens' U16 [1"},
        {"tokens", "documents", DS_U16, DS_I64, {0, 4, 10}, "0", "there is no 'documents' U64"},
        {"tokens", "documents", DS_U16, DS_U64, {1, 4, 10}, "0", "documents[0] is 1"},
        {"tokens", "documents", DS_U16, DS_U64, {0, 11, 10}, "0", "documents[1] is 11"},
        {"tokens", "documents", DS_U16, DS_U64, {0, UINT64_MAX, 10}, "0", "documents[1] is 1844"},
        {"tokens", "documents", DS_U16, DS_U64, {0, 4, 9}, "0", "documents[2] is 9"},
        {"tokens", "documents", DS_U16, DS_U64, {0, 4, 11}, "0", "documents[2] is 11"},
        {"tokens", "documents", DS_U16, DS_U64, {0, 4, 10}, "0", "but it says 0"},
    };
    struct ds_fs *fs = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct capture log;
        put_shard(fs, "shard", &cases[i]);
        capture_begin(&log);
        ds_status st = open_shard(fs, "shard", 4);
        const char *said = capture_end(&log);
        if (!strstr(said, cases[i].why) || !strstr(said, "shard: not a sound token shard") ||
            !strstr(said, "remove it and prepare it again") || strchr(said, '\n'))
            fail_msg("case %zu: %s", i, said);
        assert_int_equal(st, DS_ERR_CORRUPT);
    }
}

static void a_text_shorter_than_a_sample_is_refused_with_its_path_and_the_numbers(void **state)
{
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    struct capture log;
    char *shard = NULL;

    put_text(fs, "text", "1234567"); /* 9 tokens */
    assert_ok(prepare(fs, "text", &shard, &report));
    assert_ok(open_shard(fs, shard, 8));
    capture_begin(&log);
    ds_status st = open_shard(fs, shard, 9);
    const char *said = capture_end(&log);
    assert_int_equal(st, DS_ERR_DATA);
    assert_non_null(strstr(said, shard));
    assert_non_null(
        strstr(said, "text: 9 tokens are less than one sample of train.seq_length + 1 = 10"));
    free(shard);
}

static void a_path_that_no_header_can_hold_is_prepared_all_the_same(void **state)
{
    static const char *const paths[] = {"text\xff", "text\x1f\x1f\x1f"};
    struct ds_fs *fs = *state;

    for (size_t i = 0; i < 2; i++) {
        struct ds_prepare_report report = {0};
        char *shard = NULL;
        put_text(fs, paths[i], "1234567");
        for (int again = 0; again < 2; again++) {
            assert_ok(prepare(fs, paths[i], &shard, &report));
            assert_ok(open_shard(fs, shard, 8));
            free(shard);
        }
        assert_int_equal(report.files_made, 1);
        assert_int_equal(report.files_reused, 1);
    }
}

static void a_cache_that_cannot_be_is_an_error_of_the_configuration(void **state)
{
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    struct capture log;
    char *shard = NULL;

    put_text(fs, "text", "1234567");
    put_text(fs, "cache", "no folder");
    capture_begin(&log);
    ds_status st = prepare(fs, "text", &shard, &report);
    const char *said = capture_end(&log);
    assert_int_equal(st, DS_ERR_CONFIG);
    assert_non_null(strstr(said, "data.cache = cache/data: "));
    assert_null(strstr(said, ".c:"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ON_DISK(a_source_without_text_is_refused_with_its_path),
        ON_DISK(a_text_that_changes_while_it_is_read_is_refused),
        ON_DISK(a_disk_that_reads_differently_the_second_time_is_noticed),
        ON_DISK(a_text_beyond_4_gib_is_written_to_its_end),
        ON_DISK(at_every_failing_call_nothing_half_made_stays),
        ON_DISK(a_call_that_fails_while_reusing_leaves_a_sound_shard),
        ON_DISK(after_a_power_cut_the_shard_is_whole_or_made_again),
        ON_DISK(a_hostile_shard_is_refused_with_its_path_and_what_to_do),
        ON_DISK(a_text_shorter_than_a_sample_is_refused_with_its_path_and_the_numbers),
        ON_DISK(a_path_that_no_header_can_hold_is_prepared_all_the_same),
        ON_DISK(a_cache_that_cannot_be_is_an_error_of_the_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
