/* test_attention_cudnn.c - which calls of attention go to cuDNN and how they are cut, with a library that only
 * writes down what it is asked: what fits the scratch memory goes at once, what does not in groups of sequences
 * that together are all of them. Packed documents are listed first, and own kernels stand behind. */
// link: device kernels base
// private: runtime/kernels/cuda runtime/device/cuda
// needs: cuda
#include "test.h"

#include "attention_cudnn.c"
#include "attention_graph.c"
#include "attention_node.c"
#include "attention_pack.c"
#include "attention_plan.c"
#include "attention_plans.c"

/* ---- the library */

enum { EXECUTIONS_MAX = 16 };

/* What a call of the library, of the listing kernel or of own kernels was about. */
struct execution {
    enum { CUDNN, LISTING, OWN } by;
    void *at[ATTENTION_ID_END];
    float scale;
    struct ds_attention_args args;
    int32_t slots;
    const int32_t *is_done;
};

static struct {
    int64_t workspace_bytes;
    int refuses, descriptor_count, plan_count, pack_count, execution_count;
    size_t scratch_bytes;
    struct execution executions[EXECUTIONS_MAX];
} fake;

struct fake_descriptor {
    cudnnBackendDescriptorType_t type;
    int64_t ids[ATTENTION_ID_END];
    void *at[ATTENTION_ID_END]; /* of a pack, by id */
};

