// link: data storage base
// tsan
/* Samples and micro-batches: what they hold, that every share sees its own part of one order, and what bad
 * files get. */
#include "capture.h"
#include "test.h"

#include "dstrain/data.h"
#include "dstrain/random.h"
#include "dstrain/safetensors.h"

#include <math.h>
#include <stdatomic.h>

enum { SEQ = 5, VOCAB = 5000 };

/* ---- allocations are counted while `is_counting`; a sanitizer's allocator is left alone */

static atomic_int is_counting, allocation_count;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAN_COUNT 0
#else
#define CAN_COUNT 1
#define VISIBLE   __attribute__((visibility("default")))
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *at, size_t bytes);
VISIBLE void *malloc(size_t bytes);
VISIBLE void *calloc(size_t count, size_t bytes);
VISIBLE void *realloc(void *at, size_t bytes);

void *malloc(size_t bytes)
{
    allocation_count += is_counting;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    allocation_count += is_counting;
    return __libc_calloc(count, bytes);
}

void *realloc(void *at, size_t bytes)
{
    allocation_count += is_counting;
    return __libc_realloc(at, bytes);
}
#endif

/* ---- files */

static int make_disk(void **state)
{
    struct ds_fs *sim = NULL;

    assert_ok(ds_fs_sim_open(&sim));
    *state = sim;
    return 0;
}

static int drop_disk(void **state)
{
    const size_t open_files = ds_fs_sim_open_files(*state);

    ds_fs_sim_close(*state);
    return open_files == 0 ? 0 : -1;
}

/* `ids`, and `labels` if not NULL, in the shape [n, SEQ], or [n / b, b, SEQ] with b above 0. */
static void put_rows(struct ds_fs *fs, const char *path, const int64_t *ids, const int64_t *labels,
                     uint64_t n, uint64_t b)
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
static void put_numbered(struct ds_fs *fs, const char *path, uint64_t n, int64_t first, uint64_t b)
{
    int64_t *ids = calloc(n * SEQ, sizeof *ids);

    assert_non_null(ids);
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t t = 0; t < SEQ; t++)
            ids[i * SEQ + t] = t == 0 ? first + (int64_t)i : (int64_t)(i * 7 + t) % VOCAB;
    put_rows(fs, path, ids, NULL, n, b);
    free(ids);
}

