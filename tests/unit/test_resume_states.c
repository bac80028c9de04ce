// link: launch
// timeout: 10800
/* A run goes on in another layout, by another schedule, in another stage, with moments of other dtypes, all at once: every
 * state, not the weights alone, is there to the bit, or rounded to nearest where its dtype is narrower. The loaded states
 * are those of a checkpoint behind one step that changes nothing, since it is not finite. 8 pairs, drawn;
 * DSTRAIN_TEST_LONG: 400. */
#include "saved_run.h"

#include "dstrain/random.h"
#include "dstrain/tensor.h"

#include <stdio.h>

enum { LOADED = 3, BATCH = 30 };

static uint64_t drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 13), drawn++, bound);
}

/* ---- kinds of runs */

struct kind {
    uint32_t data, shard, tensor, pipeline, chunks;
    int schedule, stage, mode, exp_avg, exp_avg_sq;
};

static struct kind kind_now;

static void as_kind(struct ds_config *config)
{
    config->precision.exp_avg = kind_now.exp_avg;
    config->precision.exp_avg_sq = kind_now.exp_avg_sq;
}

static struct kind draw_kind(void)
{
    static const uint32_t datas[] = {1, 2, 3, 5, 6}, tensors[] = {1, 2, 3, 4, 6};
    static const int schedules[] = {DS_PIPELINE_GPIPE, DS_PIPELINE_1F1B, DS_PIPELINE_INTERLEAVED,
                                    DS_PIPELINE_ZERO_BUBBLE};
    struct kind kind;

    do
        kind = (struct kind){
            .data = datas[draw(5)], .tensor = tensors[draw(5)], .pipeline = 1 + (uint32_t)draw(3)};
    while (kind.data * kind.tensor * kind.pipeline > 6);
    do
        kind.shard = 1 + (uint32_t)draw(kind.data);
    while (kind.data % kind.shard != 0);
    kind.schedule = kind.pipeline > 1 ? schedules[draw(4)] : DS_PIPELINE_1F1B;
    if (kind.pipeline == 3 && kind.schedule == DS_PIPELINE_INTERLEAVED)
        kind.schedule = DS_PIPELINE_ZERO_BUBBLE; /* its chunks would be more than the blocks */
    kind.chunks = kind.schedule == DS_PIPELINE_INTERLEAVED ? 2 : 1;
    kind.stage = (int)draw(4);
    kind.mode = (int)draw(2) ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE;
    kind.exp_avg = (int)draw(2) ? DS_PRECISION_BF16 : DS_PRECISION_FP32;
    kind.exp_avg_sq = (int)draw(2) ? DS_PRECISION_BF16 : DS_PRECISION_FP32;
    return kind;
}

static struct tiny_case case_of(const struct kind *kind)
{
    struct tiny_case c = saved_case();

    kind_now = *kind;
    c.ranks = kind->data * kind->tensor * kind->pipeline;
    c.shard = kind->shard;
    c.tensor = kind->tensor;
    c.pipeline = kind->pipeline;
    c.chunks = kind->chunks;
    c.schedule = kind->schedule;
    c.stage = kind->stage;
    c.mode = kind->mode;
    c.global_batch = BATCH;
    c.micro_batch = 1;
    c.layers = 4; /* each pipeline stage has one, so that it sees what is injected */
    c.heads = 12;
    c.kv_heads = 1;
    c.head_dim = 4;
    c.is_tied = 1;
    return c;
}

static void describe(const struct kind *k, char to[128])
{
    snprintf(to, 128,
             "data %u shard %u tensor %u pipeline %u schedule %d stage %d mode %d moments %d %d",
             k->data, k->shard, k->tensor, k->pipeline, k->schedule, k->stage, k->mode, k->exp_avg,
             k->exp_avg_sq);
}

/* ---- all states of a checkpoint, as fp32 */

struct states {
    struct ds_manifest manifest;
    float **values; /* [catalogue.count] */
};

static ds_status take(void *user, size_t want, uint64_t start, uint64_t count, const void *from,
                      enum ds_dtype dtype)
{
    struct states *states = user;

    assert_true(ds_dtype_to_f32(states->values[want] + start, from, dtype, count));
    return DS_OK;
}

