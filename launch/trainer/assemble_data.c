/* assemble_data.c - from what the configuration names to loaders. Rank 0 prepares text and reads all of it
 * once, which may take hours; the others wait as long as they hear from it. Then they map the shards,
 * whose sums rank 0 has just seen. */
#include "config/config.h"
#include "inject.h"
#include "sources.h"
#include "trainer.h"

/* ---- signs of life: rank 0 broadcasts "preparing" now and then, and at last "prepared" */

enum { PREPARING, PREPARED };

static ds_status tell(struct ds_trainer *t, int32_t *word)
{
    return ds_comm_broadcast(t->options.world, word, sizeof *word, 0, NULL);
}

/* Eight times in what a wait may last; that it failed is known when the work is done. */
static void tell_others(struct ds_trainer *t)
{
    const uint64_t now_ns = ds_clock_mono_ns(t->options.clock);
    int32_t word = PREPARING;

    if (t->options.world->rank != 0 || t->told != DS_OK ||
        now_ns - t->told_ns < trainer_deadline_ns(t) / 8)
        return;
    t->told_ns = now_ns;
    t->told = tell(t, &word);
}

static void on_check(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    struct ds_trainer *t = user;

    (void)done_bytes;
    (void)total_bytes;
    if (t->options.recorder)
        ds_recorder_beat(t->options.recorder);
    tell_others(t);
}

static void on_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    struct ds_trainer *t = user;

    on_check(t, done_bytes, total_bytes);
    if (t->options.progress)
        t->options.progress(t->options.user, done_bytes, total_bytes);
}

/* ---- data sets */

static enum ds_data_format format_of(const struct ds_config *config)
{
    return config->data.format == DS_DATA_TEXT ? DS_DATA_SHARDS
                                               : (enum ds_data_format)config->data.format;
}

static ds_status open_set(struct ds_trainer *t, const struct ds_tokenizer *tokenizer,
                          const char *key, enum ds_data_side side, int shuffle,
                          struct ds_dataset **out)
{
    const struct ds_config *config = t->config;
    char cache[DS_TEXT_MAX + 16];
    struct ds_prepare_report report = {0};
    const struct ds_prepare_options prepare = {.fs = t->options.fs,
                                               .clock = t->options.clock,
                                               .tokenizer = tokenizer,
                                               .replaces_invalid = config->data.invalid_utf8,
                                               .cache = cache,
                                               .progress = on_progress,
                                               .user = t,
                                               .is_checked = t->options.world->rank != 0};
    char place[DS_PLACE_BYTES];
    struct ds_sources sources;
    ds_status st;

    ds_sources_cache(config, cache, sizeof cache);
    DS_TRY(ds_sources_open(config, &prepare, key, &report, &sources));
    const struct ds_dataset_options options = {
        .fs = t->options.fs,
        .format = format_of(config),
        .paths = (const char *const *)sources.paths,
        .weights = sources.weights,
        .path_count = sources.path_count,
        .seq_length = config->train.seq_length,
        .seq_place = ds_config_place(config, "train", "seq_length", place),
        .vocab_size = t->model->config.vocab_size,
        .seed = config->run.seed,
        .shuffle = shuffle,
        .packs = config->data.packing,
        .overlong = (enum ds_overlong)config->data.overlong,
        .side = side,
        .eval_share = config->data.eval_share,
        .progress = on_check,
        .user = t,
        .is_checked = t->options.world->rank != 0,
    };
    st = ds_dataset_open(&options, out);
    ds_sources_close(&sources);
    return st;
}

