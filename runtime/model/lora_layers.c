/* lora_layers.c - the layers that an adapter is for, as PEFT's layers_to_transform has them: numbers, and runs of them. */
#include "lora_file.h"

#include <stdlib.h>
#include <string.h>

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "4" or "4-7" */
static ds_status read_run(const char *what, const struct ds_model_config *config, const char **at,
                          uint64_t *first, uint64_t *last)
{
    const char *begin = *at;
    char *end = (char *)(uintptr_t)begin;

    if (is_digit(*begin))
        *first = *last = strtoull(begin, &end, 10);
    if (end > begin && *end == '-' && is_digit(end[1]))
        *last = strtoull(end + 1, &end, 10);
    if (end == begin || (*end && !strchr(", \t", *end)) || *first > *last ||
        *last >= config->num_hidden_layers)
        return ds_fail(
            DS_ERR_DATA,
            "%s: '%.100s' must be numbers of layers, 0 to %llu, and runs of them: 0, 4-7", what,
            begin, (unsigned long long)config->num_hidden_layers - 1);
    *at = end;
    return DS_OK;
}

ds_status layers_keep(const char *what, const struct ds_model_config *config, const char *list,
                      uint8_t *chosen)
{
    const uint64_t layers = config->num_hidden_layers;
    uint8_t *keeps = calloc((size_t)layers, 1);
    uint64_t first = 0, last = 0;
    ds_status st = keeps ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "the layers of an adapter");

    for (list += strspn(list, ", \t"); st == DS_OK && *list; list += strspn(list, ", \t")) {
        st = read_run(what, config, &list, &first, &last);
        for (uint64_t i = first; st == DS_OK && i <= last; i++)
            keeps[i] = 1;
    }
    for (uint64_t i = 0; st == DS_OK && i < layers; i++)
        if (!keeps[i])
            memset(chosen + i * DS_LINEAR_COUNT, 0, DS_LINEAR_COUNT);
    free(keeps);
    return st;
}

ds_status layers_check(const char *what, const struct ds_model_config *config,
                       const uint8_t *chosen)
{
    const size_t count = (size_t)config->num_hidden_layers * DS_LINEAR_COUNT;

    if (memchr(chosen, 1, count))
        return DS_OK;
    return ds_fail(DS_ERR_DATA, "%s: of the matrices that it chooses none is left", what);
}