static struct ds_dataset_options options_of(struct ds_fs *fs, const char *const *paths,
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

static struct ds_dataset *open_file(struct ds_fs *fs, const char *path, int is_checked)
{
    const char *const paths[] = {path};
    struct ds_dataset_options options = options_of(fs, paths, 1);
    struct ds_dataset *dataset = NULL;

    options.is_checked = is_checked;
    assert_ok(ds_dataset_open(&options, &dataset));
    return dataset;
}

static struct ds_dataset *open_one(struct ds_fs *fs, const char *path)
{
    return open_file(fs, path, 0);
}

/* Three files of 100, 30 and 110 samples, shuffled: 240 an epoch. */
static struct ds_dataset *open_three(struct ds_fs *fs)
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

struct layout {
    uint64_t micro_batch_size, micro_count;
    uint32_t share_count;
};

static struct ds_loader *open_share(const struct ds_dataset *dataset, const struct layout *layout,
                                    uint32_t share, uint64_t sample_limit)
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

static struct ds_loader_batch next(struct ds_loader *loader, uint64_t step)
{
    struct ds_loader_batch batch = {0};
    uint64_t waited_ns = UINT64_MAX;

    assert_ok(ds_loader_next(loader, step, &batch, &waited_ns));
    assert_true(waited_ns < UINT64_MAX);
    return batch;
}

/* ---- one order for any number of shares */

enum { SHARES_MAX = 8, EPOCH = 240, WALK = 2 * EPOCH };

/* The samples of all shares, in the order in which one share with the same steps would have them. */
static void walk_shares(const struct ds_dataset *dataset, const struct layout *layout,
                        uint64_t *numbers)
{
    struct ds_loader *loaders[SHARES_MAX];
    uint64_t count = 0;

    for (uint32_t share = 0; share < layout->share_count; share++)
        loaders[share] = open_share(dataset, layout, share, 0);
    for (uint64_t step = 0; count < WALK; step++) {
        struct ds_loader_batch batches[SHARES_MAX];
        for (uint32_t share = 0; share < layout->share_count; share++)
            batches[share] = next(loaders[share], step);
        for (uint64_t micro = 0; micro < layout->micro_count; micro++)
            for (uint32_t share = 0; share < layout->share_count; share++)
                for (uint64_t row = 0; row < layout->micro_batch_size && count < WALK; row++)
                    numbers[count++] =
                        (uint64_t)batches[share].id[(micro * layout->micro_batch_size + row) * SEQ];
    }
    for (uint32_t share = 0; share < layout->share_count; share++)
        ds_loader_close(loaders[share]);
}

static void every_sample_comes_once_an_epoch_on_any_layout(void **state)
{
    static const struct layout layouts[] = {{1, 1, 1}, {1, 1, 2}, {3, 1, 3}, {1, 5, 8}, {2, 4, 1},
                                            {2, 3, 2}, {1, 4, 3}, {3, 2, 8}, {7, 1, 3}, {5, 5, 2}};
    struct ds_dataset *dataset = open_three(*state);
    uint64_t alone[WALK], numbers[WALK];

    walk_shares(dataset, &layouts[0], alone);
    for (int epoch = 0; epoch < 2; epoch++) {
        uint8_t seen[EPOCH] = {0};
        for (uint64_t i = 0; i < EPOCH; i++) {
            assert_true(alone[epoch * EPOCH + i] < EPOCH);
            assert_int_equal(seen[alone[epoch * EPOCH + i]]++, 0);
        }
    }
    for (size_t i = 0; i < WALK; i++)
        assert_int_equal(alone[i], ds_dataset_order(dataset, i));
    for (size_t l = 1; l < sizeof layouts / sizeof layouts[0]; l++) {
        walk_shares(dataset, &layouts[l], numbers);
        assert_memory_equal(numbers, alone, sizeof alone);
    }
    ds_dataset_close(dataset);
}

static void without_shuffle_the_file_is_read_in_order_every_epoch(void **state)
{
    static const struct layout layout = {2, 3, 2};
    uint64_t numbers[WALK];
    struct ds_dataset *dataset;

    put_numbered(*state, "rows", 37, 0, 0);
    dataset = open_one(*state, "rows");
    walk_shares(dataset, &layout, numbers);
    for (size_t i = 0; i < WALK; i++)
        assert_int_equal(numbers[i], i % 37);
    ds_dataset_close(dataset);
}

static void weights_blend_sources_in_their_shares(void **state)
{
    static const char *const paths[] = {"a", "b"};
    static const double weights[] = {0.5, 2};
    struct ds_dataset_options options = options_of(*state, paths, 2);
    struct ds_dataset *dataset = NULL;
    uint64_t from_a = 0;

    put_numbered(*state, "a", 60, 0, 0);
    put_numbered(*state, "b", 10, 60, 0);
    options.weights = weights;
    assert_ok(ds_dataset_open(&options, &dataset));
    assert_int_equal(ds_dataset_sample_count(dataset), 30 + 20);
    for (uint64_t position = 0; position < 500; position++) {
        from_a += ds_dataset_order(dataset, position) < 60;
        assert_in_range(5 * from_a + 5, 3 * (position + 1), 3 * (position + 1) + 10);
    }
    ds_dataset_close(dataset);
}

static void a_step_asked_for_at_random_is_the_one_of_the_sequence(void **state)
{
    enum { STEPS = 40, ROWS = 6 };
    static const struct layout layout = {2, 3, 3};
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_TEST, 0);
    struct ds_dataset *dataset = open_three(*state);
    struct ds_loader *loader = open_share(dataset, &layout, 1, 0);
    static int32_t ids[STEPS][ROWS * SEQ], targets[STEPS][ROWS * SEQ];

    for (uint64_t step = 0; step < STEPS; step++) {
        struct ds_loader_batch batch = next(loader, step);
        memcpy(ids[step], batch.id, sizeof ids[step]);
        memcpy(targets[step], batch.target, sizeof targets[step]);
    }
    for (uint64_t i = 0; i < 300; i++) {
        const uint64_t step = ds_random_below(random, i, STEPS);
        struct ds_loader_batch batch = next(loader, step);
        assert_memory_equal(batch.id, ids[step], sizeof ids[step]);
        assert_memory_equal(batch.target, targets[step], sizeof targets[step]);
    }
    ds_loader_close(loader);
    ds_dataset_close(dataset);
}

/* Also of the step that it has read already. */
static void a_loader_leaves_out_what_it_is_told(void **state)
{
    const struct layout layout = {1, 2, 2};
    struct ds_dataset *dataset = open_three(*state);
    struct ds_loader *all = open_share(dataset, &layout, 0, 0);
    struct ds_loader *some = open_share(dataset, &layout, 0, 0);
    const uint64_t ints = layout.micro_batch_size * layout.micro_count * SEQ;
    struct ds_skips skips = {.count = 0};

    assert_true(ds_skips_add(&skips, (struct ds_batch_range){2, 4}));
    (void)next(some, 0); /* and step 1 is read ahead */
    ds_loader_skip(some, &skips);
    for (uint64_t step = 1; step < 6; step++) {
        struct ds_loader_batch got = next(some, step), want = next(all, step + 2);
        assert_memory_equal(got.id, want.id, ints * sizeof *got.id);
    }
    ds_loader_close(all);
    ds_loader_close(some);
    ds_dataset_close(dataset);
}

