/* test_kernels_gemm_own.c - the tests of test_kernels_gemm.c where no library can be opened: the own
 * blocked kernel answers. */
// link: device kernels base
// cost: 40
#define GEMM_IS_OWN   1
#define GEMM_OWN_HASH 0x50faa3fd37b56978u
#include "test_kernels_gemm.c"

void *dlopen(const char *path, int mode);

/* found before the C library's */
void *dlopen(const char *path, int mode)
{
    (void)path;
    (void)mode;
    return NULL;
}
