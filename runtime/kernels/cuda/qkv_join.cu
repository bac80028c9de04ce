/* qkv_join.cu - the way back of qkv_split: every head's gradient is turned back, then made that of its
 * unnormalised input. With gains, blocks stay and go through the tokens with a stride, the gains' gradients in
 * registers; each leaves a row of partial sums, which columns.cu adds. */
#include "columns.cuh"
#include "qkv.cuh"
#include "wants.h"

template <typename T>
__device__ __forceinline__ head_values<T> turn_back(const head_part<T> &dy,
                                                    const angles<pack<T>::count> &a)
{
    head_values<T> v;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        const float low = to_float(dy.low.at[i]), high = to_float(dy.high.at[i]);

        v.low[i] = fmaf(low, a.cosine[i], high * a.sine[i]);
        v.high[i] = fmaf(high, a.cosine[i], -(low * a.sine[i]));
    }
    return v;
}

template <typename T> __device__ __forceinline__ head_part<T> narrow(const head_values<T> &v)
{
    head_part<T> out;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        out.low.at[i] = from_float<T>(v.low[i]);
        out.high.at[i] = from_float<T>(v.high[i]);
    }
    return out;
}

/* dx = rstd * (dy * gain - x * slope), slope = rstd * mean(dy * gain * x * rstd); dgain += dy * x * rstd */
template <typename T>
__device__ __forceinline__ head_part<T> unnormalise(const qkv_cut<T> &cut, const head_values<T> &dy,
                                                    head_part<T> x, head_part<T> gain, float rstd,
                                                    head_values<T> &dgain)
{
    head_values<T> dx;
    float dot = 0;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        const float low = to_float(x.low.at[i]), high = to_float(x.high.at[i]);

        dot = fmaf(dy.low[i] * to_float(gain.low.at[i]), low, dot);
        dot = fmaf(dy.high[i] * to_float(gain.high.at[i]), high, dot);
        dgain.low[i] = fmaf(dy.low[i], low * rstd, dgain.low[i]);
        dgain.high[i] = fmaf(dy.high[i], high * rstd, dgain.high[i]);
    }
    const float slope = head_sum(dot, cut.width) * rstd / (float)(2 * cut.half) * rstd;
    keep_packed(x.low);
    keep_packed(x.high);
    keep_packed(gain.low);
    keep_packed(gain.high);
#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        const float low = to_float(x.low.at[i]) * slope, high = to_float(x.high.at[i]) * slope;

        dx.low[i] = rstd * fmaf(dy.low[i], to_float(gain.low.at[i]), -low);
        dx.high[i] = rstd * fmaf(dy.high[i], to_float(gain.high.at[i]), -high);
    }
    return narrow(dx);
}

/* Heads first, first + lanes, .. of a token, HEADS_AT_ONCE of them; all threads of a block come here together. */
template <bool VECTOR, bool GAINS, typename T>
__device__ __forceinline__ void join_heads(const qkv_cut<T> &cut, const qkv_part<T> &part,
                                           bool rotates, size_t token, uint32_t first, uint32_t at,
                                           bool is_there, head_values<T> &dgain)
{
    head_part<T> dy[HEADS_AT_ONCE], x[HEADS_AT_ONCE];
    size_t column[HEADS_AT_ONCE];
    float rstd[HEADS_AT_ONCE];
    bool has_head[HEADS_AT_ONCE];

#pragma unroll
    for (int h = 0; h < HEADS_AT_ONCE; h++) {
        const uint32_t number = first + h * part.shape.lanes;
        const size_t head = token * part.count + (is_there && number < part.count ? number : 0);

        has_head[h] = is_there && number < part.count;
        column[h] = token * cut.row + (has_head[h] ? number : 0) * (size_t)(2 * cut.half);
        dy[h] = load_head<VECTOR>((const T *)part.heads + head * 2 * cut.half, at, cut.half,
                                  has_head[h]);
        if (GAINS && rotates) {
            x[h] = load_head<VECTOR>(part.x + column[h], at, cut.half, has_head[h]);
            rstd[h] = part.rstd[head];
        }
    }
    if (rotates) {
        const angles<pack<T>::count> a = load_angles<VECTOR>(cut, token, at);

#pragma unroll
        for (int h = 0; h < HEADS_AT_ONCE; h++) {
            const head_values<T> turned = turn_back(dy[h], a);

            if (GAINS)
                dy[h] =
                    unnormalise(cut, turned, x[h], load_head<VECTOR>(part.gain, at, cut.half, true),
                                rstd[h], dgain);
            else
                dy[h] = narrow(turned);
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS_AT_ONCE; h++)
        store_head<VECTOR>(part.columns + column[h], at, cut.half, has_head[h], dy[h]);
}

/* The block's sum of the gain's gradient: its units in order. */
template <typename T>
__device__ __forceinline__ void store_dgain(const qkv_cut<T> &cut, const qkv_part<T> &part,
                                            uint32_t block, uint32_t at,
                                            const head_values<T> &dgain)
{
    __shared__ float sums[2 * HEAD_THREADS * pack<T>::count];
    const uint32_t dim = 2 * cut.half, units = part.shape.lanes * part.shape.tokens;
    float *unit = sums + threadIdx.x / cut.width * dim;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        if (at + i < cut.half) {
            unit[at + i] = dgain.low[i];
            unit[cut.half + at + i] = dgain.high[i];
        }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        float total = sums[i];

        for (uint32_t u = 1; u < units; u++)
            total += sums[u * dim + i];
        part.partial[(size_t)block * dim + i] = total;
    }
}

