/* attention_pack.c - packs of addresses for cuDNN, each in the place that its addresses choose. */
#include "attention_pack.h"

#include <string.h>

_Static_assert(sizeof(struct attention_binding) ==
                   2 * sizeof(void *) + ATTENTION_ID_END * (sizeof(int64_t) + sizeof(void *)) + 24,
               "a binding is compared as memory");

static struct attention_pack *place_of(struct attention_packs *packs,
                                       const struct attention_binding *b)
{
    uint64_t hash = (uintptr_t)b->plan;

    for (int32_t i = 0; i < b->count; i++)
        hash = (hash ^ (uintptr_t)b->at[i]) * 0x9e3779b97f4a7c15u;
    return &packs->kept[(hash >> 32) % PACKS_MAX];
}

/* With the floats of the host, which are read when a plan is executed. */
static struct attention_binding with_floats(struct attention_pack *kept)
{
    struct attention_binding b = kept->of;

    attention_bind(&b, ATTENTION_SCALE, &kept->of.scale);
    attention_bind(&b, ATTENTION_HIDDEN, &kept->of.hidden);
    if (b.is_backward)
        attention_bind(&b, ATTENTION_ONE, &kept->of.one);
    return b;
}

static void forget(struct attention_pack *kept, const struct cudnn_library *cudnn)
{
    if (kept->pack)
        (void)cudnn->cudnnBackendDestroyDescriptor(kept->pack);
    kept->pack = NULL;
}

static cudnnStatus_t make(struct attention_pack *kept, const struct cudnn_library *cudnn)
{
    struct attention_graph g = {.cudnn = cudnn};
    const struct attention_binding b = with_floats(kept);

    kept->pack = graph_make(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    graph_set(&g, kept->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, b.count, b.ids);
    graph_set(&g, kept->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, b.count,
              b.at);
    graph_set(&g, kept->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
              &b.workspace);
    graph_finish(&g, kept->pack);
    if (g.status != CUDNN_STATUS_SUCCESS)
        forget(kept, cudnn);
    return g.status;
}

cudnnStatus_t attention_packs_find(struct attention_packs *packs, const struct cudnn_library *cudnn,
                                   const struct attention_binding *binding,
                                   cudnnBackendDescriptor_t *out)
{
    struct attention_pack *kept = place_of(packs, binding);
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;

    if (!kept->pack || memcmp(&kept->of, binding, sizeof *binding) != 0) {
        forget(kept, cudnn);
        kept->of = *binding;
        status = make(kept, cudnn);
    }
    *out = kept->pack;
    return status;
}

void attention_packs_close(struct attention_packs *packs, const struct cudnn_library *cudnn)
{
    for (int i = 0; i < PACKS_MAX; i++)
        forget(&packs->kept[i], cudnn);
}
