// link: launch
// private: launch
/* What libraries take of a device is planned, counts against the limit, and is compared with what the driver
 * says: on devices that claim to be GPUs. */
#include "capture.h"
#include "test.h"
#include "tiny_run.h"

#include "memory_used.h"
#include "plan.h"

#include "dstrain/overhead_cuda.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)

static char *folder, *data;

static struct tiny_case case_of(uint32_t ranks, uint32_t tensor)
{
    return (struct tiny_case){.ranks = ranks,
                              .tensor = tensor,
                              .steps = 3,
                              .global_batch = 4,
                              .micro_batch = 1,
                              .seed = 1,
                              .data = data};
}

/* ---- the plan */

static void pieces_fill_pages(void **state)
{
    static const struct {
        uint64_t bytes[4], rest;
    } rows[] = {
        {{2 * MIB}, 0},
        {{3 * MIB}, MIB},
        {{MIB}, MIB},
        {{MIB - 1}, MIB + 1},
        {{100 * KIB, 200 * KIB, 700 * KIB}, MIB + 24 * KIB},
        {{MIB - 1, MIB - 1, 4 * KIB}, 2 * MIB - 4 * KIB + 2},
        {{5 * MIB, 12 * KIB, 4 * MIB + 1, MIB / 2}, MIB + 2 * MIB - 1 + 2 * MIB - 524 * KIB},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ds_device *device;
        struct ds_memory memory;
        void *at;
        assert_ok(ds_device_null_ops.open(0, NULL, &device));
        ds_memory_init(&memory, device);
        for (int j = 0; j < 4; j++)
            assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_PARAMS,
                                     rows[i].bytes[j], &at));
        assert_ok(ds_memory_take(&memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, MIB, &at));
        assert_int_equal(ds_memory_page_rest(&memory, 2 * MIB), rows[i].rest);
        assert_int_equal(ds_memory_page_rest(&memory, 0), 0);
        ds_memory_fini(&memory);
        ds_device_null_ops.close(device);
    }
}

static struct ds_plan plan_of(uint32_t ranks, uint32_t tensor, const char *device)
{
    static struct ds_config config;
    const struct tiny_case c = case_of(ranks, tensor);
    const struct ds_plan_question question = {
        .config = &config, .fs = ds_fs_posix(), .clock = ds_clock_system(), .size = ranks};
    struct ds_plan plan;

    tiny_config(&c, &config);
    strcpy(config.run.device, device);
    assert_ok(ds_plan_measure(&question, 0, &plan));
    return plan;
}

/* What the device keeps to map the host's memory. */
static uint64_t mapped_bytes(const struct ds_plan *plan)
{
    uint64_t pinned = 0;

    for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
        pinned += plan->bytes[DS_MEMORY_PINNED][label];
    assert_true(pinned > 2 * ds_overhead_cuda.pinned_per_byte);
    return pinned / ds_overhead_cuda.pinned_per_byte;
}

/* Without a GPU. */
static void libraries_are_planned_on_a_gpu_alone(void **state)
{
    const struct ds_plan cpu = plan_of(1, 1, "cpu"), one = plan_of(1, 1, "cuda");
    const uint64_t fixed = ds_overhead_cuda.library_bytes + ds_overhead_cuda.scratch_bytes;

    (void)state;
    assert_int_equal(cpu.library_bytes, 0);
    assert_int_equal(ds_plan_process_bytes(&cpu), ds_plan_device_bytes(&cpu));
    assert_int_equal(ds_plan_device_bytes(&one), ds_plan_device_bytes(&cpu));
    assert_true(one.library_bytes > fixed);
    assert_int_equal(ds_plan_process_bytes(&one), ds_plan_device_bytes(&one) + one.library_bytes);
    assert_int_equal((ds_plan_process_bytes(&one) - fixed - mapped_bytes(&one)) %
                         ds_overhead_cuda.page_bytes,
                     0);
}

/* Of groups: the two shards are one; two tensor ranks are two, of activations and of gradients that all of
 * them see a part of. */
static void each_communicator_counts(void **state)
{
    const struct {
        uint32_t ranks, tensor, groups;
    } rows[] = {{1, 1, 0}, {2, 1, 1}, {2, 2, 2}, {4, 2, 3}};
    const uint64_t pages = 64 * MIB; /* more than they differ by */

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct ds_plan plan = plan_of(rows[i].ranks, rows[i].tensor, "cuda");
        const uint64_t groups =
            plan.library_bytes - ds_overhead_cuda.library_bytes - ds_overhead_cuda.scratch_bytes;
        const uint64_t least = rows[i].groups * ds_overhead_cuda.group_bytes +
                               (rows[i].groups > 0 ? ds_overhead_cuda.first_group_bytes : 0);
        assert_true(groups >= least);
        assert_true(groups < least + pages);
    }
}

