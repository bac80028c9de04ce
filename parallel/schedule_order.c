/* schedule_order.c - the order of one stage's pieces: a row for each kind of schedule. Positions count
 * pieces of one direction; they go through the chunks in groups of stage_count micro-batches, as
 * Megatron's interleaved schedule does (without chunks that is simply micro-batch order). Where the
 * last of these groups is short, positions of micro-batches that do not exist are passed over: what is
 * left of an order that can proceed can proceed. */
#include "schedule_maker.h"

int order_is_tied_here(const struct ds_schedule_shape *shape)
{
    const struct ds_schedule_block *head = &shape->blocks[shape->block_count - 1];

    for (uint32_t i = 0; i < head->unit_count; i++)
        for (uint32_t j = 0; j < shape->blocks[0].unit_count; j++)
            if (shape->stage_count == 1 && head->units[i] == shape->blocks[0].units[j] &&
                unit_is_trained(shape, head->units[i]))
                return 1;
    return 0;
}

static uint32_t position_count(const struct ds_schedule_shape *shape)
{
    const uint32_t groups = order_group_count(shape), stages = shape->stage_count;

    if (shape->chunk_count == 1)
        return groups;
    return (groups + stages - 1) / stages * stages * shape->chunk_count;
}

/* The piece at a position; 0 if its micro-batches do not exist. */
static int piece_at(const struct ds_schedule_shape *shape, enum piece_kind kind, uint32_t position,
                    struct piece *out)
{
    const uint32_t stages = shape->stage_count, round = stages * shape->chunk_count;
    const uint32_t chunk = position % round / stages;

    *out = (struct piece){.kind = kind,
                          .chunk = kind == PIECE_FORWARD ? chunk : shape->chunk_count - 1 - chunk,
                          .group = position / round * stages + position % stages};
    return out->group < order_group_count(shape);
}

/* ---- the rows: kinds of pieces to start now, best first */

typedef uint32_t order_row(const struct ds_schedule_shape *shape, uint32_t stage,
                           const struct order *order, enum piece_kind wishes[PIECE_KIND_COUNT]);

static int has_left(const struct ds_schedule_shape *shape, const struct order *order,
                    enum piece_kind kind)
{
    return order->position[kind] < position_count(shape);
}

/* How many forwards are ahead of their backwards. */
static uint32_t ahead(const struct order *order, enum piece_kind of)
{
    return order->position[PIECE_FORWARD] - order->position[of];
}

static uint32_t forward_then_backward(const struct ds_schedule_shape *shape,
                                      const struct order *order, uint32_t ahead_max,
                                      enum piece_kind wishes[PIECE_KIND_COUNT])
{
    if (has_left(shape, order, PIECE_FORWARD) && ahead(order, PIECE_BACKWARD) < ahead_max)
        wishes[0] = PIECE_FORWARD;
    else if (has_left(shape, order, PIECE_BACKWARD))
        wishes[0] = PIECE_BACKWARD;
    else
        return 0;
    return 1;
}

static uint32_t order_forward_only(const struct ds_schedule_shape *shape, uint32_t stage,
                                   const struct order *order,
                                   enum piece_kind wishes[PIECE_KIND_COUNT])
{
    (void)stage;
    wishes[0] = PIECE_FORWARD;
    return has_left(shape, order, PIECE_FORWARD) ? 1 : 0;
}

static uint32_t order_gpipe(const struct ds_schedule_shape *shape, uint32_t stage,
                            const struct order *order, enum piece_kind wishes[PIECE_KIND_COUNT])
{
    (void)stage;
    return forward_then_backward(shape, order, UINT32_MAX, wishes);
}

/* At most stage_count - stage groups are alive on a stage. */
static uint32_t order_1f1b(const struct ds_schedule_shape *shape, uint32_t stage,
                           const struct order *order, enum piece_kind wishes[PIECE_KIND_COUNT])
{
    return forward_then_backward(shape, order, shape->stage_count - stage, wishes);
}

/* Every chunk but the last is filled with stage_count groups; the last as in 1F1B, at twice the
 * distance, since a stage alternates between chunks. */
