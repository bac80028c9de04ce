// link: data storage base
// private: runtime/data
/* Rows in samples: every token is learned once and in its own document's context, packed or not; what is too long does as
 * it is told; a share that is set aside is no part of the rest. */
#include "rows_case.h"

enum { LENGTH = 64 };

struct opened {
    struct ds_dataset *dataset;
    uint64_t samples;
};

static ds_status try_open(struct ds_fs *fs, const struct ds_dataset_options *with,
                          struct ds_dataset **out)
{
    struct ds_dataset_options options = *with;
    struct ds_prepare_report report = {0};
    char *shard = NULL;

    assert_ok(prepare_rows(fs, &plain_rows, 2, &shard, &report));
    const char *const paths[] = {shard};
    options.fs = fs;
    options.format = DS_DATA_JSONL;
    options.paths = paths;
    options.path_count = 1;
    options.vocab_size = options.vocab_size ? options.vocab_size : DS_BYTE_VOCAB;
    const ds_status st = ds_dataset_open(&options, out);
    free(shard);
    return st;
}

static struct opened open_with(struct ds_fs *fs, const struct ds_dataset_options *options)
{
    struct opened opened = {0};

    assert_ok(try_open(fs, options, &opened.dataset));
    opened.samples = ds_dataset_sample_count(opened.dataset);
    return opened;
}

static void assert_open_refused(struct ds_fs *fs, const struct ds_dataset_options *options,
                                const char *said)
{
    struct ds_dataset *dataset = NULL;
    struct capture capture;

    capture_begin(&capture);
    const ds_status st = try_open(fs, options, &dataset);
    const char *text = capture_end(&capture);
    assert_int_equal(st, DS_ERR_DATA);
    if (!strstr(text, said))
        fail_msg("'%s' does not say '%s'", text, said);
}

struct buffers {
    int32_t id[LENGTH], target[LENGTH], position[LENGTH], document[LENGTH];
};

static void read_sample(const struct ds_dataset *dataset, uint64_t index, struct buffers *b)
{
    const struct ds_sample to = {b->id, b->target, b->position, b->document};

    assert_ok(ds_dataset_read(dataset, index, &to));
}

/* What a place asks for, with everything that is before it in its document: one number, added up over places: the same
 * however documents are dealt to samples. */
static uint64_t sum_of_contexts(const struct ds_dataset *dataset, uint64_t seq_length,
                                uint64_t *learned)
{
    struct buffers b;
    uint64_t sum = 0;

    for (uint64_t s = 0; s < ds_dataset_sample_count(dataset); s++) {
        read_sample(dataset, s, &b);
        uint64_t hash = 0;
        for (uint64_t t = 0; t < seq_length; t++) {
            assert_true(b.document[t] >= 0 && (uint64_t)b.document[t] <= t);
            assert_true(t == 0 || b.document[t] == b.document[t - 1] ||
                        b.document[t] == (int32_t)t);
            assert_int_equal(b.position[t], (int32_t)t - b.document[t]);
            if (b.document[t] == (int32_t)t)
                hash = 0;
            hash = (hash ^ (uint64_t)(b.id[t] + 1)) * 0x9e3779b97f4a7c15u;
            hash ^= hash >> 29;
            if (b.target[t] == -100)
                continue;
            sum += (hash ^ (uint64_t)b.target[t]) * 0xbf58476d1ce4e5b9u;
            ++*learned;
        }
    }
    return sum;
}

