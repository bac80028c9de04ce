/* test_cuda_attention_graph.c - cuDNN takes our graphs of attention, for GPUs that are described to it: none is
 * needed. Skipped where cuDNN is not installed. */
// link: base
// cost: 40
// private: runtime/kernels/cuda
// needs: cuda
#include "test.h"

#include "attention_graph.c"
#include "attention_node.c"
#include "attention_plan.c"

#define STUB DS_BINARY_DIR "/stub/libcuda.so.1"

struct gpu {
    int version, processors, shared_bytes;
    const char *name;
};

static const struct gpu gpus[] = {
    {900, 132, 232448, "NVIDIA H100 80GB HBM3"},
    {800, 108, 166912, "NVIDIA A100-SXM4-80GB"},
};
static const struct gpu blackwell = {1000, 148, 232448, "NVIDIA B200"};

static struct cudnn_library cudnn;

/* cuDNN finds the stub under the driver's name, since it is loaded already. */
static void open_or_leave(void)
{
    const char *why;

    if (!dlopen(STUB, RTLD_NOW | RTLD_GLOBAL))
        fail_msg("%s", dlerror());
    if (!cudnn_library_open(&cudnn, NULL, &why)) {
        printf("skipped: cuDNN is not here: %s\n", why);
        exit(77);
    }
}

static void describe(const struct gpu *gpu, char *to, size_t bytes)
{
    snprintf(to, bytes,
             "{\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,\"cudartVer\":13000,"
             "\"totalGlobalMem\":85017755648,\"maxGridSize\":[2147483647,65535,65535],"
             "\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,\"multiProcessorCount\":%d,"
             "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,"
             "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,"
             "\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,"
             "\"supportCoopLaunch\":1,\"smClockRateKHz\":1980000,\"memClockRateKHz\":2619000,"
             "\"l2CacheSize\":52428800,\"deviceName\":\"%s\"}",
             gpu->version, gpu->processors, gpu->shared_bytes, gpu->name);
}

static cudnnStatus_t plan_on(const struct gpu *gpu, const struct attention_key *key,
                             struct attention_plan *plan)
{
    struct attention_graph words = {.cudnn = &cudnn};
    const cudnnBackendDescriptor_t device = graph_make(&words, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    char text[1024];
    cudnnStatus_t status;

    describe(gpu, text, sizeof text);
    graph_set(&words, device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
              (int64_t)strlen(text) + 1, text);
    graph_finish(&words, device);
    assert_int_equal(words.status, CUDNN_STATUS_SUCCESS);
    status = attention_plan_open(plan, &cudnn, key, &(struct attention_target){.device = device});
    (void)cudnn.cudnnBackendDestroyDescriptor(device);
    return status;
}

/* Returns the bytes it works in. */
static int64_t assert_taken(const struct gpu *gpu, const struct attention_key *key)
{
    struct attention_plan plan;
    const cudnnStatus_t status = plan_on(gpu, key, &plan);
    char why[1024] = "";

    if (status != CUDNN_STATUS_SUCCESS)
        cudnn.cudnnGetLastErrorString(why, sizeof why);
    print_message("%d, %s, %d:%d heads of %d, %d documents, %s: workspace %lld %s\n", gpu->version,
                  key->is_backward ? "backward" : "forward", key->heads, key->kv_heads, key->dim,
                  key->documents, ds_dtype_name((enum ds_dtype)key->dtype),
                  (long long)plan.workspace_bytes, why);
    assert_int_equal(status, CUDNN_STATUS_SUCCESS);
    assert_non_null(plan.plan);
    attention_plan_close(&plan);
    return plan.workspace_bytes;
}

static const struct attention_key whole[] = {
    {2, 2048, 32, 8, 128, 0, DS_BF16, 0},  {2, 2048, 32, 8, 128, 0, DS_BF16, 1},
    {4, 1024, 12, 12, 64, 0, DS_F16, 0},   {4, 1024, 12, 12, 64, 0, DS_F16, 1},
    {1, 4096, 32, 32, 128, 0, DS_BF16, 1}, {2, 1024, 16, 8, 80, 0, DS_BF16, 1},
};

static const struct attention_key packed[] = {
    {4, 4096, 32, 8, 64, 32, DS_BF16, 0},  {4, 4096, 32, 8, 64, 32, DS_BF16, 1},
    {2, 4096, 32, 8, 128, 20, DS_F16, 0},  {2, 4096, 32, 8, 128, 20, DS_F16, 1},
    {1, 2048, 12, 12, 64, 2, DS_F16, 0},   {1, 2048, 12, 12, 64, 2, DS_F16, 1},
    {3, 1024, 8, 8, 128, 300, DS_BF16, 0}, {3, 1024, 8, 8, 128, 300, DS_BF16, 1},
};

static void graphs_are_taken_for_every_gpu(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gpus / sizeof gpus[0]; i++)
        for (size_t k = 0; k < sizeof whole / sizeof whole[0]; k++)
            (void)assert_taken(&gpus[i], &whole[k]);
}

/* A document may be as long as a sequence; what is kept for it is not. */
static void packed_documents_are_taken_in_little_memory(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof packed / sizeof packed[0]; k++) {
        assert_true(assert_taken(&gpus[0], &packed[k]) < 1 << 20);
        if (k < 2)
            assert_true(assert_taken(&blackwell, &packed[k]) < 1 << 20);
    }
}

/* Ampere has no backward of heads this wide: said by a status, and nothing is left. */
static void what_is_not_taken_is_a_status(void **state)
{
    const struct attention_key wide = {1, 1024, 8, 4, 256, 0, DS_BF16, 1};
    struct attention_plan plan;

    (void)state;
    (void)assert_taken(&gpus[0], &wide);
    assert_int_not_equal(plan_on(&gpus[1], &wide, &plan), CUDNN_STATUS_SUCCESS);
    assert_null(plan.plan);
    attention_plan_close(&plan);
    assert_int_equal(plan.graph.made_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graphs_are_taken_for_every_gpu),
        cmocka_unit_test(packed_documents_are_taken_in_little_memory),
        cmocka_unit_test(what_is_not_taken_is_a_status),
    };

    open_or_leave();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
