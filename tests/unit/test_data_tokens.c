/* test_data_tokens.c - texts into shards of a tokenizer's ids: the ids that the encoder gives, between what documents
 * begin and end with; made again when the tokenizer is another; whole or absent whatever fails. */
// link: data storage base
// private: runtime/data
#include "data_case.h"

#include "shard_file.h"

/* "ab" is a token, and so are <s> and </s>, which stand around a text; `last` is the id of one more. */
static const char tokenizer_form[] =
    "{\"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": "
    "2, "
    "\"<s>\": 3, \"</s>\": 4, \"?\": 5%s}, \"merges\": [\"a b\"]}, \"added_tokens\": [{\"id\": %u, "
    "\"content\": \"<x>\", \"special\": true}], \"post_processor\": {\"type\": "
    "\"TemplateProcessing\", "
    "\"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}, "
    "{\"SpecialToken\": {\"id\": \"</s>\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [3]}, "
    "\"</s>\": {\"ids\": [4]}}}}";

static struct ds_tokenizer *make_tokenizer(const char *more, unsigned last)
{
    struct ds_tokenizer *tokenizer = NULL;
    char json[1024];

    snprintf(json, sizeof json, tokenizer_form, more, last);
    assert_ok(ds_tokenizer_parse("t.json", json, strlen(json), &tokenizer));
    return tokenizer;
}

static ds_status prepare(struct ds_fs *fs, const struct ds_tokenizer *tokenizer, int replaces,
                         char **shard, struct ds_prepare_report *report)
{
    const struct ds_prepare_options options = {
        .fs = fs, .cache = "cache", .tokenizer = tokenizer, .replaces_invalid = replaces};

    return ds_prepare_text(&options, "in", shard, report);
}

static void put_folder(struct ds_fs *fs)
{
    assert_int_equal(ds_fs_mkdirs(fs, "in", 0755), 0);
    put_text(fs, "in/1", "abba");
    put_text(fs, "in/2", "b<x>a");
}

static void assert_shard(struct ds_fs *fs, const char *path, unsigned last, int is_wide)
{
    const uint32_t wanted[] = {3, 2, 1, 0, 4, 3, 1, last, 0, 4};
    const uint64_t documents[] = {0, 5, 10};
    struct ds_safetensors *file;
    struct shard_file shard = {0};
    char why[SHARD_WHY_BYTES];

    assert_ok(ds_safetensors_open(fs, path, &file));
    assert_ok(shard_file_check(file, &(struct shard_check){0}, &shard, why));
    assert_string_equal(why, "");
    assert_int_equal(shard.tokens == NULL, is_wide);
    assert_int_equal(shard.token_count, 10);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(shard_file_token(&shard, i), wanted[i]);
    assert_int_equal(shard.document_count, 2);
    assert_memory_equal(shard.documents, documents, sizeof documents);
    ds_safetensors_close(file);
}

static void a_shard_has_the_ids_of_the_tokenizer(void **state)
{
    static const unsigned lasts[] = {6, 65535, 65536, 200000};
    struct ds_fs *fs = *state;

    put_folder(fs);
    for (size_t i = 0; i < sizeof lasts / sizeof *lasts; i++) {
        struct ds_tokenizer *tokenizer = make_tokenizer("", lasts[i]);
        struct ds_prepare_report report = {0};
        char *shard = NULL, *again = NULL;

        assert_ok(prepare(fs, tokenizer, 0, &shard, &report));
        assert_shard(fs, shard, lasts[i], lasts[i] > 65535);
        assert_ok(prepare(fs, tokenizer, 0, &again, &report));
        assert_string_equal(shard, again);
        assert_int_equal(report.files_made, 1);
        assert_int_equal(report.files_reused, 1);
        assert_int_equal(report.tokens, 2 * 10);
        assert_int_equal(report.bytes, 2 * 9);
        free(shard);
        free(again);
        ds_tokenizer_close(tokenizer);
    }
}

static void another_tokenizer_makes_another_shard(void **state)
{
    struct ds_tokenizer *one = make_tokenizer("", 6), *other = make_tokenizer(", \"c\": 7", 6);
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    char *shards[4] = {0};

    put_folder(fs);
    assert_ok(prepare(fs, one, 0, &shards[0], &report));
    assert_ok(prepare(fs, other, 0, &shards[1], &report));
    assert_ok(prepare(fs, one, 1, &shards[2], &report));
    assert_ok(prepare(fs, NULL, 0, &shards[3], &report));
    assert_int_equal(report.files_made, 4);
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(shards[i], shards[k]);
    for (size_t i = 0; i < 4; i++)
        free(shards[i]);
    ds_tokenizer_close(one);
    ds_tokenizer_close(other);
}

