/* test_matmul_cuda.c - what the CUDA matrix product asks of cuBLASLt, with a library that computes on the host:
 * the column-major view is right for every shape, transpose and dtype, trials leave no trace, and an
 * algorithm is chosen once. */
// link: device kernels base
// private: runtime/kernels/cuda runtime/device/cuda
// needs: cuda
#include "fake_cublaslt.h"
#include "kernel_case.h"

#include "gemm_table.c"
#include "matmul.c"
#include "matmul_choice.c"
#include "matmul_load.c"

struct rig {
    struct cuda_device device;
    struct cuda_math math;
    struct cuda_stream stream;
};

static void rig_open_to_tune(struct rig *rig, int is_deterministic, uint64_t tuning_ns)
{
    memset(&fake, 0, sizeof fake);
    fake.algo_count = FAKE_ALGOS;
    fake.accepts_bytes = 1;
    for (int i = 1; i <= FAKE_ALGOS; i++)
        fake.cost_ns[i] = i == 4 ? 60000 : 100000;
    *rig = (struct rig){.device = {.clock = &fake_clock,
                                   .is_deterministic = is_deterministic,
                                   .tuning_ns = tuning_ns,
                                   .processor_count = 3,
                                   .name = "GPU of a test"}};
    rig->device.math = &rig->math;
    rig->stream.base.device = &rig->device.base;
    assert_ok(cuda_gemm_open(&rig->device, &rig->math.gemm));
}

static void rig_open(struct rig *rig, int is_deterministic)
{
    rig_open_to_tune(rig, is_deterministic, 0);
}

static void rig_close(struct rig *rig)
{
    cuda_gemm_close(rig->math.gemm);
}

/* ---- numbers */

struct shape {
    uint64_t m, n, k;
};

enum added { ADDED_NOTHING, ADDED_C, ADDED_APART, ADDED_COUNT };

static double expected(const struct ds_matmul_args *args, const float *a, const float *b, float c,
                       size_t k, size_t i, size_t j)
{
    const size_t m = args->c.shape[0], n = args->c.shape[1];
    double sum = args->add || args->addend.data ? (double)c : 0.0;

    for (size_t l = 0; l < k; l++)
        sum += (double)a[args->trans_a ? l * m + i : i * k + l] *
               (double)b[args->trans_b ? j * k + l : l * n + j];
    return sum;
}

static float *random_matrix(struct kernel_case *k, enum case_storage storage, size_t count)
{
    k->storage = storage;
    return case_floats(k, count);
}

static void product_is_right(struct rig *rig, uint64_t seed, struct shape s, int variant,
                             enum case_storage in, enum case_storage out)
{
    struct kernel_case k = {.random = seed};
    float *a = random_matrix(&k, in, s.m * s.k), *b = random_matrix(&k, in, s.k * s.n);
    float *c = random_matrix(&k, out, s.m * s.n), *before = case_copy(&k, c, s.m * s.n);
    double *want = case_doubles(&k, s.m * s.n);
    const int ta = variant & 1, tb = variant >> 1 & 1, added = variant >> 2;
    struct ds_matmul_args args = {.a = ta ? f32_2(a, s.k, s.m) : f32_2(a, s.m, s.k),
                                  .b = tb ? f32_2(b, s.n, s.k) : f32_2(b, s.k, s.n),
                                  .c = f32_2(c, s.m, s.n),
                                  .trans_a = ta,
                                  .trans_b = tb,
                                  .add = added == ADDED_C};

    if (added == ADDED_APART)
        args.addend = f32_2(before, s.m, s.n);
    for (size_t i = 0; i < s.m * s.n; i++)
        want[i] = expected(&args, a, b, before[i], s.k, i / s.n, i % s.n);
    for (size_t i = 0; i < s.m * s.n && !args.add; i++)
        c[i] = NAN;
    case_store_as(&k, &args.a, in);
    case_store_as(&k, &args.b, in);
    case_store_as(&k, &args.c, out);
    case_store_as(&k, &args.addend, out);
    assert_ok(cuda_matmul(&rig->stream.base, &args));
    case_load(&k);
    assert_rounded(out, c, want, s.m * s.n);
    case_free(&k);
}

#define VARIANTS (4 * ADDED_COUNT)