template <typename T, bool VECTOR, bool GAINS>
__global__ void __launch_bounds__(HEAD_THREADS, GAINS ? 2 : 4)
    qkv_join_parts(const __grid_constant__ qkv_cut<T> cut)
{
    uint32_t block;
    const int number = qkv_part_of(cut, &block);
    const qkv_part<T> &part = cut.part[number];
    const qkv_place place = qkv_place_of(cut.width, part.shape, pack<T>::count);
    head_values<T> dgain = {};

    for (size_t group = block; group < part.shape.groups; group += part.blocks) {
        const size_t token = group * part.shape.tokens + place.token;
        const bool is_there = place.token < part.shape.tokens && token < cut.token_count;

        for (uint32_t first = 0; first < part.count; first += HEADS_AT_ONCE * part.shape.lanes)
            join_heads<VECTOR, GAINS>(cut, part, number != QKV_V, is_there ? token : 0,
                                      first + place.lane, place.at, is_there, dgain);
    }
    if (GAINS && part.partial)
        store_dgain(cut, part, block, place.at, dgain);
}

template <typename T> static qkv_cut<T> join_cut(const struct ds_qkv_join_args *a)
{
    const size_t dim = a->dq_THD.shape[2];
    const uint32_t counts[QKV_PARTS] = {(uint32_t)a->dq_THD.shape[1], (uint32_t)a->dk_TGD.shape[1],
                                        (uint32_t)a->dk_TGD.shape[1]};
    T *heads[QKV_PARTS] = {(T *)a->dq_THD.data, (T *)a->dk_TGD.data, (T *)a->dv_TGD.data};
    const bool has_gains = a->q_gain_D.data;
    size_t at = 0, groups;
    qkv_cut<T> cut = {};

    qkv_cut_shape(&cut, a->dq_THD.shape[0], dim, counts);
    groups = has_gains ? shape_ceil(cut.part[QKV_Q].shape.groups, HEAD_SLABS) : 1; /* of a block */
    for (int i = 0; i < QKV_PARTS; i++) {
        cut.part[i].heads = heads[i];
        cut.part[i].columns = (T *)a->dqkv_TN.data + at;
        cut.part[i].x = has_gains ? (const T *)a->qkv_TN.data + at : NULL;
        cut.part[i].blocks = (uint32_t)shape_ceil(cut.part[i].shape.groups, groups ? groups : 1);
        at += counts[i] * dim;
    }
    cut.part[QKV_Q].gain = (const T *)a->q_gain_D.data;
    cut.part[QKV_K].gain = (const T *)a->k_gain_D.data;
    cut.part[QKV_Q].rstd = (float *)a->q_rstd_TH.data;
    cut.part[QKV_K].rstd = (float *)a->k_rstd_TG.data;
    cut.position = (const int32_t *)a->position_T.data;
    cut.rotary = (const float *)a->rotary_PD.data;
    return cut;
}

