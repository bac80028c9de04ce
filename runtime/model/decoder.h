/* decoder.h - what a decoder layer is made of, and where its tensors lie; private to this folder.
 *
 * T tokens of the micro-batch, R of them in the residual stream here (all, or this rank's share), C hidden;
 * H, G, I, N: heads, kv heads, intermediate columns and qkv columns of this rank; D head_dim. */
#ifndef MODEL_DECODER_H
#define MODEL_DECODER_H

#include "linear.h"

struct decoder {
    const struct ds_block *block;
    const struct ds_model *model; /* the block's */
    struct norm norm1, norm2;
    struct linear qkv, o, gate_up, down;
    const struct ds_param *q_norm, *k_norm; /* NULL: none */
    uint64_t T, R, C, H, G, D, I, N;        /* N = (H + 2G) D */
    enum ds_dtype dtype;                    /* of weights, activations and their gradients */
    float epsilon;
    int keeps_norms, keeps_product;
    int has_room; /* a room: the whole of what this rank has R tokens of */
    int needs_dx; /* does anything below learn? */
};

/* From forward to backward. */
struct decoder_saved {
    struct ds_tensor n1_RC, rstd1_R, q_THD, k_TGD, v_TGD, o_THD, lse_TH, h_RC, n2_RC, rstd2_R;
    struct ds_tensor gate_up_TN, product_TI;
    struct ds_tensor qkv_TN, q_rstd_TH, k_rstd_TG; /* with head norms only */
};

/* pure, both; of `d` the places of what factors keep are set */
struct decoder decoder_of(const struct ds_block *block, uint64_t token_count);
struct decoder_saved decoder_take_saved(struct ds_arena *arena, struct decoder *d);

static inline struct ds_tensor take_heads(struct ds_arena *arena, const struct decoder *d,
                                          uint64_t heads)
{
    void *at = ds_arena_take(arena, d->T * heads * d->D * ds_dtype_bytes(d->dtype));

    return ds_tensor3(at, d->dtype, d->T, heads, d->D);
}

/* A head norm's gain, absent where the model has none. */
struct ds_tensor decoder_gain(const struct decoder *d, const struct ds_pass *pass,
                              const struct ds_param *param);
struct ds_tensor decoder_rotary(const struct decoder *d, const struct ds_pass *pass);
struct ds_attention_args decoder_attention(const struct decoder *d, const struct ds_pass *pass,
                                           const struct decoder_saved *s);

/* the same of factors alone: of their inner products, or of those's gradients */
void decoder_take_low(struct ds_arena *arena, struct decoder *d, int is_gradient);
/* and what they drop of the largest of their inputs, one after the other; nothing without dropout */
void decoder_take_room(struct ds_arena *arena, struct decoder *d);

/* DoRA's lengths, from the first forward of a list on */
void decoder_take_derived(struct ds_arena *arena, struct decoder *d);
/* and what a backward of DoRA turns, the largest, one after the other */
void decoder_take_turned(struct ds_arena *arena, struct decoder *d);

/* decoder_backward.c */
size_t decoder_backward_bytes(struct decoder *d); /* of the workspace */
size_t decoder_held_bytes(const struct ds_block *block, uint64_t token_count);
DS_CHECKED ds_status decoder_backward(const struct ds_block *block, struct ds_pass *pass,
                                      uint32_t parts, const void *x, const void *dy, void *dx);

#endif
