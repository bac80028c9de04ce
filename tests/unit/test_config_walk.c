// link: launch
// private: launch
/* A walk over configurations: one key of a valid one is changed at random. Where that is refused, the advice
 * holds as it is said, each alternative of it, and no nearer value of the key that it names would do. */
#include "config_case.h"

#include "dstrain/random.h"

#include <inttypes.h>

static const struct {
    const char *key;
    const char *values[12];
} walked[] = {
    {"run.device", {"auto", "cpu", "cuda"}},
    {"run.cpu_streams", {"inline", "deferred"}},
    {"run.deterministic", {"auto", "true", "false"}},
    {"run.tuning", {"quick", "load"}},
    {"run.share_device", {"false", "true"}},
    {"model.family", {"llama", "qwen2", "qwen3"}},
    {"model.vocab_size", {"auto", "259", "300", "100"}},
    {"model.hidden_size", {"64", "48", "60", "24", "72", "96"}},
    {"model.intermediate_size", {"128", "100", "7", "3", "2"}},
    {"model.num_hidden_layers", {"1", "2", "3", "4", "6", "10", "14"}},
    {"model.num_attention_heads", {"1", "2", "3", "4", "5", "6", "8", "12"}},
    {"model.num_key_value_heads", {"auto", "1", "2", "3", "4", "6", "8", "12"}},
    {"model.head_dim", {"auto", "4", "7", "16"}},
    {"model.max_position_embeddings", {"auto", "16", "31", "32", "64"}},
    {"data.eval", {"", "e.txt"}},
    {"train.steps", {"3", "5", "10", "20"}},
    {"train.global_batch_size", {"1", "4", "6", "8", "12", "13", "16", "24", "48"}},
    {"train.micro_batch_size", {"1", "2", "3", "4"}},
    {"train.seq_length", {"15", "16", "30", "31", "32", "64"}},
    {"train.eval_interval", {"0", "5"}},
    {"schedule.kind", {"constant", "linear", "cosine", "wsd"}},
    {"schedule.warmup_steps", {"0", "2", "4", "10", "12"}},
    {"schedule.decay_steps", {"0", "1", "3", "10"}},
    {"schedule.min_learning_rate", {"0", "1e-4", "1"}},
    {"optimizer.learning_rate", {"1e-3", "5e-5"}},
    {"precision.compute", {"fp32", "bf16", "fp16"}},
    {"precision.master", {"fp32", "remainder16", "none"}},
    {"precision.reduce", {"fp32", "bf16"}},
    {"parallel.data", {"auto", "1", "2", "3", "4", "8"}},
    {"parallel.shard", {"auto", "1", "2", "3", "4"}},
    {"parallel.tensor", {"1", "2", "3", "4", "6", "8"}},
    {"parallel.pipeline", {"1", "2", "3", "4", "6", "8"}},
    {"parallel.chunks", {"1", "2", "3", "4"}},
    {"parallel.schedule", {"gpipe", "1f1b", "interleaved", "zero_bubble"}},
    {"parallel.sequence_parallel", {"false", "true"}},
    {"parallel.transport", {"auto", "shm", "mpi", "nccl"}},
    {"parallel.gather", {"kernel", "symmetric", "copy_engine"}},
    {"zero.stage", {"0", "1", "2", "3"}},
    {"zero.window", {"auto", "1", "2", "4", "9"}},
    {"checkpoint.interval", {"0", "2", "3"}},
    {"checkpoint.export", {"0", "2", "4", "6", "7"}},
    {"checkpoint.references", {"auto", "off"}},
    {"checkpoint.rollback", {"auto", "off"}},
    {"checkpoint.rollback_skip", {"1", "200"}},
    {"log.trace", {"", "1..2", "4..4", "8..9"}},
    {"debug.inject", {"", "hang:1:2", "nan:3:4", "labels:all:3-4"}},
};
enum { WALKED = sizeof walked / sizeof *walked };

struct walk {
    struct load load;
    char changes[WALKED][128];
    uint64_t seed, drawn;
};

static uint64_t walk_draw(struct walk *w, uint64_t bound)
{
    return ds_random_below(ds_random_of(w->seed, DS_RANDOM_TEST, 5), w->drawn++, bound);
}

/* A key and a value at random on top; 0: refused, and `w` holds the refusal. */
static int walk_step(struct walk *w)
{
    const size_t row = walk_draw(w, WALKED);
    size_t values = 0, count = 0;

    while (values < 12 && walked[row].values[values])
        values++;
    while (w->load.overrides[count])
        count++;
    snprintf(w->changes[row], sizeof w->changes[row], "%s=%s", walked[row].key,
             walked[row].values[walk_draw(w, values)]);
    if (count < OVERRIDES_MAX)
        advice_take(w->load.overrides, count, w->changes[row]);
    return load(&w->load) == DS_OK;
}

/* A valid configuration, `length` keys from the one that everybody knows. */
static void walk_begin(struct walk *w, size_t length)
{
    static const uint64_t ranks[] = {1, 2, 3, 4, 4, 6, 7, 8, 8, 12, 16};

    w->load = (struct load){.text = GOOD};
    w->load.overrides[0] = "train.global_batch_size=48";
    do
        w->load.rank_count = ranks[walk_draw(w, sizeof ranks / sizeof *ranks)];
    while (load(&w->load) != DS_OK);
    for (size_t i = 0; i < length; i++) {
        struct walk before = *w;
        if (!walk_step(w)) {
            const uint64_t drawn = w->drawn;
            *w = before;
            w->drawn = drawn;
        }
    }
}
/* Of a count that is named no nearer one would do. */
static void assert_nothing_is_nearer(const struct load *refused)
{
    const struct advice advice = advice_read(refused->said);
    char section[64], key[64], change[128];
    uint64_t named;

    if (advice.count != 1 ||
        sscanf(advice.changes[0], "%63[a-z].%63[a-z_]=%" SCNu64, section, key, &named) != 3)
        return;
    const struct ds_field *field = ds_field_find(section, key);
    if (field->kind != DS_FIELD_COUNT && field->kind != DS_FIELD_AUTO)
        return;
    const uint64_t was =
        *(const uint64_t *)(const void *)((const char *)&refused->config + field->offset);
    const uint64_t far = was > named ? was - named : named - was;
    for (uint64_t v = was > far ? was - far + 1 : 1; v < was + far && far < 100; v++) {
        struct load l = *refused;
        size_t count = 0;
        snprintf(change, sizeof change, "%s.%s=%" PRIu64, section, key, v);
        while (l.overrides[count])
            count++;
        advice_take(l.overrides, count, change);
        if (load(&l) == DS_OK)
            fail_msg("%s\nbut %s is nearer", refused->said, change);
    }
}

static void advice_about_any_one_key_holds_and_is_the_nearest(void **state)
{
    static struct walk w;
    const int turns = test_is_long() ? 20000 : 600;
    int refused = 0;

    (void)state;
    w.seed = test_seed("walk");
    for (int i = 0; i < turns; i++) {
        walk_begin(&w, walk_draw(&w, 30));
        if (walk_step(&w))
            continue;
        refused++;
        assert_advice_holds(&w.load);
        assert_null(strstr(w.load.said, "must change, too")); /* of one fault there is all advice */
        assert_nothing_is_nearer(&w.load);
    }
    printf("%d of %d changes of one key are refused\n", refused, turns);
    assert_true(refused * 10 > turns);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(advice_about_any_one_key_holds_and_is_the_nearest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
