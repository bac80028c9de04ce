// link: base
// private: runtime/device/cuda
/* test_cuda_peak.c - the peak of a GPU, found by its name. */
#include "test.h"

#include "peak.h"

static void a_gpu_is_known_by_its_name(void **state)
{
    (void)state;
    assert_true(cuda_peak_flops_of("NVIDIA H100 80GB HBM3") == 989.4e12);
    assert_true(cuda_peak_flops_of("NVIDIA H100 PCIe") == 756.5e12);
    assert_true(cuda_peak_flops_of("NVIDIA H100 NVL") == 835.5e12);
    assert_true(cuda_peak_flops_of("NVIDIA H200") == 989.4e12);
    assert_true(cuda_peak_flops_of("NVIDIA H20") == 148e12);
    assert_true(cuda_peak_flops_of("NVIDIA A100-SXM4-80GB") == 312e12);
    assert_true(cuda_peak_flops_of("NVIDIA GH200 480GB") == 989.4e12);
}

static void another_gpu_has_no_peak(void **state)
{
    (void)state;
    assert_true(cuda_peak_flops_of("NVIDIA RTX A4000") == 0);
    assert_true(cuda_peak_flops_of("") == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gpu_is_known_by_its_name),
        cmocka_unit_test(another_gpu_has_no_peak),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
