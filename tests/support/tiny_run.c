#include "tiny_run.h"

#include "ranks.h"

#include "dstrain/random.h"
#include "dstrain/safetensors.h"

#include <stdio.h>
#include <string.h>

void tiny_config(const struct tiny_case *c, struct ds_config *config)
{
    memset(config, 0, sizeof *config);
    strcpy(config->run.device, "cpu");
    config->run.cpu_streams = c->mode;
    config->run.threads = 1;
    config->run.seed = c->seed;
    config->run.deterministic = 1;
    config->run.deadline = 60;
    config->model.family = c->family;
    config->model.vocab_size = TINY_VOCAB;
    config->model.hidden_size = 32;
    config->model.intermediate_size = 72;
    config->model.num_hidden_layers = c->layers ? c->layers : 3;
    config->model.num_attention_heads = c->heads ? c->heads : 4;
    config->model.num_key_value_heads = c->kv_heads ? c->kv_heads : 2;
    config->model.head_dim = c->head_dim;
    config->model.rms_norm_eps = 1e-5;
    config->model.initializer_range = 0.08;
    config->model.rope_theta = 10000;
    config->model.tie_word_embeddings = c->is_tied;
    snprintf(config->data.train, sizeof config->data.train, "%s", c->data);
    snprintf(config->data.eval, sizeof config->data.eval, "%s", c->data);
    config->data.format = DS_DATA_SAFETENSORS;
    config->data.shuffle = 1;
    config->train.steps = c->steps;
    config->train.global_batch_size = c->global_batch;
    config->train.micro_batch_size = c->micro_batch;
    config->train.seq_length = TINY_SEQ;
    config->train.grad_clip = 1;
    config->train.activation_checkpointing = c->recompute;
    config->train.eval_samples = 6;
    config->optimizer.learning_rate = 1e-3;
    config->optimizer.beta1 = 0.9;
    config->optimizer.beta2 = 0.95;
    config->optimizer.eps = 1e-5;
    config->optimizer.weight_decay = 0.1;
    config->schedule.kind = DS_LR_COSINE;
    config->schedule.warmup_steps = 3;
    config->parallel.tensor = c->tensor ? c->tensor : 1;
    config->parallel.pipeline = c->pipeline ? c->pipeline : 1;
    config->parallel.chunks = c->chunks ? c->chunks : 1;
    config->parallel.schedule = c->schedule;
    config->parallel.sequence_parallel = c->sequence_parallel;
    config->parallel.data = c->ranks / (config->parallel.tensor * config->parallel.pipeline);
    config->parallel.shard = c->shard ? c->shard : config->parallel.data;
    config->parallel.transport = c->transport;
    config->zero.stage = (uint64_t)c->stage;
    config->zero.reshard_after_forward = c->reshard;
    config->zero.window = c->window;
    config->offload.depth = 3;
    config->offload.block_size = 8192;
    config->checkpoint.keep = 1;
    config->checkpoint.rollback = DS_ROLLBACK_OFF;
    config->checkpoint.rollback_skip = 1;
    config->log.interval = 1;
    if (c->inject)
        strcpy(config->debug.inject, c->inject);
    if (c->adjust)
        c->adjust(config);
}

char *tiny_data(const char *folder, uint64_t seed, uint64_t samples)
{
    const uint64_t count = samples * TINY_SEQ;
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 0);
    struct ds_safetensors_item items[2] = {{"input_ids", DS_I64, 2, {samples, TINY_SEQ}},
                                           {"labels", DS_I64, 2, {samples, TINY_SEQ}}};
    struct ds_safetensors_writer *writer = NULL;
    int64_t *ids = malloc(2 * count * sizeof *ids), *labels = ids + count;
    char *path = malloc(512);

    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (int64_t)ds_random_below(random, 2 * i, TINY_VOCAB);
        labels[i] = ds_random_below(random, 2 * i + 1, 7) == 0 ? -100 : ids[i];
    }
    snprintf(path, 512, "%s/tokens-%llu.safetensors", folder, (unsigned long long)seed);
    if (ds_safetensors_create(ds_fs_posix(), path, items, 2, NULL, &writer) != DS_OK ||
        ds_safetensors_write(writer, 0, 0, count, ids) != DS_OK ||
        ds_safetensors_write(writer, 1, 0, count, labels) != DS_OK ||
        ds_safetensors_commit(writer) != DS_OK)
        abort();
    free(ids);
    return path;
}

