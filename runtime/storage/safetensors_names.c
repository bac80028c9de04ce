/* safetensors_names.c - a set of names by hash: finds duplicates and tensors in constant time. The seed
 * is an address, so that a hostile file cannot know which names would collide. */
#include "safetensors_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct safetensors_shown safetensors_show(const char *name)
{
    struct safetensors_shown shown;
    size_t length = strlen(name);
    size_t kept = length < sizeof shown.text ? length : sizeof shown.text - 4;

    for (size_t i = 0; i < kept; i++)
        shown.text[i] = (char)(name[i] >= ' ' && name[i] < 0x7f ? name[i] : '?');
    snprintf(shown.text + kept, sizeof shown.text - kept, "%s", kept < length ? "..." : "");
    return shown;
}

static const char *name_at(const void *first, size_t stride, size_t index)
{
    return *(const char *const *)((const char *)first + stride * index);
}

/* The slot that holds `name`, or the free one where it belongs. At most half of the slots are taken. */
static size_t slot_of(const struct safetensors_names *names, const void *first, size_t stride,
                      const char *name)
{
    size_t slot = XXH3_64bits_withSeed(name, strlen(name), names->seed) & (names->slot_count - 1);

    while (names->slots[slot] != 0 &&
           strcmp(name_at(first, stride, names->slots[slot] - 1), name) != 0)
        slot = (slot + 1) & (names->slot_count - 1);
    return slot;
}

size_t safetensors_names_find(const struct safetensors_names *names, const void *first,
                              size_t stride, size_t count, const char *name)
{
    uint32_t found = names->slots[slot_of(names, first, stride, name)];

    return found ? found - 1 : count;
}

int safetensors_names_build(struct safetensors_names *names, const void *first, size_t stride,
                            size_t count, const char **twice)
{
    size_t slot_count = 8;

    DS_ASSERT(count <= UINT32_MAX / 4);
    while (slot_count < 2 * count)
        slot_count *= 2;
    *twice = NULL;
    names->slots = calloc(slot_count, sizeof *names->slots);
    if (!names->slots)
        return 0;
    names->slot_count = slot_count;
    names->seed = (uint64_t)(uintptr_t)names->slots;
    for (size_t i = 0; i < count && !*twice; i++) {
        const char *name = name_at(first, stride, i);
        size_t slot = slot_of(names, first, stride, name);

        if (names->slots[slot] != 0)
            *twice = name;
        names->slots[slot] = (uint32_t)i + 1;
    }
    return 1;
}
