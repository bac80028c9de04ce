// link: launch
// timeout: 10800
/* One number of one rank is NaN or infinite: an activation, a loss, a gradient, or a weight in its memory. All ranks
 * leave that step out alike, and what they had before it they have behind it, to the bit. Nothing that is not finite
 * gets into a checkpoint, not even where the number stays: then a launch goes on from the last one before it, as if
 * nothing had been. 12 places, 4 times 3 numbers; DSTRAIN_TEST_LONG: 400. */
#include "saved_run.h"

#include "dstrain/checkpoint.h"
#include "dstrain/kernels.h"
#include "dstrain/random.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

enum { RANKS = 4, STEPS = 10, NOWHERE = UINT32_MAX };
enum place { ACTIVATION, LOSS, GRADIENT, WEIGHT, PLACES };

static uint64_t drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 8), drawn++, bound);
}

/* ---- a device whose arithmetic goes wrong once */

static struct {
    enum place place;
    float value;
    uint32_t rank;
    uint64_t step;
} fault;
static atomic_int done;

static _Thread_local uint32_t this_rank; /* kernels run on a rank's own thread */
static _Thread_local uint64_t this_step;
static _Thread_local float *a_weight, *its_master;

static int is_wanted(enum place place)
{
    return fault.rank == this_rank && fault.step == this_step && fault.place == place &&
           atomic_exchange(&done, 1) == 0;
}

static void spoil(enum place place, const struct ds_tensor *tensor)
{
    if (tensor->data && is_wanted(place))
        *(float *)tensor->data = fault.value;
}

static ds_status bad_rmsnorm_forward(struct ds_stream *stream, const struct ds_rmsnorm_args *args)
{
    DS_TRY(ds_kernels_cpu.rmsnorm_forward(stream, args));
    spoil(ACTIVATION, &args->y_TC);
    return DS_OK;
}

static ds_status bad_cross_entropy(struct ds_stream *stream,
                                   const struct ds_cross_entropy_args *args)
{
    DS_TRY(ds_kernels_cpu.cross_entropy(stream, args));
    spoil(LOSS, &args->loss_N);
    return DS_OK;
}

static ds_status bad_rmsnorm_backward(struct ds_stream *stream,
                                      const struct ds_rmsnorm_backward_args *args)
{
    DS_TRY(ds_kernels_cpu.rmsnorm_backward(stream, args));
    spoil(GRADIENT, &args->dx_TC);
    return DS_OK;
}

static ds_status bad_step_begin(struct ds_stream *stream, const struct ds_step_begin_args *args)
{
    this_step = args->record->step;
    if (a_weight && is_wanted(WEIGHT))
        *a_weight = *its_master = fault.value;
    return ds_kernels_cpu.step_begin(stream, args);
}

/* Where a weight lies that this rank keeps. */
static ds_status bad_adamw(struct ds_stream *stream, const struct ds_adamw_args *args)
{
    if (args->span_count > 0 && args->spans[0].count > 0) { /* the rest is padding */
        const uint64_t start = args->spans[0].start;

        a_weight = (float *)args->param.data + start;
        its_master = (float *)(args->master.data ? args->master.data : args->param.data) + start;
    }
    return ds_kernels_cpu.adamw(stream, args);
}

static struct ds_device_ops bad_ops;
static struct ds_kernel_ops bad_kernels;

static ds_status bad_open(int index, const struct ds_device_options *options,
                          struct ds_device **out)
{
    DS_TRY(ds_device_cpu_ops.open(index, options, out));
    (*out)->ops = &bad_ops;
    return DS_OK;
}

static const struct ds_device_ops *bad_device(void)
{
    bad_kernels = ds_kernels_cpu;
    bad_kernels.rmsnorm_forward = bad_rmsnorm_forward;
    bad_kernels.cross_entropy = bad_cross_entropy;
    bad_kernels.rmsnorm_backward = bad_rmsnorm_backward;
    bad_kernels.step_begin = bad_step_begin;
    bad_kernels.adamw = bad_adamw;
    bad_ops = ds_device_cpu_ops;
    bad_ops.kernels = &bad_kernels;
    bad_ops.open = bad_open;
    return &bad_ops;
}

/* ---- runs */

static int know_rank(uint32_t rank)
{
    this_rank = rank;
    return 0;
}

static struct tiny_result run(int stage, uint64_t steps, saved_adjust *adjust)
{
    const struct tiny_case c = {.ranks = RANKS,
                                .stage = stage,
                                .shard = 2, /* every rank keeps some of the weights */
                                .global_batch = 8,
                                .micro_batch = 1,
                                .layers = 1,
                                .seed = saved.seed,
                                .data = saved.data,
                                .device = bad_device(),
                                .leave = know_rank};

    return saved_run(c, steps, adjust);
}

/* ---- what is there */

