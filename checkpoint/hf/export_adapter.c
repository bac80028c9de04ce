/* export_adapter.c - an adapter from what a checkpoint says: ranks stand in the shapes of its factors, the rest in a few
 * values. Scales are written as runs, matrix by matrix through all layers: "2*64" where all are alike. */
#include "dstrain/export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t module_count(const struct ds_model_config *config)
{
    return config->num_hidden_layers * DS_LINEAR_COUNT;
}

/* Where matrix number `i` of that order is in a list that goes layer by layer. */
static uint64_t place_of(const struct ds_model_config *config, uint64_t i)
{
    const uint64_t layers = config->num_hidden_layers;

    return i % layers * DS_LINEAR_COUNT + i / layers;
}

ds_status ds_export_describe_adapter(const struct ds_model *model, struct ds_export_model *out)
{
    const uint64_t count = ds_model_is_adapted(model) ? module_count(&model->config) : 0;
    size_t used = 0;

    out->is_adapted = ds_model_is_adapted(model);
    out->adapter = model->lora;
    out->scales[0] = '\0';
    for (uint64_t i = 0, run; i < count; i += run) {
        const float scale = model->factors[place_of(&model->config, i)].module.scale;

        for (run = 1; i + run < count; run++)
            if (model->factors[place_of(&model->config, i + run)].module.scale != scale)
                break;
        used += (size_t)snprintf(out->scales + used, sizeof out->scales - used, "%s%.9g*%llu",
                                 used ? " " : "", (double)scale, (unsigned long long)run);
        if (used >= sizeof out->scales)
            return ds_fail(DS_ERR_UNSUPPORTED,
                           "an adapter of so many different alphas cannot be saved: its scales "
                           "must fit %u characters",
                           DS_VALUE_BYTES_MAX);
    }
    return DS_OK;
}

static ds_status read_scales(const char *what, const struct ds_export_model *model,
                             struct ds_lora_module *modules)
{
    const uint64_t count = module_count(&model->config);
    const char *at = model->scales;
    uint64_t done = 0;

    while (*at != '\0') {
        char *end;
        const float scale = strtof(at, &end);
        if (end == at || *end != '*')
            break;
        at = end + 1;
        const uint64_t run = strtoull(at, &end, 10);
        if (end == at || run > count - done)
            break;
        for (uint64_t i = 0; i < run; i++)
            modules[place_of(&model->config, done++)].scale = scale;
        at = end + (*end == ' ');
    }
    if (done != count || *at != '\0')
        return ds_fail(DS_ERR_DATA, "%s: 'adapter.scales' is not of its model", what);
    return DS_OK;
}

/* The rank of a factor's name, or 0. */
static uint64_t rank_in(const struct ds_catalogue *catalogue, const char *name)
{
    for (uint32_t i = 0; i < catalogue->count; i++)
        if (strcmp(catalogue->tensors[i].name, name) == 0)
            return catalogue->tensors[i].shape[0];
    return 0;
}

static ds_status read_modules(const char *what, const struct ds_export_model *model,
                              const struct ds_catalogue *catalogue, struct ds_lora_module *modules)
{
    char name[128];

    DS_TRY(read_scales(what, model, modules));
    for (uint64_t i = 0; i < module_count(&model->config); i++) {
        snprintf(name, sizeof name, "model.layers.%llu.%s.lora_A.weight",
                 (unsigned long long)(i / DS_LINEAR_COUNT),
                 ds_linear_name((enum ds_linear)(i % DS_LINEAR_COUNT)));
        const uint64_t rank = rank_in(catalogue, name);
        if (rank > DS_LORA_RANK_MAX)
            return ds_fail(DS_ERR_DATA, "%s: '%s' has rank %llu", what, name,
                           (unsigned long long)rank);
        modules[i].rank = (uint32_t)rank;
    }
    return DS_OK;
}

ds_status ds_export_lora(const char *what, const struct ds_export_model *model,
                         const struct ds_catalogue *catalogue, struct ds_lora *out)
{
    struct ds_lora lora = {.settings = model->adapter};

    if (model->is_adapted) {
        lora.modules = calloc((size_t)module_count(&model->config), sizeof *lora.modules);
        ds_status st = lora.modules
                           ? read_modules(what, model, catalogue, lora.modules)
                           : ds_fail(DS_ERR_NO_MEMORY, "the list of an adapter's matrices");
        if (st != DS_OK) {
            ds_lora_fini(&lora);
            return st;
        }
    }
    *out = lora;
    return DS_OK;
}
