/* dora.h - rows of a matrix with factors that have a trained length each (Liu et al. 2024); private to this folder.
 *
 *   W' = W + scale * B A,   n = lengths of the rows of W', which backward takes for constants,   c = m / n
 *   v = x W'^T,   y = c v                 dm = sum over tokens of dy v / n;  dx, dA, dB of c dy
 *
 * With dropout the factors, and what c changes, see x~, the input without what was dropped, as in PEFT:
 *
 *   v = x~ W'^T,  y = x W^T - x~ W^T + c v    dx = dy W + (what was kept of) ((c - 1) dy W + du A),  du = scale * (c dy) B
 *
 * Kept from forward to backward is v / n. 1 / n and c change with weights and factors alone: the first forward of a list
 * makes them, and the list's other micro-batches, what is made again and ways back read them. Where tensor ranks see a
 * part of x, v is a part of a sum, as y is, and so is dm; the squares of n are summed over the ranks. */
#ifndef MODEL_DORA_H
#define MODEL_DORA_H

#include "linear.h"

/* local, queued: squares of the lengths, of what lies here; with `is_bare` of W alone */
DS_CHECKED ds_status dora_measure(const struct ds_pass *pass, const struct linear *layer,
                                  int is_bare);
/* local, queued: 1 / n and c from them, 1 for the rows of matrices without factors */
DS_CHECKED ds_status dora_begin(const struct ds_pass *pass, const struct linear *layer);
/* local, queued: y = (addend) + c x W'^T, and v / n; y absent: v / n alone */
DS_CHECKED ds_status dora_product(const struct ds_pass *pass, const struct linear *layer,
                                  struct ds_tensor x, struct ds_tensor addend, struct ds_tensor y);
/* local, queued: c dy, until the next call of these */
DS_CHECKED ds_status dora_turn(const struct ds_pass *pass, const struct linear *layer,
                               struct ds_tensor dy, struct ds_tensor *turned);
/* local, queued: dx, and what lora_backward makes */
DS_CHECKED ds_status dora_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                         struct ds_tensor dy, struct ds_tensor dx);
/* local, queued: dm, added to what is there where the pass says so */
DS_CHECKED ds_status dora_backward_lengths(const struct ds_pass *pass, const struct linear *layer,
                                           struct ds_tensor dy);

#endif