static void every_token_is_learned_once_in_its_own_context(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_packing"), DS_RANDOM_TEST, 1);

    char *text = draw_rows(random, 200);
    struct ds_dataset_options options = {.seq_length = LENGTH, .overlong = DS_OVERLONG_SPLIT};
    uint64_t learned[2] = {0}, sums[2], samples[2], places = 0;

    put_text(*state, "in.jsonl", text);
    for (int packs = 0; packs < 2; packs++) {
        options.packs = packs;
        struct opened o = open_with(*state, &options);
        sums[packs] = sum_of_contexts(o.dataset, LENGTH, &learned[packs]);
        samples[packs] = o.samples;
        assert_int_equal(ds_dataset_one_document(o.dataset), !packs);
        places = ds_dataset_token_count(o.dataset);
        ds_dataset_close(o.dataset);
    }
    assert_true(sums[0] == sums[1]);
    assert_int_equal(learned[0], learned[1]);
    assert_true(samples[1] < samples[0]);
    assert_true((double)places / (double)(samples[1] * LENGTH) > 0.85);
    free(text);
}

/* All that was learned in the rows is learned in samples, too. */
static void nothing_is_lost_where_long_rows_go_on(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_packing"), DS_RANDOM_TEST, 2);
    char *text = draw_rows(random, 100), *shard = NULL;
    struct ds_dataset_options options = {.packs = 1, .overlong = DS_OVERLONG_SPLIT};
    struct ds_prepare_report report = {0};

    put_text(*state, "in.jsonl", text);
    assert_ok(prepare_rows(*state, &plain_rows, 1, &shard, &report));
    free(shard);
    for (uint64_t length = 1; length <= LENGTH; length += length < 8 ? 1 : 14) {
        uint64_t learned = 0;
        options.seq_length = length;
        struct opened o = open_with(*state, &options);
        (void)sum_of_contexts(o.dataset, length, &learned);
        assert_int_equal(learned, report.learned);
        ds_dataset_close(o.dataset);
    }
    free(text);
}

/* ---- rows that are too long: 5 places a sample, rows of 4, 5, 6 and 20 places */

static const char lengths[] = "{\"text\":\"abc\"}\n{\"text\":\"abcd\"}\n{\"text\":\"abcde\"}\n"
                              "{\"text\":\"abcdefghijklmnopqrs\"}\n";

static uint64_t learned_with(struct ds_fs *fs, enum ds_overlong overlong, uint64_t *samples)
{
    const struct ds_dataset_options options = {.seq_length = 5, .overlong = overlong};
    struct capture capture;
    uint64_t learned = 0;

    capture_begin(&capture);
    struct opened o = open_with(fs, &options);
    assert_non_null(strstr(capture_end(&capture),
                           "in.jsonl: 2 of 4 rows are longer than train.seq_length + 1 = 6 tokens, "
                           "the longest has 21: "));
    (void)sum_of_contexts(o.dataset, 5, &learned);
    *samples = o.samples;
    ds_dataset_close(o.dataset);
    return learned;
}

static void long_rows_do_as_they_are_told(void **state)
{
    struct ds_dataset_options options = {.seq_length = 5, .overlong = DS_OVERLONG_ERROR};
    uint64_t samples;

    put_text(*state, "in.jsonl", lengths);
    assert_int_equal(learned_with(*state, DS_OVERLONG_CUT, &samples), 4 + 5 + 5 + 5);
    assert_int_equal(samples, 4);
    assert_int_equal(learned_with(*state, DS_OVERLONG_DROP, &samples), 4 + 5);
    assert_int_equal(samples, 2);
    assert_int_equal(learned_with(*state, DS_OVERLONG_SPLIT, &samples), 4 + 5 + 6 + 20);
    assert_int_equal(samples, 2 + 2 + 4);
    assert_int_equal(learned_with(*state, DS_OVERLONG_AUTO, &samples), 4 + 5 + 6 + 20); /* text */
    assert_open_refused(
        *state, &options,
        "in.jsonl: row 3 has 7 tokens, more than a sample of train.seq_length + 1 = "
        "6; 2 of 4 rows are so long, the longest has 21: data.overlong = cut, split "
        "or drop says what becomes of them");
    options.overlong = DS_OVERLONG_AUTO;
    put_text(*state, "in.jsonl", "{\"prompt\":\"abc\",\"completion\":\"def\"}\n");
    assert_open_refused(*state, &options, "in.jsonl: row 1 has 8 tokens");
    options.overlong = DS_OVERLONG_CUT;
    assert_open_refused(*state, &options, "no end of an answer is left to learn");
    put_text(*state, "in.jsonl", "{\"prompt\":\"abcdefgh\",\"completion\":\"i\"}\n");
    assert_open_refused(*state, &options,
                        "in.jsonl: all 1 rows are longer than train.seq_length + 1 "
                        "= 6 tokens, and nothing is learned of what");
}

