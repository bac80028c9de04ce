/* attention_plans.c - plans by shape. A refusal is remembered as well. */
#include "attention_plans.h"

#include "dstrain/status.h"

#include <string.h>

static void tell_refused(const struct cudnn_library *cudnn, const struct attention_planned *p)
{
    char why[512] = "";

    cudnn->cudnnGetLastErrorString(why, sizeof why);
    why[strcspn(why, "\n")] = '\0';
    ds_info("attention %s of %d heads of %d%s by own kernels; cuDNN: %s %s",
            p->key.is_backward ? "backward" : "forward", p->key.heads, p->key.dim,
            p->key.documents > 0 ? ", packed documents," : "",
            cudnn->cudnnGetErrorString(p->status), why);
}

const struct attention_planned *attention_plans_find(struct attention_plans *plans,
                                                     const struct attention_key *key,
                                                     const struct cudnn_library *cudnn,
                                                     cudnnHandle_t handle)
{
    const struct attention_target target = {.handle = handle};
    struct attention_planned *p = plans->planned;

    for (; p < plans->planned + plans->count; p++)
        if (memcmp(&p->key, key, sizeof *key) == 0)
            return p->status == CUDNN_STATUS_SUCCESS ? p : NULL;
    if (plans->count == PLANS_MAX)
        return NULL;
    if (++plans->count == PLANS_MAX)
        ds_info("attention: %d shapes have a plan of cuDNN; others will take own kernels",
                PLANS_MAX);
    p->key = *key;
    p->status = attention_plan_open(&p->plan, cudnn, key, &target);
    if (p->status == CUDNN_STATUS_SUCCESS)
        return p;
    tell_refused(cudnn, p);
    attention_plan_close(&p->plan);
    return NULL;
}

void attention_plans_close(struct attention_plans *plans)
{
    while (plans->count > 0)
        attention_plan_close(&plans->planned[--plans->count].plan);
}
