/* recall.c - see recall.h. */
#include "recall.h"

#include <string.h>

/* This rank's part of it. UINT32_MAX: there is none. */
static uint32_t find_pack(const struct ds_manifest *manifest, uint32_t rank, uint32_t part)
{
    for (uint32_t i = 0; i < manifest->pack_count; i++) {
        const struct ds_pack_id *id = &manifest->packs[i].pack.id;

        if (ds_checkpoint_owns(manifest, id) && id->rank == rank && id->part == part)
            return i;
    }
    return UINT32_MAX;
}

static int recall_part(const struct ds_saver_start *start, uint32_t part, struct ds_delta *delta)
{
    const uint32_t index = find_pack(start->loaded, start->control->rank, part);
    struct ds_pack *pack = NULL;

    if (index == UINT32_MAX ||
        ds_checkpoint_open_pack(start->fs, start->root, start->loaded, index, &pack) != DS_OK)
        return 0;
    const int is_known = ds_delta_recall(delta, part, pack, &start->loaded->packs[index].pack);
    ds_pack_close(pack);
    return is_known;
}

static int is_same_catalogue(const struct ds_catalogue *a, const struct ds_catalogue *b)
{
    int is_same = a->count == b->count;

    for (uint32_t i = 0; i < a->count && is_same; i++) {
        const struct ds_logical_tensor *x = &a->tensors[i], *y = &b->tensors[i];
        const struct ds_box whole = ds_box_whole(x), other = ds_box_whole(y);

        is_same = strcmp(x->name, y->name) == 0 && x->kind == y->kind && x->dtype == y->dtype &&
                  ds_box_equal(&whole, &other);
    }
    return is_same;
}

/* What was seen to be damaged while it was loaded stays out of what is written from here on. */
static void drop_damaged(const struct ds_manifest *loaded, struct ds_delta *delta)
{
    for (uint32_t i = 0; i < loaded->pack_count; i++)
        if (loaded->packs[i].is_damaged)
            ds_delta_drop(delta, &loaded->packs[i].pack.id);
}

void recall(const struct ds_saver_start *start, const struct ds_pack_plan *plan,
            struct ds_delta *delta)
{
    int is_known = start->loaded && is_same_catalogue(&start->loaded->catalogue, plan->catalogue);

    for (uint32_t part = 0; part < plan->part_count && is_known; part++)
        is_known = recall_part(start, part, delta);
    if (is_known)
        drop_damaged(start->loaded, delta);
    else
        ds_delta_forget(delta);
}
