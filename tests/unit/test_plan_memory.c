// link: launch
// private: launch
/* The memory of a plan is counted, and is not there: more than there are addresses for, to the byte; and host code that
 * reads it faults. */
#include "test.h"

#include "plan_case.h"

#include <setjmp.h>
#include <signal.h>

/* More than a process has addresses for is counted all the same, to the byte: the states of all parameters. */
static void a_plan_has_no_limit_of_addresses(void **state)
{
    static const struct setup setup = {
        "giant",
        1,
        {"model.hidden_size=1048576", "model.intermediate_size=16777216",
         "model.num_attention_heads=4096", "model.num_key_value_heads=4096",
         "model.num_hidden_layers=2"}};
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup.ranks);
    const uint64_t hidden = 1048576, inner = 16777216;
    const uint64_t layer = 4 * hidden * hidden + 3 * hidden * inner + 2 * hidden;
    struct ds_plan plan;

    (void)state;
    assert_true(load(&setup, NULL, DS_AUTO, &config));
    assert_ok(ds_plan_measure(&question, 0, &plan));
    assert_int_equal(plan.bytes[DS_MEMORY_DEVICE][DS_MEMORY_LABEL_EXP_AVG],
                     4 * (2 * layer + 2 * 300 * hidden + hidden));
    assert_true(ds_plan_device_bytes(&plan) > (uint64_t)1 << 48);
}

static volatile sig_atomic_t caught;
static sigjmp_buf escape;

static void catch_fault(int signal_number)
{
    caught = signal_number;
    siglongjmp(escape, 1);
}

/* Host code that reads device memory is not let through by a plan. */
static void planned_memory_faults_when_it_is_touched(void **state)
{
    const size_t sizes[] = {1, 4096, (size_t)1 << 54, (size_t)1 << 54, (size_t)1 << 60, 100};
    struct sigaction action = {.sa_handler = catch_fault}, before[2];
    struct ds_device *device;
    void *at;

    (void)state;
    assert_ok(ds_device_null_ops.open(0, NULL, &device));
    sigaction(SIGSEGV, &action, &before[0]);
    sigaction(SIGBUS, &action, &before[1]);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_ok(ds_device_null_ops.alloc(device, DS_MEMORY_DEVICE, sizes[i], 0, &at));
        assert_int_equal((uintptr_t)at % 4096, 0);
        caught = 0;
        if (sigsetjmp(escape, 1) == 0)
            (void)*(volatile char *)at;
        assert_true(caught != 0);
        ds_device_null_ops.release(device, DS_MEMORY_DEVICE, at, sizes[i]);
    }
    sigaction(SIGSEGV, &before[0], NULL);
    sigaction(SIGBUS, &before[1], NULL);
    ds_device_null_ops.close(device);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_has_no_limit_of_addresses),
        cmocka_unit_test(planned_memory_faults_when_it_is_touched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