/* A model that has not a row for every token belongs to another tokenizer. */
static ds_status check_vocabulary(const struct ds_trainer *t, const struct ds_tokenizer *tokenizer)
{
    const struct ds_config *config = t->config;
    const uint64_t rows = t->model->config.vocab_size;
    const uint64_t needed = tokenizer ? ds_tokenizer_id_end(tokenizer) : DS_BYTE_VOCAB;
    char key[DS_KEY_BYTES];

    if (!ds_config_has_text(config) || rows >= needed)
        return DS_OK;
    return ds_fail(DS_ERR_DATA,
                   "%s = %s: its vocab_size is %llu, but data.tokenizer = %s makes ids up to %llu; "
                   "at least %llu is needed: they do not belong together",
                   ds_config_key(config, "model", "path", key), config->model.path,
                   (unsigned long long)rows, tokenizer ? t->text.folder : "bytes",
                   (unsigned long long)needed - 1, (unsigned long long)needed);
}

static ds_status open_both(struct ds_trainer *t, const struct ds_tokenizer *tokenizer)
{
    const struct ds_config *config = t->config;
    const int is_shared = config->data.eval_share > 0;

    DS_TRY(check_vocabulary(t, tokenizer));
    if (is_training(t))
        DS_TRY(open_set(t, tokenizer, "train", is_shared ? DS_SIDE_TRAIN : DS_SIDE_ALL,
                        config->data.shuffle, &t->train_data));
    if (is_shared)
        return open_set(t, tokenizer, "train", DS_SIDE_EVAL, 0, &t->eval_data);
    return config->data.eval[0] ? open_set(t, tokenizer, "eval", DS_SIDE_ALL, 0, &t->eval_data)
                                : DS_OK;
}

static ds_status open_sets(struct ds_trainer *t)
{
    struct ds_tokenizer *tokenizer = NULL;
    ds_status st;

    if (is_training(t))
        DS_TRY(inject_into_step(t, 0));
    if (t->text.folder[0])
        DS_TRY(ds_tokenizer_open(t->options.fs, t->text.folder, &tokenizer));
    st = open_both(t, tokenizer);
    ds_tokenizer_close(tokenizer);
    return st;
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
    return t->eval_data ? open_loader(t, t->eval_data, t->eval_micro_count, trainer_eval_batches(t),
                                      trainer_eval_samples(t), &t->eval_loader)
                        : DS_OK;
}

/* Rank 0's watchdog, which knows where it stands, speaks before those who only hear nothing: they wait a
 * quarter longer than its deadline and the time between two signs. */
static ds_status await_leader(struct ds_trainer *t)
{
    struct ds_comm *world = t->options.world;
    const uint64_t deadline_ns = world->deadline_ns;
    int32_t word = PREPARING;
    ds_status st = DS_OK;

    world->deadline_ns = trainer_deadline_ns(t) / 8 * 11;
    trainer_enter(t, "wait for data", 0, world->deadline_ns / 8 * 9);
    while (st == DS_OK && word == PREPARING) {
        st = tell(t, &word);
        if (t->options.recorder)
            ds_recorder_beat(t->options.recorder);
    }
    world->deadline_ns = deadline_ns;
    return st;
}

static ds_status prepare_as_leader(struct ds_trainer *t, ds_status *prepared)
{
    int32_t word = PREPARED;

    t->told = DS_OK;
    t->told_ns = ds_clock_mono_ns(t->options.clock);
    trainer_enter(t, "prepare data", 0, trainer_deadline_ns(t));
    *prepared = open_sets(t);
    return t->told == DS_OK ? tell(t, &word) : t->told;
}

ds_status trainer_open_data(struct ds_trainer *t)
{
    struct ds_comm *world = t->options.world;
    ds_status st = DS_OK;

    if (t->options.mode == DS_TRAINER_GENERATE || is_plan(t))
        return DS_OK;
    DS_TRY(world->rank == 0 ? prepare_as_leader(t, &st) : await_leader(t));
    DS_TRY(ds_comm_agreed(world, st));
    trainer_enter(t, "start", 0, trainer_deadline_ns(t));
    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? DS_OK : open_sets(t)));
    return trainer_leader_first(t, open_loaders);
}
