/* names.c - lists of names in a directory. */
#include "names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int name_list_add(struct name_list *list, const char *name)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        char **grown = realloc(list->names, capacity * sizeof *grown);

        if (!grown)
            return -ENOMEM;
        list->names = grown;
        list->capacity = capacity;
    }
    list->names[list->count] = strdup(name);
    if (!list->names[list->count])
        return -ENOMEM;
    list->count++;
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int name_list_pack(struct name_list *list, char ***names)
{
    size_t bytes = 1; /* an empty directory still gets a block to free */

    for (size_t i = 0; i < list->count; i++)
        bytes += sizeof(char *) + strlen(list->names[i]) + 1;
    char **packed = malloc(bytes);
    if (!packed)
        return -ENOMEM;
    if (list->count > 0)
        qsort(list->names, list->count, sizeof *list->names, by_text);
    char *text = (char *)(packed + list->count);
    for (size_t i = 0; i < list->count; i++) {
        size_t length = strlen(list->names[i]) + 1;

        packed[i] = memcpy(text, list->names[i], length);
        text += length;
    }
    *names = packed;
    return 0;
}

void name_list_fini(struct name_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
    *list = (struct name_list){0};
}