/* Two loaders of one data set, as training and an evaluation of the same file would be. */
static void two_loaders_read_one_data_set_at_a_time(void **state)
{
    static const struct layout one = {4, 2, 1}, two = {1, 3, 2};
    struct ds_dataset *dataset = open_three(*state);
    struct ds_loader *a = open_share(dataset, &one, 0, 0), *b = open_share(dataset, &two, 1, 0);

    for (uint64_t step = 0; step < 50; step++) {
        struct ds_loader_batch first = next(a, step), second = next(b, step);
        for (uint64_t i = 0; i < 8; i++)
            assert_int_equal(first.id[i * SEQ], ds_dataset_order(dataset, step * 8 + i));
        for (uint64_t m = 0; m < 3; m++)
            assert_int_equal(second.id[m * SEQ], ds_dataset_order(dataset, (step * 3 + m) * 2 + 1));
    }
    ds_loader_close(a);
    ds_loader_close(b);
    ds_dataset_close(dataset);
}

/* What all shares train on with such a limit, and that what lies behind it is blank. */
static uint64_t trained_up_to(const struct ds_dataset *dataset, uint64_t limit)
{
    static const struct layout layout = {2, 1, 4};
    uint64_t trained = 0;

    for (uint32_t share = 0; share < 4; share++) {
        struct ds_loader *loader = open_share(dataset, &layout, share, limit);
        for (uint64_t step = 0; step < 3; step++) {
            struct ds_loader_batch batch = next(loader, step);
            trained += batch.trained_tokens;
            for (uint64_t i = 0; i < 2 * (uint64_t)SEQ; i++) {
                const uint64_t position = (step * 4 + share) * 2 + i / SEQ;
                if (position < limit)
                    continue;
                assert_int_equal(batch.id[i], 0);
                assert_int_equal(batch.target[i], -100);
                assert_int_equal(batch.position[i], i % SEQ);
                assert_int_equal(batch.document[i], 0);
            }
        }
        ds_loader_close(loader);
    }
    return trained;
}

static void a_limited_loader_trains_every_sample_below_it_once_and_then_nothing(void **state)
{
    struct ds_dataset *dataset;

    put_numbered(*state, "rows", 10, 1, 0);
    dataset = open_one(*state, "rows");
    for (uint64_t limit = 1; limit <= 10; limit++)
        assert_int_equal(trained_up_to(dataset, limit), limit * (SEQ - 1));
    ds_dataset_close(dataset);
}

/* ---- what a sample holds */

/* As transformers does it: logits 0..S-2 against labels 1..S-1, -100 left out. */
static void labels_are_shifted_as_the_models_of_transformers_do(void **state)
{
    static const int64_t ids[] = {5, 6, 7, 8, 9, 15, 16, 17, 18, 19};
    static const int64_t labels[] = {-100, -100, 7, -100, 9, 15, 3, 4, -100, -100};
    static const int32_t with_labels[] = {-100, 7, -100, 9, -100, 3, 4, -100, -100, -100};
    static const int32_t without[] = {6, 7, 8, 9, -100, 16, 17, 18, 19, -100};
    static const struct layout layout = {2, 1, 1};

    for (int has_labels = 0; has_labels < 2; has_labels++) {
        put_rows(*state, "rows", ids, has_labels ? labels : NULL, 2, 0);
        struct ds_dataset *dataset = open_one(*state, "rows");
        struct ds_loader *loader = open_share(dataset, &layout, 0, 0);
        struct ds_loader_batch batch = next(loader, 0);
        assert_memory_equal(batch.target, has_labels ? with_labels : without, sizeof without);
        assert_int_equal(batch.trained_tokens, has_labels ? 4 : 8);
        for (int i = 0; i < 10; i++) {
            assert_int_equal(batch.id[i], ids[i]);
            assert_int_equal(batch.position[i], i % SEQ);
            assert_int_equal(batch.document[i], 0);
        }
        ds_loader_close(loader);
        ds_dataset_close(dataset);
    }
}

