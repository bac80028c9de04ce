/* loader.c - one rank's micro-batches, read one step ahead by a thread into the other of two buffers. Which
 * samples a step has is a function of the step's number, so any step can be asked for; the next one
 * is only the likeliest. */
#include "dstrain/data.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum loader_state { LOADER_EMPTY, LOADER_WANTED, LOADER_READY };

struct loader_slot {
    int32_t *arrays; /* owned: ids, targets, positions, documents */
    enum loader_state state;
    uint64_t step, trained_tokens;
    ds_status status;
};

struct ds_loader {
    /* owns */
    struct loader_slot slots[2];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int has_thread, is_leaving;
    uint64_t array_ints; /* of one of the four */
    struct ds_skips skips;
    /* borrows */
    struct ds_loader_options options;
};

static void blank_sample(const struct ds_loader *loader, const struct ds_sample *to)
{
    for (uint64_t t = 0; t < loader->options.seq_length; t++) {
        to->id[t] = 0;
        to->target[t] = -100;
        to->position[t] = (int32_t)t;
        to->document[t] = 0;
    }
}

static uint64_t count_trained(const int32_t *target, uint64_t count)
{
    uint64_t trained = 0;

    for (uint64_t t = 0; t < count; t++)
        trained += target[t] != -100;
    return trained;
}

static ds_status fill_row(const struct ds_loader *loader, uint64_t position,
                          const struct ds_sample *to)
{
    const struct ds_loader_options *o = &loader->options;

    if (o->sample_limit && position >= o->sample_limit) {
        blank_sample(loader, to);
        return DS_OK;
    }
    return ds_dataset_read(o->dataset, position, to);
}

static ds_status fill_slot(const struct ds_loader *loader, struct loader_slot *slot)
{
    const struct ds_loader_options *o = &loader->options;
    const uint64_t rows = o->micro_batch_size;
    const uint64_t batch = ds_skips_batch(&loader->skips, slot->step + 1) - 1;

    for (uint64_t micro = 0; micro < o->micro_count; micro++)
        for (uint64_t row = 0; row < rows; row++) {
            const uint64_t group = (batch * o->micro_count + micro) * o->share_count + o->share;
            int32_t *at = slot->arrays + (micro * rows + row) * o->seq_length;
            const struct ds_sample sample = {at, at + loader->array_ints,
                                             at + 2 * loader->array_ints,
                                             at + 3 * loader->array_ints};
            DS_TRY(fill_row(loader, group * rows + row, &sample));
        }
    slot->trained_tokens = count_trained(slot->arrays + loader->array_ints, loader->array_ints);
    return DS_OK;
}

static struct loader_slot *wanted_slot(struct ds_loader *loader)
{
    for (int i = 0; i < 2; i++)
        if (loader->slots[i].state == LOADER_WANTED)
            return &loader->slots[i];
    return NULL;
}

