/* host_cuda.c - memory of the host that the GPU copies from and to. Who pins memory has the kernel bring its pages,
 * one after the other, each made zero: 83 GB took half a minute. So large pieces are asked for as huge pages and
 * brought by all of a rank's threads before they are pinned. */
#include "device_cuda.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORTH_BYTES ((size_t)64 << 20) /* for each thread; below, a thread costs what it brings */
#define THREAD_MAX  64
#define HUGE_BYTES  ((size_t)2 << 20)

struct part {
    volatile unsigned char *at;
    size_t bytes, page;
};

static void *bring(void *arg)
{
    const struct part *part = arg;

    for (size_t at = 0; at < part->bytes; at += part->page)
        part->at[at] = 0;
    return NULL;
}

/* A thread that cannot be had leaves its part to who pins. */
static void bring_pages(void *memory, size_t bytes, int thread_count)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), worth = bytes / WORTH_BYTES;
    const size_t wanted = worth < (size_t)thread_count ? worth : (size_t)thread_count;
    const size_t count = wanted < THREAD_MAX ? wanted : THREAD_MAX;
    struct part parts[THREAD_MAX];
    pthread_t threads[THREAD_MAX];
    size_t started = 0;

    if (count < 2)
        return;
    const size_t each = (bytes / count / HUGE_BYTES + 1) * HUGE_BYTES;
    for (size_t start = 0; started < count && start < bytes; start += each) {
        const size_t left = bytes - start;
        parts[started] =
            (struct part){(unsigned char *)memory + start, left < each ? left : each, page};
        if (pthread_create(&threads[started], NULL, bring, &parts[started]) != 0)
            break;
        started++;
    }
    while (started > 0)
        (void)pthread_join(threads[--started], NULL);
}

/* Exactly so many bytes: cudaHostAlloc would round up to a power of two on some drivers. */
ds_status cuda_host_alloc(const struct cuda_device *device, size_t bytes, int is_pinned, void **at)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cudaError_t error = cudaSuccess;

    if (memory == MAP_FAILED)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu bytes of host memory", bytes);
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a wish; small pages work, too */
    if (is_pinned) {
        bring_pages(memory, bytes, device->thread_count);
        error = cudaHostRegister(memory, bytes, cudaHostRegisterPortable);
    }
    if (error != cudaSuccess) {
        munmap(memory, bytes);
        return cuda_fail_at(error, "cudaHostRegister", __FILE__, __LINE__);
    }
    *at = memory;
    return DS_OK;
}

void cuda_host_release(int is_pinned, void *memory, size_t bytes)
{
    if (is_pinned)
        (void)cudaHostUnregister(memory);
    munmap(memory, bytes);
}