static void check_chunks(const struct ds_manifest *manifest, uint32_t index)
{
    static _Alignas(DS_PACK_ALIGN) uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_pack *pack;

    assert_ok(ds_checkpoint_open_pack(ds_fs_posix(), saved.root, manifest, index, &pack));
    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count; i++) {
        const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[i];

        assert_int_equal(chunk->dtype, DS_F32);
        assert_ok(
            ds_checkpoint_read_chunk(ds_fs_posix(), saved.root, manifest, pack, i, buffer, NULL));
        for (uint64_t n = 0; n < chunk->end - chunk->begin; n++)
            if (!isfinite(((const float *)(const void *)buffer)[n]))
                fail_msg("a number of step %llu is %g", (unsigned long long)manifest->id.step,
                         (double)((const float *)(const void *)buffer)[n]);
    }
    ds_pack_close(pack);
}

/* Every number of every one of them; the newest's step. */
static uint64_t check_checkpoints(void)
{
    struct ds_checkpoint_list list;
    uint64_t newest;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), saved.root, &list));
    assert_true(list.count > 0);
    newest = list.entries[0].id.step;
    for (size_t i = 0; i < list.count; i++) {
        struct ds_manifest manifest;

        assert_ok(
            ds_checkpoint_read_manifest(ds_fs_posix(), saved.root, &list.entries[i].id, &manifest));
        for (uint32_t p = 0; p < manifest.pack_count; p++)
            if (ds_checkpoint_owns(&manifest, &manifest.packs[p].pack.id))
                check_chunks(&manifest, p);
        ds_manifest_fini(&manifest);
    }
    ds_checkpoint_list_fini(&list);
    return newest;
}

/* ---- the test */

static void assert_goes_on(int stage, const struct tiny_result *whole, uint64_t from)
{
    fault.rank = NOWHERE;
    struct tiny_result rest = run(stage, STEPS, with_checkpoints);

    if (from < fault.step) { /* as if nothing had been */
        assert_memory_equal(rest.loss + from, whole->loss + from,
                            (STEPS - from) * sizeof *rest.loss);
        assert_memory_equal(rest.params, whole->params, whole->param_elems * sizeof *rest.params);
    }
    for (uint64_t i = from; i < STEPS; i++)
        assert_true(isfinite(rest.loss[i]) && isfinite(rest.norm[i]));
    tiny_result_fini(&rest);
}

static int is_seen(const struct tiny_result *result, uint64_t step)
{
    return !isfinite(result->loss[step - 1]) || !isfinite(result->norm[step - 1]);
}

static void check_fault(enum place place, float value)
{
    const int stage = (int)draw(4);
    const uint64_t bad = 3 + draw(4);

    fault.rank = NOWHERE;
    struct tiny_result whole = run(stage, STEPS, without_checkpoints);
    struct tiny_result before = run(stage, bad - 1, with_checkpoints);
    /* the checkpoint that it goes on from was read: no update has told where a weight lies, so one step more */
    fault.place = place;
    fault.value = value;
    fault.rank = (uint32_t)draw(RANKS);
    fault.step = bad + (place == WEIGHT);
    atomic_store(&done, 0);
    const uint64_t last = fault.step + 2;
    struct tiny_result at = run(stage, last, with_checkpoints);
    if (!atomic_load(&done))
        fail_msg("place %d of rank %u, stage %d: never there", place, fault.rank, stage);
    /* what a rank keeps of the weights may be gathered at the end of a step only */
    const uint64_t seen =
        fault.step + (place == WEIGHT && is_seen(&at, fault.step + 1) && !is_seen(&at, fault.step));
    if (!is_seen(&at, seen))
        fail_msg("place %d of rank %u, stage %d: step %llu does not see %g", place, fault.rank,
                 stage, (unsigned long long)fault.step, (double)value);
    assert_int_equal(at.skipped, place == WEIGHT ? last + 1 - seen : 1);
    const uint64_t newest = check_checkpoints();
    if (place != WEIGHT)
        assert_int_equal(newest, last);
    assert_goes_on(stage, &whole, newest);
    saved_forget(saved.root);
    tiny_result_fini(&whole);
    tiny_result_fini(&before);
    tiny_result_fini(&at);
}

static void nothing_that_is_not_finite_is_kept(void **state)
{
    static const float values[] = {NAN, INFINITY, -INFINITY};
    const int count = test_is_long() ? 400 : 3 * PLACES;

    (void)state;
    ds_log.terminal = -1;
    for (int i = 0; i < count; i++)
        check_fault((enum place)(i % PLACES), values[i / PLACES % 3]);
    ds_log.terminal = 2;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_that_is_not_finite_is_kept),
    };
    int failed;

    saved_begin("test_not_finite", 64);
    saved.interval = 1;
    saved.decay_steps = STEPS;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