static void libraries_count_against_the_limit(void **state)
{
    const struct ds_plan plan = plan_of(1, 1, "cuda");
    static struct ds_config config;

    (void)state;
    config.memory.host_limit = DS_AUTO;
    config.memory.device_limit = ds_plan_process_bytes(&plan);
    assert_true(ds_plan_fits(&config, &plan));
    config.memory.device_limit--;
    assert_false(ds_plan_fits(&config, &plan));
}

/* ---- the run */

static const struct ds_device_overhead overhead = {
    .library_bytes = 10 * MIB, .group_bytes = MIB, .scratch_bytes = 5 * MIB};
static struct ds_device_ops gpu; /* the cpu, which claims to be one */
static double counted;           /* by its driver, of what was planned */
static uint64_t taken;           /* through the table */

static ds_status gpu_open(int index, const struct ds_device_options *options,
                          struct ds_device **out)
{
    DS_TRY(ds_device_cpu_ops.open(index, options, out));
    (*out)->ops = &gpu;
    return DS_OK;
}

static ds_status gpu_alloc(struct ds_device *device, enum ds_memory_kind kind, size_t bytes,
                           uint32_t flags, void **at)
{
    if (kind == DS_MEMORY_DEVICE)
        taken += bytes;
    return ds_device_cpu_ops.alloc(device, kind, bytes, flags, at);
}

static ds_status gpu_memory_used(struct ds_device *device, size_t *bytes)
{
    const uint64_t planned = taken + overhead.library_bytes + overhead.scratch_bytes;

    (void)device;
    *bytes = (size_t)((double)planned * counted);
    return DS_OK;
}

static struct ds_config config;
static struct ds_trainer *trainer;

static ds_status check_at_step(void *user, const struct ds_step_report *report)
{
    (void)user;
    return report->step == DS_MEMORY_IS_TAKEN_STEP ? ds_memory_used_check(&config, trainer) : DS_OK;
}

/* What is said in a run on one rank. */
static void run_and_tell(double share, struct capture *capture)
{
    struct ds_trainer_options options = {.config = &config,
                                         .fs = ds_fs_posix(),
                                         .clock = ds_clock_system(),
                                         .device = &gpu,
                                         .on_step = check_at_step};

    counted = share;
    taken = 0;
    assert_ok(ds_comm_self_open(ds_clock_system(), &options.world));
    assert_ok(ds_trainer_open(&options, &trainer));
    capture_begin(capture);
    assert_ok(ds_trainer_run(trainer));
    (void)capture_end(capture);
    ds_trainer_close(trainer);
    ds_comm_close(options.world);
}

static void what_the_driver_counts_is_compared_with_the_plan(void **state)
{
    static const struct {
        double share;
        const char *says; /* one line that has this; NULL: none */
        int is_warning;
    } rows[] = {{1, " +0.00 % of what was planned", 0},
                {1.019, " +1.90 % of what was planned", 0},
                {0.981, " -1.90 % of what was planned", 0},
                {1.03, " +3.0 % of what was planned: ", 1},
                {0.5, " -50.0 % of what was planned: ", 1}};
    const struct tiny_case c = case_of(1, 1);
    static struct capture capture;

    (void)state;
    tiny_config(&c, &config);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run_and_tell(rows[i].share, &capture);
        const char *line = strstr(capture.text, "memory: the driver counts ");
        assert_non_null(line);
        assert_non_null(strstr(line, rows[i].says));
        assert_null(strstr(line + 1, "memory: the driver"));
        assert_int_equal(strstr(capture.text, "warning") != NULL, rows[i].is_warning);
    }
}

static void a_device_that_is_shared_is_not_compared(void **state)
{
    const struct tiny_case c = case_of(1, 1);
    static struct capture capture;

    (void)state;
    tiny_config(&c, &config);
    config.run.share_device = 1;
    run_and_tell(4, &capture);
    assert_null(strstr(capture.text, "memory: the driver"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_fill_pages),
        cmocka_unit_test(libraries_are_planned_on_a_gpu_alone),
        cmocka_unit_test(each_communicator_counts),
        cmocka_unit_test(libraries_count_against_the_limit),
        cmocka_unit_test(what_the_driver_counts_is_compared_with_the_plan),
        cmocka_unit_test(a_device_that_is_shared_is_not_compared),
    };
    int failed;

    gpu = ds_device_cpu_ops;
    gpu.open = gpu_open;
    gpu.alloc = gpu_alloc;
    gpu.memory_used = gpu_memory_used;
    gpu.overhead = &overhead;
    folder = tiny_folder();
    data = tiny_data(folder, 1, 16);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
