/* kernels.h - the arithmetic: one table of operations a device. Read by C and by nvcc.
 *
 * Arguments travel in a struct, so that a new one does not touch every backend's prototype; the
 * struct is copied at the call, what it points to must live until the work is done. All pointers are
 * device memory unless a comment says host. Sums are in one fixed order that depends on shapes only,
 * never on the number of threads.
 *
 * Dtypes: weights, activations and their gradients are F32, BF16 or F16, one of them in a call. Those
 * of 16 bits are storage: arithmetic and sums are in fp32, rounded once, to nearest even, where a
 * result is stored, with what `add` adds to (a library's product may be rounded once more before that). A weight's gradient has a dtype of its own. rstd, lse,
 * delta, losses and the rotary table are F32. What else comes is DS_ERR_UNSUPPORTED.
 *
 * Shapes in names: T tokens (all sequences of the micro-batch, one after another), S positions of one
 * sequence, C hidden, H query heads, G kv heads, D head_dim, I intermediate, V vocabulary rows. `add`:
 * 0 overwrite the output, 1 add to it.
 * A product in front of what reads it may be part of the call (`optional: .. first`): a table that can makes both
 * as one, and the product need not be left in its room; else it is two calls, with the bits of two.
 * local: everything here, queued on the stream that is given. */
#ifndef DSTRAIN_KERNELS_H
#define DSTRAIN_KERNELS_H

#include "dstrain/device.h"
#include "dstrain/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DS_NORM_PIECE   2048 /* elements summed on their own by the norm; shards are cut here */
#define DS_IGNORE_INDEX (-100)
#define DS_HEAD_DIM_MAX 256u /* of D, in every table */

/* Everything that changes from step to step, in device memory. Kernels get a pointer to it: by
 * value it would be baked into a captured graph, and a skipped step would need the host. The host
 * reads a copy one step late. */
struct ds_step_record {
    /* the first DS_STEP_RECORD_HOST_BYTES: written by the host's copy before the step */
    uint64_t step; /* 1-based number of the step */
    uint64_t random_base;
    uint64_t local_tokens; /* trained tokens of this rank's share */
    float learning_rate;
    uint32_t scales_loss; /* fp16: the loss scale is found on the way; else it is 1 */
    uint64_t asks;        /* what this rank asks of all; below 2^32 */
    /* kept on the device from step to step */
    uint64_t updates;      /* optimizer updates done so far, skipped steps not counted */
    uint64_t skipped;      /* steps skipped so far: not finite, or nothing trained */
    float next_loss_scale; /* where the loss is scaled; 0: no step yet */
    uint32_t finite_count; /* finite steps since that last changed */
    /* made in the step */
    uint64_t trained_tokens; /* of the global batch */
    double loss_sum;         /* of the global batch after the verdict; this rank's before */
    double asked;            /* the sum of all ranks' asks, after the verdict */
    double norm_squared;     /* of the owned shards; of the whole gradient after the verdict */
    float inverse_tokens;    /* 1 / trained_tokens; 0 if there are none */
    float loss_scale;        /* of this step; gradients carry it */
    float norm, clip_factor; /* norm before clipping */
    float correction1, correction2; /* 1/(1-beta1^t), 1/(1-beta2^t), t = updates + 1 */
    uint32_t skip;                  /* not finite, or no trained token: AdamW does nothing */
    uint32_t pad2;
};

#define DS_STEP_RECORD_HOST_BYTES offsetof(struct ds_step_record, updates)

/* C[M,N] = scale * op(A) op(B) + add * C, row-major; op(A) is [M,K], op(B) is [K,N]. trans_a: A is stored
 * [K,M]; trans_b: B is stored [N,K] (a linear layer's weight). With `addend`, which is like C and lies apart
 * from it, C = addend + scale * op(A) op(B) instead: in fp32 the bits of the product and then an add. */
struct ds_matmul_args {
    struct ds_tensor a, b, c;
    struct ds_tensor addend; /* optional; without strides alone */
    int trans_a, trans_b, add;
    float scale; /* 0: 1 */
    /* elements from one stored row to the next, of columns of a wider matrix; 0: as many as a row has */
    uint64_t a_stride, b_stride, c_stride;
};

