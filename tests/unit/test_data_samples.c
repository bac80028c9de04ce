// link: data storage base
// tsan
/* What a sample holds: ids, targets, positions and documents, from files of tokens and from text. */
#include "data_case.h"

#include <math.h>

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

/* of a sample, on average */
static void assert_documents(const struct ds_dataset *dataset, double want)
{
    assert_true(fabs(ds_dataset_documents(dataset) - want) < 1e-12);
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

/* 1 + the length of the text is a multiple of S: the last sample ends with the last token. */
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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ON_DISK(labels_are_shifted_as_the_models_of_transformers_do),
        ON_DISK(three_dims_are_two_with_the_first_two_joined),
        ON_DISK(ids_of_every_whole_number_type_are_read),
        ON_DISK(a_long_row_is_shifted_over_the_seams_of_its_pieces),
        ON_DISK(documents_begin_anew_and_nobody_predicts_across_them),
        ON_DISK(documents_are_counted_as_samples_come),
        ON_DISK(the_last_sample_ends_with_the_last_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