static void note(struct execution execution)
{
    fake.executions[fake.execution_count++ % EXECUTIONS_MAX] = execution;
}

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
    for (int64_t i = 0; i < count; i++) {
        assert_true(of->ids[i] > 0 && of->ids[i] < ATTENTION_ID_END);
        assert_null(of->at[of->ids[i]]);
        of->at[of->ids[i]] = ((void *const *)value)[i];
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

    if (of->type == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)
        fake.pack_count++;
    if (of->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
        return CUDNN_STATUS_SUCCESS;
    fake.plan_count++;
    return fake.refuses ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t fake_execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack)
{
    struct execution execution = {.by = CUDNN};
    const struct fake_descriptor *of = pack;

    (void)handle;
    assert_non_null(plan);
    memcpy(execution.at, of->at, sizeof execution.at);
    execution.scale = *(const float *)of->at[ATTENTION_SCALE];
    assert_true(*(const float *)of->at[ATTENTION_HIDDEN] == -INFINITY);
    note(execution);
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

ds_status attention_documents_list(struct ds_stream *stream, const struct ds_attention_args *a,
                                   int32_t slots, struct attention_documents to)
{
    (void)stream;
    note((struct execution){.by = LISTING,
                            .args = *a,
                            .slots = slots,
                            .is_done = to.is_whole,
                            .at = {[ATTENTION_QUERIES_AT] = to.queries_at,
                                   [ATTENTION_KEYS_AT] = to.keys_at,
                                   [ATTENTION_LSE_AT] = to.lse_at,
                                   [ATTENTION_QUERY_LENGTHS] = to.lengths}});
    return DS_OK;
}

ds_status attention_own_forward(struct ds_stream *stream, const struct ds_attention_args *a,
                                const int32_t *is_done)
{
    (void)stream;
    note((struct execution){.by = OWN, .args = *a, .is_done = is_done});
    return DS_OK;
}

ds_status attention_own_backward(struct ds_stream *stream,
                                 const struct ds_attention_backward_args *a, const int32_t *is_done)
{
    return attention_own_forward(stream, &a->forward, is_done);
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
    cudnn->version = 91900;
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
                    .document_T = somewhere(9, DS_I32, t, 1, 1),
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

/* 8192 tokens in 2 sequences, of which so many documents are expected. */
static struct ds_attention_backward_args packed_call(uint64_t documents)
{
    const struct shape shape = {2, 4096, 8, 2, 64};
    struct ds_attention_backward_args a = call_of(&shape, DS_BF16);

    a.forward.one_document = 0;
    a.forward.document_count = documents;
    return a;
}

static void documents_are_taken_where_they_are_long(void **state)
{
    struct attention_cudnn *cudnn = open_fake(9);
    struct ds_attention_backward_args a = packed_call(0);
    const struct shape odd = {2, 4096, 8, 2, 72};

    (void)state;
    assert_false(is_taken(cudnn, &a)); /* nobody knows how many */
    a = packed_call(4);
    assert_true(is_taken(cudnn, &a));
    a = packed_call(64); /* of 128 tokens each */
    assert_false(is_taken(cudnn, &a));
    a = packed_call(UINT64_MAX / 2);
    assert_false(is_taken(cudnn, &a));
    a = call_of(&odd, DS_BF16);
    assert_true(is_taken(cudnn, &a));
    a.forward.one_document = 0;
    a.forward.document_count = 4;
    assert_false(is_taken(cudnn, &a));
    a = packed_call(4);
    cudnn->major = 8;
    assert_false(is_taken(cudnn, &a));
    cudnn->major = 12;
    assert_false(is_taken(cudnn, &a));
    cudnn->major = 10;
    cudnn->version = 90500;
    assert_false(is_taken(cudnn, &a));
    close_fake(cudnn);
}

/* Lists, then cuDNN with them, then own kernels that look whether they are needed. */
static void assert_listed(const struct execution *e, const struct ds_attention_args *a,
                          uint64_t first_token)
{
    const enum attention_id ids[] = {ATTENTION_QUERIES_AT, ATTENTION_KEYS_AT, ATTENTION_LSE_AT,
                                     ATTENTION_QUERY_LENGTHS};

    assert_int_equal(e[0].by, LISTING);
    assert_int_equal(e[1].by, CUDNN);
    assert_int_equal(e[2].by, OWN);
    assert_true(e[0].slots > (int32_t)e[0].args.document_count && e[0].slots > 1);
    for (size_t i = 0; i < 4; i++)
        assert_ptr_equal(e[0].at[ids[i]], e[1].at[ids[i]]);
    assert_ptr_equal(e[1].at[ATTENTION_KEY_LENGTHS], e[0].at[ATTENTION_QUERY_LENGTHS]);
    assert_non_null(e[0].is_done);
    assert_ptr_equal(e[0].is_done, e[2].is_done);
    for (int i = 0; i < 3; i += 2) {
        assert_ptr_equal(e[i].args.document_T.data, (int32_t *)a->document_T.data + first_token);
        assert_int_equal(e[i].args.q_THD.shape[0], e[i].args.o_THD.shape[0]);
        assert_ptr_equal(e[i].args.q_THD.data, e[1].at[ATTENTION_Q]);
    }
}

static void documents_are_listed_and_own_kernels_stand_behind(void **state)
{
    struct attention_cudnn *cudnn = open_fake(9);
    const struct ds_attention_backward_args a = packed_call(5);
    struct cuda_stream stream = {0};
    int is_done = 0;

    (void)state;
    fake.workspace_bytes = 1000;
    assert_ok(attention_cudnn_forward(cudnn, &stream.base, &a.forward, &is_done));
    assert_true(is_done);
    assert_int_equal(fake.execution_count, 3);
    assert_listed(fake.executions, &a.forward, 0);
    assert_ok(attention_cudnn_backward(cudnn, &stream.base, &a, &is_done));
    assert_int_equal(fake.execution_count, 6);
    assert_listed(fake.executions + 3, &a.forward, 0);
    close_fake(cudnn);
}

static void scratch_of_documents_does_not_overlap(void **state)
{
    struct attention_cudnn *cudnn = open_fake(9);
    const struct ds_attention_backward_args a = packed_call(5);
    const uint64_t rows = 8192 * 8, slots = 5 + 7;
    struct cuda_stream stream = {0};
    int is_done = 0;

    (void)state;
    fake.workspace_bytes = 1000;
    assert_ok(attention_cudnn_backward(cudnn, &stream.base, &a, &is_done));
    const struct execution *e = fake.executions;
    assert_int_equal(e[0].slots, slots);
    const struct {
        const void *at;
        size_t bytes;
    } pieces[] = {
        {scratch, 1000},
        {e[1].at[ATTENTION_QUERIES_AT], (slots + 1) * 8},
        {e[1].at[ATTENTION_KEYS_AT], (slots + 1) * 8},
        {e[1].at[ATTENTION_LSE_AT], (slots + 1) * 8},
        {e[1].at[ATTENTION_QUERY_LENGTHS], slots * 4},
        {e[0].is_done, 4},
        {e[1].at[ATTENTION_DQ_SUMS], rows * 64 * 4},
        {e[1].at[ATTENTION_DELTA], rows * 4},
        {e[1].at[ATTENTION_DK_HEADS], rows * 64 * 2},
        {e[1].at[ATTENTION_DV_HEADS], rows * 64 * 2},
    };
    const size_t count = sizeof pieces / sizeof pieces[0];

    for (size_t i = 0; i < count; i++) {
        const size_t at = (size_t)((const char *)pieces[i].at - scratch);

        assert_true(at % 256 == 0 && at + pieces[i].bytes <= fake.scratch_bytes);
        for (size_t j = 0; j < count; j++)
            assert_true(i == j ||
                        (const char *)pieces[i].at + pieces[i].bytes <=
                            (const char *)pieces[j].at ||
                        (const char *)pieces[j].at + pieces[j].bytes <= (const char *)pieces[i].at);
    }
    close_fake(cudnn);
}

static void documents_are_cut_at_sequences(void **state)
{
    struct attention_cudnn *cudnn = open_fake(9);
    const struct ds_attention_backward_args a = packed_call(5);
    struct cuda_stream stream = {0};
    int is_done = 0;

    (void)state;
    fake.workspace_bytes = CUDA_SCRATCH_BYTES - ((int64_t)20 << 20); /* 16 MiB a sequence */
    assert_ok(attention_cudnn_backward(cudnn, &stream.base, &a, &is_done));
    assert_true(is_done);
    assert_int_equal(fake.execution_count, 6);
    for (int i = 0; i < 2; i++) {
        const struct execution *e = fake.executions + 3 * i;

        assert_listed(e, &a.forward, (uint64_t)i * 4096);
        assert_int_equal(e[0].args.document_count, 3);
        assert_int_equal(e[0].args.q_THD.shape[0], 4096);
        assert_ptr_equal(e[1].at[ATTENTION_Q],
                         (char *)a.forward.q_THD.data + (size_t)i * 4096 * 8 * 64 * 2);
    }
    close_fake(cudnn);
}

static void forward_of(struct attention_cudnn *cudnn, const struct ds_attention_args *a)
{
    struct cuda_stream stream = {0};
    int is_done = 0;

    assert_ok(attention_cudnn_forward(cudnn, &stream.base, a, &is_done));
    assert_true(is_done);
}

static const struct execution *last_execution(void)
{
    return &fake.executions[(fake.execution_count - 1) % EXECUTIONS_MAX];
}

static void what_a_step_has_bound_is_not_made_again(void **state)
{
    const struct shape shape = {2, 256, 4, 2, 64};
    struct attention_cudnn *cudnn = open_fake(9);
    struct ds_attention_backward_args a = call_of(&shape, DS_BF16);

    (void)state;
    forward_of(cudnn, &a.forward);
    const int made = fake.descriptor_count;
    for (int i = 0; i < 3; i++)
        forward_of(cudnn, &a.forward);
    assert_int_equal(fake.descriptor_count, made);
    assert_int_equal(fake.pack_count, 1);
    a.forward.scale = 0.25f;
    forward_of(cudnn, &a.forward);
    assert_true(last_execution()->scale == 0.25f);
    assert_int_equal(fake.pack_count, 2);
    close_fake(cudnn);
}

/* More calls than packs are kept for, twice: each is about its own memory, and no more are kept than there are places. */
static void packs_that_meet_are_not_mistaken(void **state)
{
    const struct shape shape = {1, 128, 2, 2, 64};
    struct attention_cudnn *cudnn = open_fake(9);
    struct ds_attention_backward_args a = call_of(&shape, DS_BF16);

    (void)state;
    forward_of(cudnn, &a.forward);
    const int made = fake.descriptor_count - 1;
    for (size_t i = 0; i < 6 * PACKS_MAX; i++) {
        void *const v = (char *)a.forward.k_TGD.data + ((i % (3 * PACKS_MAX) + 1) << 20);

        a.forward.v_TGD.data = v;
        forward_of(cudnn, &a.forward);
        assert_ptr_equal(last_execution()->at[ATTENTION_V], v);
    }
    assert_true(fake.descriptor_count <= made + PACKS_MAX);
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
        cmocka_unit_test(documents_are_taken_where_they_are_long),
        cmocka_unit_test(documents_are_listed_and_own_kernels_stand_behind),
        cmocka_unit_test(scratch_of_documents_does_not_overlap),
        cmocka_unit_test(documents_are_cut_at_sequences),
        cmocka_unit_test(what_a_step_has_bound_is_not_made_again),
        cmocka_unit_test(packs_that_meet_are_not_mistaken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
