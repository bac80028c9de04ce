/* hf_gather.c - a parameter put together on rank 0 from the boxes of tensor ranks and their shards, on the
 * stage that answers for its unit.
 *
 * Everybody can tell from the mesh who sends what in which order, so nothing is asked: tensor ranks in
 * order, in each the shard ranks, of each the owned elements in pieces. Of copies the owner sends, of
 * replicas the first. A rank talks to rank 0 only, and goes on when it cannot read its own. */
#include "dstrain/hf.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE_ELEMS = 1 << 20 };

struct ds_hf_gather {
    struct ds_hf_parts parts;
    struct ds_mesh_place here;
    uint32_t tp_size, shard_count, shard_rank;
    /* owns */
    float *piece;
    /* owns; on rank 0 alone: */
    struct ds_model **models; /* [tp_size]: the model as each tensor rank computes it */
    uint32_t *ranks;          /* [stages, tp_size, shard_count]: of the first replica */
};

static int collects(const struct ds_hf_gather *g)
{
    return g->parts.world->rank == 0;
}

static uint32_t stage_of(const struct ds_hf_gather *g, uint32_t unit)
{
    return g->parts.stage_of_unit ? g->parts.stage_of_unit[unit] : 0;
}

/* What a shard rank owns of a parameter, in the unit's coordinates. */
static struct ds_span owned_of(const struct ds_hf_gather *g, const struct ds_model *model,
                               uint32_t index, uint32_t shard_rank)
{
    const struct ds_param *param = &model->params[index];
    const struct ds_zero_layout layout =
        ds_zero_layout_of(model->units[param->unit].elems, g->shard_count);

    return ds_zero_layout_owned(&layout, shard_rank, (struct ds_span){param->offset, param->elems});
}

/* ---- a piece from where it lies to where it belongs */

/* Behind a failure nothing is read, and there are zeros: whoever has them next complains of numbers that are none. */
static ds_status read_own(struct ds_hf_gather *g, const struct ds_param *param,
                          struct ds_span piece, ds_status before)
{
    const struct ds_zero_layout *layout = ds_zero_unit_layout(g->parts.zero, param->unit);
    const uint64_t begin = ds_zero_layout_shard(layout, g->shard_rank).start;
    ds_status st = before;

    if (st == DS_OK)
        st = ds_zero_read_shard(g->parts.zero, param->unit, piece.start - begin, piece.count,
                                g->piece);
    if (st != DS_OK)
        memset(g->piece, 0, (size_t)piece.count * sizeof *g->piece);
    return st;
}

static ds_status pass_on(struct ds_hf_gather *g, uint64_t count, uint32_t peer, int is_send)
{
    const struct ds_message message = {g->piece, (size_t)count * sizeof *g->piece, peer, is_send};

    return ds_comm_exchange(g->parts.world, &message, 1, NULL);
}

static void place(const struct ds_param *param, struct ds_span piece, const float *from, float *to)
{
    const uint64_t start = piece.start - param->offset;

    for (uint64_t done = 0; done < piece.count;) {
        struct ds_span run = ds_param_run(param, start + done, piece.count - done);
        memcpy(to + run.start, from + done, run.count * sizeof *to);
        done += run.count;
    }
}

static struct ds_span first_piece(struct ds_span owned)
{
    return (struct ds_span){owned.start, owned.count < PIECE_ELEMS ? owned.count : PIECE_ELEMS};
}

static struct ds_span behind(struct ds_span owned, struct ds_span piece)
{
    return (struct ds_span){owned.start + piece.count, owned.count - piece.count};
}

/* ---- both ends. A failure to read is kept for the end; one of communication ends it. */

static ds_status send_owned(struct ds_hf_gather *g, uint32_t index)
{
    const struct ds_param *param = &g->parts.model->params[index];
    struct ds_span owned = owned_of(g, g->parts.model, index, g->shard_rank);
    ds_status st = DS_OK;

    while (owned.count > 0) {
        struct ds_span piece = first_piece(owned);
        st = read_own(g, param, piece, st);
        DS_TRY(pass_on(g, piece.count, 0, 1));
        owned = behind(owned, piece);
    }
    return st;
}

static ds_status receive_owned(struct ds_hf_gather *g, uint32_t index, uint32_t tp_rank,
                               uint32_t shard_rank, uint32_t from, float *to)
{
    const struct ds_param *param = &g->models[tp_rank]->params[index];
    struct ds_span owned = owned_of(g, g->models[tp_rank], index, shard_rank);
    ds_status st = DS_OK;

    while (owned.count > 0) {
        struct ds_span piece = first_piece(owned);
        if (from > 0)
            DS_TRY(pass_on(g, piece.count, from, 0));
        else
            st = read_own(g, param, piece, st);
        place(param, piece, g->piece, to);
        owned = behind(owned, piece);
    }
    return st;
}