char *tiny_folder(void)
{
    const char *base = getenv("TMPDIR");
    char *folder = malloc(512);

    snprintf(folder, 512, "%s/dstrain-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder))
        abort();
    return folder;
}

void tiny_remove(char *folder)
{
    (void)ds_fs_remove_tree(ds_fs_posix(), folder);
    free(folder);
}

struct tiny_rank {
    const struct tiny_case *c;
    uint32_t number;
    struct tiny_result *out; /* of rank 0, else NULL */
    uint64_t (*bytes)[DS_MEMORY_LABEL_COUNT];
    uint64_t *filed;
    ds_status *saved;
};

static void keep(struct tiny_result *out, const struct ds_step_report *report)
{
    out->loss[report->step - 1] = report->loss;
    out->norm[report->step - 1] = report->grad_norm;
    out->steps = report->step;
    out->skipped = report->skipped;
    out->last = *report;
    if (report->has_eval)
        out->eval_loss = report->eval_loss;
}

static ds_status on_step(void *user, const struct ds_step_report *report)
{
    struct tiny_rank *rank = user;

    if (rank->out && report->step <= TINY_STEPS_MAX)
        keep(rank->out, report);
    if (rank->c->step)
        rank->c->step(report);
    return DS_OK;
}

static int on_leave(void *user)
{
    const struct tiny_rank *rank = user;

    return rank->c->leave && rank->c->leave(rank->number);
}

static void list_params(const struct ds_model *model, struct tiny_result *out)
{
    uint64_t start = 0;

    out->param_count = model->param_count;
    out->table = calloc(model->param_count, sizeof *out->table);
    for (uint32_t i = 0; i < model->param_count; i++) {
        struct tiny_param *row = &out->table[i];
        snprintf(row->name, sizeof row->name, "%s", model->params[i].name);
        row->start = start;
        row->elems = ds_param_whole_elems(&model->params[i]);
        start += row->elems;
    }
}

/* Through a place that is used again at once: what read_param gives is there when it returns. What is quantised cannot
 * be read, and is left as it is. */
static ds_status read_params(struct ds_trainer *trainer, int is_quantised, float *to)
{
    const struct ds_model *model = ds_trainer_model(trainer);
    float *scratch = calloc(model->elems_total, sizeof *scratch);
    ds_status st = DS_OK;

    for (uint32_t i = 0; i < model->param_count && st == DS_OK; i++) {
        const struct ds_param *param = &model->params[i];
        const int is_read = param->is_trainable || !is_quantised;
        if (is_read)
            st = ds_trainer_read_param(trainer, param->name, to ? scratch : NULL);
        if (!to)
            continue;
        if (is_read)
            memcpy(to, scratch, ds_param_whole_elems(param) * sizeof *to);
        to += ds_param_whole_elems(param);
    }
    free(scratch);
    return st;
}

static ds_status collect(struct ds_trainer *trainer, int is_quantised, struct tiny_result *out)
{
    const struct ds_model *model = ds_trainer_model(trainer);
    struct ds_step_work work[DS_STEP_PARTS];

    if (!out)
        return read_params(trainer, is_quantised, NULL);
    out->param_elems = model->elems_total;
    DS_TRY(ds_trainer_step_work(trainer, work));
    out->file_reads = out->file_writes = 0;
    for (int part = 0; part < DS_STEP_PARTS; part++) {
        out->file_reads += work[part].file_read;
        out->file_writes += work[part].file_write;
    }
    out->params = calloc(model->elems_total, sizeof *out->params);
    list_params(model, out);
    for (uint32_t i = 0; i < model->unit_count; i++)
        if (model->units[i].elems > out->largest_unit_elems)
            out->largest_unit_elems = model->units[i].elems;
    return read_params(trainer, is_quantised, out->params);
}

static ds_status evaluate(struct ds_trainer *trainer, struct tiny_result *out)
{
    uint64_t tokens;
    double loss = 0;
    ds_status st = ds_trainer_evaluate(trainer, &loss, &tokens);

    if (out)
        out->eval_loss = loss;
    return st;
}

static ds_status run_rank(struct ds_comm *world, struct tiny_rank *rank)
{
    struct ds_trainer *trainer = NULL;
    struct ds_config config;
    ds_status st;

    if (rank->c->config)
        config = *rank->c->config;
    else
        tiny_config(rank->c, &config);
    const struct ds_trainer_options options = {
        .config = &config,
        .mode = rank->c->evaluates ? DS_TRAINER_EVALUATE : DS_TRAINER_TRAIN,
        .uses_checkpoints = config.checkpoint.dir[0] != 0,
        .world = world,
        .local_rank = world->rank,
        .fs = rank->c->fs ? rank->c->fs : ds_fs_posix(),
        .clock = rank->c->clock ? rank->c->clock : ds_clock_system(),
        .device = rank->c->device,
        .on_step = on_step,
        .leave = on_leave,
        .user = rank,
        .marked_first = rank->c->marked_first,
        .marked_last = rank->c->marked_last};
    st = ds_trainer_open(&options, &trainer);
    if (st == DS_OK)
        st = rank->c->evaluates ? evaluate(trainer, rank->out) : ds_trainer_run(trainer);
    if (st == DS_OK && !rank->c->evaluates)
        *rank->saved = ds_trainer_saved(trainer);
    if (st == DS_OK) {
        const struct ds_memory *memory = ds_trainer_memory(trainer);
        memcpy(rank->bytes, memory->bytes, sizeof memory->bytes);
        for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
            rank->filed[kind] = ds_trainer_filed_bytes(trainer, kind);
        rank->filed[DS_ZERO_KIND_COUNT] = ds_trainer_filed_kept_bytes(trainer);
        st = collect(trainer, config.lora.base != DS_BASE_COMPUTE, rank->out);
    }
    ds_trainer_close(trainer);
    return st;
}

void tiny_run_on(struct ds_comm *world, const struct tiny_case *c, struct tiny_result *out)
{
    struct tiny_rank rank = {c,
                             world->rank,
                             world->rank == 0 ? out : NULL,
                             out->bytes[world->rank],
                             out->filed[world->rank],
                             &out->saved[world->rank]};

    DS_ASSERT(world->size <= TINY_RANKS_MAX);
    memset(out, 0, sizeof *out);
    out->of = *c;
    out->status = run_rank(world, &rank);
}

struct tiny_job {
    const struct tiny_case *c;
    struct tiny_result *out;
    pthread_mutex_t lock;
};

static void run_thread(struct ds_comm *world, void *user)
{
    struct tiny_job *job = user;
    struct tiny_rank rank = {job->c,
                             world->rank,
                             world->rank == 0 ? job->out : NULL,
                             job->out->bytes[world->rank],
                             job->out->filed[world->rank],
                             &job->out->saved[world->rank]};
    ds_status st = run_rank(world, &rank);

    pthread_mutex_lock(&job->lock);
    if (st > job->out->status)
        job->out->status = st;
    pthread_mutex_unlock(&job->lock);
}

void tiny_run(const struct tiny_case *c, struct tiny_result *out)
{
    struct tiny_job job = {.c = c, .out = out, .lock = PTHREAD_MUTEX_INITIALIZER};

    DS_ASSERT(c->ranks <= TINY_RANKS_MAX);
    memset(out, 0, sizeof *out);
    out->of = *c;
    if (!run_ranks(c->ranks, 60000000000u, run_thread, &job))
        out->status = DS_ERR_COMM;
}

void tiny_result_fini(struct tiny_result *result)
{
    free(result->params);
    free(result->table);
    result->params = NULL;
    result->table = NULL;
}