/* y_TN += bias_N; backward: dbias_N = (add) + column sums of dy_TN, or, with an x, of dy_TN * x_TN */
struct ds_bias_args {
    struct ds_tensor y_TN, bias_N;
    int add; /* backward */
    uint64_t
        y_stride; /* elements from a row of y, and of x, to the next, of columns of a wider one; 0: N */
    struct ds_tensor x_TN; /* backward; as y */
};

/* squares_O = sums of squares of the rows of W + scale * B A; without B of W's own. W, A, B of one dtype, squares F32. */
struct ds_row_squares_args {
    struct ds_tensor w_OI, a_RI, b_OR;
    struct ds_tensor squares_O; /* out */
    float scale;
};
/* inverse = 1 / sqrt(squares), 0 where there are none, factor = magnitude * inverse; without a magnitude both are 1. F32, but the magnitude. */
struct ds_magnitude_args {
    struct ds_tensor squares_O, magnitude_O;
    struct ds_tensor inverse_O, factor_O; /* out */
};
/* y = (addend) + (scale_N + plus) * x, column by column; without scales plus * x. y may be x, or the addend. Scales F32,
 * the others of one dtype. */
struct ds_scale_columns_args {
    struct ds_tensor y_TN, x_TN, addend_TN, scale_N;
    float plus;
};

/* s = x + residual (skipped where residual.data is NULL; then s = x), y = gain * s * rstd,
 * rstd = 1/sqrt(mean(s^2) + epsilon). `sum_TC` receives s when residual is given; it may be x. */
struct ds_rmsnorm_args {
    struct ds_tensor x_TC, residual_TC, gain_C;
    struct ds_tensor sum_TC, y_TC, rstd_T; /* out */
    float epsilon;
};

/* dx = (residual) + rstd * (g - xh * mean(g * xh)), g = dy * gain, xh = x * rstd; dgain = (gain_add) + sum
 * over tokens of dy * xh. The residual, the gradient that goes around the norm, is optional (data NULL), and
 * either output may be absent: the parts input and weight of a backward. dx may be dy, or the residual. */
struct ds_rmsnorm_backward_args {
    struct ds_tensor x_TC, gain_C, rstd_T, dy_TC, residual_TC;
    struct ds_tensor dx_TC, dgain_C;
    int gain_add;
};

/* Cut qkv_T of (H+2G)*D columns, q heads first, into q, k, v and rotate q and k (half layout: pair
 * i, i + D/2). Where q_gain_D.data is set, q and k are RMS-normalised over D first (Qwen3), and rstd
 * of every head is kept. rotary_PD: for every position, D/2 cosines then D/2 sines. */
struct ds_qkv_split_args {
    struct ds_tensor qkv_TN;                /* [T, (H+2G)*D] */
    struct ds_tensor position_T, rotary_PD; /* I32 [T], F32 [P, D] */
    struct ds_tensor q_gain_D, k_gain_D;    /* optional */
    struct ds_tensor q_THD, k_TGD, v_TGD;   /* out */
    struct ds_tensor q_rstd_TH, k_rstd_TG;  /* out, with gains */
    float epsilon;
    struct ds_tensor x_TC, weight_NC; /* optional: qkv = x W^T first; kept with gains alone */
};
/* The way back: dqkv from dq, dk, dv; with gains also dgain (qkv_TN is the saved input then). */
struct ds_qkv_join_args {
    struct ds_tensor dq_THD, dk_TGD, dv_TGD;
    struct ds_tensor position_T, rotary_PD;
    struct ds_tensor qkv_TN, q_gain_D, k_gain_D, q_rstd_TH, k_rstd_TG; /* optional */
    struct ds_tensor dqkv_TN;                                          /* out */
    struct ds_tensor dq_gain_D, dk_gain_D;                             /* out, with gains */
    int gain_add;
};

/* Causal attention, query head j reads kv head j / (H/G). Token t of a sequence sees the tokens
 * document_T[t] .. t of its sequence: document_T holds, for each token, the position in its sequence
 * at which its document starts. Where one_document is set it is 0 throughout, which the host cannot see,
 * and faster ways may be taken; document_count is for that, too. O(S) memory: lse = log of the sum of exp, kept for backward. */
