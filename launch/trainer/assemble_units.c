/* assemble_units.c - what the lists of a step move: units with their sums, copies and owners, ZeRO over
 * them, the optimizer. */
#include "trainer.h"

#include <stdlib.h>
#include <string.h>

/* ---- units */

/* What is added up over tensor ranks before it is whole: neighbours without a gap are one sum. */
static uint32_t collect_sums(struct ds_trainer *t, const struct ds_unit *unit,
                             struct ds_zero_sum *sums)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < unit->param_count; i++) {
        const struct ds_param *param = &t->model->params[unit->param_start + i];
        struct ds_comm *over = ds_mesh_group(
            t->mesh, param->sum == DS_PARAM_SUM_COPIES ? DS_GROUP_COPIES : DS_GROUP_TP_GRAD);
        if (param->sum == DS_PARAM_SUM_NONE)
            continue;
        if (count > 0 && sums[count - 1].over == over &&
            sums[count - 1].span.start + sums[count - 1].span.count == param->offset)
            sums[count - 1].span.count += param->elems;
        else
            sums[count++] = (struct ds_zero_sum){{param->offset, param->elems}, over};
    }
    return count;
}

/* What another rank counts: copies, and the last stage's embedding where the first has it, too. */
static uint32_t collect_foreign(const struct ds_trainer *t, uint32_t index, struct ds_span *foreign)
{
    const struct ds_unit *unit = &t->model->units[index];
    uint32_t count = 0;

    if (index == t->model->blocks[0].units[0] && t->place.at[DS_AXIS_PP] > 0) {
        foreign[0] = (struct ds_span){0, unit->elems};
        return 1;
    }
    for (uint32_t i = 0; i < unit->param_count; i++) {
        const struct ds_param *param = &t->model->params[unit->param_start + i];
        if (!param->is_owner)
            foreign[count++] = (struct ds_span){param->offset, param->elems};
    }
    return count;
}

static void describe_unit(struct ds_trainer *t, uint32_t index)
{
    const struct ds_unit *unit = &t->model->units[index];
    struct ds_zero_unit_spec *spec = &t->unit_specs[index];

    *spec = (struct ds_zero_unit_spec){
        .elems = t->has_unit[index] ? unit->elems : 0,
        .is_frozen = unit->is_frozen,
        .slot_class = trainer_plan(t)->slot_class[index],
        .params = &t->param_spans[unit->param_start],
        .param_count = unit->param_count,
        .sums = &t->sums[unit->param_start],
        .foreign = &t->foreign[unit->param_start],
        .strips = t->strips[index],
    };
    if (t->packs[index].part_count > 0)
        spec->pack = &t->packs[index];
    spec->sum_count = collect_sums(t, unit, &t->sums[unit->param_start]);
    spec->foreign_count = collect_foreign(t, index, &t->foreign[unit->param_start]);
}

struct ds_optim_range trainer_range(const struct ds_model *model, uint32_t index,
                                    float weight_decay)
{
    const struct ds_param *param = &model->params[index];

    return (struct ds_optim_range){
        .span = {param->offset, param->elems},
        .weight_decay = weight_decay,
        .random = index,
        .whole_start = param->start[0] * param->shape[1] + param->start[1],
        .columns = param->local[1] < param->shape[1] ? param->local[1] : 0,
        .whole_columns = param->shape[1],
    };
}

static ds_status describe_units(struct ds_trainer *t)
{
    const struct ds_model *model = t->model;

    t->unit_specs = calloc(model->unit_count, sizeof *t->unit_specs);
    t->param_spans = calloc(model->param_count, sizeof *t->param_spans);
    t->ranges = calloc(model->param_count, sizeof *t->ranges);
    t->sums = calloc(model->param_count, sizeof *t->sums);
    t->foreign = calloc(model->param_count, sizeof *t->foreign);
    if (!t->unit_specs || !t->param_spans || !t->ranges || !t->sums || !t->foreign)
        return ds_fail(DS_ERR_NO_MEMORY, "%u parameters", model->param_count);
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        const int decays = t->config->optimizer.weight_decay_on == DS_DECAY_ALL || param->is_matrix;
        t->param_spans[i] = (struct ds_span){param->offset, param->elems};
        t->ranges[i] =
            trainer_range(model, i, decays ? (float)t->config->optimizer.weight_decay : 0.0f);
    }
    for (uint32_t u = 0; u < model->unit_count; u++)
        describe_unit(t, u);
    return DS_OK;
}