static void three_dims_are_two_with_the_first_two_joined(void **state)
{
    struct ds_dataset *flat, *deep;

    put_numbered(*state, "flat", 24, 0, 0);
    put_numbered(*state, "deep", 24, 0, 4);
    flat = open_one(*state, "flat");
    deep = open_one(*state, "deep");
    assert_int_equal(ds_dataset_sample_count(deep), 24);
    for (uint64_t position = 0; position < 24; position++) {
        int32_t a[4][SEQ], b[4][SEQ];
        assert_ok(ds_dataset_read(flat, position, &(struct ds_sample){a[0], a[1], a[2], a[3]}));
        assert_ok(ds_dataset_read(deep, position, &(struct ds_sample){b[0], b[1], b[2], b[3]}));
        assert_memory_equal(a, b, sizeof a);
    }
    ds_dataset_close(flat);
    ds_dataset_close(deep);
}

static void put_typed(struct ds_fs *fs, enum ds_dtype dtype, const void *row)
{
    const struct ds_safetensors_item item = {"input_ids", dtype, 2, {1, SEQ}};
    struct ds_safetensors_writer *writer = NULL;

    assert_ok(ds_safetensors_create(fs, "typed", &item, 1, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, SEQ, row));
    assert_ok(ds_safetensors_commit(writer));
}

static void ids_of_every_whole_number_type_are_read(void **state)
{
    static const enum ds_dtype dtypes[] = {DS_I8,  DS_U8,  DS_I16, DS_U16,
                                           DS_I32, DS_U32, DS_I64, DS_U64};
    static const int32_t wanted[] = {1, 2, 3, 4, 127};

    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        uint8_t row[SEQ * sizeof(int64_t)] = {0};
        int32_t got[4][SEQ];
        for (size_t t = 0; t < SEQ; t++) /* little endian */
            row[t * ds_dtype_bytes(dtypes[i])] = (uint8_t)wanted[t];
        put_typed(*state, dtypes[i], row);
        struct ds_dataset *dataset = open_one(*state, "typed");
        assert_ok(ds_dataset_read(dataset, 0, &(struct ds_sample){got[0], got[1], got[2], got[3]}));
        assert_memory_equal(got[0], wanted, sizeof wanted);
        ds_dataset_close(dataset);
    }
}

/* Longer than the pieces in which a row is read. */
static void a_long_row_is_shifted_over_the_seams_of_its_pieces(void **state)
{
    enum { LONG = 10007 };
    static const char *const paths[] = {"long"};
    static uint16_t ids[2 * LONG], labels[2 * LONG];
    static int32_t got[4][LONG];
    const struct ds_safetensors_item items[] = {{"input_ids", DS_U16, 2, {2, LONG}},
                                                {"labels", DS_U16, 2, {2, LONG}}};
    struct ds_dataset_options options = options_of(*state, paths, 1);
    struct ds_safetensors_writer *writer = NULL;
    struct ds_dataset *dataset = NULL;

    for (size_t i = 0; i < 2 * LONG; i++) {
        ids[i] = (uint16_t)(i % 4999);
        labels[i] = (uint16_t)(i * 3 % 4999);
    }
    assert_ok(ds_safetensors_create(*state, "long", items, 2, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 2 * LONG, ids));
    assert_ok(ds_safetensors_write(writer, 1, 0, 2 * LONG, labels));
    assert_ok(ds_safetensors_commit(writer));
    options.seq_length = LONG;
    assert_ok(ds_dataset_open(&options, &dataset));
    assert_ok(ds_dataset_read(dataset, 1, &(struct ds_sample){got[0], got[1], got[2], got[3]}));
    for (size_t t = 0; t < LONG; t++) {
        assert_int_equal(got[0][t], ids[LONG + t]);
        assert_int_equal(got[1][t], t + 1 < LONG ? labels[LONG + t + 1] : -100);
        assert_int_equal(got[2][t], t);
    }
    ds_dataset_close(dataset);
}

static struct ds_dataset *open_prepared(struct ds_fs *fs, const char *source, uint64_t seq_length,
                                        uint64_t vocab_size)
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

/* of a sample, on average */
static void assert_documents(const struct ds_dataset *dataset, double want)
{
    assert_true(fabs(ds_dataset_documents(dataset) - want) < 1e-12);
}

static void put_text(struct ds_fs *fs, const char *path, const char *text)
{
    assert_ok(ds_fs_write_file(fs, path, text, strlen(text)));
}