struct ds_attention_args {
    struct ds_tensor q_THD, k_TGD, v_TGD;
    struct ds_tensor document_T;    /* I32 */
    struct ds_tensor o_THD, lse_TH; /* out; inputs of backward */
    uint64_t seq_length;            /* S; T is a multiple */
    float scale;                    /* > 0 */
    int one_document;
    uint64_t document_count; /* about how many documents the T tokens are; 0: not known */
};
struct ds_attention_backward_args {
    struct ds_attention_args forward;
    struct ds_tensor do_THD;
    struct ds_tensor dq_THD, dk_TGD, dv_TGD; /* out, overwritten */
    struct ds_tensor delta_TH;               /* F32 scratch */
};

/* y = silu(gate) * up; gate_up_TN holds I gate columns, then I up columns. */
struct ds_swiglu_args {
    struct ds_tensor gate_up_TN, y_TI;
    struct ds_tensor x_TC, weight_NC; /* optional: gate_up = x W^T first; y may be absent then */
};
/* dgate_up from dy; dgate_up may be gate_up. y_TI, if set, is written again (recomputed). */
struct ds_swiglu_backward_args {
    struct ds_tensor gate_up_TN, dy_TI;
    struct ds_tensor dgate_up_TN, y_TI;
    struct ds_tensor dz_TC, weight_CI; /* optional: dy = dz W first, for which dy_TI is room */
};

/* y_t = table[id_t - first]. Backward: dtable = (add) + scatter of dy, in token order. The table may be a
 * part of the whole: ids that are not in it have a row of zeros and no gradient. Tokens that are padding have
 * their row, and give it no gradient. */
struct ds_embedding_args {
    struct ds_tensor id_T, table_VC, y_TC;
    int add;         /* backward; 0 clears the table first */
    uint64_t first;  /* the id of the table's first row */
    int64_t padding; /* backward: the id of padding; -1: none is */
};

/* Cross-entropy on N rows of logits. target -100: no loss, zero gradient. In place: logits become
 * (softmax - onehot) * record->inverse_tokens * record->loss_scale where `gradient` is set.
 * loss_N: -log p of every row, 0 where ignored. A target that is in no vocabulary is DS_ERR_DATA of the work
 * or, on a device that cannot report one, a loss of NaN, so that the verdict skips the step.
 *
 * Where the vocabulary is shared out, columns first.. of `vocabulary` lie here and the loss is made in three
 * calls: `max` leaves the rows' largest logits in max_N; when they are those of all ranks `sum` leaves in
 * sums_N2 each row's sum of exp(x - max) and its target's logit, 0 where another rank has it; when those are
 * added up, `finish` makes loss and gradient as the one call does.
 *
 * The one call may have the product that makes the logits in front: logits = x W^T, for which logits_NV is room. It
 * then may leave a factor of each row away from the gradient, so that no row is gone over again: the gradient is
 * factor_n * logits_nv, the matrix' is logits^T scaled with scaled_n = factor_n * x_n, and x's is logits W, its rows
 * scaled (scale_rows). */
struct ds_cross_entropy_args {
    struct ds_tensor logits_NV, target_N; /* I32 targets */
    struct ds_tensor loss_N;              /* out, F32 */
    const struct ds_step_record *record;
    int gradient;
    struct ds_tensor x_NC, weight_VC; /* optional */
    struct ds_tensor factor_N,
        scaled_NC; /* out, F32 and as x, which `scaled` may be; with x and a gradient */
    /* of the three calls */
    uint64_t first, vocabulary;
    struct ds_tensor max_N, sums_N2; /* F32 */
};

/* record->loss_sum += sum of loss_T, fp64, in an order of the device's own. */
struct ds_loss_sum_args {
    struct ds_tensor loss_T;
    struct ds_step_record *record;
};

/* y += x, elementwise; the same count, dtypes of their own: added in fp32, rounded to nearest even. */
struct ds_add_args {
    struct ds_tensor y, x;
};
/* y = x, the same. */
struct ds_cast_args {
    struct ds_tensor y, x;
};
/* y_n *= factor_n, in place; the factors are F32. */
struct ds_scale_rows_args {
    struct ds_tensor y_NC, factor_N;
};
#define DS_DROPOUT_NUMBERS 65536u
/* y = (add) + x * 65536 / (65536 - threshold) where x is kept, else (add) + 0. Element (t, c) of rows first_row.. and columns
 * first_column.. of a whole of so many columns is number n = (first_row + t) * whole_columns + first_column + c, and kept
 * where the 16-bit part n % 8 of the Philox block with counter (n / 8, the record's step) and that key is not below the
 * threshold: wherever it lies, the same. y may be x. */
