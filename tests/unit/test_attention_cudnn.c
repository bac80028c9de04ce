/* test_attention_cudnn.c - which calls of attention go to cuDNN and how they are cut, with a library that only
 * writes down what it is asked: what fits the scratch memory goes at once, what does not in groups of sequences
 * that together are all of them. */
// link: device kernels base
// private: runtime/kernels/cuda runtime/device/cuda
// needs: cuda
#include "test.h"

#include "attention_cudnn.c"
#include "attention_graph.c"
#include "attention_node.c"
#include "attention_plan.c"

/* ---- the library */

enum { EXECUTIONS_MAX = 16 };

struct execution {
    void *at[ATTENTION_ID_END];
    int bound_count;
};

static struct {
    int64_t workspace_bytes;
    int refuses, descriptor_count, plan_count, execution_count;
    size_t scratch_bytes;
    struct execution pack, executions[EXECUTIONS_MAX];
} fake;

struct fake_descriptor {
    cudnnBackendDescriptorType_t type;
    int64_t ids[ATTENTION_ID_END];
};

static cudnnStatus_t fake_make(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out)
{
    struct fake_descriptor *made = calloc(1, sizeof *made);

    made->type = type;
    fake.descriptor_count++;
    *out = made;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t fake_destroy(cudnnBackendDescriptor_t descriptor)
{
    free(descriptor);
    fake.descriptor_count--;
    return CUDNN_STATUS_SUCCESS;
}

/* Ids come before pointers. */
static cudnnStatus_t fake_set(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                              cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    struct fake_descriptor *of = descriptor;

    (void)type;
    if (name == CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS)
        memcpy(of->ids, value, (size_t)count * sizeof *of->ids);
    if (name != CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)
        return CUDNN_STATUS_SUCCESS;
    fake.pack = (struct execution){.bound_count = (int)count};
    for (int64_t i = 0; i < count; i++) {
        assert_true(of->ids[i] > 0 && of->ids[i] < ATTENTION_ID_END);
        fake.pack.at[of->ids[i]] = ((void *const *)value)[i];
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t fake_get(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                              cudnnBackendAttributeType_t type, int64_t wanted, int64_t *count,
                              void *value)
{
    (void)descriptor;
    (void)type;
    (void)wanted;
    *count = 1;
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)
        *(int64_t *)value = fake.workspace_bytes;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t fake_finish(cudnnBackendDescriptor_t descriptor)
{
    const struct fake_descriptor *of = descriptor;

    if (of->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
        return CUDNN_STATUS_SUCCESS;
    fake.plan_count++;
    return fake.refuses ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t fake_execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack)
{
    (void)handle;
    (void)pack;
    assert_non_null(plan);
    assert_true(fake.execution_count < EXECUTIONS_MAX);
    fake.executions[fake.execution_count++] = fake.pack;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t fake_set_stream(cudnnHandle_t handle, cudaStream_t stream)
{
    (void)handle;
    (void)stream;
    return CUDNN_STATUS_SUCCESS;
}

static const char *fake_error_string(cudnnStatus_t status)
{
    (void)status;
    return "a status of the test";
}

static void fake_last_error(char *to, size_t bytes)
{
    snprintf(to, bytes, "a reason");
}

/* ---- what the plugin brings otherwise */

static char scratch[1];

ds_status cuda_scratch(struct ds_stream *stream, size_t bytes, void **at)
{
    (void)stream;
    assert_true(bytes <= CUDA_SCRATCH_BYTES);
    if (bytes > fake.scratch_bytes)
        fake.scratch_bytes = bytes;
    *at = scratch;
    return DS_OK;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    return cudaSuccess;
}

static struct attention_cudnn *open_fake(int major)
{
    struct attention_cudnn *cudnn = calloc(1, sizeof *cudnn);

    memset(&fake, 0, sizeof fake);
    cudnn->major = major;
    cudnn->library = (struct cudnn_library){.cudnnSetStream = fake_set_stream,
                                            .cudnnGetErrorString = fake_error_string,
                                            .cudnnGetLastErrorString = fake_last_error,
                                            .cudnnBackendCreateDescriptor = fake_make,
                                            .cudnnBackendDestroyDescriptor = fake_destroy,
                                            .cudnnBackendSetAttribute = fake_set,
                                            .cudnnBackendGetAttribute = fake_get,
                                            .cudnnBackendFinalize = fake_finish,
                                            .cudnnBackendExecute = fake_execute};
    return cudnn;
}

static void close_fake(struct attention_cudnn *cudnn)
{
    attention_cudnn_close(cudnn);
    assert_int_equal(fake.descriptor_count, 0);
}

/* ---- calls */

struct shape {
    uint64_t seq_count, seq_length, heads, kv_heads, dim;
};

/* Addresses that nobody reads, far from each other. */
static struct ds_tensor somewhere(int number, enum ds_dtype dtype, uint64_t tokens, uint64_t heads,
                                  uint64_t dim)
{
    return ds_tensor3((void *)((uintptr_t)(number + 1) << 40), dtype, tokens, heads, dim);
}

static struct ds_attention_backward_args call_of(const struct shape *s, enum ds_dtype dtype)
{
    const uint64_t t = s->seq_count * s->seq_length;
    struct ds_attention_backward_args a = {
        .forward = {.q_THD = somewhere(0, dtype, t, s->heads, s->dim),
                    .k_TGD = somewhere(1, dtype, t, s->kv_heads, s->dim),
                    .v_TGD = somewhere(2, dtype, t, s->kv_heads, s->dim),
                    .o_THD = somewhere(3, dtype, t, s->heads, s->dim),
                    .lse_TH = somewhere(4, DS_F32, t, s->heads, 1),
                    .seq_length = s->seq_length,
                    .scale = 0.5f,
                    .one_document = 1},
        .do_THD = somewhere(5, dtype, t, s->heads, s->dim),
        .dq_THD = somewhere(6, dtype, t, s->heads, s->dim),
        .dk_TGD = somewhere(7, dtype, t, s->kv_heads, s->dim),
        .dv_TGD = somewhere(8, dtype, t, s->kv_heads, s->dim)};

    a.forward.lse_TH.dim_count = 2;
    return a;
}

static int is_taken(struct attention_cudnn *cudnn, const struct ds_attention_backward_args *a)
{
    struct cuda_stream stream = {0};
    int forward = 0, backward = 0;

    assert_ok(attention_cudnn_forward(cudnn, &stream.base, &a->forward, &forward));
    assert_ok(attention_cudnn_backward(cudnn, &stream.base, a, &backward));
    assert_int_equal(forward, backward);
    return forward;
}

static void what_cudnn_cannot_do_is_left_to_others(void **state)
{
    const struct shape shape = {2, 256, 4, 2, 64}, wide = {2, 256, 4, 2, 192},
                       odd = {2, 256, 4, 2, 66}, length = {2, 200, 4, 2, 64};
    struct attention_cudnn *cudnn = open_fake(8);
    struct ds_attention_backward_args a = call_of(&shape, DS_BF16);

    (void)state;
    assert_true(is_taken(cudnn, &a));
    a.forward.one_document = 0;
    assert_false(is_taken(cudnn, &a));
    a = call_of(&shape, DS_F32);
    assert_false(is_taken(cudnn, &a));
    a = call_of(&odd, DS_BF16);
    assert_false(is_taken(cudnn, &a));
    a = call_of(&length, DS_BF16);
    assert_false(is_taken(cudnn, &a));
    a = call_of(&wide, DS_F16);
    assert_false(is_taken(cudnn, &a));
    cudnn->major = 9;
    assert_true(is_taken(cudnn, &a));
    a.forward.k_TGD.data = (char *)a.forward.k_TGD.data + 8;
    assert_false(is_taken(cudnn, &a));
    close_fake(cudnn);
}

static void a_shape_has_one_plan_and_a_refusal_is_remembered(void **state)
{
    const struct shape shape = {2, 256, 4, 2, 64}, other = {2, 384, 4, 2, 64};
    struct attention_cudnn *cudnn = open_fake(9);
    struct ds_attention_backward_args a = call_of(&shape, DS_BF16);

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_true(is_taken(cudnn, &a));
    assert_int_equal(fake.plan_count, 2);
    assert_int_equal(fake.execution_count, 6);
    fake.refuses = 1;
    a = call_of(&other, DS_BF16);
    for (int i = 0; i < 3; i++)
        assert_false(is_taken(cudnn, &a));
    assert_int_equal(fake.plan_count, 4);
    assert_int_equal(fake.execution_count, 6);
    close_fake(cudnn);
}

/* Each tensor of execution i begins `tokens` tokens behind that of execution i - 1. */
static void assert_apart(const struct ds_attention_backward_args *a, int i, uint64_t tokens)
{
    const struct {
        enum attention_id id;
        const struct ds_tensor *of;
    } bound[] = {
        {ATTENTION_Q, &a->forward.q_THD},    {ATTENTION_K, &a->forward.k_TGD},
        {ATTENTION_V, &a->forward.v_TGD},    {ATTENTION_O, &a->forward.o_THD},
        {ATTENTION_LSE, &a->forward.lse_TH}, {ATTENTION_DO, &a->do_THD},
        {ATTENTION_DQ, &a->dq_THD},          {ATTENTION_DK, &a->dk_TGD},
        {ATTENTION_DV, &a->dv_TGD},
    };

    for (size_t k = 0; k < sizeof bound / sizeof bound[0]; k++) {
        const struct ds_tensor *of = bound[k].of;
        const size_t row = of->shape[1] * of->shape[2] * ds_dtype_bytes(of->dtype);

        assert_ptr_equal(fake.executions[i].at[bound[k].id],
                         (char *)of->data + (uint64_t)i * tokens * row);
    }
}

static void backward_is_cut_into_groups_that_fit(void **state)
{
    const struct shape shape = {5, 4096, 32, 8, 64};
    const uint64_t bytes = 4096 * 32 * 64 * 4; /* of a sequence's sums: 32 MiB */
    struct attention_cudnn *cudnn = open_fake(9);
    const struct ds_attention_backward_args a = call_of(&shape, DS_BF16);
    struct cuda_stream stream = {0};
    int is_done = 0;

    (void)state;
    fake.workspace_bytes =
        7 * (int64_t)bytes; /* 5 and 3 sequences do not fit beside it; 2, 2 and 1 do */
    assert_ok(attention_cudnn_backward(cudnn, &stream.base, &a, &is_done));
    assert_true(is_done);
    assert_int_equal(fake.execution_count, 3);
    for (int i = 0; i < 3; i++)
        assert_apart(&a, i, 2 * 4096);
    assert_true(fake.scratch_bytes > 9 * bytes && fake.scratch_bytes <= CUDA_SCRATCH_BYTES);
    close_fake(cudnn);
}

static void scratch_of_a_call_does_not_overlap(void **state)
{
    const struct shape shape = {1, 256, 4, 2, 64};
    struct attention_cudnn *cudnn = open_fake(9);
    const struct ds_attention_backward_args a = call_of(&shape, DS_F16);
    struct cuda_stream stream = {0};
    const struct execution *e = fake.executions;
    int is_done = 0;

    (void)state;
    fake.workspace_bytes = 1000;
    assert_ok(attention_cudnn_backward(cudnn, &stream.base, &a, &is_done));
    const size_t sums_at = (size_t)((char *)e->at[ATTENTION_DQ_SUMS] - scratch);
    const size_t delta_at = (size_t)((char *)e->at[ATTENTION_DELTA] - scratch);
    assert_true(sums_at >= 1000 && sums_at % 256 == 0);
    assert_true(delta_at >= sums_at + 256 * 4 * 64 * sizeof(float) && delta_at % 256 == 0);
    assert_true(fake.scratch_bytes >= delta_at + 256 * 4 * sizeof(float));
    close_fake(cudnn);
}

static void a_sequence_that_does_not_fit_is_left_to_others(void **state)
{
    const struct shape shape = {2, 65536, 32, 8, 64};
    struct attention_cudnn *cudnn = open_fake(9);
    const struct ds_attention_backward_args a = call_of(&shape, DS_BF16);
    struct cuda_stream stream = {0};
    int is_done = 0;

    (void)state;
    assert_ok(attention_cudnn_backward(cudnn, &stream.base, &a, &is_done));
    assert_false(is_done);
    assert_int_equal(fake.plan_count, 0); /* not even asked */
    assert_ok(attention_cudnn_forward(cudnn, &stream.base, &a.forward, &is_done));
    assert_true(is_done);
    close_fake(cudnn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cudnn_cannot_do_is_left_to_others),
        cmocka_unit_test(a_shape_has_one_plan_and_a_refusal_is_remembered),
        cmocka_unit_test(backward_is_cut_into_groups_that_fit),
        cmocka_unit_test(scratch_of_a_call_does_not_overlap),
        cmocka_unit_test(a_sequence_that_does_not_fit_is_left_to_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
