/* adamw.cu - AdamW over all spans of a shard in one launch. Whether the step counts, its rate and its
 * corrections are read from the step record when the work runs. Compiled without contraction: the bits are
 * those of the cpu.
 *
 * A thread has four neighbours. It loads them as bits and looks at dtypes afterwards, all threads the same way:
 * what waits for memory has time for that, and there are three kernels instead of a hundred. Where all states are
 * bf16 memory does not leave that time: then a thread has eight, one block of random numbers, and the dtype is
 * known to the compiler. */
#include "states.cuh"

#include "../adamw.h"
#include "../launch.h"
#include "dstrain/master.h"
#include "dstrain/philox.h"

#define THREADS 128
#define BLOCKS  16                /* of a multiprocessor at most */
#define NUMBERS 8                 /* of 16 bits in a block of Philox */
#define FULL    ((1u << RUN) - 1) /* the mask of a whole run */

#define RUN_ANY  4 /* neighbours that a thread has */
#define RUN_BF16 8 /* where master there is none, and all else is bf16 */

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

/* Those of the elements first .. first + count, a run at most, that lie in the span: a bit each. */
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

/* The numbers from `start` on that follow one another, each in its half word: of one block, or of two. */
template <int RUN>
__device__ __forceinline__ struct bits draw_run(uint64_t start, uint64_t key, uint64_t step)
{
    const unsigned skip = (unsigned)(start % NUMBERS);
    const uint4 one = numbers_block(start / NUMBERS, key, step);
    const uint4 two = skip + RUN > NUMBERS ? numbers_block(start / NUMBERS + 1, key, step) : one;
    uint32_t word[] = {one.x, one.y, one.z, one.w, two.x, two.y, two.z, two.w};

#pragma unroll
    for (int i = 0; i < 6; i++)
        word[i] = skip & 4 ? word[i + 2] : word[i];
#pragma unroll
    for (int i = 0; i < 5; i++)
        word[i] = skip & 2 ? word[i + 1] : word[i];
#pragma unroll
    for (int i = 0; i < 4; i++)
        word[i] = skip & 1 ? word[i] >> 16 | word[i + 1] << 16 : word[i];
    return {{word[0], word[1], word[2], word[3]}};
}

template <int RUN> __device__ __forceinline__ void shift_in(struct bits *x, uint32_t half)
{
#pragma unroll
    for (int i = 0; i < RUN / 2 - 1; i++)
        x->word[i] = x->word[i] >> 16 | x->word[i + 1] << 16;
    x->word[RUN / 2 - 1] = x->word[RUN / 2 - 1] >> 16 | half << 16;
}

/* The numbers of those elements first .. that are set in `mask`, each in its half word. Mostly they follow one
 * another; else they are shifted in one by one. */
template <int RUN>
__device__ __forceinline__ struct bits draw(const struct ds_adamw_span &span, uint64_t first,
                                            uint32_t mask, uint64_t step)
{
    const int skip = __ffs((int)mask) - 1;
    struct ds_span number = number_of(span, first + skip);
    struct bits random = {};

    if (mask == FULL && number.count >= RUN)
        return draw_run<RUN>(number.start, span.random_key, step);
#pragma unroll 1
    for (int i = 0; i < RUN; i++) {
        const bool is_set = mask >> i & 1;

        if (is_set && number.count == 0)
            number = number_of(span, first + i);
        const uint4 block = numbers_block(number.start / NUMBERS, span.random_key, step);
        shift_in<RUN>(&random, number_at(block, (unsigned)(number.start % NUMBERS)));
        number.start += is_set;
        number.count -= is_set;
    }
    return random;
}

/* ---- a run */

/* The shard's states; of runs of eight all are bf16, which the compiler gets to see. */
template <int RUN> __device__ __forceinline__ struct state known_of(const struct state &state)
{
    return known<RUN == RUN_BF16>(state);
}

template <int RUN> struct run {
    struct bits param; /* where it is read or chance rounds it */
    float master[RUN], gradient[RUN], m[RUN], v[RUN];
};

template <enum master MASTER, int RUN>
__device__ __forceinline__ struct run<RUN> load_run(const struct shard &s, uint64_t first,
                                                    int count) {
    const struct state of_gradient = known_of<RUN>(s.gradient), of_m = known_of<RUN>(s.m),
                       of_v = known_of<RUN>(s.v);
    const bool is_whole = s.is_aligned && count == RUN;
    struct bits master = {}, gradient, m, v;
    struct run<RUN> x = {
    };

    if (MASTER != MASTER_NONE)
        master = load_bits<RUN>(s.master, first, count, is_whole);
    if (MASTER != MASTER_FLOAT)
        x.param = load_bits<RUN>(known_of<RUN>(s.param), first, count, is_whole);
    gradient = load_bits<RUN>(of_gradient, first, count, is_whole);
    m = load_bits<RUN>(of_m, first, count, is_whole);
    v = load_bits<RUN>(of_v, first, count, is_whole);

    widen(x.gradient, gradient, of_gradient.dtype);
    widen(x.m, m, of_m.dtype);
    widen(x.v, v, of_v.dtype);
#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (MASTER == MASTER_FLOAT)
            x.master[i] = __uint_as_float(master.word[i % 4]);
        else
            x.master[i] = MASTER == MASTER_NONE ? __uint_as_float(half_of(x.param, i) << 16)
                                                : ds_master_join((uint16_t)half_of(x.param, i),
                                                                 (int16_t)half_of(master, i));
    return x;
}

