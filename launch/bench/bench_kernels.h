/* bench_kernels.h (private to launch) - a kernel, its arguments in device memory, and what they were on
 * the host before it ran, so that its results can be checked against plain fp64 arithmetic. */
#ifndef DSTRAIN_LAUNCH_BENCH_KERNELS_H
#define DSTRAIN_LAUNCH_BENCH_KERNELS_H

#include "bench.h"

#include "dstrain/kernels.h"

#include <string.h>

#define RIG_ARRAYS_MAX   24
#define RIG_WINDOW_BYTES 65536u

/* The letters of kernels.h; T tokens of products and attention, M those of what is bound by memory, R rows of
 * logits at a time, F elements of a flat shard, N what a square product has on each side, L tokens of a packed
 * document on average. `only`: one row is
 * measured in this shape; NULL: all but those that ask to be named. */
struct rig_shape {
    const char *name, *only;
    size_t T, M, S, C, H, G, D, I, V, R, F, N, L;
};

/* An input has a copy on the host; what a kernel makes is read from the device, a window at a time. */
struct rig_array {
    void *device;
    void *before; /* NULL: an output */
    size_t bytes;
    uint8_t *
        window; /* RIG_WINDOW_BYTES of the device's, those from window_at on; NULL: none read yet */
    size_t window_at;
};

union rig_args {
    struct ds_matmul_args matmul;
    struct ds_bias_args bias;
    struct ds_row_squares_args row_squares;
    struct ds_magnitude_args magnitude;
    struct ds_scale_columns_args scale_columns;
    struct ds_rmsnorm_args rmsnorm;
    struct ds_rmsnorm_backward_args rmsnorm_backward;
    struct ds_qkv_split_args split;
    struct ds_qkv_join_args join;
    struct ds_attention_backward_args attention; /* forward uses .forward */
    struct ds_swiglu_args swiglu;
    struct ds_swiglu_backward_args swiglu_backward;
    struct ds_embedding_args embedding;
    struct ds_cross_entropy_args cross_entropy;
    struct ds_loss_sum_args loss_sum;
    struct ds_add_args add;
    struct ds_cast_args cast;
    struct ds_scale_rows_args scale_rows;
    struct ds_dequantise_args dequantise;
    struct ds_dropout_args dropout;
    struct ds_fill_args fill;
    struct ds_norm_pieces_args norm_pieces;
    struct ds_norm_sum_args norm_sum;
    struct ds_step_begin_args step_begin;
    struct ds_verdict_args verdict;
    struct ds_adamw_args adamw;
};

struct rig {
    struct ds_device *device;
    struct ds_stream *stream;
    const struct ds_kernel_ops *kernels;
    enum ds_dtype dtype; /* of weights, activations and their gradients: F32, BF16 or F16 */
    /* of the case */
    const struct rig_shape *shape;
    union rig_args args;
    struct rig_array arrays[RIG_ARRAYS_MAX];
    size_t array_count;
    enum ds_dtype result; /* the coarsest dtype of what is checked; a setup may say a finer one */
    unsigned roundings;   /* to it, one after another; a setup may say that there are more */
    ds_status status;     /* of memory and copies: setups and checks go on without */
    double flops, bytes;  /* of one call; flops 0: bound by memory */
    double error, size;   /* of the check: sums of squares */
    char text[96];        /* the case's sizes */
};

enum rig_when {
    RIG_ALWAYS,
    RIG_16_BITS, /* where dtype has 16 bits */
    RIG_BF16,    /* where it is bf16 */
    RIG_NAMED,   /* where a shape's `only` names it */
};

/* A row of the table: one kernel in one use. `first` makes what the kernel reads and another has left. */
struct rig_kernel {
    const char *name;
    void (*setup)(struct rig *rig);
    ds_status (*first)(struct rig *rig); /* or NULL */
    ds_status (*run)(struct rig *rig);
    void (*check)(struct rig *rig);
    enum rig_when when;
};

extern const struct rig_kernel rig_kernels[];
extern const size_t rig_kernel_count;

/* ---- arrays (bench_kernels_rig.c). Data is NULL and rig->status says why when there is no memory. */

/* inputs, uniform in [-1, 1) */
struct ds_tensor rig_in1(struct rig *rig, enum ds_dtype dtype, size_t a);
struct ds_tensor rig_in2(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b);
struct ds_tensor rig_in3(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b, size_t c);
/* outputs, zero before the first call */
struct ds_tensor rig_out1(struct rig *rig, enum ds_dtype dtype, size_t a);
struct ds_tensor rig_out2(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b);
struct ds_tensor rig_out3(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b, size_t c);
/* inputs of I32 below `bound` */
struct ds_tensor rig_ids(struct rig *rig, size_t count, size_t bound);
/* an input of zeros: `*host` is its copy, to write while setting up; NULL: no memory */
void *rig_zeros(struct rig *rig, size_t bytes, void **host);
void *rig_output(struct rig *rig, size_t bytes);
void rig_release(struct rig *rig);
DS_CHECKED ds_status rig_upload(struct rig *rig); /* all inputs */

