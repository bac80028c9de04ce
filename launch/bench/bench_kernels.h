/* bench_kernels.h (private to launch) - a kernel, its arguments in device memory, and what they were on
 * the host before it ran, so that its results can be checked against plain fp64 arithmetic. */
#ifndef DSTRAIN_LAUNCH_BENCH_KERNELS_H
#define DSTRAIN_LAUNCH_BENCH_KERNELS_H

#include "bench.h"

#include "dstrain/kernels.h"

#define RIG_ARRAYS_MAX 24

/* The letters of kernels.h; N is what a square product has on each side. */
struct rig_shape {
    const char *name;
    size_t T, S, C, H, G, D, I, V, N;
};

struct rig_array {
    void *device, *before, *after; /* `before`, `after`: on the host */
    size_t bytes;
};

union rig_args {
    struct ds_matmul_args matmul;
    struct ds_bias_args bias;
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
    const struct rig_shape *shape;
    /* of the case */
    union rig_args args;
    struct rig_array arrays[RIG_ARRAYS_MAX];
    size_t array_count;
    ds_status status;    /* of taking memory: setups go on with NULL */
    double flops, bytes; /* of one call; flops 0: bound by memory */
    double error, size;  /* of the check: sums of squares */
    char text[96];       /* the case's shape */
};

/* A row of the table: one kernel in one use. `first` runs before inputs count as `before`. */
struct rig_kernel {
    const char *name;
    void (*setup)(struct rig *rig);
    ds_status (*first)(struct rig *rig); /* or NULL */
    ds_status (*run)(struct rig *rig);
    void (*check)(struct rig *rig);
};

extern const struct rig_kernel rig_kernels[];
extern const size_t rig_kernel_count;

/* Arrays of device memory with known contents; NULL and rig->status when there is no memory. */
float *rig_floats(struct rig *rig, size_t count); /* uniform in [-1, 1) */
void *rig_zeros(struct rig *rig, size_t bytes);
int32_t *rig_ints(struct rig *rig, size_t count, int32_t bound); /* below bound */
/* the host's copy of an array, to write while setting up; what was there before and after the call */
void *rig_before(const struct rig *rig, const void *device);
const void *rig_after(const struct rig *rig, const void *device);
/* one element of a check */
void rig_see(struct rig *rig, double got, double want);

/* bench_kernels_check.c: one check a row, by samples, in fp64 */
void check_matmul(struct rig *rig);
void check_bias_forward(struct rig *rig);
void check_bias_backward(struct rig *rig);
void check_rmsnorm_forward(struct rig *rig);
void check_rmsnorm_backward(struct rig *rig);
void check_split(struct rig *rig);
void check_join(struct rig *rig);
void check_attention_forward(struct rig *rig);
void check_attention_backward(struct rig *rig);
void check_swiglu_forward(struct rig *rig);
void check_swiglu_backward(struct rig *rig);
void check_embedding_forward(struct rig *rig);
void check_embedding_backward(struct rig *rig);
void check_cross_entropy(struct rig *rig);
void check_loss_sum(struct rig *rig);
void check_add(struct rig *rig);
void check_cast(struct rig *rig);
void check_fill(struct rig *rig);
void check_norm_pieces(struct rig *rig);
void check_norm_sum(struct rig *rig);
void check_step_begin(struct rig *rig);
void check_verdict(struct rig *rig);
void check_adamw(struct rig *rig);

#endif
