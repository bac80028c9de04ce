/* sim_data.c - writes that are seen at once and kept only after a sync. */
#include "sim_data.h"

#include "dstrain/random.h"
#include "dstrain/status.h"

#include <stdlib.h>
#include <string.h>

void *sim_memory(void *old, size_t bytes)
{
    void *memory = realloc(old, bytes ? bytes : 1);

    DS_ASSERT(memory);
    return memory;
}

int sim_dice_survives(struct sim_dice *dice)
{
    struct ds_random random = ds_random_of(dice->seed, DS_RANDOM_TEST, 0);

    dice->asked++;
    if (dice->is_chosen)
        return dice->asked <= 64 && (dice->choices >> (dice->asked - 1) & 1);
    if (dice->seed <= 1)
        return (int)dice->seed;
    return ds_random_u32(random, ++dice->next) < ds_random_u32(random, 0);
}

static void image_resize(struct sim_image *image, uint64_t size)
{
    if (size > image->capacity) {
        uint64_t capacity = size < 4096 ? 4096 : size + size / 2;

        image->bytes = sim_memory(image->bytes, capacity);
        image->capacity = capacity;
    }
    if (size > image->size)
        memset(image->bytes + image->size, 0, size - image->size);
    image->size = size;
}

static void image_write(struct sim_image *image, const void *from, uint64_t bytes, uint64_t offset)
{
    if (bytes == 0)
        return;
    if (offset + bytes > image->size)
        image_resize(image, offset + bytes);
    memcpy(image->bytes + offset, from, bytes);
}

static void image_apply(struct sim_image *image, const struct sim_change *change)
{
    if (change->bytes)
        image_write(image, change->bytes, change->count, change->offset);
    else
        image_resize(image, change->offset);
}

static void remember(struct sim_data *data, const void *from, uint64_t count, uint64_t offset)
{
    struct sim_change *change = sim_memory(NULL, sizeof *change);

    *change = (struct sim_change){.offset = offset, .count = count};
    if (from)
        change->bytes = memcpy(sim_memory(NULL, count), from, count);
    if (data->last)
        data->last->next = change;
    else
        data->first = change;
    data->last = change;
}

static void forget_changes(struct sim_data *data)
{
    while (data->first) {
        struct sim_change *change = data->first;

        data->first = change->next;
        free(change->bytes);
        free(change);
    }
    data->last = NULL;
}

void sim_data_write(struct sim_data *data, const void *from, size_t bytes, uint64_t offset)
{
    if (bytes == 0)
        return;
    image_write(&data->now, from, bytes, offset);
    remember(data, from, bytes, offset);
}

void sim_data_resize(struct sim_data *data, uint64_t bytes)
{
    image_resize(&data->now, bytes);
    remember(data, NULL, 0, bytes);
}

void sim_data_sync(struct sim_data *data)
{
    for (const struct sim_change *change = data->first; change; change = change->next)
        image_apply(&data->kept, change);
    forget_changes(data);
}

static void apply_torn(struct sim_image *image, const struct sim_change *change,
                       struct sim_dice *dice)
{
    uint64_t half = change->count / 2;

    if (sim_dice_survives(dice))
        image_write(image, change->bytes, half, change->offset);
    if (sim_dice_survives(dice))
        image_write(image, change->bytes + half, change->count - half, change->offset + half);
}

void sim_data_crash(struct sim_data *data, struct sim_dice *dice)
{
    for (const struct sim_change *change = data->first; change; change = change->next) {
        if (change->bytes)
            apply_torn(&data->kept, change, dice);
        else if (sim_dice_survives(dice))
            image_apply(&data->kept, change);
    }
    forget_changes(data);
    data->now.size = 0;
    image_write(&data->now, data->kept.bytes, data->kept.size, 0);
}

void sim_data_copy(struct sim_data *to, const struct sim_data *from)
{
    image_write(&to->now, from->now.bytes, from->now.size, 0);
    image_write(&to->kept, from->kept.bytes, from->kept.size, 0);
    for (const struct sim_change *change = from->first; change; change = change->next)
        remember(to, change->bytes, change->count, change->offset);
}

void sim_data_fini(struct sim_data *data)
{
    forget_changes(data);
    free(data->now.bytes);
    free(data->kept.bytes);
    *data = (struct sim_data){0};
}
