/* attention_plan.c - cuDNN found, and a graph of attention made into a plan by the first engine that takes it. */
#include "attention_graph.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* ---- the library */

#define CUDNN_NAME "libcudnn_graph.so.9"
/* what CUDA has registered cannot be taken out again */
#define CUDNN_LOAD (RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)

static int find_calls(struct cudnn_library *cudnn)
{
#define CUDNN_FIND(name)                                  \
    *(void **)&cudnn->name = dlsym(cudnn->handle, #name); \
    if (!cudnn->name)                                     \
        return 0;
    CUDNN_CALLS(CUDNN_FIND)
#undef CUDNN_FIND
    return 1;
}

/* In the folder of `file`, `way` from there. */
static void *open_near(const char *file, const char *way)
{
    const char *slash = strrchr(file, '/');
    char path[4096];

    if (!slash || snprintf(path, sizeof path, "%.*s/%s" CUDNN_NAME, (int)(slash - file), file,
                           way) >= (int)sizeof path)
        return NULL;
    return dlopen(path, CUDNN_LOAD);
}

int cudnn_library_open(struct cudnn_library *cudnn, const void *beside, const char **why)
{
    Dl_info info;

    *cudnn = (struct cudnn_library){.handle = dlopen(CUDNN_NAME, CUDNN_LOAD)};
    *why = cudnn->handle ? NULL : dlerror();
    if (!cudnn->handle && beside && dladdr(beside, &info) && info.dli_fname) {
        cudnn->handle = open_near(info.dli_fname, "");
        if (!cudnn->handle)
            cudnn->handle = open_near(info.dli_fname, "../../cudnn/lib/");
    }
    if (!cudnn->handle)
        return 0;
    if (find_calls(cudnn))
        return 1;
    *why = CUDNN_NAME " lacks a function";
    cudnn_library_close(cudnn);
    return 0;
}

void cudnn_library_close(struct cudnn_library *cudnn)
{
    if (cudnn->handle)
        (void)dlclose(cudnn->handle);
    cudnn->handle = NULL;
}

/* ---- plans */

static cudnnBackendDescriptor_t finish_graph(struct attention_graph *g,
                                             const struct attention_target *target)
{
    const cudnnBackendDescriptor_t graph = graph_make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);

    if (target->handle)
        graph_set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1,
                  &target->handle);
    graph_set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
              g->operation_count, g->operations);
    graph_finish(g, graph);
    return graph;
}

/* Engines that may take the graph, the likely fastest first. */
static int64_t find_configs(struct attention_graph *g, cudnnBackendDescriptor_t graph,
                            const struct attention_target *target,
                            cudnnBackendDescriptor_t configs[GRAPH_CONFIGS_MAX])
{
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    const cudnnBackendDescriptor_t heuristics = graph_make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    int64_t count = 0;

    graph_set(g, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR,
              1, &graph);
    graph_set(g, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (target->device)
        graph_set(g, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                  &target->device);
    graph_finish(g, heuristics);
    for (int i = 0; i < GRAPH_CONFIGS_MAX; i++)
        configs[i] = graph_make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = g->cudnn->cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                       CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                                       GRAPH_CONFIGS_MAX, &count, configs);
    return g->status == CUDNN_STATUS_SUCCESS ? count : 0;
}

/* With one engine. That one does not take the graph is nothing to stop at. */
static cudnnStatus_t try_config(struct attention_plan *plan, const struct attention_target *target,
                                cudnnBackendDescriptor_t config)
{
    struct attention_graph *g = &plan->graph;
    const cudnnBackendDescriptor_t made = graph_make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    cudnnStatus_t status;
    int64_t count = 0;

    if (target->handle)
        graph_set(g, made, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target->handle);
    graph_set(g, made, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
              &config);
    if (target->device)
        graph_set(g, made, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                  &target->device);
    if (g->status != CUDNN_STATUS_SUCCESS)
        return g->status;
    status = g->cudnn->cudnnBackendFinalize(made);
    if (status == CUDNN_STATUS_SUCCESS)
        status =
            g->cudnn->cudnnBackendGetAttribute(made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                               CUDNN_TYPE_INT64, 1, &count, &plan->workspace_bytes);
    if (status == CUDNN_STATUS_SUCCESS)
        plan->plan = made;
    return status;
}

cudnnStatus_t attention_plan_open(struct attention_plan *plan, const struct cudnn_library *cudnn,
                                  const struct attention_key *key,
                                  const struct attention_target *target)
{
    struct attention_graph *g = &plan->graph;
    cudnnBackendDescriptor_t configs[GRAPH_CONFIGS_MAX];
    cudnnStatus_t status = CUDNN_STATUS_NOT_SUPPORTED;
    int64_t count;

    *plan = (struct attention_plan){.graph = {.cudnn = cudnn, .next_id = ATTENTION_ID_END}};
    if (key->is_backward)
        graph_backward(g, key);
    else
        graph_forward(g, key);
    count = find_configs(g, finish_graph(g, target), target, configs);
    for (int64_t i = 0; i < count && status != CUDNN_STATUS_SUCCESS; i++)
        status = try_config(plan, target, configs[i]);
    return g->status == CUDNN_STATUS_SUCCESS ? status : g->status;
}

void attention_plan_close(struct attention_plan *plan)
{
    struct attention_graph *g = &plan->graph;

    while (g->made_count > 0)
        (void)g->cudnn->cudnnBackendDestroyDescriptor(g->made[--g->made_count]);
    plan->plan = NULL;
}