template <typename T, bool VECTOR>
static ds_status launch_join(struct ds_stream *stream, const qkv_cut<T> &cut)
{
    const uint32_t grid = qkv_grid(cut);

    if (grid == 0)
        return DS_OK;
    if (cut.part[QKV_Q].gain)
        qkv_join_parts<T, VECTOR, true><<<grid, HEAD_THREADS, 0, cuda_stream_of(stream)>>>(cut);
    else
        qkv_join_parts<T, VECTOR, false><<<grid, HEAD_THREADS, 0, cuda_stream_of(stream)>>>(cut);
    CUDA_LAUNCHED("qkv_join_parts");
    return DS_OK;
}

/* Room for the partial sums of the gains' gradients that are wanted. */
template <typename T>
static ds_status take_partials(struct ds_stream *stream, qkv_cut<T> *cut,
                               const struct ds_qkv_join_args *a)
{
    const size_t dim = 2 * (size_t)cut->half;
    const size_t q = cut->part[QKV_Q].blocks * dim, k = cut->part[QKV_K].blocks * dim;
    void *scratch;

    if (!a->q_gain_D.data || (!a->dq_gain_D.data && !a->dk_gain_D.data))
        return DS_OK;
    DS_TRY(cuda_scratch(stream, (q + k) * sizeof(float), &scratch));
    cut->part[QKV_Q].partial = a->dq_gain_D.data ? (float *)scratch : NULL;
    cut->part[QKV_K].partial = a->dk_gain_D.data ? (float *)scratch + q : NULL;
    return DS_OK;
}

template <typename T>
static ds_status join(struct ds_stream *stream, const struct ds_qkv_join_args *a)
{
    qkv_cut<T> cut = join_cut<T>(a);
    const struct ds_tensor *dgains[] = {&a->dq_gain_D, &a->dk_gain_D};

    DS_ASSERT(a->dqkv_TN.shape[0] * a->dqkv_TN.shape[1] == cut.token_count * cut.row);
    DS_TRY(take_partials(stream, &cut, a));
    if (qkv_is_aligned(cut))
        DS_TRY((launch_join<T, true>(stream, cut)));
    else
        DS_TRY((launch_join<T, false>(stream, cut)));
    for (int i = QKV_Q; i <= QKV_K; i++)
        if (cut.part[i].partial)
            DS_TRY(cuda_columns_total(stream, cut.part[i].partial, cut.part[i].blocks,
                                      2 * (size_t)cut.half, dgains[i], a->gain_add));
    return DS_OK;
}

ds_status cuda_qkv_join(struct ds_stream *stream, const struct ds_qkv_join_args *a)
{
    static const char kernel[] = "qkv_join";

    DS_ASSERT(a->dq_THD.shape[2] % 2 == 0);
    DS_ASSERT(!a->q_gain_D.data ||
              (a->qkv_TN.data && a->k_gain_D.data && a->q_rstd_TH.data && a->k_rstd_TG.data));
    DS_TRY(cuda_wants_head_dim(kernel, a->dq_THD.shape[2]));
    CUDA_WANTS_FLOAT(kernel, a, dq_THD);
    CUDA_WANTS_SAME(kernel, a, dk_TGD, dq_THD);
    CUDA_WANTS_SAME(kernel, a, dv_TGD, dq_THD);
    CUDA_WANTS(kernel, a, position_T, DS_I32);
    CUDA_WANTS(kernel, a, rotary_PD, DS_F32);
    CUDA_WANTS_SAME(kernel, a, qkv_TN, dq_THD);
    CUDA_WANTS_SAME(kernel, a, q_gain_D, dq_THD);
    CUDA_WANTS_SAME(kernel, a, k_gain_D, dq_THD);
    CUDA_WANTS(kernel, a, q_rstd_TH, DS_F32);
    CUDA_WANTS(kernel, a, k_rstd_TG, DS_F32);
    CUDA_WANTS_SAME(kernel, a, dqkv_TN, dq_THD);
    CUDA_WANTS_FLOAT(kernel, a, dq_gain_D);
    CUDA_WANTS_FLOAT(kernel, a, dk_gain_D);
    return DISPATCH(a->dq_THD.dtype, T, join<T>(stream, a));
}
