/* test_prepare_wait.c - while rank 0 prepares text or rows the others wait: as long as it goes on, however long
 * that is, and not much longer. */
// link: launch
#include "ranks.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/data.h"

#include <pthread.h>
#include <stdatomic.h>

enum { FILES = 10, FILE_BYTES = 64 };

#define MS UINT64_C(1000000)

/* ---- the disk, on which each read of a text takes its time, one after the other, however many threads read */

static struct ds_fs_ops slow_ops;
static struct ds_fs slow_fs = {&slow_ops};
static uint64_t first_read_ns, read_ns; /* of text */
static atomic_int text_reads;
static pthread_mutex_t one_reader = PTHREAD_MUTEX_INITIALIZER;

static int64_t slow_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    struct ds_fs_stat stat = {0};

    if (slow_ops.fstat(fs, file, &stat) == 0 && stat.bytes == FILE_BYTES) {
        pthread_mutex_lock(&one_reader);
        ds_clock_sleep_ns(ds_clock_system(),
                          atomic_fetch_add(&text_reads, 1) == 0 ? first_read_ns : read_ns);
        pthread_mutex_unlock(&one_reader);
    }
    return ds_fs_pread(ds_fs_posix(), file, to, bytes, offset);
}

static void make_slow_fs(uint64_t first_ns, uint64_t other_ns)
{
    slow_ops = *ds_fs_posix()->ops;
    slow_ops.pread = slow_pread;
    first_read_ns = first_ns;
    read_ns = other_ns;
    atomic_store(&text_reads, 0);
}

/* ---- a run up to its first step */

static char *folder;
static char corpus[512], rows[512], cache[512];
static int has_rows;
static ds_status got[2];

static int make_corpus(void **state)
{
    char path[600], text[FILE_BYTES], row[FILE_BYTES];

    (void)state;
    folder = tiny_folder();
    snprintf(corpus, sizeof corpus, "%s/corpus", folder);
    snprintf(rows, sizeof rows, "%s/rows", folder);
    snprintf(cache, sizeof cache, "%s/cache", folder);
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), corpus, 0750), 0);
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), rows, 0750), 0);
    memset(text, 'a', sizeof text);
    memset(row, ' ', sizeof row);
    memcpy(row, "{\"text\": \"a row\"}", 17);
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/%02d.txt", corpus, i);
        assert_ok(ds_fs_write_file(ds_fs_posix(), path, text, sizeof text));
        snprintf(path, sizeof path, "%s/%02d.jsonl", rows, i);
        assert_ok(ds_fs_write_file(ds_fs_posix(), path, row, sizeof row));
    }
    return 0;
}

static int remove_corpus(void **state)
{
    (void)state;
    tiny_remove(folder);
    return 0;
}

static void adjust(struct ds_config *config)
{
    config->data.format = has_rows ? DS_DATA_JSONL : DS_DATA_TEXT;
    config->data.line_limit = 1 << 20;
    config->model.vocab_size = DS_BYTE_VOCAB;
    config->run.deadline = 2;
    snprintf(config->data.train, sizeof config->data.train, "%s", has_rows ? rows : corpus);
    snprintf(config->data.cache, sizeof config->data.cache, "%s", cache);
    config->data.eval[0] = '\0';
}

static void open_rank(struct ds_comm *world, void *user)
{
    const struct tiny_case c = {.ranks = world->size,
                                .stage = 3,
                                .steps = 1,
                                .global_batch = 2,
                                .micro_batch = 1,
                                .data = "",
                                .adjust = adjust};
    struct ds_trainer *trainer = NULL;
    struct ds_config config;

    (void)user;
    tiny_config(&c, &config);
    const struct ds_trainer_options options = {.config = &config,
                                               .mode = DS_TRAINER_TRAIN,
                                               .world = world,
                                               .fs = &slow_fs,
                                               .clock = ds_clock_system()};
    got[world->rank] = ds_trainer_open(&options, &trainer);
    ds_trainer_close(trainer);
}

static void others_wait_while_rank_0_goes_on(void **state)
{
    const uint64_t begin_ns = ds_clock_mono_ns(ds_clock_system());

    (void)state;
    has_rows = 0;
    make_slow_fs(240 * MS, 240 * MS);
    assert_true(run_ranks(2, 2000 * MS, open_rank, NULL));
    assert_ok(got[0]);
    assert_ok(got[1]);
    assert_int_equal(atomic_load(&text_reads), 2 * FILES); /* of rank 0 alone, in two passes */
    assert_true(ds_clock_mono_ns(ds_clock_system()) - begin_ns > 4000 * MS);
}

static void others_wait_while_rows_are_read_by_threads(void **state)
{
    const uint64_t begin_ns = ds_clock_mono_ns(ds_clock_system());

    (void)state;
    has_rows = 1;
    make_slow_fs(500 * MS, 500 * MS);
    assert_true(run_ranks(2, 2000 * MS, open_rank, NULL));
    assert_ok(got[0]);
    assert_ok(got[1]);
    assert_int_equal(atomic_load(&text_reads), FILES);
    assert_true(ds_clock_mono_ns(ds_clock_system()) - begin_ns > 4000 * MS);
}

static void nobody_waits_for_ever_where_rank_0_stands_still(void **state)
{
    (void)state;
    has_rows = 0;
    make_slow_fs(6000 * MS, 0);
    assert_true(run_ranks(2, 2000 * MS, open_rank, NULL));
    assert_int_equal(got[1], DS_ERR_DEADLINE);
    assert_int_not_equal(got[0], DS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(others_wait_while_rank_0_goes_on, make_corpus,
                                        remove_corpus),
        cmocka_unit_test_setup_teardown(others_wait_while_rows_are_read_by_threads, make_corpus,
                                        remove_corpus),
        cmocka_unit_test_setup_teardown(nobody_waits_for_ever_where_rank_0_stands_still,
                                        make_corpus, remove_corpus),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
