/* stub_cuda_driver.c - a CUDA driver that knows no GPU but lets kernels be compiled and loaded: what cuDNN looks
 * up in libcuda.so.1 when it makes a plan for a GPU that is described to it. */
#include <stddef.h>

enum { SUCCESS = 0, NO_DRIVER = 34 };

#define REFUSE(name)      \
    int name(void);       \
    int name(void)        \
    {                     \
        return NO_DRIVER; \
    }
#define IGNORE(name)    \
    int name(void);     \
    int name(void)      \
    {                   \
        return SUCCESS; \
    }
#define GIVE_HANDLE(name)         \
    int name(void **handle);      \
    int name(void **handle)       \
    {                             \
        static char somewhere;    \
                                  \
        if (handle)               \
            *handle = &somewhere; \
        return SUCCESS;           \
    }
#define GIVE_NUMBER(name)  \
    int name(int *number); \
    int name(int *number)  \
    {                      \
        if (number)        \
            *number = 1;   \
        return SUCCESS;    \
    }

/* clang-format off */
REFUSE(cuCtxGetCurrent) REFUSE(cuCtxGetLimit) REFUSE(cuCtxPopCurrent) REFUSE(cuCtxPushCurrent)
REFUSE(cuDeviceGet) REFUSE(cuDeviceGetCount) REFUSE(cuDriverGetVersion) REFUSE(cuGetErrorName)
REFUSE(cuGetErrorString) REFUSE(cuGetProcAddress) REFUSE(cuGetProcAddress_v2) REFUSE(cuInit)
REFUSE(cuLaunchCooperativeKernel) REFUSE(cuLaunchKernel) REFUSE(cuLaunchKernelEx)
REFUSE(cuLibraryLoadFromFile) REFUSE(cuLinkAddData) REFUSE(cuLinkComplete) REFUSE(cuLinkCreate)
REFUSE(cuLinkDestroy) REFUSE(cuOccupancyMaxPotentialClusterSize) REFUSE(cuStreamGetCtx)

IGNORE(cuFuncSetAttribute) IGNORE(cuKernelSetAttribute) IGNORE(cuLibraryUnload)
IGNORE(cuModuleUnload)

GIVE_HANDLE(cuKernelGetFunction) GIVE_HANDLE(cuLibraryGetGlobal) GIVE_HANDLE(cuLibraryGetKernel)
GIVE_HANDLE(cuLibraryGetModule) GIVE_HANDLE(cuLibraryLoadData) GIVE_HANDLE(cuModuleGetFunction)
GIVE_HANDLE(cuModuleGetGlobal_v2) GIVE_HANDLE(cuModuleLoadData) GIVE_HANDLE(cuModuleLoadDataEx)

GIVE_NUMBER(cuFuncGetAttribute) GIVE_NUMBER(cuKernelGetAttribute)
GIVE_NUMBER(cuOccupancyMaxActiveBlocksPerMultiprocessor)
