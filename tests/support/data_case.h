/* data_case.h - small files of samples on a simulated disk, data sets of them, and one share's loader. */
#ifndef DSTRAIN_TEST_DATA_CASE_H
#define DSTRAIN_TEST_DATA_CASE_H

#include "capture.h"
#include "test.h"

#include "dstrain/data.h"
#include "dstrain/safetensors.h"

enum { SEQ = 5, VOCAB = 5000 };

/* ---- files */

static inline int make_disk(void **state)
{
    struct ds_fs *sim = NULL;

    assert_ok(ds_fs_sim_open(&sim));
    *state = sim;
    return 0;
}

static inline int drop_disk(void **state)
{
    const size_t open_files = ds_fs_sim_open_files(*state);

    ds_fs_sim_close(*state);
    return open_files == 0 ? 0 : -1;
}

/* `ids`, and `labels` if not NULL, in the shape [n, SEQ], or [n / b, b, SEQ] with b above 0. */
static inline void put_rows(struct ds_fs *fs, const char *path, const int64_t *ids,
                            const int64_t *labels, uint64_t n, uint64_t b)
{
    struct ds_safetensors_item items[] = {{"input_ids", DS_I64, 2, {n, SEQ}},
                                          {"labels", DS_I64, 2, {n, SEQ}},
                                          {"attention_mask", DS_U8, 1, {3}}}; /* of no interest */
    struct ds_safetensors_writer *writer = NULL;

    if (b > 0)
        items[0] = (struct ds_safetensors_item){"input_ids", DS_I64, 3, {n / b, b, SEQ}};
    if (!labels)
        items[1] = (struct ds_safetensors_item){"other", DS_I64, 2, {n, SEQ}};
    assert_ok(ds_safetensors_create(fs, path, items, 3, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, n * SEQ, ids));
    assert_ok(ds_safetensors_write(writer, 1, 0, n * SEQ, labels ? labels : ids));
    assert_ok(ds_safetensors_write(writer, 2, 0, 3, "\1\1\1"));
    assert_ok(ds_safetensors_commit(writer));
}

/* n samples, whose first id is `first` + their number, so that a sample says which one it is. */
static inline void put_numbered(struct ds_fs *fs, const char *path, uint64_t n, int64_t first,
                                uint64_t b)
{
    int64_t *ids = calloc(n * SEQ, sizeof *ids);

    assert_non_null(ids);
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t t = 0; t < SEQ; t++)
            ids[i * SEQ + t] = t == 0 ? first + (int64_t)i : (int64_t)(i * 7 + t) % VOCAB;
    put_rows(fs, path, ids, NULL, n, b);
    free(ids);
}

static inline void put_typed(struct ds_fs *fs, enum ds_dtype dtype, const void *row)
{
    const struct ds_safetensors_item item = {"input_ids", dtype, 2, {1, SEQ}};
    struct ds_safetensors_writer *writer = NULL;

    assert_ok(ds_safetensors_create(fs, "typed", &item, 1, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, SEQ, row));
    assert_ok(ds_safetensors_commit(writer));
}

static inline void put_text(struct ds_fs *fs, const char *path, const char *text)
{
    assert_ok(ds_fs_write_file(fs, path, text, strlen(text)));
}

static inline struct ds_dataset_options options_of(struct ds_fs *fs, const char *const *paths,
                                                   size_t count)
{
    return (struct ds_dataset_options){.fs = fs,
                                       .format = DS_DATA_SAFETENSORS,
                                       .paths = paths,
                                       .path_count = count,
                                       .seq_length = SEQ,
                                       .vocab_size = VOCAB,
                                       .seed = 42};
}

static inline struct ds_dataset *open_file(struct ds_fs *fs, const char *path, int is_checked)
{
    const char *const paths[] = {path};
    struct ds_dataset_options options = options_of(fs, paths, 1);
    struct ds_dataset *dataset = NULL;

    options.is_checked = is_checked;
    assert_ok(ds_dataset_open(&options, &dataset));
    return dataset;
}

static inline struct ds_dataset *open_one(struct ds_fs *fs, const char *path)
{
    return open_file(fs, path, 0);
}

/* Three files of 100, 30 and 110 samples, shuffled: 240 an epoch. */
static inline struct ds_dataset *open_three(struct ds_fs *fs)
{
    static const char *const paths[] = {"a", "b", "c"};
    struct ds_dataset_options options = options_of(fs, paths, 3);
    struct ds_dataset *dataset = NULL;

    put_numbered(fs, "a", 100, 0, 0);
    put_numbered(fs, "b", 30, 100, 5);
    put_numbered(fs, "c", 110, 130, 0);
    options.shuffle = 1;
    assert_ok(ds_dataset_open(&options, &dataset));
    assert_int_equal(ds_dataset_sample_count(dataset), 240);
    assert_int_equal(ds_dataset_token_count(dataset), 240 * SEQ);
    assert_true(ds_dataset_one_document(dataset));
    assert_true(ds_dataset_documents(dataset) == 1);
    return dataset;
}

static inline struct ds_dataset *open_prepared(struct ds_fs *fs, const char *source,
                                               uint64_t seq_length, uint64_t vocab_size)
{
    const struct ds_prepare_options prepare = {.fs = fs, .cache = "cache"};
    struct ds_prepare_report report = {0};
    struct ds_dataset *dataset = NULL;
    char *shard = NULL;

    assert_ok(ds_prepare_text(&prepare, source, &shard, &report));
    struct ds_dataset_options options = options_of(fs, (const char *const *)&shard, 1);
    options.format = DS_DATA_SHARDS;
    options.seq_length = seq_length;
    options.vocab_size = vocab_size;
    assert_ok(ds_dataset_open(&options, &dataset));
    free(shard);
    return dataset;
}

/* ---- shares */

struct layout {
    uint64_t micro_batch_size, micro_count;
    uint32_t share_count;
};

static inline struct ds_loader *open_share(const struct ds_dataset *dataset,
                                           const struct layout *layout, uint32_t share,
                                           uint64_t sample_limit)
{
    const struct ds_loader_options options = {.clock = ds_clock_system(),
                                              .dataset = dataset,
                                              .seq_length = SEQ,
                                              .micro_batch_size = layout->micro_batch_size,
                                              .micro_count = layout->micro_count,
                                              .share = share,
                                              .share_count = layout->share_count,
                                              .sample_limit = sample_limit};
    struct ds_loader *loader = NULL;

    assert_ok(ds_loader_open(&options, &loader));
    return loader;
}

static inline struct ds_loader_batch next(struct ds_loader *loader, uint64_t step)
{
    struct ds_loader_batch batch = {0};
    uint64_t waited_ns = UINT64_MAX;

    assert_ok(ds_loader_next(loader, step, &batch, &waited_ns));
    assert_true(waited_ns < UINT64_MAX);
    return batch;
}

#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_disk, drop_disk)

#endif
