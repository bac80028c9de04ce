/* stub_cuda_driver.c - a CUDA driver that knows no GPU but lets kernels be compiled and loaded: what cuDNN looks
 * up in libcuda.so.1 when it makes a plan for a GPU that is described to it. */
#include <stddef.h>

enum { SUCCESS = 0, NO_DRIVER = 34 };

#define REFUSED(X)                                                                              \
    X(cuCtxGetCurrent)                                                                          \
    X(cuCtxGetLimit) X(cuCtxPopCurrent) X(cuCtxPushCurrent) X(cuDeviceGet) X(cuDeviceGetCount)  \
        X(cuDriverGetVersion) X(cuGetErrorName) X(cuGetErrorString) X(cuGetProcAddress)         \
            X(cuGetProcAddress_v2) X(cuInit) X(cuLaunchCooperativeKernel) X(cuLaunchKernel)     \
                X(cuLaunchKernelEx) X(cuLibraryLoadFromFile) X(cuLinkAddData) X(cuLinkComplete) \
                    X(cuLinkCreate) X(cuLinkDestroy) X(cuOccupancyMaxPotentialClusterSize)      \
                        X(cuStreamGetCtx)
#define IGNORED(X) \
    X(cuFuncSetAttribute) X(cuKernelSetAttribute) X(cuLibraryUnload) X(cuModuleUnload)
#define GIVES_HANDLE(X)                                                                    \
    X(cuKernelGetFunction)                                                                 \
    X(cuLibraryGetGlobal) X(cuLibraryGetKernel) X(cuLibraryGetModule) X(cuLibraryLoadData) \
        X(cuModuleGetFunction) X(cuModuleGetGlobal_v2) X(cuModuleLoadData) X(cuModuleLoadDataEx)
#define GIVES_NUMBER(X) \
    X(cuFuncGetAttribute) X(cuKernelGetAttribute) X(cuOccupancyMaxActiveBlocksPerMultiprocessor)

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

REFUSED(REFUSE)
IGNORED(IGNORE)
GIVES_HANDLE(GIVE_HANDLE)
GIVES_NUMBER(GIVE_NUMBER)
