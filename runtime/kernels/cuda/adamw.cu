/* adamw.cu - AdamW over all spans of a shard in one launch. Whether the step counts, its rate and its
 * corrections are read from the step record when the work runs. Compiled without contraction: the bits are
 * those of the cpu.
 *
 * A thread has four neighbours. It loads them as bits and looks at dtypes afterwards, all threads the same way:
 * what waits for memory has time for that, and there are three kernels instead of a hundred. */
#include "states.cuh"

#include "../adamw.h"
#include "../launch.h"
#include "dstrain/master.h"
#include "dstrain/philox.h"

#define THREADS 256
#define BLOCKS  8    /* of a multiprocessor at most */
#define NUMBERS 8    /* of 16 bits in a block of Philox */
#define FULL    0xfu /* the mask of a whole run */

enum master { MASTER_FLOAT, MASTER_REMAINDER, MASTER_NONE };

struct shard {
    struct state master, param, gradient, m, v;
    const struct ds_adamw_span *spans;
    size_t span_count;
    const struct ds_step_record *record;
    float beta1, beta2, epsilon;
    uint64_t count;
    bool is_aligned; /* every state to whole runs */
};

/* ---- where elements belong */

/* The first span that ends behind element `at`. */
__device__ __forceinline__ size_t seek(const struct shard &s, uint64_t at)
{
    size_t low = 0, high = s.span_count;

    while (low < high) {
        const size_t middle = (low + high) / 2;

        if (s.spans[middle].start + s.spans[middle].count > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Those of the elements first .. first + count, at most RUN, that lie in the span: a bit each. */
__device__ __forceinline__ uint32_t mask_of(const struct ds_adamw_span &span, uint64_t first,
                                            int count)
{
    const uint64_t end = min(span.start + span.count, first + count) - first;
    const uint64_t start = span.start > first ? span.start - first : 0;

    return start < end ? ((1u << end) - 1) & ~((1u << start) - 1) : 0;
}

/* ---- random numbers */

/* The number of element `at` of a span, and how many elements from there on follow one another. */
__device__ __forceinline__ struct ds_span number_of(const struct ds_adamw_span &span, uint64_t at)
{
    const uint64_t place = span.column + (at - span.start);

    if (span.columns == 0)
        return {span.random_start + place, UINT64_MAX};
    const uint64_t row = place / span.columns, column = place - row * span.columns;
    return {span.random_start + row * span.whole_columns + column, span.columns - column};
}

__device__ __forceinline__ uint4 numbers_block(uint64_t block, uint64_t key, uint64_t step)
{
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)step,
                                 (uint32_t)(step >> 32)};
    uint32_t words[4];

    ds_philox(counter, key, words);
    return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ uint32_t number_at(const uint4 &block, unsigned i)
{
    const uint32_t low = i & 2 ? block.y : block.x, high = i & 2 ? block.w : block.z;

    return (i & 4 ? high : low) >> 16 * (i & 1) & 0xffffu;
}

/* The numbers of those elements first .. that are set in `mask`, each in its half word. Mostly they are half a
 * block; else they are shifted in one after another. */
__device__ __forceinline__ struct bits draw(const struct ds_adamw_span &span, uint64_t first,
                                            uint32_t mask, uint64_t step)
{
    const int skip = __ffs((int)mask) - 1;
    struct ds_span number = number_of(span, first + skip);
    uint4 block = numbers_block(number.start / NUMBERS, span.random_key, step);
    uint64_t random = 0;

    if (mask == FULL && number.start % RUN == 0 && number.count >= RUN)
        return number.start % NUMBERS ? bits{{block.z, block.w}} : bits{{block.x, block.y}};
#pragma unroll 1
    for (int i = 0; i < RUN; i++) {
        random >>= 16;
        if (!(mask >> i & 1))
            continue;
        if (number.count == 0)
            number = number_of(span, first + i);
        if (i > skip)
            block = numbers_block(number.start / NUMBERS, span.random_key, step);
        random |= (uint64_t)number_at(block, (unsigned)(number.start % NUMBERS)) << 48;
        number.start++;
        number.count--;
    }
    return {{(uint32_t)random, (uint32_t)(random >> 32)}};
}

/* ---- a run */

struct run {
    struct bits param; /* where it is read or chance rounds it */
    float master[RUN], gradient[RUN], m[RUN], v[RUN];
};

template <enum master MASTER>
__device__ __forceinline__ struct run load_run(const struct shard &s, uint64_t first, int count)
{
    const bool is_whole = s.is_aligned && count == RUN;
    struct bits master = {}, gradient, m, v;
    struct run x = {};

    if (MASTER != MASTER_NONE)
        master = load_bits(s.master, first, count, is_whole);
    if (MASTER != MASTER_FLOAT)
        x.param = load_bits(s.param, first, count, is_whole);
    gradient = load_bits(s.gradient, first, count, is_whole);
    m = load_bits(s.m, first, count, is_whole);
    v = load_bits(s.v, first, count, is_whole);

    widen(x.gradient, gradient, s.gradient.dtype);
    widen(x.m, m, s.m.dtype);
    widen(x.v, v, s.v.dtype);
#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (MASTER == MASTER_FLOAT)
            x.master[i] = __uint_as_float(master.word[i]);
        else
            x.master[i] = MASTER == MASTER_NONE ? __uint_as_float(half_of(x.param, i) << 16)
                                                : ds_master_join((uint16_t)half_of(x.param, i),
                                                                 (int16_t)half_of(master, i));
    return x;
}

/* The elements of one span. */
template <enum master MASTER>
__device__ __forceinline__ void update_part(const struct shard &s, struct adamw_step step,
                                            struct run *x, const struct ds_adamw_span &span,
                                            uint64_t first, uint32_t mask)
{
    struct bits random = {};

    step.decay = span.weight_decay;
    if (MASTER == MASTER_NONE)
        random = draw(span, first, mask, s.record->step);
#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (mask >> i & 1) {
            x->master[i] = adamw_element(x->master[i], x->gradient[i], &x->m[i], &x->v[i], &step);
            if (MASTER == MASTER_NONE)
                set_half(&x->param, i,
                         ds_master_round_randomly(x->master[i], (uint16_t)half_of(random, i)));
        }
}

template <enum master MASTER>
__device__ __forceinline__ void store_run(const struct shard &s, const struct run &x,
                                          uint64_t first, uint32_t touched)
{
    const bool is_whole = s.is_aligned && touched == FULL;
    struct bits weight = {}, rest = {};

    store_bits(s.m, narrow(x.m, s.m.dtype), first, touched, is_whole);
    store_bits(s.v, narrow(x.v, s.v.dtype), first, touched, is_whole);
    if (MASTER == MASTER_NONE)
        weight = x.param;
#pragma unroll
    for (int i = 0; i < RUN && MASTER != MASTER_NONE; i++) {
        set_half(&weight, i, ds_master_weight(x.master[i]));
        set_half(&rest, i, (uint16_t)ds_master_remainder(x.master[i]));
    }
    if (MASTER == MASTER_FLOAT)
        rest = narrow(x.master, DS_F32);
    if (MASTER == MASTER_FLOAT && s.param.dtype != DS_BF16)
        weight = narrow(x.master, s.param.dtype);
    if (MASTER != MASTER_NONE)
        store_bits(s.master, rest, first, touched, is_whole);
    if (s.param.at)
        store_bits(s.param, weight, first, touched, is_whole);
}

template <enum master MASTER>
__device__ __forceinline__ void update_run(const struct shard &s, const struct adamw_step &step,
                                           uint64_t first)
{
    const int count = s.count - first < RUN ? (int)(s.count - first) : RUN;
    struct run x = load_run<MASTER>(s, first, count);
    uint32_t touched = 0;

    for (size_t i = seek(s, first); i < s.span_count && s.spans[i].start < first + count; i++) {
        const uint32_t mask = mask_of(s.spans[i], first, count);

        if (mask != 0)
            update_part<MASTER>(s, step, &x, s.spans[i], first, mask);
        touched |= mask;
    }
    store_run<MASTER>(s, x, first, touched);
}

template <enum master MASTER>
__global__ void __launch_bounds__(THREADS, MASTER == MASTER_NONE ? 3 : 4)
    adamw_kernel(const __grid_constant__ struct shard s)
{
    const struct ds_step_record *record = s.record;
    const struct adamw_step step = {s.beta1,
                                    s.beta2,
                                    s.epsilon,
                                    record->learning_rate,
                                    0.0f,
                                    record->correction1,
                                    record->correction2,
                                    record->clip_factor / record->loss_scale};
    const uint64_t stride = (uint64_t)gridDim.x * THREADS * RUN;

    if (record->skip)
        return;
    for (uint64_t at = ((uint64_t)blockIdx.x * THREADS + threadIdx.x) * RUN; at < s.count;
         at += stride)
        update_run<MASTER>(s, step, at);
}

/* ---- launch */

template <enum master MASTER> static ds_status launch(struct ds_stream *stream, struct shard *s)
{
    const uint64_t most = (uint64_t)cuda_device_of(stream)->processor_count * BLOCKS;
    const uint64_t blocks = (s->count + THREADS * RUN - 1) / (THREADS * RUN);
    const struct state *states[] = {&s->master, &s->param, &s->gradient, &s->m, &s->v};

    if (s->count == 0 || s->span_count == 0)
        return DS_OK;
    s->is_aligned = true;
    for (const struct state *state : states)
        s->is_aligned = s->is_aligned && is_run_aligned(*state);
    adamw_kernel<MASTER>
        <<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, cuda_stream_of(stream)>>>(*s);
    CUDA_LAUNCHED("adamw");
    return DS_OK;
}

/* A master of 16 bits, or none, belongs to a weight of bf16 alone. */
static ds_status master_find(const struct ds_adamw_args *a, enum master *out)
{
    const bool is_bf16 = a->param.data && a->param.dtype == DS_BF16;

    if (a->master.data && a->master.dtype == DS_F32)
        *out = MASTER_FLOAT;
    else if (is_bf16 && a->master.data && a->master.dtype == DS_I16)
        *out = MASTER_REMAINDER;
    else if (is_bf16 && !a->master.data)
        *out = MASTER_NONE;
    else
        return ds_fail(DS_ERR_UNSUPPORTED, "kernel adamw: param is %s with a master of %s",
                       ds_dtype_name(a->param.dtype),
                       a->master.data ? ds_dtype_name(a->master.dtype) : "none");
    return DS_OK;
}

extern "C" ds_status cuda_adamw(struct ds_stream *stream, const struct ds_adamw_args *a)
{
    const bool is_own = a->param.data == a->master.data; /* the param is the master */
    struct shard s = {state_of(&a->master),
                      is_own ? state_of(NULL) : state_of(&a->param),
                      state_of(&a->grad),
                      state_of(&a->exp_avg),
                      state_of(&a->exp_avg_sq),
                      a->spans,
                      a->span_count,
                      a->record,
                      a->beta1,
                      a->beta2,
                      a->epsilon,
                      kernel_elems(&a->grad)};
    enum master master;

    DS_ASSERT(!a->master.data || kernel_elems(&a->master) == kernel_elems(&a->grad));
    KERNEL_WANTS_FLOAT("adamw", a, param);
    KERNEL_WANTS_FLOAT("adamw", a, grad);
    KERNEL_WANTS_FLOAT("adamw", a, exp_avg);
    KERNEL_WANTS_FLOAT("adamw", a, exp_avg_sq);
    DS_TRY(master_find(a, &master));
    if (master == MASTER_FLOAT)
        return launch<MASTER_FLOAT>(stream, &s);
    if (master == MASTER_REMAINDER)
        return launch<MASTER_REMAINDER>(stream, &s);
    return launch<MASTER_NONE>(stream, &s);
}
