// link: data storage base
// private: runtime/data
/* From text to token shards: what is in them, when they are made again, and what is left when something
 * fails on the way. */
#include "capture.h"
#include "test.h"

#include "corpus.h"
#include "shard_file.h"

#include <unistd.h>

/* ---- a disk in memory, and an fs around it that a test can meddle with */

static int make_disk(void **state)
{
    struct ds_fs *sim = NULL;

    assert_ok(ds_fs_sim_open(&sim));
    *state = sim;
    return 0;
}

static int drop_disk(void **state)
{
    struct ds_fs *sim = *state;

    if (ds_fs_sim_open_files(sim) != 0)
        return -1;
    ds_fs_sim_close(sim);
    return 0;
}

static void put_text(struct ds_fs *fs, const char *path, const char *text)
{
    assert_ok(ds_fs_write_file(fs, path, text, strlen(text)));
}

static void put_folder(struct ds_fs *fs)
{
    assert_int_equal(ds_fs_mkdir(fs, "in", 0755), 0);
    put_text(fs, "in/b", "second");
    put_text(fs, "in/a.dat", "first \xff\x80 bytes");
    put_text(fs, "in/empty", "");
    put_text(fs, "in/.hidden", "no");
    assert_int_equal(ds_fs_mkdir(fs, "in/c", 0755), 0);
    put_text(fs, "in/c/deeper", "no");
}

static ds_status prepare(struct ds_fs *fs, const char *source, char **shard,
                         struct ds_prepare_report *report)
{
    const struct ds_prepare_options options = {
        .fs = fs, .clock = ds_clock_system(), .cache = "cache/data"};

    return ds_prepare_text(&options, source, shard, report);
}

/* Prepares, and says how many shards were made (1 or 0). */
static uint32_t made(struct ds_fs *fs, const char *source)
{
    struct ds_prepare_report report = {0};
    char *shard = NULL;

    assert_ok(prepare(fs, source, &shard, &report));
    free(shard);
    assert_int_equal(report.files_made + report.files_reused, 1);
    return report.files_made;
}

static size_t names_in(struct ds_fs *fs, const char *folder, const char *ending)
{
    char **names = NULL;
    size_t count = 0, found = 0;

    if (ds_fs_readdir(fs, folder, &names, &count) != 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(names[i]), wanted = strlen(ending);
        found += length >= wanted && strcmp(names[i] + length - wanted, ending) == 0;
    }
    free(names);
    return found;
}

/* The shard holds exactly these documents. */
static void assert_shard(struct ds_fs *fs, const char *path, const char *const *texts)
{
    struct ds_safetensors *file;
    struct shard_file shard = {0};
    char why[SHARD_WHY_BYTES];
    uint64_t at = 0, document = 0;

    assert_ok(ds_safetensors_open(fs, path, &file));
    assert_ok(shard_file_check(file, &(struct shard_check){0}, &shard, why));
    assert_string_equal(why, "");
    for (; texts[document]; document++) {
        assert_int_equal(shard.documents[document], at);
        assert_int_equal(shard.tokens[at++], DS_BYTE_BOS);
        for (const char *byte = texts[document]; *byte; byte++)
            assert_int_equal(shard.tokens[at++], (uint8_t)*byte);
        assert_int_equal(shard.tokens[at++], DS_BYTE_EOS);
    }
    assert_int_equal(shard.document_count, document);
    assert_int_equal(shard.documents[document], at);
    assert_int_equal(shard.token_count, at);
    ds_safetensors_close(file);
}

/* ---- what is made */

static void a_folder_becomes_its_regular_files_sorted_byte_for_byte(void **state)
{
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    char *shard = NULL;

    put_folder(fs);
    assert_ok(prepare(fs, "in", &shard, &report));
    assert_shard(fs, shard, (const char *const[]){"first \xff\x80 bytes", "second", NULL});
    assert_int_equal(report.bytes, 14 + 6);
    assert_int_equal(report.tokens, 14 + 6 + 4);
    assert_int_equal(report.documents, 2);
    assert_int_equal(report.files_made, 1);
    assert_int_equal(report.files_reused, 0);
    free(shard);
}