static void documents_begin_anew_and_nobody_predicts_across_them(void **state)
{
    enum { B = DS_BYTE_BOS, E = DS_BYTE_EOS };
    static const int32_t id[] = {B, 'a', 'b', E, B, 'c', E, B, 'd', 'e', 'f', 'g'};
    static const int32_t target[] = {'a', 'b', E, -100, 'c', E, -100, 'd', 'e', 'f', 'g', 'h'};
    static const int32_t position[] = {0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2, 3};
    static const int32_t document[] = {0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0};
    struct ds_loader_options with = {.clock = ds_clock_system(),
                                     .seq_length = 4,
                                     .micro_batch_size = 1,
                                     .micro_count = 3,
                                     .share_count = 1};
    struct ds_loader *loader = NULL;
    struct ds_dataset *dataset;

    assert_int_equal(ds_fs_mkdir(*state, "in", 0755), 0);
    put_text(*state, "in/1", "ab");
    put_text(*state, "in/2", "c");
    put_text(*state, "in/3", "defgh");
    dataset = open_prepared(*state, "in", 4, DS_BYTE_VOCAB);
    assert_int_equal(ds_dataset_sample_count(dataset),
                     3); /* 14 tokens; the last one is left over */
    assert_int_equal(ds_dataset_token_count(dataset), 14);
    assert_false(ds_dataset_one_document(dataset));
    assert_documents(dataset,
                     1 + 2.0 / 3); /* two begin behind the first, one of them with a sample */
    with.dataset = dataset;
    assert_ok(ds_loader_open(&with, &loader));
    struct ds_loader_batch batch = next(loader, 0);
    assert_memory_equal(batch.id, id, sizeof id);
    assert_memory_equal(batch.target, target, sizeof target);
    assert_memory_equal(batch.position, position, sizeof position);
    assert_memory_equal(batch.document, document, sizeof document);
    assert_int_equal(batch.trained_tokens, 10);
    ds_loader_close(loader);
    ds_dataset_close(dataset);
}

/* Each look at it finds 5 ns gone. */
static uint64_t ticking_ns(void *self)
{
    return *(uint64_t *)self += 5;
}

static void waiting_is_measured_by_the_clock_that_was_given(void **state)
{
    uint64_t now_ns = 0, waited_ns = 0;
    const struct ds_clock clock = {.mono_ns = ticking_ns, .self = &now_ns};
    struct ds_loader_options with = {.clock = &clock,
                                     .seq_length = 4,
                                     .micro_batch_size = 1,
                                     .micro_count = 1,
                                     .share_count = 1};
    struct ds_loader *loader = NULL;
    struct ds_loader_batch batch;
    struct ds_dataset *dataset;

    put_text(*state, "text", "1234567");
    dataset = open_prepared(*state, "text", 4, DS_BYTE_VOCAB);
    with.dataset = dataset;
    assert_ok(ds_loader_open(&with, &loader));
    assert_ok(ds_loader_next(loader, 0, &batch, &waited_ns));
    assert_int_equal(waited_ns, 5);
    ds_loader_close(loader);
    ds_dataset_close(dataset);
}

/* 1 + the length of the text is a multiple of S: the last sample ends with the last token. */
/* Samples of a source with two documents a sample count as often as an epoch has them. */
static void documents_are_counted_as_samples_come(void **state)
{
    const struct ds_prepare_options prepare = {.fs = *state, .cache = "cache"};
    struct ds_prepare_report report = {0};
    const double weights[] = {1, 3};
    struct ds_dataset *dataset = NULL;
    char *paths[2];

    put_text(*state, "long", "23456789012345678901234"); /* 25 tokens: 6 samples of one */
    assert_int_equal(ds_fs_mkdir(*state, "short", 0755), 0);
    put_text(*state, "short/1", "23");
    put_text(*state, "short/2", "23");
    put_text(*state, "short/3", "2345"); /* 14 tokens: 3 samples; two documents begin inside */
    assert_ok(ds_prepare_text(&prepare, "long", &paths[0], &report));
    assert_ok(ds_prepare_text(&prepare, "short", &paths[1], &report));
    struct ds_dataset_options options = options_of(*state, (const char *const *)paths, 2);
    options.format = DS_DATA_SHARDS;
    options.seq_length = 4;
    options.vocab_size = DS_BYTE_VOCAB;
    options.weights = weights;
    assert_ok(ds_dataset_open(&options, &dataset));
    assert_int_equal(ds_dataset_sample_count(dataset), 6 + 9);
    assert_documents(dataset, (6 * 1 + 9 * (1 + 2.0 / 3)) / 15);
    ds_dataset_close(dataset);
    free(paths[0]);
    free(paths[1]);
}

static void the_last_sample_ends_with_the_last_token(void **state)
{
    int32_t got[4][4];
    struct ds_dataset *dataset;

    put_text(*state, "text", "1234567"); /* 9 tokens: two samples of 4 and the last target */
    dataset = open_prepared(*state, "text", 4, DS_BYTE_VOCAB);
    assert_int_equal(ds_dataset_sample_count(dataset), 2);
    assert_true(ds_dataset_one_document(dataset));
    assert_ok(ds_dataset_read(dataset, 1, &(struct ds_sample){got[0], got[1], got[2], got[3]}));
    assert_int_equal(got[0][3], '7');
    assert_int_equal(got[1][3], DS_BYTE_EOS);
    ds_dataset_close(dataset);
}

