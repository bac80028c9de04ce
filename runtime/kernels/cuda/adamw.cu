/* adamw.cu - AdamW over all spans of a shard in one launch. Whether the step counts, its rate and its
 * corrections are read from the step record when the work runs. Compiled without contraction: the bits are
 * those of the cpu.
 *
 * A thread has four neighbours. It loads them as bits and looks at dtypes afterwards, all threads the same way:
 * what waits for memory has time for that, and there are three kernels instead of a hundred. Without a master there
 * is less to wait for: roots and quotients of a run are made side by side, and one branch asks for all of them
 * whether they are exact. Where all states are bf16, too, a thread has eight, one block of random numbers, and the
 * dtype is known to the compiler. */
#include "draw.cuh"
#include "exact.h"
#include "states.cuh"

#include "../adamw.h"
#include "../launch.h"
#include "dstrain/master.h"

#include <float.h>

#define THREADS 128
#define WAVES   2 /* of blocks at most, whole ones: what is left of one keeps few threads busy */

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

/* ---- a run */

/* The shard's states; of runs of eight all are bf16, which the compiler gets to see. */
template <int RUN> __device__ __forceinline__ struct state known_of(const struct state &state)
{
    return known<RUN == RUN_BF16>(state);
}

/* As they lie in memory; what the kind of master has not, or does not read, is 0. */
struct packed {
    struct bits master, param, gradient, m, v;
};

template <int RUN> struct run {
    struct bits param; /* where it is read or chance rounds it */
    float master[RUN], gradient[RUN], m[RUN], v[RUN];
};

template <enum master MASTER, int RUN>
__device__ __forceinline__ struct packed load_run(const struct shard &s, uint64_t first, int count)
{
    const bool is_whole = s.is_aligned && count == RUN;
    struct packed x = {};

    if (MASTER != MASTER_NONE)
        x.master = load_bits<RUN>(s.master, first, count, is_whole);
    if (MASTER != MASTER_FLOAT)
        x.param = load_bits<RUN>(known_of<RUN>(s.param), first, count, is_whole);
    x.gradient = load_bits<RUN>(known_of<RUN>(s.gradient), first, count, is_whole);
    x.m = load_bits<RUN>(known_of<RUN>(s.m), first, count, is_whole);
    x.v = load_bits<RUN>(known_of<RUN>(s.v), first, count, is_whole);
    return x;
}

template <enum master MASTER, int RUN>
__device__ __forceinline__ struct run<RUN> unpack_run(const struct shard &s,
                                                      const struct packed &from) {
    struct run<RUN> x = {
    };

    x.param = from.param;
    widen(x.gradient, from.gradient, known_of<RUN>(s.gradient).dtype);
    widen(x.m, from.m, known_of<RUN>(s.m).dtype);
    widen(x.v, from.v, known_of<RUN>(s.v).dtype);
#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (MASTER == MASTER_FLOAT)
            x.master[i] = __uint_as_float(from.master.word[i % 4]);
        else
            x.master[i] = MASTER == MASTER_NONE ? __uint_as_float(half_of(from.param, i) << 16)
                                                : ds_master_join((uint16_t)half_of(from.param, i),
                                                                 (int16_t)half_of(from.master, i));
    return x;
}

/* Both halves rounded by chance, of finite numbers: ds_master_round_randomly without its question. */
__device__ __forceinline__ uint32_t
round_pair(float low, float high, uint32_t random)
{
    return __byte_perm(__float_as_uint(low) + (random & 0xffffu),
                       __float_as_uint(high) + (random >> 16), 0x7632);
}

/* All elements of a run that has no master and lies in one span, without a branch in between; the bits are those of
 * adamw_element. False, and `x` is spoilt, if some number is not in the range that this is exact for. */
template <int RUN>
__device__ __forceinline__ bool update_whole(const struct adamw_step &step,
                                             const struct bits &random, struct run<RUN> *x)
{
    float square_min = FLT_MAX, moment_min = FLT_MAX, finite = 0.0f;

#pragma unroll
    for (int i = 0; i < RUN; i++) {
        adamw_moments(x->gradient[i], &x->m[i], &x->v[i], &step);
        const float square = x->v[i] * step.correction2;
        const float root = exact_sqrt(square, guess_inverse_sqrt(square)) + step.epsilon;
        const float direction = exact_divide(x->m[i], root, guess_inverse(root));

        x->master[i] = adamw_move(x->master[i], direction, &step);
        square_min = fminf(square_min, square);
        moment_min = fminf(moment_min, fabsf(x->m[i]));
        finite = fmaf(x->master[i], 0.0f, finite); /* NaN of what is not */
    }
#pragma unroll
    for (int i = 0; i < RUN / 2; i++)
        x->param.word[i] = round_pair(x->master[2 * i], x->master[2 * i + 1], random.word[i]);
    return step.epsilon >= 0.0f && step.epsilon <= 1.0f && square_min >= EXACT_SQUARE_MIN &&
           moment_min >= EXACT_DIVIDEND_MIN && finite == 0.0f;
}

