/* prepare_disk.h - texts on a disk in memory and the shards that are prepared of them, for tests. */
#ifndef DSTRAIN_TESTS_PREPARE_DISK_H
#define DSTRAIN_TESTS_PREPARE_DISK_H

#include "capture.h"
#include "test.h"

#include "corpus.h"
#include "shard_file.h"

static inline int make_disk(void **state)
{
    struct ds_fs *sim = NULL;

    assert_ok(ds_fs_sim_open(&sim));
    *state = sim;
    return 0;
}

static inline int drop_disk(void **state)
{
    struct ds_fs *sim = *state;

    if (ds_fs_sim_open_files(sim) != 0)
        return -1;
    ds_fs_sim_close(sim);
    return 0;
}

static inline void put_text(struct ds_fs *fs, const char *path, const char *text)
{
    assert_ok(ds_fs_write_file(fs, path, text, strlen(text)));
}

static inline void put_folder(struct ds_fs *fs)
{
    assert_int_equal(ds_fs_mkdir(fs, "in", 0755), 0);
    put_text(fs, "in/b", "second");
    put_text(fs, "in/a.dat", "first \xff\x80 bytes");
    put_text(fs, "in/empty", "");
    put_text(fs, "in/.hidden", "no");
    assert_int_equal(ds_fs_mkdir(fs, "in/c", 0755), 0);
    put_text(fs, "in/c/deeper", "no");
}

static inline ds_status prepare(struct ds_fs *fs, const char *source, char **shard,
                                struct ds_prepare_report *report)
{
    const struct ds_prepare_options options = {
        .fs = fs, .clock = ds_clock_system(), .cache = "cache/data"};

    return ds_prepare_text(&options, source, shard, report);
}

/* Prepares, and says how many shards were made (1 or 0). */
static inline uint32_t made(struct ds_fs *fs, const char *source)
{
    struct ds_prepare_report report = {0};
    char *shard = NULL;

    assert_ok(prepare(fs, source, &shard, &report));
    free(shard);
    assert_int_equal(report.files_made + report.files_reused, 1);
    return report.files_made;
}

static inline size_t names_in(struct ds_fs *fs, const char *folder, const char *ending)
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
static inline void assert_shard(struct ds_fs *fs, const char *path, const char *const *texts)
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
#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_disk, drop_disk)

#endif
