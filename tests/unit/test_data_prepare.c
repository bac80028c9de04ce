// link: data storage base
// private: runtime/data
/* From text to token shards: what is in them, when they are made again, and which texts are taken. */
#include "prepare_disk.h"

#include <unistd.h>

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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ON_DISK(a_folder_becomes_its_regular_files_sorted_byte_for_byte),
        ON_DISK(the_report_adds_up_over_sources),
        ON_DISK(a_text_of_any_size_comes_back),
        ON_DISK(progress_never_goes_back_and_ends_at_the_size_of_the_text),
        ON_DISK(a_second_run_writes_nothing),
        ON_DISK(a_changed_or_new_file_makes_another_shard),
        ON_DISK(texts_of_one_name_do_not_share_a_shard),
        ON_DISK(a_damaged_shard_is_made_again_whatever_byte_it_is),
        ON_DISK(a_shard_cut_short_or_of_another_make_is_made_again),
        cmocka_unit_test(links_to_files_are_taken_and_dangling_ones_named),
        cmocka_unit_test(parts_are_parsed_as_documented),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
