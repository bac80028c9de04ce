/* names.h - what the backends of ds_fs share about directory listings. */
#ifndef STORAGE_NAMES_H
#define STORAGE_NAMES_H

#include <stddef.h>

/* A growing list of names; pack turns it into what ds_fs_readdir promises. */
struct name_list {
    char **names; /* owns each */
    size_t count, capacity;
};

int name_list_add(struct name_list *list, const char *name); /* 0 or -ENOMEM */
/* sorted, pointers and texts in one malloc'ed block; 0 or -ENOMEM. The list is untouched. */
int name_list_pack(struct name_list *list, char ***names);
void name_list_fini(struct name_list *list);

#endif
