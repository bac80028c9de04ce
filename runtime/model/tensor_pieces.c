/* tensor_pieces.c - the way forward where tensor ranks share tokens out, in pieces: while one piece is on its way
 * between the ranks, the other goes through a norm or a product. */
#include "tensor_parallel.h"

struct tp_pieces tp_pieces_of(const struct ds_model *model, uint64_t R)
{
    struct tp_pieces pieces = {.count = 1, .ranks = model->share.tp_size, .rows = R};
    const int may_cut = model->share.sequence_parallel && !ds_model_is_adapted(model);

    if (may_cut && R % TP_PIECES_MAX == 0 && R / TP_PIECES_MAX >= model->piece_tokens) {
        pieces.count = TP_PIECES_MAX;
        pieces.rows = R / TP_PIECES_MAX;
    }
    return pieces;
}

static struct ds_tensor cut(struct ds_tensor of, uint64_t first, uint64_t rows)
{
    const size_t row = of.dim_count > 1 ? (size_t)of.shape[1] : 1;

    if (!of.data)
        return of;
    of.data = (char *)of.data + first * row * ds_dtype_bytes(of.dtype);
    of.shape[0] = rows;
    return of;
}

struct ds_tensor tp_piece(const struct tp_pieces *pieces, uint32_t i, struct ds_tensor rows)
{
    return cut(rows, i * pieces->rows, pieces->rows);
}

/* All ranks' rows of piece `i`. */
static struct ds_tensor in_room(const struct tp_pieces *pieces, uint32_t i, struct ds_tensor room)
{
    const uint64_t rows = pieces->ranks * pieces->rows;

    return cut(room, i * rows, rows);
}

ds_status tp_gather_piece(const struct ds_model *model, const struct ds_pass *pass,
                          struct tp_pieces *pieces, uint32_t i, struct ds_tensor part,
                          struct ds_tensor room, struct ds_tensor *whole)
{
    struct ds_tensor gathered;

    *whole = room.data ? room : part;
    return tp_gather_begin(model, pass, tp_piece(pieces, i, part), in_room(pieces, i, room),
                           &gathered, &pieces->calls[i]);
}

/* A product of rows that lie together in the room and among the tokens: where it starts in each, how many. */
struct stretch {
    uint64_t room, token, rows;
};

static uint32_t stretch_count(const struct tp_pieces *pieces)
{
    return pieces->count == 1 ? 1 : pieces->ranks;
}

static struct stretch stretch_of(const struct tp_pieces *pieces, uint32_t i, uint32_t rank,
                                 uint64_t T)
{
    if (pieces->count == 1)
        return (struct stretch){0, 0, T};
    return (struct stretch){(i * pieces->ranks + rank) * pieces->rows,
                            (rank * pieces->count + i) * pieces->rows, pieces->rows};
}

/* `product`: NULL of a layer that is no gates and ups */
static ds_status each_stretch(const struct ds_pass *pass, const struct linear *layer,
                              struct tp_pieces *pieces, struct ds_tensor whole, struct ds_tensor y,
                              const struct ds_tensor *product)
{
    for (uint32_t i = 0; i < pieces->count; i++) {
        DS_TRY(tp_wait(pass, &pieces->calls[i]));
        for (uint32_t r = 0; r < stretch_count(pieces); r++) {
            const struct stretch at = stretch_of(pieces, i, r, y.shape[0]);
            const struct ds_tensor from = cut(whole, at.room, at.rows);
            const struct ds_tensor to = cut(y, at.token, at.rows);

            DS_TRY(product ? linear_forward_swiglu(pass, layer, from, to,
                                                   cut(*product, at.token, at.rows))
                           : linear_forward(pass, layer, from, to));
        }
    }
    return DS_OK;
}

ds_status column_forward(const struct ds_pass *pass, const struct linear *layer,
                         struct tp_pieces *pieces, struct ds_tensor whole, struct ds_tensor y)
{
    return each_stretch(pass, layer, pieces, whole, y, NULL);
}

ds_status column_forward_swiglu(const struct ds_pass *pass, const struct linear *layer,
                                struct tp_pieces *pieces, struct ds_tensor whole,
                                struct ds_tensor y, struct ds_tensor product)
{
    return each_stretch(pass, layer, pieces, whole, y, &product);
}

ds_status row_forward_begin(const struct ds_pass *pass, const struct linear *layer,
                            struct tp_pieces *pieces, struct ds_tensor x, struct ds_tensor room,
                            struct ds_tensor y)
{
    const struct ds_tensor sums = tp_partial(y, room);

    for (uint32_t i = 0; i < pieces->count; i++) {
        for (uint32_t r = 0; r < stretch_count(pieces); r++) {
            const struct stretch at = stretch_of(pieces, i, r, x.shape[0]);

            DS_TRY(linear_product(pass, layer, cut(x, at.token, at.rows),
                                  cut(sums, at.room, at.rows)));
        }
        DS_TRY(tp_sum_begin(layer->block->model, pass, tp_piece(pieces, i, y),
                            in_room(pieces, i, room), &pieces->calls[i]));
    }
    return DS_OK;
}

ds_status row_forward_end(const struct ds_pass *pass, const struct linear *layer,
                          struct tp_pieces *pieces, uint32_t i, struct ds_tensor y)
{
    DS_TRY(tp_wait(pass, &pieces->calls[i]));
    return linear_bias(pass, layer, tp_piece(pieces, i, y));
}

/* In one call where the product is all there is to add: one pass over the stream in place of three. */
ds_status row_forward_onto(const struct ds_pass *pass, const struct linear *layer,
                           struct tp_pieces *pieces, struct ds_tensor x, struct ds_tensor room,
                           struct ds_tensor residual, struct ds_tensor y)
{
    if (tp_is_alone(layer->block->model, pass) && layer->bias_count == 0)
        return linear_product_onto(pass, layer, x, residual, y);
    DS_TRY(row_forward_begin(pass, layer, pieces, x, room, y));
    for (uint32_t i = 0; i < pieces->count; i++) {
        const struct ds_add_args add = {tp_piece(pieces, i, y), tp_piece(pieces, i, residual)};

        DS_TRY(row_forward_end(pass, layer, pieces, i, y));
        DS_TRY(pass->kernels->add(pass->stream, &add));
    }
    return DS_OK;
}