static void the_report_adds_up_over_sources(void **state)
{
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    char *shard = NULL;

    put_text(fs, "one", "12345");
    put_text(fs, "two", "123");
    for (int i = 0; i < 3; i++) {
        assert_ok(prepare(fs, i == 1 ? "two" : "one", &shard, &report));
        free(shard);
    }
    assert_int_equal(report.bytes, 5 + 3 + 5);
    assert_int_equal(report.tokens, 13 + 6);
    assert_int_equal(report.documents, 3);
    assert_int_equal(report.files_made, 2);
    assert_int_equal(report.files_reused, 1);
}

/* Sizes around the pieces in which text is read. */
static void a_text_of_any_size_comes_back(void **state)
{
    static const size_t sizes[] = {1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20};
    struct ds_fs *fs = *state;

    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct ds_prepare_report report = {0};
        char *text = malloc(sizes[s] + 1), *shard = NULL;
        assert_non_null(text);
        for (size_t i = 0; i < sizes[s]; i++)
            text[i] = (char)(1 + (i * 2654435761u >> 7) % 255);
        text[sizes[s]] = '\0';
        put_text(fs, "text", text);
        assert_ok(prepare(fs, "text", &shard, &report));
        assert_shard(fs, shard, (const char *const[]){text, NULL});
        free(shard);
        free(text);
    }
}

struct progress {
    uint64_t calls, done, total;
};

static void note_progress(void *user, uint64_t done, uint64_t total)
{
    struct progress *progress = user;

    assert_true(done >= progress->done && done <= total);
    *progress = (struct progress){progress->calls + 1, done, total};
}

static void progress_never_goes_back_and_ends_at_the_size_of_the_text(void **state)
{
    struct ds_fs *fs = *state;
    struct progress progress = {0};
    struct ds_prepare_report report = {0};
    char *shard = NULL;
    const struct ds_prepare_options options = {
        .fs = fs, .cache = "cache", .progress = note_progress, .user = &progress};

    put_folder(fs);
    assert_ok(ds_prepare_text(&options, "in", &shard, &report));
    assert_int_equal(progress.total, 20);
    assert_int_equal(progress.done, 20);
    assert_true(progress.calls >= 2);
    free(shard);
}

/* ---- what is used again and what is not */

static void a_second_run_writes_nothing(void **state)
{
    struct ds_fs *fs = *state;
    struct ds_fs_stat before, after;
    struct ds_prepare_report report = {0};
    char *shard = NULL, *again = NULL;

    put_folder(fs);
    assert_ok(prepare(fs, "in", &shard, &report));
    assert_int_equal(ds_fs_stat(fs, shard, &before), 0);
    assert_ok(prepare(fs, "in", &again, &report));
    assert_string_equal(shard, again);
    assert_int_equal(ds_fs_stat(fs, shard, &after), 0);
    assert_int_equal(before.mtime_ns, after.mtime_ns); /* a tick of the disk at every write */
    assert_int_equal(report.files_made, 1);
    assert_int_equal(report.files_reused, 1);
    assert_int_equal(names_in(fs, "cache/data", ""), 1);
    free(shard);
    free(again);
}

static void a_changed_or_new_file_makes_another_shard(void **state)
{
    struct ds_fs *fs = *state;

    put_folder(fs);
    assert_int_equal(made(fs, "in"), 1);
    put_text(fs, "in/b", "secand"); /* the same size, another time */
    assert_int_equal(made(fs, "in"), 1);
    put_text(fs, "in/d", "third");
    assert_int_equal(made(fs, "in"), 1);
    assert_int_equal(ds_fs_unlink(fs, "in/d"), 0);
    assert_int_equal(made(fs, "in"), 0);
    assert_int_equal(ds_fs_unlink(fs, "in/b"), 0);
    assert_int_equal(made(fs, "in"), 1);
}