/* Some need several pieces in fp32, some are too large for trials with `add`. */
static void products_are_right_whatever_is_stored_and_transposed(void **state)
{
    static const struct shape shapes[] = {{1, 1, 1}, {5, 7, 3},    {1, 9, 4},
                                          {8, 1, 5}, {40, 33, 17}, {3, 500, 9}};
    const uint64_t seed = test_seed(__func__);
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    FOR_ROWS(shapes, i)
    for (int variant = 0; variant < VARIANTS * 9; variant++)
        product_is_right(&rig, seed + i, shapes[i],
                         VARIANTS - 1 - variant % VARIANTS, /* with what is added first */
                         (enum case_storage)(variant / VARIANTS / 3),
                         (enum case_storage)(variant / VARIANTS % 3));
    rig_close(&rig);
}

static void a_sum_of_no_products_is_what_is_added(void **state)
{
    float c[2] = {1, 2}, addend[2] = {3, 4};
    struct ds_matmul_args args = {
        .a = f32_2(c, 2, 0), .b = f32_2(c, 0, 1), .c = f32_2(c, 2, 1), .add = 1};
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_true(c[0] == 1 && c[1] == 2);
    args.add = 0;
    args.addend = f32_2(addend, 2, 1);
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_true(c[0] == 3 && c[1] == 4);
    args.addend.data = NULL;
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_true(c[0] == 0 && c[1] == 0);

    float wide[4] = {1, 2, 3, 4}; /* a column of a wider matrix: what is beside it stays */
    args.c = f32_2(wide, 2, 1);
    args.c_stride = 2;
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_true(wide[0] == 0 && wide[1] == 2 && wide[2] == 0 && wide[3] == 4);
    rig_close(&rig);
}

/* ---- choices */

static float room[4 * 4 * 64];

static struct ds_matmul_args small_product(uint64_t m, int add)
{
    return (struct ds_matmul_args){
        .a = f32_2(room, m, 4), .b = f32_2(room, 4, 4), .c = f32_2(room + 64, m, 4), .add = add};
}

