/* seen.h - what the thread sanitizer is told of a loop over numbers: the ranges that it reads and writes, once, in
 * place of each access, of which a product makes one for every time that it needs a number. A race is found as
 * before: it is between two threads on a range, whichever element. Without that sanitizer all of this is nothing. */
#ifndef KERNELS_SEEN_H
#define KERNELS_SEEN_H

#include <stddef.h>

#ifdef __SANITIZE_THREAD__
void __tsan_read_range(void *at, unsigned long bytes);
void __tsan_write_range(void *at, unsigned long bytes);

/* A function whose accesses its caller tells. */
#define KERNEL_UNSEEN __attribute__((no_sanitize("thread"), noinline))

static inline void kernel_tell(void tell(void *at, unsigned long bytes), const void *at,
                               size_t stride, size_t rows, size_t bytes)
{
    const size_t at_once = stride == bytes ? rows : 1;

    for (size_t row = 0; row < rows; row += at_once)
        tell((char *)at + row * stride, at_once * bytes);
}

/* `rows` of `bytes`, `stride` bytes apart */
static inline void kernel_tell_read(const void *at, size_t stride, size_t rows, size_t bytes)
{
    kernel_tell(__tsan_read_range, at, stride, rows, bytes);
}

static inline void kernel_tell_write(void *at, size_t stride, size_t rows, size_t bytes)
{
    kernel_tell(__tsan_write_range, at, stride, rows, bytes);
}
#else
#define KERNEL_UNSEEN
static inline void kernel_tell_read(const void *at, size_t stride, size_t rows, size_t bytes)
{
    (void)at, (void)stride, (void)rows, (void)bytes;
}

static inline void kernel_tell_write(void *at, size_t stride, size_t rows, size_t bytes)
{
    (void)at, (void)stride, (void)rows, (void)bytes;
}
#endif

#endif