static void texts_of_one_name_do_not_share_a_shard(void **state)
{
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    char *one = NULL, *two = NULL;

    assert_int_equal(ds_fs_mkdir(fs, "x", 0755), 0);
    assert_int_equal(ds_fs_mkdir(fs, "y", 0755), 0);
    put_text(fs, "x/text", "one");
    put_text(fs, "y/text", "two");
    assert_ok(prepare(fs, "x/text", &one, &report));
    assert_ok(prepare(fs, "y/text", &two, &report));
    assert_string_not_equal(one, two);
    assert_shard(fs, one, (const char *const[]){"one", NULL});
    assert_shard(fs, two, (const char *const[]){"two", NULL});
    free(one);
    free(two);
}

/* Every byte of a shard, one at a time: damage is seen, told, and mended. */
static void a_damaged_shard_is_made_again_whatever_byte_it_is(void **state)
{
    static const char *const texts[] = {"first \xff\x80 bytes", "second", NULL};
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    char *shard = NULL, *whole = NULL;
    size_t bytes = 0, unseen = 0;

    put_folder(fs);
    assert_ok(prepare(fs, "in", &shard, &report));
    assert_ok(ds_fs_read_file(fs, shard, 4096, &whole, &bytes));
    for (size_t i = 0; i < bytes; i++) {
        struct capture log;
        whole[i] ^= 4;
        assert_ok(ds_fs_write_file(fs, shard, whole, bytes));
        whole[i] ^= 4;
        capture_begin(&log);
        uint32_t is_made = made(fs, "in");
        int is_told = strstr(capture_end(&log), "it is made again") != NULL;
        assert_int_equal(is_told, is_made);
        unseen += !is_made;
        assert_shard(fs, shard, texts);
    }
    assert_true(unseen < 32); /* "format": "pt" and "tokenizer" are read by nobody */
    free(whole);
    free(shard);
}

static void a_shard_cut_short_or_of_another_make_is_made_again(void **state)
{
    static const char *const bad[] = {"", "x", "12345678", "\x02\0\0\0\0\0\0\0{}"};
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    char *shard = NULL, *whole = NULL;
    size_t bytes = 0;

    put_text(fs, "text", "a text");
    assert_ok(prepare(fs, "text", &shard, &report));
    assert_ok(ds_fs_read_file(fs, shard, 4096, &whole, &bytes));
    for (size_t cut = 0; cut < bytes; cut += 7) {
        struct capture log;
        assert_ok(ds_fs_write_file(fs, shard, whole, cut));
        capture_begin(&log);
        assert_int_equal(made(fs, "text"), 1);
        const char *said = capture_end(&log);
        if (!strstr(said, "it is made again") || strstr(said, "error:"))
            fail_msg("of a shard cut to %zu bytes: %s", cut, said);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct capture log;
        assert_ok(ds_fs_write_file(fs, shard, bad[i], i == 3 ? 10 : strlen(bad[i])));
        capture_begin(&log);
        assert_int_equal(made(fs, "text"), 1);
        capture_end(&log);
    }
    assert_shard(fs, shard, (const char *const[]){"a text", NULL});
    free(whole);
    free(shard);
}

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

/* ---- links, on a real disk */

static void links_to_files_are_taken_and_dangling_ones_named(void **state)
{
    char folder[] = "/tmp/test_data_prepare.XXXXXX", path[64], target[64];
    struct ds_fs *fs = ds_fs_posix();
    struct corpus corpus = {0};
    struct capture log;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/text", folder);
    put_text(fs, path, "text");
    snprintf(target, sizeof target, "%s/a_link", folder);
    assert_int_equal(symlink("text", target), 0);
    assert_ok(corpus_list(fs, folder, &corpus));
    assert_int_equal(corpus.count, 2);
    assert_string_equal(corpus.files[0].path, target);
    assert_string_equal(corpus.files[1].path, path);
    corpus_fini(&corpus);
    snprintf(target, sizeof target, "%s/b_link", folder);
    assert_int_equal(symlink("nowhere", target), 0);
    capture_begin(&log);
    ds_status st = corpus_list(fs, folder, &corpus);
    const char *said = capture_end(&log);
    assert_int_equal(st, DS_ERR_DATA);
    assert_non_null(strstr(said, target));
    capture_begin(&log);
    st = corpus_list(fs, "/dev/null", &corpus);
    said = capture_end(&log);
    assert_int_equal(st, DS_ERR_DATA);
    assert_non_null(strstr(said, "/dev/null: neither a regular file nor a directory"));
    assert_int_equal(ds_fs_remove_tree(fs, folder), 0);
}

