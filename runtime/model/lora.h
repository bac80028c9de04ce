/* lora.h - factors beside the matrices of a linear layer (Hu et al. 2021); private to this folder.
 *
 *   y += scale * u B^T,  u = x A^T        du = scale * dy B,  dx += du A,  dA = du^T x,  dB = scale * dy^T u
 *
 * With dropout x is the layer's input without what was dropped, which all matrices of a layer see alike, and is made again
 * on the way back.
 *
 * Several matrices that are one layer have their A one below the other: u and du hold their columns side by side.
 * Where tensor ranks see a part of x or of y, what is made here is a part of a sum, as the layer's own product is. */
#ifndef MODEL_LORA_H
#define MODEL_LORA_H

#include "params.h"

#include "dstrain/memory.h"

struct lora_part {
    enum ds_linear linear;
    const struct ds_param *b, *m; /* m NULL: no DoRA */
    uint64_t rank, column;        /* of u */
    uint64_t out, out_start;      /* columns of y */
    float scale;
};

#define LORA_PARTS_MAX 3

struct lora {
    const struct ds_block *block;
    const struct ds_param *a; /* the first of those that lie one below the other */
    struct lora_part parts[LORA_PARTS_MAX];
    uint32_t part_count;
    uint64_t ranks; /* of all parts; 0: no factors, and nothing below does anything */
    uint64_t in, out;
    /* dropout: elements of x below the threshold go, by the number of their place in all of it; 0: none do */
    uint32_t threshold;
    uint64_t random_key;
    struct ds_tensor room;  /* with dropout: scratch of T * in elements, between two products */
    struct ds_tensor u_TR;  /* from forward to backward */
    struct ds_tensor du_TR; /* from the input part of a backward to its weight part */
    /* DoRA (dora.h): from forward to backward; from the first forward of a list to its end; while that begins; in a
     * backward */
    struct ds_tensor v_TN;
    struct ds_tensor inverse_N, factor_N;
    struct ds_tensor squares_N;
    struct ds_tensor turned_TN;
};

/* pure */
static inline int lora_has_lengths(const struct lora *lora)
{
    return lora->part_count > 0 && lora->parts[0].m;
}

/* pure: does this pass drop some of the input? Then lora_project leaves the rest of it where lora_room says. */
int lora_drops(const struct ds_pass *pass, const struct lora *lora);
struct ds_tensor lora_room(const struct lora *lora, struct ds_tensor x);
/* pure: A of one part */
struct ds_tensor lora_a(const struct ds_pass *pass, const struct lora *lora,
                        const struct lora_part *part);
struct ds_tensor lora_b(const struct ds_pass *pass, const struct lora *lora,
                        const struct lora_part *part);

/* pure: of the linear layers [first, end) of a decoder layer, which lie without a gap */
struct lora lora_of(const struct ds_block *block, enum ds_linear first, enum ds_linear end);

/* local, all of these: queued on the pass's stream. u = x A^T */
DS_CHECKED ds_status lora_project(const struct ds_pass *pass, const struct lora *lora,
                                  struct ds_tensor x);
/* y += scale * u B^T */
DS_CHECKED ds_status lora_forward(const struct ds_pass *pass, const struct lora *lora,
                                  struct ds_tensor y);
/* du = scale * dy B */
DS_CHECKED ds_status lora_backward(const struct ds_pass *pass, const struct lora *lora,
                                   struct ds_tensor dy);
/* dx += du A; with dropout in lora_room, on top of what is there where `has_begun` says so, on its way to dx */
DS_CHECKED ds_status lora_backward_input(const struct ds_pass *pass, const struct lora *lora,
                                         struct ds_tensor dx, int has_begun);
/* dA and dB, added to what is there where the pass says so */
DS_CHECKED ds_status lora_backward_factors(const struct ds_pass *pass, const struct lora *lora,
                                           struct ds_tensor x, struct ds_tensor dy);

#endif