static struct ds_zero_dtypes dtypes_of(const struct ds_trainer *t)
{
    static const enum ds_master masters[] = {[DS_MASTER_KEY_FP32] = DS_MASTER_FP32,
                                             [DS_MASTER_KEY_REMAINDER16] = DS_MASTER_REMAINDER16,
                                             [DS_MASTER_KEY_NONE] = DS_MASTER_NONE};
    const struct ds_config *config = t->config;

    return (struct ds_zero_dtypes){
        .param = t->model->share.compute,
        .reduce = t->model->share.grad,
        .gradient = trainer_dtype(config->precision.gradients),
        .exp_avg = trainer_dtype(config->precision.exp_avg),
        .exp_avg_sq = trainer_dtype(config->precision.exp_avg_sq),
        .master = masters[config->precision.master],
    };
}

ds_status trainer_open_zero(struct ds_trainer *t)
{
    DS_TRY(describe_units(t));
    t->dtypes = dtypes_of(t);
    const struct ds_zero_options options = {
        .stage = (uint32_t)t->config->zero.stage,
        .dtypes = t->dtypes,
        .units = t->unit_specs,
        .unit_count = t->model->unit_count,
        .slots = trainer_plan(t)->slots,
        .homes = t->homes,
        .is_training = is_training(t),
        .registers = t->config->parallel.gather != DS_GATHER_KERNEL,
        .adds_in_place = t->config->run.deterministic == 0,
        .shard = ds_mesh_group(t->mesh, DS_GROUP_SHARD),
        .replica = ds_mesh_group(t->mesh, DS_GROUP_REPLICA),
        .norm = {ds_mesh_group(t->mesh, DS_GROUP_TP_GRAD), ds_mesh_group(t->mesh, DS_GROUP_PP)},
        .tie = ds_mesh_group(t->mesh, DS_GROUP_EMBED),
        .device = t->device,
        .compute = t->compute,
        .comm = t->comm,
        .load = t->load,
        .store = t->store,
        .grads = t->grads,
        .memory = &t->memory,
        .timeline = t->timeline,
    };

    return ds_zero_open(&options, &t->zero);
}

/* What is away, as it is updated. */
static uint32_t list_away(const struct ds_schedule *list, struct ds_optim_strip *order)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < list->action_count; i++) {
        const struct ds_action *action = &list->actions[i];
        if (action->kind == DS_ACTION_UPDATE && action->slot != DS_NO_SLOT)
            order[count++] = (struct ds_optim_strip){action->unit, action->strip, action->slot};
    }
    return count;
}

ds_status trainer_open_optim(struct ds_trainer *t)
{
    const uint32_t units = t->model->unit_count;
    const struct ds_optim_range **ranges = calloc(units, sizeof *ranges);
    uint32_t *counts = calloc(units, sizeof *counts);
    struct ds_optim_strip *order = calloc(t->train_list.action_count + 1u, sizeof *order);
    const struct ds_config *config = t->config;
    ds_status st;

    if (!is_training(t) || !ranges || !counts || !order) {
        st = is_training(t) ? ds_fail(DS_ERR_NO_MEMORY, "the optimizer's ranges") : DS_OK;
        goto done;
    }
    for (uint32_t u = 0; u < units; u++) {
        ranges[u] = &t->ranges[t->model->units[u].param_start];
        counts[u] = t->model->units[u].param_count;
    }
    st = ds_optim_open(&(struct ds_optim_options){.beta1 = (float)config->optimizer.beta1,
                                                  .beta2 = (float)config->optimizer.beta2,
                                                  .epsilon = (float)config->optimizer.eps,
                                                  .grad_clip = (float)config->train.grad_clip,
                                                  .ranges = ranges,
                                                  .range_counts = counts,
                                                  .unit_count = units,
                                                  .seed = config->run.seed,
                                                  .order = order,
                                                  .order_count = list_away(&t->train_list, order),
                                                  .thread_count = trainer_threads(t),
                                                  .clock = t->options.clock,
                                                  .zero = t->zero,
                                                  .device = t->device,
                                                  .compute = t->compute,
                                                  .kernels = t->device->ops->kernels,
                                                  .memory = &t->memory},
                       &t->optim);
    t->lr = (struct ds_lr_schedule){
        (enum ds_lr_kind)config->schedule.kind, config->optimizer.learning_rate,
        config->schedule.min_learning_rate,     config->schedule.warmup_steps,
        config->schedule.decay_steps,           config->train.steps};
done:
    free(ranges);
    free(counts);
    free(order);
    return st;
}
