// link: launch
// private: launch/trainer
/* test_devices.c - what ranks have chosen to compute on, compared: who shares a GPU, and what is refused. */
#include "test.h"

#include "devices.h"

#include <string.h>

#define GPU(n)               \
    {                        \
        0x9e37 + (n), "cuda" \
    }
#define CPU      \
    {            \
        0, "cpu" \
    }

static void assert_refused(const struct device_choice *choices, uint32_t count, const char *words)
{
    char why[512];

    assert_false(device_choices_fit(choices, count, "auto", 0, why, sizeof why));
    if (strstr(why, words) == NULL)
        fail_msg("'%s' is not in: %s", words, why);
}

static void ranks_with_a_gpu_each_are_well(void **state)
{
    const struct device_choice choices[] = {GPU(0), GPU(1), GPU(2), GPU(3)};
    char why[512];

    (void)state;
    assert_true(device_choices_fit(choices, 4, "cuda", 0, why, sizeof why));
    for (uint32_t rank = 0; rank < 4; rank++)
        assert_int_equal(device_sharers(choices, 4, rank), 1);
}

static void cpus_are_shared_by_nature(void **state)
{
    const struct device_choice choices[] = {CPU, CPU, CPU};
    char why[512];

    (void)state;
    assert_true(device_choices_fit(choices, 3, "auto", 0, why, sizeof why));
    assert_int_equal(device_sharers(choices, 3, 1), 1);
}

static void more_ranks_than_gpus_are_refused_with_the_numbers(void **state)
{
    const struct device_choice choices[] = {GPU(0), GPU(1), GPU(0), GPU(1), GPU(0)};

    (void)state;
    assert_refused(choices, 5, "5 ranks have 2 GPUs between them");
    assert_refused(choices, 5, "rank 2 computes where rank 0 does");
    assert_refused(choices, 5, "mpirun -n 2");
    assert_refused(choices, 5, "run.share_device = true");
}

static void sharing_is_counted_where_it_is_allowed(void **state)
{
    const struct device_choice choices[] = {GPU(0), GPU(1), GPU(0), GPU(1), GPU(0)};
    char why[512];

    (void)state;
    assert_true(device_choices_fit(choices, 5, "cuda", 1, why, sizeof why));
    assert_int_equal(device_sharers(choices, 5, 0), 3);
    assert_int_equal(device_sharers(choices, 5, 3), 2);
}

/* On one host of several there is no GPU: auto would take the cpu there. Sharing does not matter. */
static void devices_of_two_kinds_are_refused(void **state)
{
    const struct device_choice choices[] = {GPU(0), GPU(1), CPU, CPU};
    char why[512];

    (void)state;
    assert_refused(choices, 4, "device = auto: rank 0 has cuda, rank 2 has cpu");
    assert_false(device_choices_fit(choices, 4, "auto", 1, why, sizeof why));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_with_a_gpu_each_are_well),
        cmocka_unit_test(cpus_are_shared_by_nature),
        cmocka_unit_test(more_ranks_than_gpus_are_refused_with_the_numbers),
        cmocka_unit_test(sharing_is_counted_where_it_is_allowed),
        cmocka_unit_test(devices_of_two_kinds_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
