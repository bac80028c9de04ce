/* plan.c - what the ranks of a run take, and what the plan decides from it. A separate formula would drift
 * from the code; this is the code. */
#include "plan.h"

#include "dstrain/overhead_cuda.h"
#include "dstrain/trainer.h"

#include <stdlib.h>
#include <string.h>

static void say_alive(const struct ds_plan_question *question)
{
    if (question->alive)
        question->alive(question->user);
}

/* Also where there is no GPU: a plan is made before. */
static const struct ds_device_overhead *overhead_of(const struct ds_config *config)
{
    const struct ds_device_ops *device;

    if (strcmp(config->run.device, "auto") != 0)
        return strcmp(config->run.device, "cuda") == 0 ? &ds_overhead_cuda : NULL;
    device = ds_device_look("auto");
    return device ? device->overhead : NULL;
}

ds_status ds_plan_measure(const struct ds_plan_question *question, uint32_t rank,
                          struct ds_plan *out)
{
    struct ds_trainer_options options = {
        .config = question->config,
        .mode = question->use == DS_CONFIG_EVAL ? DS_TRAINER_PLAN_EVALUATE : DS_TRAINER_PLAN,
        .fs = question->fs,
        .clock = question->clock,
        .device = &ds_device_null_ops,
        .thread_count = 1};
    struct ds_trainer *trainer = NULL;
    ds_status st;

    DS_TRY(ds_comm_null_open(rank, question->size, question->clock, &options.world));
    st = ds_trainer_open(&options, &trainer);
    if (st == DS_OK) {
        memcpy(out->bytes, ds_trainer_memory(trainer)->bytes, sizeof out->bytes);
        out->library_bytes = ds_trainer_overhead(trainer, overhead_of(question->config));
        for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
            out->filed_bytes[kind] = ds_trainer_filed_bytes(trainer, kind);
        out->filed_kept_bytes = ds_trainer_filed_kept_bytes(trainer);
        st = ds_trainer_step_work(trainer, out->work);
        ds_trainer_saves(trainer, &out->saved_bytes, &out->save_stops);
    }
    ds_trainer_close(trainer);
    ds_comm_close(options.world);
    say_alive(question);
    return st;
}

/* ---- roles */

uint32_t ds_plan_role_count(const struct ds_config *config)
{
    return (uint32_t)(config->parallel.pipeline * config->parallel.tensor);
}

uint32_t ds_plan_role_rank(const struct ds_config *config, uint32_t role)
{
    const struct ds_mesh_shape shape = ds_trainer_mesh_shape(config);
    struct ds_mesh_place place = {{0}};

    place.at[DS_AXIS_PP] = role / shape.size[DS_AXIS_TP];
    place.at[DS_AXIS_TP] = role % shape.size[DS_AXIS_TP];
    return ds_mesh_rank_of(&shape, &place);
}

static uint64_t total(const struct ds_plan *plan, enum ds_memory_kind kind)
{
    uint64_t bytes = 0;

    for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
        bytes += plan->bytes[kind][label];
    return bytes;
}

uint64_t ds_plan_device_bytes(const struct ds_plan *plan)
{
    return total(plan, DS_MEMORY_DEVICE);
}

uint64_t ds_plan_process_bytes(const struct ds_plan *plan)
{
    return ds_plan_device_bytes(plan) + plan->library_bytes;
}

uint64_t ds_plan_host_bytes(const struct ds_plan *plan)
{
    return total(plan, DS_MEMORY_PINNED) + total(plan, DS_MEMORY_HOST);
}

static int takes_more(const struct ds_config *config, const struct ds_plan *a,
                      const struct ds_plan *b)
{
    const uint64_t device_a = ds_plan_process_bytes(a), device_b = ds_plan_process_bytes(b);
    const int fits_a = ds_plan_fits(config, a), fits_b = ds_plan_fits(config, b);

    if (fits_a != fits_b)
        return fits_b;
    return device_a != device_b ? device_a > device_b
                                : ds_plan_host_bytes(a) > ds_plan_host_bytes(b);
}

/* Do two tensor ranks hold boxes of equal sizes, and count the same of them? Then they take the same. */
static int are_alike(const struct ds_model *a, const struct ds_model *b)
{
    for (uint32_t i = 0; i < a->param_count; i++)
        if (a->params[i].elems != b->params[i].elems ||
            a->params[i].is_owner != b->params[i].is_owner)
            return 0;
    return 1;
}

static ds_status find_twin(const struct ds_model_config *model, uint32_t rank, uint32_t size,
                           uint32_t *twins)
{
    struct ds_model_share share = {.tp_rank = rank, .tp_size = size};
    struct ds_model *here = NULL, *other = NULL;
    ds_status st;

    twins[rank] = rank;
    DS_TRY(ds_model_open(model, &share, &here));
    for (uint32_t i = 0; i < rank && twins[rank] == rank; i++) {
        if (twins[i] != i)
            continue;
        share.tp_rank = i;
        DS_TRY_GOTO(st, ds_model_open(model, &share, &other), done);
        if (are_alike(here, other))
            twins[rank] = i;
        ds_model_close(other);
    }
    st = DS_OK;
done:
    ds_model_close(here);
    return st;
}

/* The model, if the ranks can share it: what a folder says of it, its rules have not seen. */
static ds_status shared_model(const struct ds_plan_question *question, struct ds_model_config *out)
{
    const struct ds_config *config = question->config;

    DS_TRY(ds_trainer_model_config(config, question->fs, out));
    return ds_config_validate_model(config, question->use, question->size,
                                    config->model.path[0] ? out : NULL);
}