static void *loader_main(void *arg)
{
    struct ds_loader *loader = arg;

    pthread_mutex_lock(&loader->lock);
    while (!loader->is_leaving) {
        struct loader_slot *slot = wanted_slot(loader);
        if (!slot) {
            pthread_cond_wait(&loader->changed, &loader->lock);
            continue;
        }
        pthread_mutex_unlock(&loader->lock);
        slot->status = fill_slot(loader, slot);
        pthread_mutex_lock(&loader->lock);
        slot->state = LOADER_READY;
        pthread_cond_broadcast(&loader->changed);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* Under the lock: wait till the thread is not writing into `slot`, then ask for `step` in it. */
static void want(struct ds_loader *loader, struct loader_slot *slot, uint64_t step)
{
    if (slot->state != LOADER_EMPTY && slot->step == step)
        return;
    while (slot->state == LOADER_WANTED)
        pthread_cond_wait(&loader->changed, &loader->lock);
    slot->step = step;
    slot->state = LOADER_WANTED;
    pthread_cond_broadcast(&loader->changed);
}

void ds_loader_skip(struct ds_loader *loader, const struct ds_skips *skips)
{
    pthread_mutex_lock(&loader->lock);
    while (wanted_slot(loader))
        pthread_cond_wait(&loader->changed, &loader->lock);
    loader->skips = *skips;
    loader->slots[0].state = loader->slots[1].state = LOADER_EMPTY;
    pthread_mutex_unlock(&loader->lock);
}

ds_status ds_loader_next(struct ds_loader *loader, uint64_t step, struct ds_loader_batch *out,
                         uint64_t *waited_ns)
{
    struct loader_slot *slot = &loader->slots[step & 1];
    const uint64_t begin_ns = ds_clock_mono_ns(loader->options.clock);

    pthread_mutex_lock(&loader->lock);
    want(loader, slot, step);
    while (slot->state == LOADER_WANTED)
        pthread_cond_wait(&loader->changed, &loader->lock);
    if (slot->status == DS_OK && /* one failure is told, not the next one, too */
        (!loader->options.step_limit || step + 1 < loader->options.step_limit))
        want(loader, &loader->slots[(step + 1) & 1], step + 1);
    pthread_mutex_unlock(&loader->lock);
    *waited_ns = ds_clock_mono_ns(loader->options.clock) - begin_ns;
    DS_TRY(slot->status);
    *out = (struct ds_loader_batch){slot->arrays, slot->arrays + loader->array_ints,
                                    slot->arrays + 2 * loader->array_ints,
                                    slot->arrays + 3 * loader->array_ints, slot->trained_tokens};
    return DS_OK;
}

static ds_status take_slots(struct ds_loader *loader)
{
    const struct ds_loader_options *o = &loader->options;
    uint64_t rows;
    int is_too_large = __builtin_mul_overflow(o->micro_count, o->micro_batch_size, &rows);

    is_too_large |= __builtin_mul_overflow(rows, o->seq_length, &loader->array_ints);
    for (int i = 0; i < 2 && !is_too_large; i++) {
        loader->slots[i].arrays = calloc((size_t)loader->array_ints, 4 * sizeof(int32_t));
        is_too_large |= !loader->slots[i].arrays;
    }
    if (is_too_large)
        return ds_fail(DS_ERR_NO_MEMORY,
                       "batches of %llu micro-batches of %llu sequences of %llu tokens",
                       (unsigned long long)o->micro_count, (unsigned long long)o->micro_batch_size,
                       (unsigned long long)o->seq_length);
    return DS_OK;
}

ds_status ds_loader_open(const struct ds_loader_options *options, struct ds_loader **out)
{
    struct ds_loader *loader;
    ds_status st;

    DS_ASSERT(options->micro_count > 0 && options->micro_batch_size > 0);
    DS_ASSERT(options->share < options->share_count && options->clock);
    loader = calloc(1, sizeof *loader);
    if (!loader)
        return ds_fail(DS_ERR_NO_MEMORY, "a loader");
    loader->options = *options;
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->changed, NULL);
    DS_TRY_GOTO(st, take_slots(loader), fail);
    if (pthread_create(&loader->thread, NULL, loader_main, loader) != 0) {
        st = ds_fail(DS_ERR_NO_MEMORY, "the loader's thread");
        goto fail;
    }
    loader->has_thread = 1;
    *out = loader;
    return DS_OK;

fail:
    ds_loader_close(loader);
    return st;
}

void ds_loader_close(struct ds_loader *loader)
{
    if (!loader)
        return;
    if (loader->has_thread) {
        pthread_mutex_lock(&loader->lock);
        loader->is_leaving = 1;
        pthread_cond_broadcast(&loader->changed);
        pthread_mutex_unlock(&loader->lock);
        pthread_join(loader->thread, NULL);
    }
    pthread_mutex_destroy(&loader->lock);
    pthread_cond_destroy(&loader->changed);
    for (int i = 0; i < 2; i++)
        free(loader->slots[i].arrays);
    free(loader);
}
