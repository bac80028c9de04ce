/* assemble_pack.c - frozen matrices stored in 4 or 8 bits: how the units of decoder layers are packed, part by part in
 * the order of their parameters, and which splits over tensor ranks that allows. */
#include "config/config.h"
#include "trainer.h"

#include "dstrain/quant.h"

#include <stdlib.h>

#define ALIGN_BYTES 128 /* of every part of the form */

/* The next `bytes` of a form. */
static uint64_t reserve(struct ds_zero_pack *pack, uint64_t bytes)
{
    const uint64_t at = pack->bytes;

    pack->bytes += (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    return at;
}

static uint64_t place(struct ds_zero_pack *pack, struct ds_tensor *tensor, enum ds_dtype dtype,
                      uint64_t count)
{
    *tensor = ds_tensor1(NULL, dtype, count);
    return reserve(pack, count * ds_dtype_bytes(dtype));
}

static ds_status refuse_cut(const struct ds_trainer *t, const struct ds_param *param)
{
    const int dim = param->local[1] < param->shape[1];

    return ds_config_refuse(
        t->config, "lora", "base",
        "= nf4: %s is [%llu, %llu], and tensor rank %u has its %s %llu to %llu: that cuts a block "
        "of %u numbers; parallel.tensor = %llu is too many",
        param->name, (unsigned long long)param->shape[0], (unsigned long long)param->shape[1],
        t->place.at[DS_AXIS_TP], dim ? "columns" : "rows", (unsigned long long)param->start[dim],
        (unsigned long long)(param->start[dim] + param->local[dim] - 1), DS_NF4_BLOCK,
        (unsigned long long)t->config->parallel.tensor);
}

/* Blocks go on over the ends of rows; a part of a matrix has whole ones. */
static ds_status place_nf4(const struct ds_trainer *t, const struct ds_param *param,
                           struct ds_zero_pack *pack, struct ds_zero_packed *part)
{
    const uint64_t whole = ds_param_whole_elems(param), columns = param->shape[1];
    const uint64_t first = param->start[0] * columns + param->start[1];
    const int is_cut = param->local[1] < columns;

    if (param->elems < whole &&
        (first % DS_NF4_BLOCK || param->elems % DS_NF4_BLOCK ||
         (is_cut && (columns % DS_NF4_BLOCK || param->local[1] % DS_NF4_BLOCK))))
        return refuse_cut(t, param);
    part->codes_at = place(pack, &part->form.codes, DS_U8, ds_nf4_bytes(param->elems));
    part->absmax_at = place(pack, &part->form.absmax, DS_U8, ds_nf4_blocks(param->elems));
    part->nest_absmax_at = place(pack, &part->form.nest_absmax, DS_F32, ds_nf4_nests(whole));
    part->map_at = place(pack, &part->form.map, DS_F32, DS_QUANT_MAP);
    part->offset_at = place(pack, &part->form.offset, DS_F32, 1);
    part->form.first_block = first / DS_NF4_BLOCK;
    if (is_cut) {
        part->form.row_blocks = param->local[1] / DS_NF4_BLOCK;
        part->form.whole_row_blocks = columns / DS_NF4_BLOCK;
    }
    return DS_OK;
}

static ds_status place_part(const struct ds_trainer *t, const struct ds_param *param,
                            struct ds_zero_pack *pack, struct ds_zero_packed *part)
{
    part->span = (struct ds_span){param->offset, param->elems};
    if (!param->is_matrix) {
        part->is_plain = 1;
        part->codes_at = reserve(pack, param->elems * ds_dtype_bytes(t->model->share.compute));
        return DS_OK;
    }
    if (t->config->lora.base == DS_BASE_NF4)
        return place_nf4(t, param, pack, part);
    part->codes_at = place(pack, &part->form.codes, DS_I8, param->elems);
    part->absmax_at = place(pack, &part->form.absmax, DS_F32, param->local[0]);
    part->form.columns = param->local[1];
    return DS_OK;
}

static ds_status pack_unit(struct ds_trainer *t, uint32_t index)
{
    const struct ds_unit *unit = &t->model->units[index];
    struct ds_zero_pack *pack = &t->packs[index];
    struct ds_zero_packed *parts = calloc(unit->param_count, sizeof *parts);

    if (!parts)
        return ds_fail(DS_ERR_NO_MEMORY, "the form of %u parameters", unit->param_count);
    pack->parts = parts;
    pack->part_count = unit->param_count;
    for (uint32_t i = 0; i < unit->param_count; i++)
        DS_TRY(place_part(t, &t->model->params[unit->param_start + i], pack, &parts[i]));
    return DS_OK;
}

ds_status trainer_describe_packs(struct ds_trainer *t)
{
    const struct ds_model *model = t->model;

    t->packs = calloc(model->unit_count, sizeof *t->packs);
    if (!t->packs)
        return ds_fail(DS_ERR_NO_MEMORY, "the forms of %u units", model->unit_count);
    for (uint32_t b = 0; b < model->block_count && t->config->lora.base != DS_BASE_COMPUTE; b++) {
        const struct ds_block *block = &model->blocks[b];

        if (block->kind == DS_BLOCK_DECODER && model->units[block->units[0]].is_frozen)
            DS_TRY(pack_unit(t, block->units[0]));
    }
    return DS_OK;
}

void trainer_free_packs(struct ds_trainer *t)
{
    for (uint32_t u = 0; t->packs && u < t->model->unit_count; u++)
        free((void *)t->packs[u].parts);
    free(t->packs);
}