/* ---- looking in. local: everything here; what cannot be read is NAN, and rig->status says why */

struct rig_view {
    struct rig *rig;
    struct rig_array *array;
    enum ds_dtype dtype;
    int is_before;
    size_t first; /* element that is called 0 */
};
/* what an input held before the call, an output of `first` now; what anything holds after it */
struct rig_view rig_before(struct rig *rig, struct ds_tensor t);
struct rig_view rig_after(struct rig *rig, struct ds_tensor t);
static inline struct rig_view rig_from(struct rig_view view, size_t first)
{
    view.first += first;
    return view;
}
/* what the device holds now of an array: `bytes` from its byte `start` on; its copy on the host */
int rig_fetch(struct rig *rig, const void *device, size_t start, void *to, size_t bytes);
const void *rig_host(struct rig *rig, const void *device);
const uint8_t *rig_window(struct rig *rig, struct rig_array *array, size_t at, size_t bytes);

static inline double rig_at(struct rig_view v, size_t i)
{
    const size_t bytes = ds_dtype_bytes(v.dtype), at = (v.first + i) * bytes;
    const uint8_t *from = v.is_before && v.array->before ? (const uint8_t *)v.array->before + at
                                                         : rig_window(v.rig, v.array, at, bytes);
    double wide;
    int32_t whole;
    float value;

    switch (v.dtype) {
    case DS_F64:
        memcpy(&wide, from, sizeof wide);
        return wide;
    case DS_I32:
        memcpy(&whole, from, sizeof whole);
        return whole;
    default:
        (void)ds_dtype_to_f32(&value, from, v.dtype, 1);
        return value;
    }
}

/* one element of a check */
void rig_see(struct rig *rig, double got, double want);

/* ---- the rows: setups (bench_kernels_products.c, bench_kernels_setups.c), and a check each, by samples, in
 * fp64 (bench_kernels_check.c, bench_kernels_check_attention.c) */
/* clang-format off */
#define RIG_SETUPS(X)                                                                              \
    X(matmul_square) X(matmul_forward) X(matmul_input) X(matmul_weight) X(matmul_weight_add)       \
    X(matmul_head) X(matmul_head_input) X(matmul_head_weight) X(matmul_qkv) X(matmul_qkv_weight)   \
    X(matmul_o) X(matmul_o_weight) X(matmul_down) X(matmul_down_weight) X(matmul_linear)           \
    X(product_split) X(product_swiglu) X(product_swiglu_back) X(product_loss) X(scale_rows)        \
    X(attention_forward) X(attention_backward) X(packed_forward) X(packed_backward)                \
    X(bias_forward) X(bias_backward) X(rmsnorm_forward) X(rmsnorm_backward) X(split) X(join)       \
    X(swiglu_forward) X(swiglu_backward) X(embedding_forward) X(embedding_backward)                \
    X(cross_entropy) X(cross_entropy_max) X(cross_entropy_sum) X(cross_entropy_finish)             \
    X(loss_sum) X(add) X(cast) X(dequantise_nf4) X(dequantise_int8) X(fill) X(norm_pieces)         \
    X(norm_pieces16) X(norm_sum) X(step_begin)                                                     \
    X(row_squares) X(magnitude) X(scale_columns)                                                   \
    X(dropout) X(verdict) X(adamw) X(adamw_moments16) X(adamw_remainder16) X(adamw_none) X(adamw_all16)
#define RIG_CHECKS(X)                                                                              \
    X(product_split) X(product_swiglu) X(product_swiglu_back) X(product_loss) X(scale_rows)        \
    X(matmul) X(attention_forward) X(attention_backward) X(bias_forward) X(bias_backward)          \
    X(rmsnorm_forward) X(rmsnorm_backward) X(split) X(join) X(swiglu_forward) X(swiglu_backward)   \
    X(embedding_forward) X(embedding_backward) X(cross_entropy) X(cross_entropy_max)               \
    X(cross_entropy_sum) X(loss_sum) X(add) X(cast) X(dequantise) X(fill) X(norm_pieces) X(norm_sum) \
    X(row_squares) X(magnitude) X(scale_columns) X(dropout) X(step_begin) X(verdict) X(adamw)
/* clang-format on */
#define RIG_SETUP(name) void setup_##name(struct rig *rig);
#define RIG_CHECK(name) void check_##name(struct rig *rig);
RIG_SETUPS(RIG_SETUP)
RIG_CHECKS(RIG_CHECK)
#undef RIG_SETUP
#undef RIG_CHECK

/* Sample `i` of `count`: the first, the last, and some between. */
#define RIG_SAMPLES 24
size_t rig_place(size_t i, size_t count);
#define FOR_SAMPLES(i) for (size_t i = 0; i < RIG_SAMPLES; i++)

#endif