ds_status ds_plan_twins(const struct ds_plan_question *question, uint32_t **out)
{
    const uint32_t size = (uint32_t)question->config->parallel.tensor;
    uint32_t *twins = calloc(size, sizeof *twins);
    struct ds_model_config model;
    ds_status st = twins ? shared_model(question, &model)
                         : ds_fail(DS_ERR_NO_MEMORY, "roles of %u tensor ranks", size);

    for (uint32_t rank = 0; st == DS_OK && rank < size; rank++) {
        st = find_twin(&model, rank, size, twins);
        say_alive(question);
    }
    if (st != DS_OK) {
        free(twins);
        return st;
    }
    *out = twins;
    return DS_OK;
}

ds_status ds_plan_worst(const struct ds_plan_question *question, struct ds_plan *out,
                        uint32_t *role)
{
    const uint32_t count = ds_plan_role_count(question->config);
    const uint32_t tensor = (uint32_t)question->config->parallel.tensor;
    uint32_t *twins;
    ds_status st = DS_OK;

    DS_TRY(ds_plan_twins(question, &twins));
    for (uint32_t i = 0; st == DS_OK && i < count; i++) {
        struct ds_plan plan;
        if (twins[i % tensor] != i % tensor)
            continue;
        st = ds_plan_measure(question, ds_plan_role_rank(question->config, i), &plan);
        if (st != DS_OK || (i > 0 && !takes_more(question->config, &plan, out)))
            continue;
        *out = plan;
        *role = i;
    }
    free(twins);
    return st;
}

int ds_plan_fits(const struct ds_config *config, const struct ds_plan *plan)
{
    const uint64_t device = config->memory.device_limit, host = config->memory.host_limit;

    return (device == DS_AUTO || ds_plan_process_bytes(plan) <= device) &&
           (host == DS_AUTO || ds_plan_host_bytes(plan) <= host);
}

/* ---- what is left to the plan */

static ds_status try_choice(const struct ds_plan_question *question, struct ds_config *config,
                            int reshard, uint64_t window, int *fits)
{
    struct ds_plan_question next = *question;
    struct ds_plan plan;
    uint32_t role;

    next.config = config;
    config->zero.reshard_after_forward = reshard;
    config->zero.window = window;
    DS_TRY(ds_plan_worst(&next, &plan, &role));
    *fits = ds_plan_fits(config, &plan);
    return DS_OK;
}

/* The widest window that fits, or 1: the wider, the fewer gathers and the more activations. */
static ds_status widest_window(const struct ds_plan_question *question, struct ds_config *config)
{
    const uint64_t micros =
        config->train.global_batch_size / (config->train.micro_batch_size * config->parallel.data);
    uint64_t low = 1, high = micros + 1;

    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;
        int fits = 0;
        DS_TRY(try_choice(question, config, DS_RESHARD_KEY_ALWAYS, middle, &fits));
        *(fits ? &low : &high) = middle;
    }
    config->zero.window = low;
    return DS_OK;
}

/* A GPU's products want many rows; its logits pass through no cache anyway. */
#define GPU_LOGITS_BYTES ((uint64_t)1 << 30)

int ds_plan_is_gpu(const struct ds_config *config)
{
    const struct ds_device_ops *device;

    if (strcmp(config->run.device, "auto") != 0)
        return strcmp(config->run.device, "cuda") == 0;
    device = ds_device_look("auto"); /* who opens it says why it is that one */
    return device && !(device->caps & DS_DEVICE_CAP_HOST_MEMORY);
}

static void settle_device(struct ds_config *config)
{
    const int has_gpu = ds_plan_is_gpu(config);

    if (config->memory.logits == DS_AUTO && has_gpu)
        config->memory.logits = GPU_LOGITS_BYTES;
    if (config->run.deterministic == -1)
        config->run.deterministic = !has_gpu;
}

int ds_plan_gathers(const struct ds_config *config)
{
    return config->zero.stage == 3 &&
           (config->parallel.shard > 1 || ds_home_is_away(&config->offload.params));
}

/* Zero and what is gathered: see ds_plan_settle. */
static ds_status settle_gathers(const struct ds_plan_question *question, struct ds_config *config)
{
    const int reshard = config->zero.reshard_after_forward;
    const uint64_t window = config->zero.window;
    const int chooses = ds_plan_gathers(config) && config->memory.device_limit != DS_AUTO;
    int fits = 0;

    config->zero.reshard_is_auto |= reshard == DS_RESHARD_KEY_AUTO;
    if (chooses && reshard == DS_RESHARD_KEY_AUTO)
        DS_TRY(try_choice(question, config, DS_RESHARD_KEY_NEVER, window ? window : 1, &fits));
    if (fits)
        return DS_OK;
    config->zero.reshard_after_forward =
        reshard == DS_RESHARD_KEY_AUTO ? DS_RESHARD_KEY_ALWAYS : reshard;
    config->zero.window = window == DS_AUTO ? 1 : window;
    if (chooses && window == DS_AUTO && config->parallel.pipeline == 1 &&
        config->zero.reshard_after_forward == DS_RESHARD_KEY_ALWAYS)
        return widest_window(question, config);
    return DS_OK;
}

ds_status ds_plan_settle(const struct ds_plan_question *question, struct ds_config *config)
{
    settle_device(config);
    if (ds_plan_leaves_homes(config))
        DS_TRY(ds_plan_choose_homes(question, config));
    return settle_gathers(question, config);
}