/* What is cut behind its prompt is not there: a sample in which nothing is learned would be a waste. */
static void pieces_of_which_nothing_is_learned_are_not_there(void **state)
{
    struct ds_dataset_options options = {.seq_length = 5, .overlong = DS_OVERLONG_SPLIT};
    uint64_t learned = 0;

    put_text(*state, "in.jsonl", "{\"prompt\":\"abcdefghijkl\",\"completion\":\"mn\"}\n");
    struct opened o = open_with(*state, &options);
    (void)sum_of_contexts(o.dataset, 5, &learned);
    assert_int_equal(o.samples, 1);
    assert_int_equal(learned, 3);
    ds_dataset_close(o.dataset);
}

/* ---- a share to evaluate on */

static void a_share_is_set_aside_by_what_rows_say(void **state)
{
    const uint64_t seed = test_seed("test_packing");
    char *text = malloc(1 << 17), *at = text;
    uint64_t sums[3], learned[3] = {0}, counts[3];

    assert_non_null(text);
    for (int i = 0; i < 2000; i++)
        at += sprintf(at, "{\"text\":\"row %d\"}\n", i % 1000); /* each twice */
    put_text(*state, "in.jsonl", text);
    for (int side = 0; side < 3; side++) {
        const struct ds_dataset_options options = {
            .seq_length = 16, .side = (enum ds_data_side)side, .eval_share = 0.2, .seed = seed};
        struct opened o = open_with(*state, &options);
        sums[side] = sum_of_contexts(o.dataset, 16, &learned[side]);
        counts[side] = o.samples;
        ds_dataset_close(o.dataset);
    }
    assert_int_equal(counts[0], 2000);
    assert_int_equal(counts[1] + counts[2], 2000);
    assert_true(sums[1] + sums[2] == sums[0]);
    assert_int_equal(counts[2] % 2, 0); /* both of a pair */
    assert_true(counts[2] > 2 * 100 && counts[2] < 2 * 300);
    free(text);
}

static void a_share_of_nothing_is_refused(void **state)
{
    const struct ds_dataset_options options = {
        .seq_length = 16, .side = DS_SIDE_EVAL, .eval_share = 1e-9};

    put_text(*state, "in.jsonl", lengths);
    assert_open_refused(*state, &options,
                        "in.jsonl: data.eval_share = 1e-09 leaves none of 4 rows to evaluate on; a "
                        "larger share does, with 0 there is no evaluation");
}

static void ids_outside_the_vocabulary_are_refused(void **state)
{
    const struct ds_dataset_options options = {.seq_length = 8, .vocab_size = DS_BYTE_EOS};
    struct buffers b;
    const struct ds_sample to = {b.id, b.target, b.position, b.document};
    struct capture capture;

    put_text(*state, "in.jsonl", "{\"text\":\"abc\"}\n");
    struct opened o = open_with(*state, &options);
    capture_begin(&capture);
    assert_int_equal(ds_dataset_read(o.dataset, 0, &to), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "token id 257 at position 4"));
    ds_dataset_close(o.dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DISK(every_token_is_learned_once_in_its_own_context),
        ON_DISK(nothing_is_lost_where_long_rows_go_on),
        ON_DISK(long_rows_do_as_they_are_told),
        ON_DISK(pieces_of_which_nothing_is_learned_are_not_there),
        ON_DISK(a_share_is_set_aside_by_what_rows_say),
        ON_DISK(a_share_of_nothing_is_refused),
        ON_DISK(ids_outside_the_vocabulary_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