static ds_status collect(struct ds_hf_gather *g, uint32_t index, float *to)
{
    const uint32_t stage = stage_of(g, g->parts.model->params[index].unit);
    const uint32_t *from = &g->ranks[(size_t)stage * g->tp_size * g->shard_count];
    ds_status st = DS_OK;

    for (uint32_t tp_rank = 0; tp_rank < g->tp_size; tp_rank++, from += g->shard_count)
        for (uint32_t s = 0; s < g->shard_count && g->models[tp_rank]->params[index].is_owner; s++)
            if (from[s] > 0)
                DS_TRY(receive_owned(g, index, tp_rank, s, from[s], to));
            else
                st = receive_owned(g, index, tp_rank, s, 0, to);
    return st;
}

ds_status ds_hf_gather_param(struct ds_hf_gather *g, uint32_t param, float *to)
{
    const struct ds_param *own = &g->parts.model->params[param];

    DS_ASSERT(param < g->parts.model->param_count);
    if (collects(g))
        return collect(g, param, to);
    if (g->here.at[DS_AXIS_REPLICA] > 0 || g->here.at[DS_AXIS_PP] != stage_of(g, own->unit) ||
        !own->is_owner)
        return DS_OK;
    return send_owned(g, param);
}

/* ---- what rank 0 must know of the others */

static ds_status open_models(struct ds_hf_gather *g)
{
    struct ds_model_share share = g->parts.model->share;

    g->models = calloc(g->tp_size, sizeof(struct ds_model *));
    if (!g->models)
        return ds_fail(DS_ERR_NO_MEMORY, "the parameters of %u tensor ranks", g->tp_size);
    for (share.tp_rank = 0; share.tp_rank < g->tp_size; share.tp_rank++)
        DS_TRY(ds_model_open_like(g->parts.model, &share, &g->models[share.tp_rank]));
    return DS_OK;
}

static ds_status list_ranks(struct ds_hf_gather *g)
{
    const struct ds_mesh_shape *mesh = g->parts.mesh;
    const uint32_t count = ds_mesh_rank_count(mesh);

    g->ranks = calloc(count, sizeof *g->ranks);
    if (!g->ranks)
        return ds_fail(DS_ERR_NO_MEMORY, "a table of %u ranks", count);
    for (uint32_t rank = 0; rank < count; rank++) {
        const struct ds_mesh_place at = ds_mesh_place_of(mesh, rank);
        const uint32_t column = at.at[DS_AXIS_PP] * g->tp_size + at.at[DS_AXIS_TP];
        if (at.at[DS_AXIS_REPLICA] == 0)
            g->ranks[column * g->shard_count + ds_mesh_index(mesh, DS_GROUP_SHARD, rank)] = rank;
    }
    return DS_OK;
}

static ds_status take(struct ds_hf_gather *g)
{
    g->piece = malloc(PIECE_ELEMS * sizeof *g->piece); /* of most models little is ever touched */
    if (!g->piece)
        return ds_fail(DS_ERR_NO_MEMORY, "to collect parameters");
    if (!collects(g))
        return DS_OK;
    DS_TRY(open_models(g));
    return list_ranks(g);
}

ds_status ds_hf_gather_open(const struct ds_hf_parts *parts, struct ds_hf_gather **out)
{
    const struct ds_mesh_shape *mesh = parts->mesh;
    const uint32_t rank = parts->world->rank;
    struct ds_hf_gather *g = calloc(1, sizeof *g);
    ds_status st = g ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "to collect parameters");

    DS_ASSERT(ds_mesh_rank_count(mesh) == parts->world->size);
    DS_ASSERT(parts->model->share.tp_size == mesh->size[DS_AXIS_TP]);
    DS_ASSERT(parts->stage_of_unit || mesh->size[DS_AXIS_PP] == 1);
    if (g) {
        g->parts = *parts;
        g->here = ds_mesh_place_of(mesh, rank);
        g->tp_size = mesh->size[DS_AXIS_TP];
        g->shard_count = ds_mesh_group_size(mesh, DS_GROUP_SHARD, rank);
        g->shard_rank = ds_mesh_index(mesh, DS_GROUP_SHARD, rank);
        st = take(g);
    }
    st = ds_comm_agreed(parts->world, st);
    if (st != DS_OK) {
        ds_hf_gather_close(g);
        return st;
    }
    *out = g;
    return DS_OK;
}

void ds_hf_gather_close(struct ds_hf_gather *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; g->models && i < g->tp_size; i++)
        ds_model_close(g->models[i]);
    free(g->models);
    free(g->ranks);
    free(g->piece);
    free(g);
}