static void states_read(struct states *states, uint64_t step)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    const struct ds_checkpoint_sink sink = {take, states};
    struct ds_manifest_id ids[SAVED_MAX];

    assert_true(saved_list(saved.root, ids) > 0);
    assert_int_equal(ids[0].step, step);
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), saved.root, &ids[0], &states->manifest));
    const struct ds_catalogue *all = &states->manifest.catalogue;
    struct ds_piece *wants = calloc(all->count, sizeof *wants);
    states->values = calloc(all->count, sizeof *states->values);
    for (uint32_t i = 0; i < all->count; i++) {
        const uint64_t elems = ds_logical_elems(&all->tensors[i]);

        wants[i] = (struct ds_piece){i, ds_box_whole(&all->tensors[i]), 0, elems};
        states->values[i] = calloc(elems, sizeof(float));
    }
    assert_ok(ds_checkpoint_load(ds_fs_posix(), saved.root, &states->manifest, wants, all->count,
                                 buffer, &sink));
    free(wants);
}

static void states_fini(struct states *states)
{
    for (uint32_t i = 0; i < states->manifest.catalogue.count; i++)
        free(states->values[i]);
    free(states->values);
    ds_manifest_fini(&states->manifest);
}

/* What `to` keeps of a number of `from`. */
static float kept(float value, enum ds_dtype to)
{
    uint16_t narrow;

    if (to == DS_F32)
        return value;
    assert_int_equal(to, DS_BF16);
    assert_true(ds_dtype_from_f32(&narrow, to, &value, 1));
    assert_true(ds_dtype_to_f32(&value, &narrow, to, 1));
    return value;
}

static void assert_same_states(const struct states *from, const struct states *to, const char *what)
{
    const struct ds_catalogue *a = &from->manifest.catalogue, *b = &to->manifest.catalogue;

    assert_int_equal(a->count, b->count);
    for (uint32_t i = 0; i < a->count; i++) {
        const struct ds_logical_tensor *tensor = &a->tensors[i], *other = &b->tensors[i];

        assert_string_equal(tensor->name, other->name);
        assert_int_equal(tensor->kind, other->kind);
        for (uint64_t n = 0; n < ds_logical_elems(tensor); n++) {
            const float wanted = kept(from->values[i][n], other->dtype), got = to->values[i][n];

            if (memcmp(&wanted, &got, sizeof got) != 0)
                fail_msg("%s: element %llu of %s of %s is %.9g, saved was %.9g", what,
                         (unsigned long long)n, ds_state_kind_name(tensor->kind), tensor->name,
                         (double)got, (double)from->values[i][n]);
        }
    }
}

/* ---- the test */

static void check_pair(void)
{
    const struct kind from = draw_kind(), to = draw_kind();
    char a[128], b[128], what[300], inject[32];
    struct states before, behind;

    describe(&from, a);
    describe(&to, b);
    snprintf(what, sizeof what, "%s -> %s", a, b);
    struct tiny_result source = saved_run(case_of(&from), LOADED, with_checkpoints);
    states_read(&before, LOADED);
    struct tiny_case c = case_of(&to);
    snprintf(inject, sizeof inject, "nan:%u:%u", (unsigned)draw(c.ranks), LOADED + 1);
    c.inject = inject;
    struct tiny_result at = saved_run(c, LOADED + 1, with_checkpoints);
    if (saved_went_on_from(&at) != LOADED || at.skipped != 1)
        fail_msg("%s: from step %llu, %llu left out", what,
                 (unsigned long long)saved_went_on_from(&at), (unsigned long long)at.skipped);
    states_read(&behind, LOADED + 1);
    assert_same_states(&before, &behind, what);
    states_fini(&before);
    states_fini(&behind);
    saved_forget(saved.root);
    tiny_result_fini(&source);
    tiny_result_fini(&at);
}

static void every_state_is_there_in_a_run_of_another_kind(void **state)
{
    (void)state;
    for (int i = 0; i < (test_is_long() ? 400 : 8); i++)
        check_pair();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_state_is_there_in_a_run_of_another_kind),
    };

    saved_begin("test_resume_states", 64);
    saved.interval = 1000; /* behind the last step */
    saved.decay_steps = 10;
    saved.also = as_kind;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