/* ---- what bad input gets */

static void assert_read_refused(struct ds_dataset *dataset, uint64_t position, const char *wanted)
{
    int32_t got[4][SEQ];
    struct capture log;

    capture_begin(&log);
    ds_status st =
        ds_dataset_read(dataset, position, &(struct ds_sample){got[0], got[1], got[2], got[3]});
    const char *said = capture_end(&log);
    if (!strstr(said, wanted) || strchr(said, '\n'))
        fail_msg("wanted: %s\nsaid: %s", wanted, said);
    assert_int_equal(st, DS_ERR_DATA);
    ds_dataset_close(dataset);
}

static void assert_open_refused(struct ds_fs *fs, const char *path, uint64_t seq_length,
                                const char *wanted)
{
    const char *const paths[] = {path};
    struct ds_dataset_options options = options_of(fs, paths, 1);
    struct ds_dataset *dataset = NULL;
    struct capture log;

    options.seq_length = seq_length;
    capture_begin(&log);
    ds_status st = ds_dataset_open(&options, &dataset);
    const char *said = capture_end(&log);
    if (!strstr(said, wanted) || strchr(said, '\n'))
        fail_msg("wanted: %s\nsaid: %s", wanted, said);
    assert_int_equal(st, DS_ERR_DATA);
    assert_null(dataset);
}

/* When it is opened, and where another rank has seen to that: when the sample is read. */
static void assert_id_refused(struct ds_fs *fs, const char *path, uint64_t position,
                              const char *wanted)
{
    assert_open_refused(fs, path, SEQ, wanted);
    assert_read_refused(open_file(fs, path, 1), position, wanted);
}

static void an_id_outside_the_vocabulary_is_refused_with_file_sample_and_id(void **state)
{
    static const int64_t good[] = {1, 2, 3, 4, 5, 1, 2, 3, 4, 5};
    int64_t ids[10], labels[10];

    memcpy(ids, good, sizeof ids);
    memcpy(labels, good, sizeof labels);
    ids[8] = VOCAB;
    put_rows(*state, "rows", ids, NULL, 2, 0);
    assert_id_refused(*state, "rows", 1,
                      "rows: sample 1 has token id 5000 at position 3, but the vocabulary has "
                      "5000 ids (0..4999)");
    ids[8] = -100; /* a label may be that, an id not */
    put_rows(*state, "rows", ids, NULL, 2, 0);
    assert_id_refused(*state, "rows", 1, "rows: sample 1 has token id -100 at position 3");
    ids[8] = (1ll << 32) + 4; /* would be 4 in 32 bits */
    put_rows(*state, "rows", ids, NULL, 2, 0);
    assert_id_refused(*state, "rows", 1, "sample 1 has token id 4294967300 at");
    labels[4] = -1;
    put_rows(*state, "rows", good, labels, 2, 0);
    assert_id_refused(*state, "rows", 0, "sample 0 has label -1 at position 4");
    put_typed(*state, DS_U32, (const uint32_t[]){1, 2, UINT32_MAX, 4, 5});
    assert_id_refused(*state, "typed", 0, "token id 4294967295 at position 2");
    put_typed(*state, DS_U64, (const uint64_t[]){1, 2, UINT64_MAX, 4, 5});
    assert_id_refused(*state, "typed", 0, "token id 18446744073709551615 at position 2");
    put_text(*state, "text", "12345678");
    assert_read_refused(open_prepared(*state, "text", SEQ, 200), 0,
                        "sample 0 has token id 256 at position 0, but the vocabulary has 200 ids");
}

static void count_call(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    assert_true(done_bytes <= total_bytes);
    ++*(int *)user;
}

/* Far behind what a run of a few steps would read; and whoever waits hears that it goes on. */
static void every_id_is_looked_at_before_the_first_sample(void **state)
{
    enum { N = 20000 };
    static int64_t ids[N * SEQ];
    static const char *const paths[] = {"rows"};
    struct ds_dataset_options options = options_of(*state, paths, 1);
    struct ds_dataset *dataset = NULL;
    int calls = 0;

    put_rows(*state, "rows", ids, NULL, N, 0);
    options.progress = count_call;
    options.user = &calls;
    assert_ok(ds_dataset_open(&options, &dataset));
    ds_dataset_close(dataset);
    assert_true(calls >= 20);
    ids[N * SEQ - 1] = VOCAB;
    put_rows(*state, "rows", ids, NULL, N, 0);
    assert_open_refused(
        *state, "rows", SEQ,
        "rows: sample 19999 has token id 5000 at position 4, but the vocabulary has "
        "5000 ids (0..4999); tokenise the data with the model's own tokenizer");
}

