/* assemble_adapter.c - the adapter of a run: an own one as the keys say, or one that a folder holds. */
#include "config/config.h"
#include "trainer.h"

ds_status trainer_choose_adapter(const struct ds_config *config, struct ds_fs *fs,
                                 const struct ds_model_config *model, struct ds_lora *out,
                                 int *is_there)
{
    const struct ds_lora_settings settings = {.r = config->lora.r,
                                              .alpha = config->lora.alpha,
                                              .dropout = config->lora.dropout,
                                              .is_rslora = config->lora.rslora,
                                              .is_dora = config->lora.dora,
                                              .bias = config->lora.bias};
    char places[6][DS_KEY_BYTES];

    *is_there = config->lora.r > 0 || config->lora.adapter[0] != '\0';
    if (!*is_there)
        return DS_OK;
    if (config->lora.adapter[0] != '\0')
        return ds_hf_read_adapter(fs, config->lora.adapter, model, out);
    const struct ds_lora_wish wish = {
        .targets = {config->lora.target_modules,
                    ds_config_key(config, "lora", "target_modules", places[0])},
        .excluded = {config->lora.exclude_modules,
                     ds_config_key(config, "lora", "exclude_modules", places[1])},
        .layers = {config->lora.layers_to_transform,
                   ds_config_key(config, "lora", "layers_to_transform", places[2])},
        .whole = {config->lora.modules_to_save,
                  ds_config_key(config, "lora", "modules_to_save", places[3])},
        .ranks = {config->lora.rank_pattern,
                  ds_config_key(config, "lora", "rank_pattern", places[4])},
        .alphas = {config->lora.alpha_pattern,
                   ds_config_key(config, "lora", "alpha_pattern", places[5])}};
    return ds_lora_choose(model, &settings, &wish, out);
}

ds_status trainer_open_adapter(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;

    if (config->lora.adapter[0] == '\0' || is_plan(t))
        return DS_OK;
    DS_TRY(ds_hf_open_adapter(t->options.fs, config->lora.adapter, &t->factors));
    if (t->options.world->rank == 0 && config->model.path[0] != '\0' &&
        !ds_hf_knows_base(t->factors)) /* else its weights tell */
        DS_TRY(ds_hf_doubt_base(t->options.fs, config->lora.adapter, config->model.path));
    return ds_hf_check_adapter(t->factors, t->model);
}

ds_status trainer_fill_factors(struct ds_trainer *t, const struct ds_hf_target *target)
{
    return t->factors ? ds_hf_load_adapter(t->factors, target)
                      : ds_hf_init_factors(target, t->config->run.seed);
}
