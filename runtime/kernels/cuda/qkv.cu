/* qkv.cu - from the fused projection to attention's inputs: cut into heads, normalise a head (Qwen3), rotate by
 * position in the half layout (pair i, i + D/2). v is copied. */
#include "ended_launch.cuh"
#include "qkv_end.cuh"
#include "wants.h"

/* gain * (x * rstd), in fp32 */
template <typename T>
__device__ __forceinline__ void normalise(float (&value)[pack<T>::count], const pack<T> &gain,
                                          float rstd)
{
#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        value[i] = to_float(gain.at[i]) * (value[i] * rstd);
}

template <typename T>
__device__ __forceinline__ float head_rstd(const qkv_cut<T> &cut, const head_values<T> &v)
{
    float square = 0;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        square = fmaf(v.high[i], v.high[i], fmaf(v.low[i], v.low[i], square));
    return 1.0f / sqrtf(head_sum(square, cut.width) / (float)(2 * cut.half) + cut.epsilon);
}

/* All threads of a block come here together: with gains they add up what they have of a head. */
template <bool VECTOR, bool GAINS, typename T>
__device__ __forceinline__ head_part<T>
turned_head(const qkv_cut<T> &cut, const qkv_part<T> &part, const head_part<T> &in, uint32_t at,
            const angles<pack<T>::count> &a, float *rstd_out)
{
    head_values<T> v = widen(in);

    if (GAINS) {
        const head_part<T> gain = load_head<VECTOR>(part.gain, at, cut.half, true);
        const float rstd = head_rstd(cut, v);

        normalise<T>(v.low, gain.low, rstd);
        normalise<T>(v.high, gain.high, rstd);
        if (rstd_out)
            *rstd_out = rstd;
    }
    return rotate(v, a);
}

/* Heads first, first + lanes, .. of a token, HEADS_AT_ONCE of them. */
template <bool VECTOR, bool GAINS, typename T>
__device__ __forceinline__ void split_heads(const qkv_cut<T> &cut, const qkv_part<T> &part,
                                            bool rotates, size_t token, uint32_t first, uint32_t at,
                                            bool is_there)
{
    head_part<T> in[HEADS_AT_ONCE];
    size_t head[HEADS_AT_ONCE];
    bool has_head[HEADS_AT_ONCE];

#pragma unroll
    for (int h = 0; h < HEADS_AT_ONCE; h++) {
        const uint32_t number = first + h * part.shape.lanes;

        has_head[h] = is_there && number < part.count;
        head[h] = has_head[h] ? number : 0;
        in[h] = load_head<VECTOR>(part.columns + token * cut.row + head[h] * 2 * cut.half, at,
                                  cut.half, has_head[h]);
        head[h] += token * part.count;
    }
    if (rotates) {
        const angles<pack<T>::count> a = load_angles<VECTOR>(cut, token, at);

#pragma unroll
        for (int h = 0; h < HEADS_AT_ONCE; h++)
            in[h] = turned_head<VECTOR, GAINS>(cut, part, in[h], at, a,
                                               has_head[h] && at == 0 ? part.rstd + head[h] : NULL);
    }
#pragma unroll
    for (int h = 0; h < HEADS_AT_ONCE; h++)
        store_head<VECTOR>(part.heads + head[h] * 2 * cut.half, at, cut.half, has_head[h], in[h]);
}

template <typename T, bool VECTOR, bool GAINS>
__global__ void __launch_bounds__(HEAD_THREADS)
    qkv_split_parts(const __grid_constant__ qkv_cut<T> cut)
{
    uint32_t block;
    const int number = qkv_part_of(cut, &block);
    const qkv_part<T> &part = cut.part[number];
    const qkv_place place = qkv_place_of(cut.width, part.shape, pack<T>::count);
    const size_t token = (size_t)block * part.shape.tokens + place.token;
    const bool is_there = place.token < part.shape.tokens && token < cut.token_count;

    for (uint32_t first = 0; first < part.count; first += HEADS_AT_ONCE * part.shape.lanes)
        split_heads<VECTOR, GAINS>(cut, part, number != QKV_V, is_there ? token : 0,
                                   first + place.lane, place.at, is_there);
}

template <typename T> static qkv_cut<T> split_cut(const struct ds_qkv_split_args *a)
{
    const size_t dim = a->q_THD.shape[2];
    const uint32_t counts[QKV_PARTS] = {(uint32_t)a->q_THD.shape[1], (uint32_t)a->k_TGD.shape[1],
                                        (uint32_t)a->k_TGD.shape[1]};
    T *heads[QKV_PARTS] = {(T *)a->q_THD.data, (T *)a->k_TGD.data, (T *)a->v_TGD.data};
    T *column = (T *)a->qkv_TN.data;
    qkv_cut<T> cut = {};

    qkv_cut_shape(&cut, a->q_THD.shape[0], dim, counts);
    for (int i = 0; i < QKV_PARTS; i++) {
        cut.part[i].heads = heads[i];
        cut.part[i].columns = column;
        cut.part[i].blocks = (uint32_t)cut.part[i].shape.groups;
        column += counts[i] * dim;
    }
    cut.part[QKV_Q].gain = (const T *)a->q_gain_D.data;
    cut.part[QKV_K].gain = (const T *)a->k_gain_D.data;
    cut.part[QKV_Q].rstd = (float *)a->q_rstd_TH.data;
    cut.part[QKV_K].rstd = (float *)a->k_rstd_TG.data;
    cut.position = (const int32_t *)a->position_T.data;
    cut.rotary = (const float *)a->rotary_PD.data;
    cut.epsilon = a->epsilon;
    return cut;
}