static void wide_ids_arrive_in_samples(void **state)
{
    struct ds_tokenizer *tokenizer = make_tokenizer("", 200000);
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    struct ds_dataset *dataset = NULL;
    int32_t got[4][5];
    const struct ds_sample sample = {got[0], got[1], got[2], got[3]};
    char *shard = NULL;

    put_folder(fs);
    assert_ok(prepare(fs, tokenizer, 0, &shard, &report));
    struct ds_dataset_options options = options_of(fs, (const char *const *)&shard, 1);
    options.format = DS_DATA_SHARDS;
    options.vocab_size = 200001;
    assert_ok(ds_dataset_open(&options, &dataset));
    assert_ok(ds_dataset_read(dataset, 0, &sample));
    assert_int_equal(got[0][0], 3);
    assert_int_equal(got[1][3], 4);
    assert_int_equal(got[1][4], -100); /* the next document's first */
    ds_dataset_close(dataset);
    options.seq_length = 8;
    assert_ok(ds_dataset_open(&options, &dataset));
    int32_t wide[4][8];
    assert_ok(ds_dataset_read(dataset, 0, &(struct ds_sample){wide[0], wide[1], wide[2], wide[3]}));
    assert_int_equal(wide[0][7], 200000);
    assert_int_equal(wide[1][6], 200000);
    ds_dataset_close(dataset);
    free(shard);
    ds_tokenizer_close(tokenizer);
}

static void text_that_is_not_utf8_is_refused_with_its_place_or_replaced(void **state)
{
    struct ds_tokenizer *tokenizer = make_tokenizer("", 6);
    struct ds_fs *fs = *state;
    struct ds_prepare_report report = {0};
    struct capture log;
    char *shard = NULL;

    put_folder(fs);
    put_text(fs, "in/2", "ab\xff");
    capture_begin(&log);
    assert_int_equal(prepare(fs, tokenizer, 0, &shard, &report), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&log),
                           "in/2: byte 2 (0xff) is not UTF-8; write the text as UTF-8, or have "
                           "data.invalid_utf8 = replace"));
    assert_null(shard);
    assert_ok(prepare(fs, tokenizer, 1, &shard, &report));
    assert_int_equal(report.tokens, 5 + 4); /* <s> ab ? </s> */
    free(shard);
    ds_tokenizer_close(tokenizer);
}

static size_t names_in(struct ds_fs *fs, const char *folder)
{
    char **names = NULL;
    size_t count = 0;

    if (ds_fs_readdir(fs, folder, &names, &count) < 0)
        return 0;
    free(names);
    return count;
}

static void at_every_failing_call_nothing_half_made_stays(void **state)
{
    struct ds_tokenizer *tokenizer = make_tokenizer("", 6);
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
        const ds_status st = prepare(fault, tokenizer, 0, &shard, &report);
        const char *said = capture_end(&log);
        hit = ds_fs_fault_hit(fault);
        if (st != DS_OK && said[0] == '\0')
            fail_msg("call %llu failed without a word", (unsigned long long)fail_at);
        assert_true((st == DS_OK) == (shard != NULL));
        assert_int_equal(ds_fs_sim_open_files(sim), 0);
        free(shard);
        shard = NULL;
        assert_ok(prepare(sim, tokenizer, 0, &shard, &report));
        assert_shard(sim, shard, 6, 0);
        assert_int_equal(names_in(sim, "cache"), 1); /* the shard, and nothing else */
        free(shard);
        ds_fs_fault_close(fault);
    }
    assert_true(fail_at > 20);
    ds_tokenizer_close(tokenizer);
}

/* clang-format off */
#define ON_A_DISK(test) {#test, test, make_disk, drop_disk, NULL}
/* clang-format on */

static const struct CMUnitTest tests[] = {
    ON_A_DISK(a_shard_has_the_ids_of_the_tokenizer),
    ON_A_DISK(another_tokenizer_makes_another_shard),
    ON_A_DISK(wide_ids_arrive_in_samples),
    ON_A_DISK(text_that_is_not_utf8_is_refused_with_its_place_or_replaced),
    ON_A_DISK(at_every_failing_call_nothing_half_made_stays),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