/* The first label of a sample is used by nobody. */
static void data_of_which_no_token_is_trained_is_refused(void **state)
{
    static const char *const paths[] = {"blank", "rows"};
    static const int64_t ids[] = {5, 6, 7, 8, 9, 15, 16, 17, 18, 19};
    static int64_t labels[] = {5, -100, -100, -100, -100, -1, -100, -100, -100, -100};
    const struct ds_dataset_options options = options_of(*state, paths, 2);
    struct ds_dataset *dataset = NULL;

    put_rows(*state, "blank", ids, labels, 2, 0);
    assert_open_refused(*state, "blank", SEQ, "blank: no token is trained: 'labels' is -100");
    labels[9] = 19;
    put_rows(*state, "rows", ids, labels, 2, 0);
    labels[9] = -100;
    assert_ok(ds_dataset_open(&options, &dataset));
    ds_dataset_close(dataset);
}

static void put_items(struct ds_fs *fs, const struct ds_safetensors_item *items, size_t count)
{
    static const uint64_t zeros[64];
    struct ds_safetensors_writer *writer = NULL;

    assert_ok(ds_safetensors_create(fs, "odd", items, count, NULL, &writer));
    for (size_t i = 0; i < count; i++) {
        uint64_t elems = 1;
        for (uint32_t d = 0; d < items[i].dim_count; d++)
            elems *= items[i].shape[d];
        assert_ok(ds_safetensors_write(writer, i, 0, elems, zeros));
    }
    assert_ok(ds_safetensors_commit(writer));
}

