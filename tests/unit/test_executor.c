// link: parallel optim zero model comm device kernels base
/* A list that needs more memory than was taken for the plan is a bug, whatever it is that it needs more
 * of. */
#include "test.h"

#include "dstrain/executor.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* The counts of slots that a list has, one after the other; NULL: no more. */
static uint32_t *count_of(struct ds_schedule *list, size_t index)
{
    uint32_t *counts[] = {&list->stream_slot_count,     &list->saved_slot_count,
                          &list->held_slot_count,       &list->slots.weight_count[0],
                          &list->slots.weight_count[1], &list->slots.grad_count[0],
                          &list->slots.grad_count[1]};

    return index < sizeof counts / sizeof *counts ? counts[index] : NULL;
}

static int ends_in_abort(struct ds_executor *executor, const struct ds_schedule *list)
{
    pid_t child = fork();
    int how = 0;

    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        _exit(ds_executor_run(executor, list) != DS_OK);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    return WIFSIGNALED(how) && WTERMSIG(how) == SIGABRT;
}

static void a_list_that_outgrows_the_plan_is_a_bug(void **state)
{
    const struct ds_device_options how = {.seed = 1, .thread_count = 1, .clock = ds_clock_system()};
    const struct ds_model_config config = {.hidden_size = 8};
    const struct ds_model model = {.config = config, .share = {.compute = DS_F32}};
    struct ds_schedule plan = {.is_training = 1};
    struct ds_device *device = NULL;
    struct ds_executor *executor = NULL;
    struct ds_memory memory;

    (void)state;
    for (size_t i = 0; count_of(&plan, i); i++)
        *count_of(&plan, i) = 1;
    assert_ok(ds_device_cpu_ops.open(0, &how, &device));
    ds_memory_init(&memory, device);
    assert_ok(ds_executor_open(&(struct ds_executor_options){.model = &model,
                                                             .device = device,
                                                             .memory = &memory,
                                                             .tokens_per_micro = 4,
                                                             .seq_length = 4,
                                                             .plan = &plan,
                                                             .is_training = 1},
                               &executor));
    assert_ok(ds_executor_run(executor, &plan));
    for (size_t i = 0; count_of(&plan, i); i++) {
        struct ds_schedule list = plan;
        *count_of(&list, i) = 2;
        if (!ends_in_abort(executor, &list))
            fail_msg("count %zu of slots was not looked at", i);
    }
    ds_executor_close(executor);
    ds_memory_fini(&memory);
    device->ops->close(device);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_that_outgrows_the_plan_is_a_bug),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