struct ds_dropout_args {
    struct ds_tensor y, x; /* [T, C] */
    const struct ds_step_record *record;
    uint64_t key, first_row, first_column, whole_columns;
    uint32_t threshold; /* < 65536 */
    int add;
};
/* y = the numbers start, start + 1, .. of a quantised matrix (quant.h), as many as y has, each rounded once to y's
 * dtype. Of NF4 `start` is where a block begins. What is not y is that of the whole matrix; or of a part of one: nested
 * absmax have the scales of the whole, in which block b is number first_block + b / row_blocks * whole_row_blocks +
 * b % row_blocks. */
struct ds_dequantise_args {
    struct ds_tensor y;
    struct ds_tensor codes;  /* U8: NF4, two a byte; I8: INT8 */
    struct ds_tensor absmax; /* F32, of NF4's blocks or INT8's rows; U8: nested, */
    struct ds_tensor nest_absmax, map, offset;          /* with these, F32 */
    uint64_t start, columns;                            /* columns: of INT8 */
    uint64_t first_block, row_blocks, whole_row_blocks; /* row_blocks 0: first_block + b */
};
struct ds_fill_args {
    void *at;
    size_t bytes; /* set to zero */
};

/* sums[i] = fp64 sum of squares of piece i (DS_NORM_PIECE elements, the last may be short); elements of
 * `skips` count as zero. */
struct ds_norm_pieces_args {
    struct ds_tensor x;
    struct ds_tensor sums;       /* F64, ceil(count / DS_NORM_PIECE) */
    const struct ds_span *skips; /* device memory */
    size_t skip_count;
};
/* record->norm_squared = sum of all pieces, in an order of the device's own (the cpu's: of their index) */
struct ds_norm_sum_args {
    struct ds_tensor sums;
    struct ds_step_record *record;
};

/* Start of a step. First half (before the sum over ranks): trained_tokens = local_tokens; second half,
 * `is_global` set: inverse_tokens, loss_scale, asked = asks, and zero what the step sums up. */
struct ds_step_begin_args {
    struct ds_step_record *record;
    int is_global;
};
/* The verdict, from the now global norm_squared and loss_sum: norm without the loss scale, clip_factor =
 * min(1, clip / (norm + 1e-6)) (1 where clip is 0), skip, corrections; counts updates and skips. The next
 * loss scale as PyTorch's GradScaler finds it: 65536 at first, halved by a step that is not finite, doubled
 * by every 2000th finite one in a row. */
struct ds_verdict_args {
    struct ds_step_record *record;
    float grad_clip, beta1, beta2;
};

/* One run of elements of a shard with one weight decay. For stochastic rounding it says where in the whole
 * parameter its elements lie: element i is that of row (column + i) / columns, at (column + i) % columns,
 * and rounds by number random_start + row * whole_columns + that of its key and this step. */
struct ds_adamw_span {
    uint64_t start, count; /* elements of the shard */
    uint64_t random_key;
    uint64_t random_start; /* where the row begins here in which the span starts */
    uint64_t columns, whole_columns,
        column; /* of a row here and in the whole; columns 0: one row */
    float weight_decay;
    uint32_t pad;
};
/* AdamW on a flat shard: PyTorch's semantics (Loshchilov & Hutter 2019), fp32 with explicit fma on every
 * device; moments are stored rounded to nearest even. Elements in no span (padding) stay as they are. With
 * record->skip: no-op. What is updated is the master, and param follows it:
 *   F32, the memory of param   (fp32) they are one
 *   F32                        param is rounded: bf16 as master.h says, fp16 to nearest even
 *   I16, param BF16            the master is param and this correction (master.h); the same bits as F32
 *   absent, param BF16         param itself, rounded stochastically: number n of step s is the 16-bit part
 *                              n % 8 of the Philox block with counter (n / 8, s) and the span's key */
struct ds_adamw_args {
    struct ds_tensor master, param, grad, exp_avg, exp_avg_sq;
    const struct ds_adamw_span *spans; /* device memory; in order, no two overlap */
    size_t span_count;
    const struct ds_step_record *record;
    float beta1, beta2, epsilon;
};