template <typename T, bool VECTOR>
static ds_status launch_split(struct ds_stream *stream, const qkv_cut<T> &cut)
{
    const uint32_t grid = qkv_grid(cut);

    if (grid == 0)
        return DS_OK;
    if (cut.part[QKV_Q].gain)
        qkv_split_parts<T, VECTOR, true><<<grid, HEAD_THREADS, 0, cuda_stream_of(stream)>>>(cut);
    else
        qkv_split_parts<T, VECTOR, false><<<grid, HEAD_THREADS, 0, cuda_stream_of(stream)>>>(cut);
    CUDA_LAUNCHED("qkv_split_parts");
    return DS_OK;
}

template <typename T>
static ds_status split(struct ds_stream *stream, const struct ds_qkv_split_args *a)
{
    const qkv_cut<T> cut = split_cut<T>(a);

    DS_ASSERT(a->qkv_TN.shape[0] * a->qkv_TN.shape[1] == cut.token_count * cut.row);
    return qkv_is_aligned(cut) ? launch_split<T, true>(stream, cut)
                               : launch_split<T, false>(stream, cut);
}

/* ---- behind a product: as its end where it can be one */

template <typename T>
static ds_status end_split(struct ds_stream *stream, const struct ds_qkv_split_args *a,
                           const struct ended_call &call)
{
    const qkv_end<T> end = {
        {(T *)a->q_THD.data, (T *)a->k_TGD.data, (T *)a->v_TGD.data},
        {(uint32_t)a->q_THD.shape[1], (uint32_t)a->k_TGD.shape[1], (uint32_t)a->v_TGD.shape[1]},
        (const int32_t *)a->position_T.data,
        (const float *)a->rotary_PD.data,
        (uint32_t)a->x_TC.shape[0],
        (uint32_t)a->q_THD.shape[2] / 2};

    return ended_launch<T, 0>(stream, call, end);
}

/* Heads that no tile cuts, in whole packs. */
static bool has_end(const struct ds_qkv_split_args *a)
{
    const size_t dim = a->q_THD.shape[2];

    return !a->q_gain_D.data && dim % 16 == 0 && TILE_COLUMNS % dim == 0 &&
           is_aligned(a->rotary_PD.data) && is_aligned(a->q_THD.data) &&
           is_aligned(a->k_TGD.data) && is_aligned(a->v_TGD.data) &&
           a->q_THD.dtype == a->x_TC.dtype;
}

static ds_status product_split(struct ds_stream *stream, const struct ds_qkv_split_args *a,
                               bool *is_made)
{
    const struct ended_call call = {&a->x_TC, &a->weight_NC, a->weight_NC.shape[0], TILE_COLUMNS,
                                    TILE_HALF};

    DS_ASSERT(a->x_TC.shape[1] == a->weight_NC.shape[1] && a->x_TC.shape[0] == a->q_THD.shape[0] &&
              a->weight_NC.shape[0] ==
                  (a->q_THD.shape[1] + 2 * a->k_TGD.shape[1]) * a->q_THD.shape[2]);
    *is_made = has_end(a) && ended_is_worth_it(stream, call);
    if (*is_made)
        return a->x_TC.dtype == DS_BF16 ? end_split<__nv_bfloat16>(stream, a, call)
                                        : end_split<__half>(stream, a, call);
    return ended_apart(stream, call, a->qkv_TN, 0);
}

ds_status cuda_qkv_split(struct ds_stream *stream, const struct ds_qkv_split_args *a)
{
    static const char kernel[] = "qkv_split";
    bool is_made = false;

    DS_ASSERT(a->q_THD.shape[2] % 2 == 0);
    DS_ASSERT(!a->q_gain_D.data || (a->k_gain_D.data && a->q_rstd_TH.data && a->k_rstd_TG.data));
    DS_TRY(cuda_wants_head_dim(kernel, a->q_THD.shape[2]));
    CUDA_WANTS_FLOAT(kernel, a, qkv_TN);
    CUDA_WANTS(kernel, a, position_T, DS_I32);
    CUDA_WANTS(kernel, a, rotary_PD, DS_F32);
    CUDA_WANTS_SAME(kernel, a, q_gain_D, qkv_TN);
    CUDA_WANTS_SAME(kernel, a, k_gain_D, qkv_TN);
    CUDA_WANTS_SAME(kernel, a, q_THD, qkv_TN);
    CUDA_WANTS_SAME(kernel, a, k_TGD, qkv_TN);
    CUDA_WANTS_SAME(kernel, a, v_TGD, qkv_TN);
    CUDA_WANTS(kernel, a, q_rstd_TH, DS_F32);
    CUDA_WANTS(kernel, a, k_rstd_TG, DS_F32);
    if (a->x_TC.data)
        DS_TRY(product_split(stream, a, &is_made));
    return is_made ? DS_OK : DISPATCH(a->qkv_TN.dtype, T, split<T>(stream, a));
}
