/* copy_async.cuh - copies into shared memory that run beside arithmetic: no register holds what is under way. */
#ifndef KERNELS_CUDA_COPY_ASYNC_CUH
#define KERNELS_CUDA_COPY_ASYNC_CUH

#include <stdint.h>

__device__ __forceinline__ uint32_t shared_address(const void *at)
{
    return (uint32_t)__cvta_generic_to_shared(at);
}

/* Without is_there zeros are written; `from` must be an address all the same. */
__device__ __forceinline__ void copy_async_16(void *to, const void *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void copy_async_16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
}
__device__ __forceinline__ void copy_async_4(void *to, const void *from, bool is_there)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(is_there ? 4 : 0)
                 : "memory");
}

/* Everything that this thread has begun is there; a barrier behind it makes it so for all. */
__device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* What this thread has begun since the last close is a group, which may be empty. `wait_but`: all groups are there
 * but for the last OPEN ones. */
__device__ __forceinline__ void copy_async_close()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int OPEN> __device__ __forceinline__ void copy_async_wait_but()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

#endif