/* The elements of one span. The others of the run are made, too, and left: that is less than to branch at each. */
template <enum master MASTER, int RUN>
__device__ __forceinline__ void update_part(const struct adamw_step &step,
                                            const struct bits &random, struct run<RUN> *x,
                                            uint32_t mask)
{
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
__device__ __forceinline__ struct packed pack_run(const struct shard &s, const struct run<RUN> &x)
{
    struct packed to = {};

    to.m = narrow(x.m, known_of<RUN>(s.m).dtype);
    to.v = narrow(x.v, known_of<RUN>(s.v).dtype);
    if (MASTER == MASTER_NONE)
        to.param = x.param;
#pragma unroll
    for (int i = 0; i < RUN && MASTER != MASTER_NONE; i++) {
        set_half(&to.param, i, ds_master_weight(x.master[i]));
        set_half(&to.master, i, (uint16_t)ds_master_remainder(x.master[i]));
    }
    if (MASTER == MASTER_FLOAT)
        to.master = narrow(x.master, DS_F32);
    if (MASTER == MASTER_FLOAT && s.param.dtype != DS_BF16)
        to.param = narrow(x.master, s.param.dtype);
    return to;
}

template <enum master MASTER, int RUN>
__device__ __forceinline__ void store_run(const struct shard &s, const struct packed &x,
                                          uint64_t first, uint32_t touched)
{
    const bool is_whole = s.is_aligned && touched == FULL;

    store_bits<RUN>(known_of<RUN>(s.m), x.m, first, touched, is_whole);
    store_bits<RUN>(known_of<RUN>(s.v), x.v, first, touched, is_whole);
    if (MASTER != MASTER_NONE)
        store_bits<RUN>(s.master, x.master, first, touched, is_whole);
    if (s.param.at)
        store_bits<RUN>(known_of<RUN>(s.param), x.param, first, touched, is_whole);
}

/* A run that begins in span `i`, if update_whole will do. The random numbers come first: they need nothing that is
 * still on its way. */
template <int RUN>
__device__ __forceinline__ bool update_alone(const struct shard &s, struct adamw_step step,
                                             uint64_t number, uint64_t first, size_t i,
                                             const struct packed &loaded)
{
    if (i >= s.span_count || mask_of(s.spans[i], first, RUN) != FULL)
        return false;
    step.decay = s.spans[i].weight_decay;
    const struct bits random = draw<RUN>(s.spans[i], first, FULL, number);
    struct run<RUN> x = unpack_run<MASTER_NONE, RUN>(s, loaded);
    if (!update_whole(step, random, &x))
        return false;
    store_run<MASTER_NONE, RUN>(s, pack_run<MASTER_NONE>(s, x), first, FULL);
    return true;
}

template <enum master MASTER, int RUN>
__device__ __forceinline__ void update_run(const struct shard &s, struct adamw_step step,
                                           uint64_t number, uint64_t first)
{
    const int count = s.count - first < RUN ? (int)(s.count - first) : RUN;
    const struct packed loaded = load_run<MASTER, RUN>(s, first, count);
    size_t i = seek(s, first);
    uint32_t touched = 0;

    if (MASTER == MASTER_NONE && update_alone<RUN>(s, step, number, first, i, loaded))
        return;
    struct run<RUN> x = unpack_run<MASTER, RUN>(s, loaded);
    for (; i < s.span_count && s.spans[i].start < first + count; i++) {
        const uint32_t mask = mask_of(s.spans[i], first, count);
        struct bits random = {};

        if (mask == 0)
            continue;
        step.decay = s.spans[i].weight_decay;
        if (MASTER == MASTER_NONE)
            random = draw<RUN>(s.spans[i], first, mask, number);
        update_part<MASTER>(step, random, &x, mask);
        touched |= mask;
    }
    store_run<MASTER, RUN>(s, pack_run<MASTER>(s, x), first, touched);
}

/* Blocks that a multiprocessor has at once. */
template <enum master MASTER, int RUN> constexpr int resident()
{
    return RUN == RUN_BF16 ? 5 : MASTER == MASTER_NONE ? 6 : 8;
}

template <enum master MASTER, int RUN>
__global__ void __launch_bounds__(THREADS, (resident<MASTER, RUN>()))
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
    const uint64_t most =
        (uint64_t)cuda_device_of(stream)->processor_count * resident<MASTER, RUN>() * WAVES;
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
