/* export.c - a checkpoint as the source of an export: chunks in the order in which they lie, each read once for every
 * file of the export that it has something for. */
#include "hf_write.h"

#include "dstrain/export.h"

#include <stdlib.h>
#include <string.h>

#define RUN_ELEMS 16384u

struct packs {
    const struct ds_export_from *from;
    const struct ds_model *model;
    /* owns */
    struct ds_piece *wants; /* [param_count]: whole parameters, in the manifest's numbers */
    /* of the read that goes on */
    const struct hf_sink *sink;
    uint32_t first;
    int is_refused;       /* what came was not taken: then it is not the checkpoint that failed */
    float run[RUN_ELEMS]; /* of what is not stored as fp32 */
};

/* ---- whose tensors are whose */

/* What a checkpoint has of a model: what is trained. */
static void list_params(const struct ds_model *model, enum ds_state_kind kind,
                        struct ds_catalogue *to)
{
    to->count = 0;
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        struct ds_logical_tensor *tensor = &to->tensors[to->count];

        if (!param->is_trainable)
            continue;
        to->count++;
        *tensor = (struct ds_logical_tensor){
            .kind = kind, .dtype = DS_F32, .dim_count = param->dim_count};
        memcpy(tensor->name, param->name, sizeof param->name);
        memcpy(tensor->shape, param->shape, sizeof param->shape);
    }
}

/* Masters where there are some, else the parameters themselves. */
static ds_status match(struct packs *p, struct ds_catalogue *params, uint32_t *numbers)
{
    const struct ds_catalogue *from = &p->from->manifest->catalogue;
    uint32_t *others = numbers + p->model->param_count;

    list_params(p->model, DS_STATE_KIND_MASTER, params);
    DS_TRY(ds_catalogue_match("the checkpoint", from, params, numbers));
    list_params(p->model, DS_STATE_KIND_PARAM, params);
    DS_TRY(ds_catalogue_match("the checkpoint", from, params, others));
    for (uint32_t i = 0, param = 0; i < params->count; i++, param++) {
        const uint32_t number = numbers[i] == UINT32_MAX ? others[i] : numbers[i];

        if (number == UINT32_MAX)
            return ds_fail(DS_ERR_DATA,
                           "the checkpoint has no weights of '%s': it is another "
                           "model's",
                           params->tensors[i].name);
        while (!p->model->params[param].is_trainable)
            param++;
        p->wants[param] = (struct ds_piece){number, ds_box_whole(&from->tensors[number]), 0,
                                            ds_logical_elems(&from->tensors[number])};
    }
    return DS_OK;
}

static ds_status list_wants(struct packs *p)
{
    const uint32_t count = p->model->param_count;
    struct ds_catalogue params = {.tensors = calloc(count + 1u, sizeof *params.tensors)};
    uint32_t *numbers = calloc(2 * ((size_t)count + 1), sizeof *numbers);
    ds_status st;

    p->wants = calloc(count + 1u, sizeof *p->wants);
    st = params.tensors && numbers && p->wants
             ? match(p, &params, numbers)
             : ds_fail(DS_ERR_NO_MEMORY, "no memory for %u parameters", count);
    free(params.tensors);
    free(numbers);
    return st;
}

/* ---- what comes */

static ds_status put_converted(struct packs *p, uint32_t param, uint64_t start, uint64_t count,
                               const uint8_t *from, enum ds_dtype dtype)
{
    for (uint64_t done = 0; done < count;) {
        const uint64_t now = count - done < RUN_ELEMS ? count - done : RUN_ELEMS;

        if (!ds_dtype_to_f32(p->run, from + done * ds_dtype_bytes(dtype), dtype, now))
            return ds_fail(DS_ERR_DATA, "the checkpoint has weights of dtype %s",
                           ds_dtype_name(dtype));
        DS_TRY(p->sink->put(p->sink->user, param, start + done, now, p->run));
        done += now;
    }
    return DS_OK;
}

static ds_status put(void *user, size_t want, uint64_t start, uint64_t count, const void *from,
                     enum ds_dtype dtype)
{
    struct packs *p = user;
    const uint32_t param = p->first + (uint32_t)want;
    ds_status st = DS_ERR_IO; /* nobody is interested any more */

    if (!p->from->must_end || !p->from->must_end(p->from->user))
        st = dtype == DS_F32 ? p->sink->put(p->sink->user, param, start, count, from)
                             : put_converted(p, param, start, count, from, dtype);
    p->is_refused = st != DS_OK;
    return st;
}

static ds_status packs_agree(void *self, ds_status st)
{
    (void)self; /* alone */
    return st;
}

static ds_status packs_read(void *self, uint32_t first, uint32_t end, const struct hf_sink *sink)
{
    struct packs *p = self;
    const struct ds_checkpoint_sink here = {.put = put, .user = p};

    p->sink = sink;
    p->first = first;
    const ds_status st = ds_checkpoint_load(p->from->fs, p->from->root, p->from->manifest,
                                            p->wants + first, end - first, p->from->buffer, &here);
    return st == DS_ERR_IO && !p->is_refused ? DS_ERR_CORRUPT : st; /* it cannot be read */
}

static const struct hf_source_ops packs_ops = {.agree = packs_agree, .read = packs_read};

static ds_status export_model(const struct ds_export_from *from,
                              const struct ds_hf_write_options *to, const struct ds_model *model)
{
    struct packs *p = calloc(1, sizeof *p);
    const struct hf_source source = {.ops = &packs_ops, .self = p, .model = model, .is_writer = 1};

    if (!p)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to export a checkpoint");
    p->from = from;
    p->model = model;
    ds_status st = list_wants(p);
    if (st == DS_OK)
        st = hf_write_from(to, &source);
    free(p->wants);
    free(p);
    return st;
}

ds_status ds_export_checkpoint(const struct ds_export_from *from,
                               const struct ds_hf_write_options *to)
{
    struct ds_model *model = NULL;

    const int is_adapted = from->lora && from->lora->modules;

    DS_TRY(ds_model_open_adapted(from->config, NULL, is_adapted ? from->lora : NULL, &model));
    ds_status st = export_model(from, to, model);
    ds_model_close(model);
    return st;
}
