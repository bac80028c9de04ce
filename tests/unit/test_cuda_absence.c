// link: base
// private: runtime/device/cuda
/* test_cuda_absence.c - why there is no GPU, told apart: no driver, one that is too old, none shown. */
#include "test.h"

#include "absence.h"

#include <string.h>

static void assert_tells(struct cuda_absence absence, const char *words)
{
    char text[256];

    cuda_absence_tell(&absence, text, sizeof text);
    if (strstr(text, words) == NULL)
        fail_msg("'%s' is not in: %s", words, text);
}

static void the_reason_is_told(void **state)
{
    (void)state;
    assert_tells((struct cuda_absence){0, 13000, 1, NULL, "insufficient"}, "no CUDA driver here");
    assert_tells((struct cuda_absence){12040, 13000, 1, NULL, "insufficient"},
                 "too old: it has CUDA 12.4, this build of dstrain is for CUDA 13.0");
    assert_tells((struct cuda_absence){13000, 13000, 0, "", NULL},
                 "no CUDA device to this process (CUDA_VISIBLE_DEVICES is '')");
    assert_tells((struct cuda_absence){13000, 13000, 0, NULL, NULL},
                 "no CUDA device to this process");
    assert_tells((struct cuda_absence){13010, 13000, 0, NULL, "system not yet initialized"},
                 "the driver (CUDA 13.1) cannot start: system not yet initialized");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_reason_is_told)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
