// link: checkpoint
/* States of a model spread over a mesh: whatever the layout, what ranks write is each tensor once, and a piece's
 * elements are the model's own. Drawn models and layouts. */
#include "spread.h"

#include "dstrain/states.h"

#include <string.h>

struct gathered {
    struct ds_catalogue catalogue;
    struct ds_piece *written;
    size_t count, held;
};

/* The whole tensor's number of element `flat` of a box. */
static uint64_t whole_of(const struct ds_piece *piece, const uint64_t *shape, uint64_t flat)
{
    uint64_t number = 0, stride = 1;

    for (uint32_t dim = piece->box.dim_count; dim-- > 0;) {
        const uint64_t extent = piece->box.end[dim] - piece->box.begin[dim];

        number += (piece->box.begin[dim] + flat % extent) * stride;
        flat /= extent;
        stride *= shape[dim];
    }
    return number;
}

/* First, last and some element between: as ds_param_run has them, at the place in the shard where ZeRO has them. */
static void check_elements(const struct ds_states_place *place, const struct ds_state_piece *at,
                           const struct ds_catalogue *catalogue)
{
    const struct ds_logical_tensor *tensor = &catalogue->tensors[at->piece.tensor];
    const struct ds_param *param = ds_model_find(place->model, tensor->name);
    const struct ds_zero_layout unit =
        ds_zero_layout_of(place->model->units[at->unit].elems,
                          ds_mesh_group_size(place->mesh, DS_GROUP_SHARD, place->rank));
    const uint64_t shard_start =
        ds_zero_layout_shard(&unit, ds_mesh_index(place->mesh, DS_GROUP_SHARD, place->rank)).start;
    const uint64_t count = at->piece.end - at->piece.begin;

    assert_non_null(param);
    assert_int_equal(param->unit, at->unit);
    assert_int_equal(tensor->kind, at->kind);
    assert_true(at->start + count <= unit.shard_elems);
    assert_int_equal(shard_start + at->start, param->offset + at->piece.begin);
    for (uint64_t i = 0; i<count; i += count> 7 ? count / 7 : 1)
        assert_int_equal(ds_param_run(param, at->piece.begin + i, 1).start,
                         whole_of(&at->piece, tensor->shape, at->piece.begin + i));
}

static void gather_rank(const struct spread_case *c, const struct ds_zero_dtypes *dtypes,
                        uint32_t rank, struct gathered *all)
{
    const struct ds_mesh_place here = ds_mesh_place_of(&c->mesh, rank);
    const struct ds_model_share share = {.tp_rank = here.at[DS_AXIS_TP],
                                         .tp_size = c->mesh.size[DS_AXIS_TP]};
    uint8_t has_unit[SPREAD_UNITS_MAX] = {0};
    struct ds_catalogue catalogue;
    struct ds_state_piece *pieces;
    struct ds_model *model;
    uint32_t count;

    assert_ok(ds_model_open(&c->config, &share, &model));
    for (uint32_t u = 0; u < c->unit_count; u++) /* a tied embedding lies on the last stage, too */
        has_unit[u] = c->stage_of_unit[u] == here.at[DS_AXIS_PP] ||
                      (u == 0 && c->config.tie_word_embeddings &&
                       here.at[DS_AXIS_PP] + 1 == c->mesh.size[DS_AXIS_PP]);
    const struct ds_states_place place = {.model = model,
                                          .dtypes = dtypes,
                                          .mesh = &c->mesh,
                                          .rank = rank,
                                          .has_unit = has_unit,
                                          .stage_of_unit = c->stage_of_unit};
    assert_ok(ds_states_catalogue(model, dtypes, &catalogue));
    assert_int_equal(catalogue.count, all->catalogue.count);
    assert_memory_equal(catalogue.tensors, all->catalogue.tensors,
                        catalogue.count * sizeof *catalogue.tensors);
    assert_ok(ds_states_pieces(&place, &pieces, &count));
    all->written = realloc(all->written, (all->count + count + 1) * sizeof *all->written);
    for (uint32_t i = 0; i < count; i++) {
        check_elements(&place, &pieces[i], &catalogue);
        if (pieces[i].is_written)
            all->written[all->count++] = pieces[i].piece;
    }
    all->held += count;
    free(pieces);
    free(catalogue.tensors);
    ds_model_close(model);
}