static void files_of_another_shape_are_refused_with_the_tensor_and_the_numbers(void **state)
{
    static const struct {
        size_t count;
        struct ds_safetensors_item items[2];
        const char *wanted;
    } cases[] = {
        {1, {{"ids", DS_I64, 2, {2, SEQ}}}, "odd: no tensor 'input_ids'"},
        {1, {{"input_ids", DS_F32, 2, {2, SEQ}}}, "'input_ids' is F32 with 2 dims; it must be"},
        {1, {{"input_ids", DS_I64, 1, {SEQ}}}, "'input_ids' is I64 with 1 dims; it must be"},
        {1, {{"input_ids", DS_I64, 4, {1, 1, 1, SEQ}}}, "'input_ids' is I64 with 4 dims"},
        {1, {{"input_ids", DS_I64, 2, {2, 6}}}, "rows of 6 tokens, but train.seq_length is 5"},
        {1, {{"input_ids", DS_I64, 2, {0, SEQ}}}, "odd: 'input_ids' is empty"},
        {2,
         {{"input_ids", DS_I64, 2, {2, SEQ}}, {"labels", DS_I64, 2, {3, SEQ}}},
         "'labels' has 15 elements, 'input_ids' 10"},
        {2,
         {{"input_ids", DS_I64, 2, {2, SEQ}}, {"labels", DS_F32, 2, {2, SEQ}}},
         "'labels' is F32 with 2 dims"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_items(*state, cases[i].items, cases[i].count);
        assert_open_refused(*state, "odd", SEQ, cases[i].wanted);
    }
    put_text(*state, "text", "a text is no safetensors file");
    assert_open_refused(*state, "text", SEQ, "text: ");
    assert_open_refused(*state, "missing", SEQ, "missing: No such file or directory");
}

/* A bad sample fails the step that has it, each time it is asked for, and no other one. */
static void a_failing_step_fails_and_the_others_do_not(void **state)
{
    static const struct layout layout = {2, 1, 1};
    struct ds_dataset *dataset;
    struct ds_loader *loader;
    struct ds_loader_batch batch;
    struct capture log;
    int64_t ids[10 * SEQ] = {0};
    uint64_t waited_ns;

    ids[5 * SEQ] = VOCAB; /* in step 2 */
    put_rows(*state, "rows", ids, NULL, 10, 0);
    dataset = open_file(*state, "rows", 1);
    loader = open_share(dataset, &layout, 0, 0);
    capture_begin(&log);
    for (uint64_t step = 0; step < 5; step++)
        assert_int_equal(ds_loader_next(loader, step, &batch, &waited_ns),
                         step == 2 ? DS_ERR_DATA : DS_OK);
    assert_int_equal(ds_loader_next(loader, 2, &batch, &waited_ns), DS_ERR_DATA);
    assert_int_equal(ds_loader_next(loader, 2, &batch, &waited_ns), DS_ERR_DATA);
    (void)capture_end(&log);
    ds_loader_close(loader);
    ds_dataset_close(dataset);
}

static void a_disk_that_fails_is_an_io_error_that_names_the_file(void **state)
{
    static const struct layout layout = {1, 1, 1};
    struct ds_fs *sim = *state, *fault = NULL;
    int failures = 0;

    put_numbered(sim, "rows", 4, 0, 0);
    for (uint64_t fail_at = 1; fail_at <= 12; fail_at++) {
        const char *const paths[] = {"rows"};
        struct ds_dataset *dataset = NULL;
        struct capture log;
        assert_ok(ds_fs_fault_open(sim, fail_at, &fault));
        const struct ds_dataset_options options = options_of(fault, paths, 1);
        capture_begin(&log);
        ds_status st = ds_dataset_open(&options, &dataset);
        if (st == DS_OK) {
            struct ds_loader *loader = open_share(dataset, &layout, 0, 0);
            struct ds_loader_batch batch;
            uint64_t waited_ns;
            for (uint64_t step = 0; step < 4 && st == DS_OK; step++)
                st = ds_loader_next(loader, step, &batch, &waited_ns);
            ds_loader_close(loader);
        }
        const char *said = capture_end(&log);
        failures += st != DS_OK;
        if (st != DS_OK && (st != DS_ERR_IO || !strstr(said, "rows: ")))
            fail_msg("call %llu: status %d, said: %s", (unsigned long long)fail_at, (int)st, said);
        ds_dataset_close(dataset);
        ds_fs_fault_close(fault);
    }
    assert_true(failures >= 6);
}

/* ---- memory */

static void a_loader_takes_no_memory_after_it_is_open(void **state)
{
    enum { LONG = 20000 };
    static const char *const paths[] = {"/tmp/test_data_loader.safetensors"};
    static const struct ds_safetensors_item item = {"input_ids", DS_I64, 2, {4, LONG}};
    static int64_t ids[4 * LONG];
    struct ds_dataset_options options = options_of(ds_fs_posix(), paths, 1);
    struct ds_loader_options with = {.clock = ds_clock_system(),
                                     .seq_length = LONG,
                                     .micro_batch_size = 2,
                                     .micro_count = 2,
                                     .share_count = 1};
    struct ds_safetensors_writer *writer = NULL;
    struct ds_dataset *dataset = NULL;
    struct ds_loader *loader = NULL;

    (void)state;
    if (!CAN_COUNT)
        skip();
    assert_ok(ds_safetensors_create(options.fs, paths[0], &item, 1, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 4 * LONG, ids));
    assert_ok(ds_safetensors_commit(writer));
    options.seq_length = LONG;
    assert_ok(ds_dataset_open(&options, &dataset));
    with.dataset = dataset;
    assert_ok(ds_loader_open(&with, &loader));
    (void)next(loader, 0);
    is_counting = 1;
    for (uint64_t step = 1; step < 6; step++)
        (void)next(loader, step);
    is_counting = 0;
    ds_loader_close(loader);
    ds_dataset_close(dataset);
    assert_int_equal(ds_fs_unlink(options.fs, paths[0]), 0);
    assert_int_equal(allocation_count, 0);
}

#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_disk, drop_disk)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DISK(every_sample_comes_once_an_epoch_on_any_layout),
        ON_DISK(without_shuffle_the_file_is_read_in_order_every_epoch),
        ON_DISK(weights_blend_sources_in_their_shares),
        ON_DISK(a_step_asked_for_at_random_is_the_one_of_the_sequence),
        ON_DISK(a_loader_leaves_out_what_it_is_told),
        ON_DISK(two_loaders_read_one_data_set_at_a_time),
        ON_DISK(a_limited_loader_trains_every_sample_below_it_once_and_then_nothing),
        ON_DISK(labels_are_shifted_as_the_models_of_transformers_do),
        ON_DISK(three_dims_are_two_with_the_first_two_joined),
        ON_DISK(ids_of_every_whole_number_type_are_read),
        ON_DISK(a_long_row_is_shifted_over_the_seams_of_its_pieces),
        ON_DISK(documents_begin_anew_and_nobody_predicts_across_them),
        ON_DISK(waiting_is_measured_by_the_clock_that_was_given),
        ON_DISK(documents_are_counted_as_samples_come),
        ON_DISK(the_last_sample_ends_with_the_last_token),
        ON_DISK(an_id_outside_the_vocabulary_is_refused_with_file_sample_and_id),
        ON_DISK(every_id_is_looked_at_before_the_first_sample),
        ON_DISK(data_of_which_no_token_is_trained_is_refused),
        ON_DISK(files_of_another_shape_are_refused_with_the_tensor_and_the_numbers),
        ON_DISK(a_failing_step_fails_and_the_others_do_not),
        ON_DISK(a_disk_that_fails_is_an_io_error_that_names_the_file),
        cmocka_unit_test(a_loader_takes_no_memory_after_it_is_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
