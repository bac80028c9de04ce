// link: data storage base
// tsan
/* What bad data gets: when it is opened or, where another rank has seen to that, when it is read, one line that names the
 * file and what is wrong in it. */
#include "data_case.h"

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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ON_DISK(an_id_outside_the_vocabulary_is_refused_with_file_sample_and_id),
        ON_DISK(every_id_is_looked_at_before_the_first_sample),
        ON_DISK(data_of_which_no_token_is_trained_is_refused),
        ON_DISK(files_of_another_shape_are_refused_with_the_tensor_and_the_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
