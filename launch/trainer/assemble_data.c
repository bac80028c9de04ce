/* assemble_data.c - from what the configuration names to loaders. Text is prepared by rank 0 while the
 * others wait without a deadline, since a corpus may take hours; then every rank maps the shards. */
#include "sources.h"
#include "trainer.h"

/* Text that grows is a sign of life. */
static void on_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    struct ds_trainer *t = user;

    if (t->options.recorder)
        ds_recorder_beat(t->options.recorder);
    if (t->options.progress)
        t->options.progress(t->options.user, done_bytes, total_bytes);
}

static ds_status open_set(struct ds_trainer *t, const char *where, const char *text, int shuffle,
                          struct ds_dataset **out)
{
    const struct ds_config *config = t->config;
    char cache[DS_TEXT_MAX + 16];
    struct ds_prepare_report report = {0};
    const struct ds_prepare_options prepare = {.fs = t->options.fs,
                                               .clock = t->options.clock,
                                               .cache = cache,
                                               .progress = on_progress,
                                               .user = t};
    struct ds_sources sources;
    ds_status st;

    ds_sources_cache(config, cache, sizeof cache);
    DS_TRY(ds_sources_open(config, &prepare, where, text, &report, &sources));
    const struct ds_dataset_options options = {
        .fs = t->options.fs,
        .format = config->data.format == DS_DATA_TEXT ? DS_DATA_SHARDS : DS_DATA_SAFETENSORS,
        .paths = (const char *const *)sources.paths,
        .weights = sources.weights,
        .path_count = sources.parts.count,
        .seq_length = config->train.seq_length,
        .vocab_size = t->model->config.vocab_size,
        .seed = config->run.seed,
        .shuffle = shuffle,
    };
    st = ds_dataset_open(&options, out);
    ds_sources_close(&sources);
    return st;
}

static ds_status open_sets(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;

    if (config->data.format == DS_DATA_TEXT && t->model->config.vocab_size < DS_BYTE_VOCAB)
        return ds_fail(
            DS_ERR_CONFIG,
            "data.tokenizer = bytes makes ids up to %d, but the model's vocab_size is %llu; "
            "at least %d is needed",
            DS_BYTE_VOCAB - 1, (unsigned long long)t->model->config.vocab_size, DS_BYTE_VOCAB);
    if (is_training(t))
        DS_TRY(
            open_set(t, "[data] train", config->data.train, config->data.shuffle, &t->train_data));
    return config->data.eval[0] ? open_set(t, "[data] eval", config->data.eval, 0, &t->eval_data)
                                : DS_OK;
}

static ds_status open_loader(struct ds_trainer *t, const struct ds_dataset *data,
                             uint64_t micro_count, uint64_t step_limit, uint64_t sample_limit,
                             struct ds_loader **out)
{
    const struct ds_loader_options options = {
        .clock = t->options.clock,
        .dataset = data,
        .seq_length = t->config->train.seq_length,
        .micro_batch_size = t->config->train.micro_batch_size,
        .micro_count = micro_count,
        .share = t->share,
        .share_count = t->share_count,
        .step_limit = step_limit,
        .sample_limit = sample_limit,
    };

    return ds_loader_open(&options, out);
}

static ds_status open_loaders(struct ds_trainer *t)
{
    if (t->train_data)
        DS_TRY(open_loader(t, t->train_data, t->micro_count, t->config->train.steps, 0,
                           &t->train_loader));
    return t->eval_data ? open_loader(t, t->eval_data, 1, trainer_eval_batches(t),
                                      trainer_eval_samples(t), &t->eval_loader)
                        : DS_OK;
}

ds_status trainer_open_data(struct ds_trainer *t)
{
    struct ds_comm *world = t->options.world;
    const uint64_t deadline_ns = world->deadline_ns;
    ds_status st;

    if (t->options.mode == DS_TRAINER_GENERATE || t->options.mode == DS_TRAINER_PLAN)
        return DS_OK;
    /* rank 0 shows that it goes on; the others wait for it as long as it does */
    trainer_enter(t, "prepare data", 0, world->rank == 0 ? trainer_deadline_ns(t) : 0);
    world->deadline_ns = UINT64_MAX;
    st = trainer_leader_first(t, open_sets);
    world->deadline_ns = deadline_ns;
    trainer_enter(t, "start", 0, trainer_deadline_ns(t));
    DS_TRY(st);
    return trainer_leader_first(t, open_loaders);
}