/* ---- `a.txt, b.txt:0.5` */

struct parts_case {
    const char *text;
    const char *error; /* NULL: parts */
    struct {
        const char *path;
        double weight;
    } parts[3];
};

static void parts_are_parsed_as_documented(void **state)
{
    static const struct parts_case cases[] = {
        {"a.txt", NULL, {{"a.txt", 1}}},
        {" a.txt ,\tb.txt:0.5", NULL, {{"a.txt", 1}, {"b.txt", 0.5}}},
        {"a b.txt:2 , c:.25,d:1e-3", NULL, {{"a b.txt", 2}, {"c", 0.25}, {"d", 0.001}}},
        {"a.txt :3", NULL, {{"a.txt", 3}}},
        {"host:path", NULL, {{"host:path", 1}}},
        {"host:path:7", NULL, {{"host:path", 7}}},
        {"a:1b", NULL, {{"a:1b", 1}}},
        {"a:", NULL, {{"a:", 1}}},
        {"a:-", NULL, {{"a:-", 1}}},
        {"", "where: an empty path; paths are separated by single commas", {{0}}},
        {"  ", "where: an empty path; paths are separated by single commas", {{0}}},
        {"a,,b", "where: an empty path; paths are separated by single commas", {{0}}},
        {"a,", "where: an empty path; paths are separated by single commas", {{0}}},
        {":0.5", "where: a weight without a path", {{0}}},
        {"a, :0.5", "where: a weight without a path", {{0}}},
        {"a:0", "where: the weight in 'a:0' must be a number in 1e-6..1e6", {{0}}},
        {"a:1e-300", "where: the weight in 'a:1e-300' must be a number in 1e-6..1e6", {{0}}},
        {"a:-1", "where: the weight in 'a:-1' must be a number in 1e-6..1e6", {{0}}},
        {"b,a:1e7", "where: the weight in 'a:1e7' must be a number in 1e-6..1e6", {{0}}},
        {"a:1e999", "where: the weight in 'a:1e999' must be a number in 1e-6..1e6", {{0}}},
    };

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct ds_data_parts parts = {0};
        struct capture log;
        size_t count = 0;
        capture_begin(&log);
        ds_status st = ds_data_parts_parse("where", cases[c].text, &parts);
        const char *said = capture_end(&log);
        while (count < 3 && cases[c].parts[count].path)
            count++;
        assert_int_equal(st, cases[c].error ? DS_ERR_CONFIG : DS_OK);
        if (cases[c].error) {
            const char *found = strstr(said, cases[c].error);
            if (!found || strcmp(found, cases[c].error) != 0)
                fail_msg("'%s' said: %s", cases[c].text, said);
        }
        assert_int_equal(parts.count, count);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(parts.parts[i].path, cases[c].parts[i].path);
            assert_true(parts.parts[i].weight == cases[c].parts[i].weight);
        }
        ds_data_parts_fini(&parts);
    }
}

#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_disk, drop_disk)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DISK(a_folder_becomes_its_regular_files_sorted_byte_for_byte),
        ON_DISK(the_report_adds_up_over_sources),
        ON_DISK(a_text_of_any_size_comes_back),
        ON_DISK(progress_never_goes_back_and_ends_at_the_size_of_the_text),
        ON_DISK(a_second_run_writes_nothing),
        ON_DISK(a_changed_or_new_file_makes_another_shard),
        ON_DISK(texts_of_one_name_do_not_share_a_shard),
        ON_DISK(a_damaged_shard_is_made_again_whatever_byte_it_is),
        ON_DISK(a_shard_cut_short_or_of_another_make_is_made_again),
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
        cmocka_unit_test(links_to_files_are_taken_and_dangling_ones_named),
        cmocka_unit_test(parts_are_parsed_as_documented),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