static void the_fastest_is_timed_once_and_kept(void **state)
{
    struct ds_matmul_args args = small_product(4, 0);
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_int_equal(fake.last_algo, 4);
    assert_int_equal(fake.launches, FAKE_ALGOS * (1 + TRIALS) + 1);
    assert_int_equal(fake.schemes, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    for (args.add = 0; args.add < 2; args.add++) {
        fake.launches = 0;
        assert_ok(cuda_matmul(&rig.stream.base, &args));
        assert_int_equal(fake.launches, 1);
        assert_int_equal(fake.last_algo, 4);
    }
    assert_int_equal(fake.questions, 1);
    rig_close(&rig);
}

static void what_is_refused_or_hardly_faster_is_not_taken(void **state)
{
    const struct ds_matmul_args args = small_product(4, 1);
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    fake.cost_ns[1] = 0;
    fake.cost_ns[4] = 99500;
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_int_equal(fake.last_algo, 2);
    rig_close(&rig);
}

#define LONG_NS 3600000000000u /* enough to time all there is */

/* Algorithm 4 is ahead while the GPU is cool, 2 once it is not. */
static void rig_open_that_heats(struct rig *rig, uint64_t tuning_ns)
{
    rig_open_to_tune(rig, 0, tuning_ns);
    fake.is_idle = 1;
    for (int i = 1; i <= FAKE_ALGOS; i++)
        fake.hot_cost_ns[i] = i == 2 ? 110000 : 120000;
    fake.cost_ns[4] = 90000;
    fake.hot_after_ns = 1500000000;
}

static void under_load_what_is_fastest_in_a_hot_gpu_is_taken(void **state)
{
    struct ds_matmul_args args = small_product(4, 0);

    (void)state;
    for (int is_wanted = 0; is_wanted < 2; is_wanted++) {
        struct rig rig;

        rig_open_that_heats(&rig, is_wanted ? LONG_NS : 0);
        assert_ok(cuda_matmul(&rig.stream.base, &args));
        assert_int_equal(fake.last_algo, is_wanted ? 2 : 4);
        assert_int_equal(fake.now_ns > fake.hot_after_ns, is_wanted);
        assert_int_equal(rig.math.gemm->table.entries[0].known,
                         is_wanted ? GEMM_TIMED_UNDER_LOAD : GEMM_TIMED);
        fake.launches = 0;
        assert_ok(cuda_matmul(&rig.stream.base, &args));
        assert_int_equal(fake.launches, 1);
        rig_close(&rig);
    }
}

static void load_is_bounded_and_the_rest_timed_in_a_moment(void **state)
{
    const uint64_t tuning_ns = 10 * 1000000000ull;
    struct rig rig;
    uint32_t count[3] = {0};

    (void)state;
    rig_open_that_heats(&rig, tuning_ns);
    for (uint64_t m = 1; m <= 16; m++) {
        const struct ds_matmul_args args = small_product(m, 0);

        assert_ok(cuda_matmul(&rig.stream.base, &args));
        count[rig.math.gemm->table.entries[m - 1].known]++;
    }
    assert_true(count[GEMM_TIMED_UNDER_LOAD] >= 2);
    assert_true(count[GEMM_TIMED] >= 2);
    assert_int_equal(count[GEMM_GUESSED], 0);
    assert_true(fake.now_ns < tuning_ns + tuning_ns / 2);
    rig_close(&rig);
}

/* known of an entry that came as bytes, is load wanted, was it timed again */
static void what_was_timed_in_a_moment_is_timed_again_where_load_is_wanted(void **state)
{
    static const struct {
        enum gemm_known known;
        int is_wanted, is_sealed, is_again;
    } rows[] = {{GEMM_TIMED, 0, 0, 0},
                {GEMM_TIMED, 1, 0, 1},
                {GEMM_TIMED, 1, 1, 0},
                {GEMM_TIMED_UNDER_LOAD, 0, 0, 0},
                {GEMM_TIMED_UNDER_LOAD, 1, 0, 0}};
    const struct ds_matmul_args args = small_product(4, 0);
    const uint64_t words[GEMM_ALGO_WORDS] = {5};

    (void)state;
    FOR_ROWS(rows, i)
    {
        struct rig rig;
        struct gemm_call call;

        rig_open_that_heats(&rig, rows[i].is_wanted ? LONG_NS : 0);
        rig.math.gemm->is_sealed = rows[i].is_sealed;
        call = describe(&rig.stream.base, &args);
        assert_non_null(gemm_table_set(&rig.math.gemm->table, &call.key, words, rows[i].known));
        for (int again = 0; again < 2; again++)
            assert_ok(cuda_matmul(&rig.stream.base, &args));
        assert_int_equal(fake.last_algo, rows[i].is_again ? 2 : 5);
        assert_int_equal(fake.questions, rows[i].is_again);
        rig_close(&rig);
    }
}

static void alignments_are_told_as_they_are(void **state)
{
    struct ds_matmul_args args = small_product(4, 0);
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    args.a.data = (char *)args.a.data + ((16 - (uintptr_t)args.a.data % 16) % 16) + 4;
    args.b.data = (char *)args.a.data + 4;
    args.c.data = (char *)args.a.data + 12 + 256;
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_int_equal(fake.alignment[0], 8); /* its A is our B */
    assert_int_equal(fake.alignment[1], 4);
    assert_int_equal(fake.alignment[2], 16);
    assert_int_equal(fake.alignment[3], 16);
    args.addend = args.c;
    args.addend.data = (char *)args.c.data + 256 + 4;
    assert_ok(cuda_matmul(&rig.stream.base, &args));
    assert_int_equal(fake.alignment[2], 4);
    assert_int_equal(fake.alignment[3], 4);
    rig_close(&rig);
}

/* Each makes the choice a guess: the first algorithm, one launch, nothing to hand on. */
static void without_leave_to_time_the_first_is_taken(void **state)
{
    unsigned char bytes[1 << 16];

    (void)state;
    for (int why = 0; why < 5; why++) {
        struct ds_matmul_args args = small_product(4, why == 4);
        struct cuda_gemm *gemm;
        struct rig rig;

        rig_open(&rig, why == 0);
        gemm = rig.math.gemm;
        gemm->is_sealed = why == 1;
        gemm->timing_left_ns = why == 2 ? 0 : GEMM_TIMING_NS;
        fake.capture = why == 3 ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
        fake.is_idle = 1;
        if (why == 4) /* 4 x 300 floats do not fit beside the workspace */
            args.c = f32_2(room, 4, 300), args.b = f32_2(room, 4, 300);
        for (int i = 0; i < 2; i++) {
            assert_ok(cuda_matmul(&rig.stream.base, &args));
            assert_int_equal(fake.launches, i + 1);
            assert_int_equal(fake.last_algo, 1);
            fake.capture = cudaStreamCaptureStatusNone; /* what is chosen stays */
        }
        assert_int_equal(gemm->table.timed_count, 0);
        assert_int_equal(gemm_table_save(&gemm->table, "", bytes), sizeof(struct stored_head));
        rig_close(&rig);
    }
}

static void time_spent_is_bounded_and_what_it_ran_out_on_is_a_guess(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    for (int i = 1; i <= FAKE_ALGOS; i++)
        fake.cost_ns[i] = 20 * 1000000; /* long: one trial each, but of the first */
    for (uint64_t m = 1; m <= 40; m++) {
        const struct ds_matmul_args args = small_product(m % 16 + 1, 0);

        fake.is_idle = 1;
        assert_ok(cuda_matmul(&rig.stream.base, &args));
    }
    assert_true(fake.now_ns < GEMM_TIMING_NS + (4 + 40) * 20 * 1000000ull);
    assert_int_equal(rig.math.gemm->table.count, 16);
    assert_true(rig.math.gemm->table.timed_count >= 4);
    assert_true(rig.math.gemm->table.timed_count < 16);
    rig_close(&rig);
}

static void an_algorithm_from_bytes_is_used_unless_the_library_refuses_it(void **state)
{
    const struct ds_matmul_args args = small_product(4, 0);

    (void)state;
    for (int is_accepted_here = 0; is_accepted_here < 2; is_accepted_here++) {
        struct rig rig;
        struct gemm_call call;
        const uint64_t words[GEMM_ALGO_WORDS] = {5};

        rig_open(&rig, 0);
        fake.accepts_bytes = is_accepted_here;
        call = describe(&rig.stream.base, &args);
        assert_non_null(gemm_table_set(&rig.math.gemm->table, &call.key, words, 1));
        for (int i = 0; i < 2; i++)
            assert_ok(cuda_matmul(&rig.stream.base, &args));
        assert_int_equal(fake.last_algo, is_accepted_here ? 5 : 4);
        assert_int_equal(fake.questions, !is_accepted_here);
        assert_int_equal(rig.math.gemm->table.count, 1);
        rig_close(&rig);
    }
}

/* What has no place is not timed either: it would be at each call. */
static void a_full_table_still_multiplies(void **state)
{
    const uint64_t seed = test_seed(__func__);
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    for (uint64_t i = 0; i < GEMM_ENTRIES_MAX + 20; i++) {
        fake.launches = 0;
        product_is_right(&rig, seed + i, (struct shape){i + 1, 2, 3}, (int)(i % 8), CASE_F32,
                         CASE_F32);
        assert_int_equal(fake.launches > 1, i < GEMM_ENTRIES_MAX);
    }
    assert_int_equal(rig.math.gemm->table.count, GEMM_ENTRIES_MAX);
    assert_true(rig.math.gemm->timing_left_ns > 0);
    rig_close(&rig);
}

static void a_library_without_an_algorithm_is_one_clear_line(void **state)
{
    const struct ds_matmul_args args = small_product(4, 0);
    struct rig rig;

    (void)state;
    rig_open(&rig, 0);
    fake.algo_count = 0;
    assert_int_equal(cuda_matmul(&rig.stream.base, &args), DS_ERR_UNSUPPORTED);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_right_whatever_is_stored_and_transposed),
        cmocka_unit_test(a_sum_of_no_products_is_what_is_added),
        cmocka_unit_test(the_fastest_is_timed_once_and_kept),
        cmocka_unit_test(what_is_refused_or_hardly_faster_is_not_taken),
        cmocka_unit_test(under_load_what_is_fastest_in_a_hot_gpu_is_taken),
        cmocka_unit_test(load_is_bounded_and_the_rest_timed_in_a_moment),
        cmocka_unit_test(what_was_timed_in_a_moment_is_timed_again_where_load_is_wanted),
        cmocka_unit_test(alignments_are_told_as_they_are),
        cmocka_unit_test(without_leave_to_time_the_first_is_taken),
        cmocka_unit_test(time_spent_is_bounded_and_what_it_ran_out_on_is_a_guess),
        cmocka_unit_test(an_algorithm_from_bytes_is_used_unless_the_library_refuses_it),
        cmocka_unit_test(a_full_table_still_multiplies),
        cmocka_unit_test(a_library_without_an_algorithm_is_one_clear_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