struct ds_kernel_ops {
    const char *name;
    ds_status (*matmul)(struct ds_stream *stream, const struct ds_matmul_args *args);
    ds_status (*bias_forward)(struct ds_stream *stream, const struct ds_bias_args *args);
    ds_status (*bias_backward)(struct ds_stream *stream, const struct ds_bias_args *args);
    ds_status (*row_squares)(struct ds_stream *stream, const struct ds_row_squares_args *args);
    ds_status (*magnitude)(struct ds_stream *stream, const struct ds_magnitude_args *args);
    ds_status (*scale_columns)(struct ds_stream *stream, const struct ds_scale_columns_args *args);
    ds_status (*rmsnorm_forward)(struct ds_stream *stream, const struct ds_rmsnorm_args *args);
    ds_status (*rmsnorm_backward)(struct ds_stream *stream,
                                  const struct ds_rmsnorm_backward_args *args);
    ds_status (*qkv_split)(struct ds_stream *stream, const struct ds_qkv_split_args *args);
    ds_status (*qkv_join)(struct ds_stream *stream, const struct ds_qkv_join_args *args);
    ds_status (*attention_forward)(struct ds_stream *stream, const struct ds_attention_args *args);
    ds_status (*attention_backward)(struct ds_stream *stream,
                                    const struct ds_attention_backward_args *args);
    ds_status (*swiglu_forward)(struct ds_stream *stream, const struct ds_swiglu_args *args);
    ds_status (*swiglu_backward)(struct ds_stream *stream,
                                 const struct ds_swiglu_backward_args *args);
    ds_status (*embedding_forward)(struct ds_stream *stream, const struct ds_embedding_args *args);
    ds_status (*embedding_backward)(struct ds_stream *stream, const struct ds_embedding_args *args);
    ds_status (*cross_entropy)(struct ds_stream *stream, const struct ds_cross_entropy_args *args);
    ds_status (*cross_entropy_max)(struct ds_stream *stream,
                                   const struct ds_cross_entropy_args *args);
    ds_status (*cross_entropy_sum)(struct ds_stream *stream,
                                   const struct ds_cross_entropy_args *args);
    ds_status (*cross_entropy_finish)(struct ds_stream *stream,
                                      const struct ds_cross_entropy_args *args);
    ds_status (*loss_sum)(struct ds_stream *stream, const struct ds_loss_sum_args *args);
    ds_status (*add)(struct ds_stream *stream, const struct ds_add_args *args);
    ds_status (*cast)(struct ds_stream *stream, const struct ds_cast_args *args);
    ds_status (*scale_rows)(struct ds_stream *stream, const struct ds_scale_rows_args *args);
    ds_status (*dropout)(struct ds_stream *stream, const struct ds_dropout_args *args);
    ds_status (*dequantise)(struct ds_stream *stream, const struct ds_dequantise_args *args);
    ds_status (*fill)(struct ds_stream *stream, const struct ds_fill_args *args);
    ds_status (*norm_pieces)(struct ds_stream *stream, const struct ds_norm_pieces_args *args);
    ds_status (*norm_sum)(struct ds_stream *stream, const struct ds_norm_sum_args *args);
    ds_status (*step_begin)(struct ds_stream *stream, const struct ds_step_begin_args *args);
    ds_status (*verdict)(struct ds_stream *stream, const struct ds_verdict_args *args);
    ds_status (*adamw)(struct ds_stream *stream, const struct ds_adamw_args *args);
};

extern const struct ds_kernel_ops ds_kernels_cpu;

/* local: elements [start, start + count) of an update whose shard, spans and record lie in host memory, by the calling
 * thread and at once: the bits of the cpu table's. Each part may be another thread's. A param apart from its fp32 master
 * follows it everywhere, in padding and in a step that is skipped, too: there is no need to have been what it becomes. */
void ds_adamw_part(const struct ds_adamw_args *args, uint64_t start, uint64_t count);

/* local: the cpu table's GEMM in words ("OpenBLAS 0.3.21 SkylakeX, 2 threads" or "own blocked
 * kernel: <reason>"). */
const char *ds_kernels_cpu_gemm_name(void);

#ifdef __cplusplus
}
#endif
#endif