/* The elements of one span. The others of the run are made, too, and left: that is less than to branch at each. */
template <enum master MASTER, int RUN>
__device__ __forceinline__ void update_part(struct adamw_step step, uint64_t number,
                                            struct run<RUN> *x, const struct ds_adamw_span &span,
                                            uint64_t first, uint32_t mask)
{
    struct bits random = {};

    step.decay = span.weight_decay;
    if (MASTER == MASTER_NONE)
        random = draw<RUN>(span, first, mask, number);
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        const bool is_set = mask >> i & 1;
        float m = x->m[i], v = x->v[i];
        const float master = adamw_element(x->master[i], x->gradient[i], &m, &v, &step);

        x->m[i] = is_set ? m : x->m[i];
        x->v[i] = is_set ? v : x->v[i];
        x->master[i] = is_set ? master : x->master[i];
        if (MASTER == MASTER_NONE && is_set)
            set_half(&x->param, i, ds_master_round_randomly(master, (uint16_t)half_of(random, i)));
    }
}

template <enum master MASTER, int RUN>
__device__ __forceinline__ void store_run(const struct shard &s, const struct run<RUN> &x,
                                          uint64_t first, uint32_t touched)
{
    const struct state of_m = known_of<RUN>(s.m), of_v = known_of<RUN>(s.v);
    const bool is_whole = s.is_aligned && touched == FULL;
    struct bits weight = {}, rest = {};

    store_bits<RUN>(of_m, narrow(x.m, of_m.dtype), first, touched, is_whole);
    store_bits<RUN>(of_v, narrow(x.v, of_v.dtype), first, touched, is_whole);
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
        store_bits<RUN>(s.master, rest, first, touched, is_whole);
    if (s.param.at)
        store_bits<RUN>(known_of<RUN>(s.param), weight, first, touched, is_whole);
}

template <enum master MASTER, int RUN>
__device__ __forceinline__ void update_run(const struct shard &s, const struct adamw_step &step,
                                           uint64_t number, uint64_t first)
{
    const int count = s.count - first < RUN ? (int)(s.count - first) : RUN;
    struct run<RUN> x = load_run<MASTER, RUN>(s, first, count);
    uint32_t touched = 0;

    for (size_t i = seek(s, first); i < s.span_count && s.spans[i].start < first + count; i++) {
        const uint32_t mask = mask_of(s.spans[i], first, count);

        if (mask != 0)
            update_part<MASTER>(step, number, &x, s.spans[i], first, mask);
        touched |= mask;
    }
    store_run<MASTER>(s, x, first, touched);
}

template <enum master MASTER, int RUN>
__global__ void __launch_bounds__(THREADS, RUN == RUN_BF16         ? 5
                                           : MASTER == MASTER_NONE ? 6
                                                                   : 8)
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
    const uint64_t stride = (uint64_t)gridDim.x * THREADS * RUN, number = record->step;

    if (record->skip)
        return;
    for (uint64_t at = ((uint64_t)blockIdx.x * THREADS + threadIdx.x) * RUN; at < s.count;
         at += stride)
        update_run<MASTER, RUN>(s, step, number, at);
}

/* ---- launch */

template <enum master MASTER, int RUN>
static ds_status launch(struct ds_stream *stream, struct shard *s)
{
    const uint64_t most = (uint64_t)cuda_device_of(stream)->processor_count * BLOCKS;
    const uint64_t blocks = (s->count + THREADS * RUN - 1) / (THREADS * RUN);
    const struct state *states[] = {&s->master, &s->param, &s->gradient, &s->m, &s->v};

    if (s->count == 0 || s->span_count == 0)
        return DS_OK;
    s->is_aligned = true;
    for (const struct state *state : states)
        s->is_aligned = s->is_aligned && is_run_aligned(*state, RUN);
    adamw_kernel<MASTER, RUN>
        <<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, cuda_stream_of(stream)>>>(*s);
    CUDA_LAUNCHED("adamw");
    return DS_OK;
}

static bool is_bf16(const struct state &state)
{
    return state.dtype == DS_BF16;
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
        return launch<MASTER_FLOAT, RUN_ANY>(stream, &s);
    if (master == MASTER_REMAINDER)
        return launch<MASTER_REMAINDER, RUN_ANY>(stream, &s);
    if (is_bf16(s.gradient) && is_bf16(s.m) && is_bf16(s.v))
        return launch<MASTER_NONE, RUN_BF16>(stream, &s);
    return launch<MASTER_NONE, RUN_ANY>(stream, &s);
}