static uint32_t order_interleaved(const struct ds_schedule_shape *shape, uint32_t stage,
                                  const struct order *order,
                                  enum piece_kind wishes[PIECE_KIND_COUNT])
{
    const uint32_t fill =
        2 * (shape->stage_count - 1 - stage) + (shape->chunk_count - 1) * shape->stage_count;

    return forward_then_backward(shape, order, fill + 1, wishes);
}

/* ZB-H1 (Qi et al., "Zero Bubble Pipeline Parallelism"): 1F1B in which weight parts wait for a gap, as
 * long as no more than stage_count groups are alive. Found by playing: of the simple rules the one
 * that ends at 3m + p - 1 for every m >= p. */
static uint32_t order_zero_bubble(const struct ds_schedule_shape *shape, uint32_t stage,
                                  const struct order *order,
                                  enum piece_kind wishes[PIECE_KIND_COUNT])
{
    uint32_t n = 0;

    if (has_left(shape, order, PIECE_FORWARD) &&
        ahead(order, PIECE_BACKWARD) < shape->stage_count - stage &&
        ahead(order, PIECE_WEIGHT) < shape->stage_count)
        wishes[n++] = PIECE_FORWARD;
    if (has_left(shape, order, PIECE_BACKWARD))
        wishes[n++] = PIECE_BACKWARD;
    if (has_left(shape, order, PIECE_WEIGHT))
        wishes[n++] = PIECE_WEIGHT;
    return n;
}

static const struct {
    order_row *wishes;
    int splits;
} order_rows[DS_SCHEDULE_KIND_COUNT] = {
    [DS_SCHEDULE_1F1B] = {order_1f1b, 0},
    [DS_SCHEDULE_GPIPE] = {order_gpipe, 0},
    [DS_SCHEDULE_INTERLEAVED] = {order_interleaved, 0},
    [DS_SCHEDULE_ZERO_BUBBLE] = {order_zero_bubble, 1},
};

int order_splits(const struct ds_schedule_shape *shape)
{
    return shape->is_training && order_rows[shape->kind].splits;
}

uint32_t order_group_size(const struct ds_schedule_shape *shape)
{
    /* A unit has one local gradient: the next micro-batch's begins when this one's is complete.
     * (Evaluation goes as training, to fit into its places.) */
    const int is_alone =
        order_is_tied_here(shape) && (shape->chunk_count > 1 || order_rows[shape->kind].splits);

    return shape->stage_count == 1 && !is_alone ? shape->window : 1;
}

uint32_t order_group_count(const struct ds_schedule_shape *shape)
{
    const uint32_t size = order_group_size(shape);

    return shape->micro_count / size + (shape->micro_count % size != 0);
}

uint32_t order_micros(const struct ds_schedule_shape *shape, uint32_t group)
{
    const uint32_t size = order_group_size(shape), left = shape->micro_count - group * size;

    return left < size ? left : size;
}

uint32_t order_piece_count(const struct ds_schedule_shape *shape)
{
    const uint32_t kinds = shape->is_training ? (order_splits(shape) ? 3 : 2) : 1;

    return kinds * shape->chunk_count * order_group_count(shape);
}

uint32_t order_wishes(const struct ds_schedule_shape *shape, uint32_t stage, struct order *order,
                      struct piece wishes[PIECE_KIND_COUNT])
{
    order_row *row = shape->is_training ? order_rows[shape->kind].wishes : order_forward_only;
    enum piece_kind kinds[PIECE_KIND_COUNT];

    for (;;) {
        const uint32_t n = row(shape, stage, order, kinds);
        uint32_t exist = 0;

        for (uint32_t i = 0; i < n; i++)
            exist += (uint32_t)piece_at(shape, kinds[i], order->position[kinds[i]], &wishes[i]);
        if (exist == n)
            return n;
        DS_ASSERT(n == 1);
        order->position[kinds[0]]++;
    }
}

void order_advance(struct order *order, const struct piece *piece)
{
    order->position[piece->kind]++;
}