static struct ds_zero_dtypes drawn_dtypes(struct spread_draw *draw)
{
    struct ds_zero_dtypes dtypes = ds_zero_dtypes_fp32();

    if (spread_below(draw, 2)) {
        dtypes.param = DS_BF16;
        dtypes.master = (enum ds_master)spread_below(draw, 3);
        dtypes.exp_avg = spread_below(draw, 2) ? DS_BF16 : DS_F32;
    }
    return dtypes;
}

static void what_ranks_write_is_each_tensor_once(void **state)
{
    struct spread_draw draw = {ds_random_of(test_seed("test_states"), DS_RANDOM_TEST, 0), 0};

    (void)state;
    for (int trial = 0; trial < (test_is_long() ? 2000 : 60); trial++) {
        struct spread_case c = {0};
        struct gathered all = {0};
        struct ds_model *whole;

        spread_draw_config(&draw, &c.config);
        spread_draw_layout(&draw, &c, 16);
        const struct ds_zero_dtypes dtypes = drawn_dtypes(&draw);
        assert_ok(ds_model_open(&c.config, NULL, &whole));
        assert_ok(ds_states_catalogue(whole, &dtypes, &all.catalogue));
        for (uint32_t rank = 0; rank < ds_mesh_rank_count(&c.mesh); rank++)
            gather_rank(&c, &dtypes, rank, &all);
        if (ds_tiling_prove(&all.catalogue, all.written, all.count, 0, 1) != DS_OK) {
            spread_print(&c);
            fail();
        }
        assert_true(all.count <= all.held);
        free(all.written);
        free(all.catalogue.tensors);
        ds_model_close(whole);
    }
}

static void states_are_kept_as_the_precision_says(void **state)
{
    struct spread_draw draw = {ds_random_of(1, DS_RANDOM_TEST, 0), 0};
    struct ds_zero_dtypes dtypes = ds_zero_dtypes_fp32();
    struct ds_model_config config;
    struct ds_catalogue catalogue;
    struct ds_model *model;

    (void)state;
    spread_draw_config(&draw, &config);
    assert_ok(ds_model_open(&config, NULL, &model));
    for (int how = 0; how < 4; how++) {
        static const enum ds_master masters[] = {DS_MASTER_FP32, DS_MASTER_FP32,
                                                 DS_MASTER_REMAINDER16, DS_MASTER_NONE};

        dtypes.param = how == 0 ? DS_F32 : DS_BF16;
        dtypes.master = masters[how];
        dtypes.exp_avg_sq = how == 1 ? DS_BF16 : DS_F32;
        assert_ok(ds_states_catalogue(model, &dtypes, &catalogue));
        assert_int_equal(catalogue.count, 3 * model->param_count);
        assert_int_equal(catalogue.tensors[0].kind,
                         how == 3 ? DS_STATE_KIND_PARAM : DS_STATE_KIND_MASTER);
        assert_int_equal(catalogue.tensors[0].dtype, how == 3 ? DS_BF16 : DS_F32);
        assert_int_equal(catalogue.tensors[2].dtype, how == 1 ? DS_BF16 : DS_F32);
        free(catalogue.tensors);
    }
    model->params[0].is_trainable = 0;
    assert_ok(ds_states_catalogue(model, &dtypes, &catalogue));
    assert_int_equal(catalogue.count, 3 * model->param_count - 3); /* what is frozen is not kept */
    assert_string_equal(catalogue.tensors[0].name, model->params[1].name);
    free(catalogue.tensors);
    ds_model_close(model);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_ranks_write_is_each_tensor_once),
    cmocka_unit_test(states_are_kept_as_the_precision_says),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
