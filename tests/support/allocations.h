/* allocations.h - counts what a stretch of a program allocates. Included once in a program, it takes the
 * place of malloc, calloc, realloc, the aligned ones and mmap; it is libc's own that do the work.
 *
 * An allocation is the program's if the program asked for it, itself or through libc (strdup, fopen)
 * or another small library. It is not where one of the libraries for arithmetic or messages is on the
 * way: OpenMP, OpenBLAS and MPI take memory as they like. */
#ifndef DSTRAIN_ALLOCATIONS_H
#define DSTRAIN_ALLOCATIONS_H

#ifndef _GNU_SOURCE
#error "allocations.h needs _GNU_SOURCE, and to come first"
#endif

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ALLOCATIONS_ARE_COUNTED 0 /* a sanitizer has taken these places already */
#else
#define ALLOCATIONS_ARE_COUNTED 1
#endif

enum { ALLOCATIONS_KEPT = 8, ALLOCATIONS_DEPTH = 24 };

struct allocations {
    atomic_int is_counting;
    atomic_int only_marked; /* threads that have marked themselves */
    atomic_ulong own, foreign;
    struct {
        const char *call;
        size_t bytes;
        uintptr_t offset; /* in the program: for addr2line */
    } kept[ALLOCATIONS_KEPT];
};
static struct allocations allocations;

/* Of this thread: whether it counts where only_marked is set. */
static inline int *allocations_mark(void)
{
    static _Thread_local int is_marked;

    return &is_marked;
}

static inline void allocations_begin(void)
{
    atomic_store(&allocations.own, 0);
    atomic_store(&allocations.foreign, 0);
    atomic_store(&allocations.is_counting, 1);
}

static inline void allocations_end(void)
{
    atomic_store(&allocations.is_counting, 0);
}

/* How many were the program's; the first of them are named. */
static inline unsigned long allocations_told(const char *where)
{
    const unsigned long own = atomic_load(&allocations.own);

    for (unsigned long i = 0; i < own && i < ALLOCATIONS_KEPT; i++)
        fprintf(stderr, "%s: %s of %zu bytes, called at 0x%zx of this program\n", where,
                allocations.kept[i].call, allocations.kept[i].bytes,
                (size_t)allocations.kept[i].offset);
    return own;
}

#if ALLOCATIONS_ARE_COUNTED

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

extern const char __executable_start, etext; /* the linker's */

static inline int is_in_program(const void *at)
{
    return (const char *)at >= &__executable_start && (const char *)at < &etext;
}

static inline int is_free_to_allocate(const void *at)
{
    static const char *const names[] = {"libgomp", "openblas", "libmpi",   "libopen-",
                                        "mca_",    "libpmix",  "libevent", "libhwloc"};
    Dl_info info;

    if (dladdr(at, &info) == 0 || info.dli_fname == NULL)
        return 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strstr(info.dli_fname, names[i]) != NULL)
            return 1;
    return 0;
}

/* The place in the program that asked; NULL: a library that may. frames[0] is here, then the hook. */
static inline const void *who_asked(const void *caller)
{
    void *frames[ALLOCATIONS_DEPTH];
    int depth, i = 0;

    if (is_in_program(caller))
        return caller;
    depth = backtrace(frames, ALLOCATIONS_DEPTH);
    while (i < depth && frames[i] != caller)
        i++;
    for (; i < depth; i++) {
        if (is_in_program(frames[i]))
            return frames[i];
        if (is_free_to_allocate(frames[i]))
            return NULL;
    }
    return NULL; /* a thread of a library's own */
}

static inline void note_allocation(const char *call, size_t bytes, const void *caller)
{
    static _Thread_local int is_noting;
    const void *place;

    if (!atomic_load_explicit(&allocations.is_counting, memory_order_relaxed) || is_noting)
        return;
    if (!*allocations_mark() &&
        atomic_load_explicit(&allocations.only_marked, memory_order_relaxed))
        return;
    is_noting = 1;
    place = who_asked(caller);
    if (place == NULL) {
        atomic_fetch_add(&allocations.foreign, 1);
    } else {
        unsigned long i = atomic_fetch_add(&allocations.own, 1);
        if (i < ALLOCATIONS_KEPT) {
            allocations.kept[i].call = call;
            allocations.kept[i].bytes = bytes;
            allocations.kept[i].offset = (uintptr_t)place - (uintptr_t)&__executable_start;
        }
    }
    is_noting = 0;
}

#define NOTE(call, bytes) note_allocation(call, bytes, __builtin_return_address(0))
#define HOOK              __attribute__((noinline, visibility("default")))

HOOK void *malloc(size_t bytes)
{
    NOTE("malloc", bytes);
    return __libc_malloc(bytes);
}

HOOK void *calloc(size_t count, size_t bytes)
{
    NOTE("calloc", count * bytes);
    return __libc_calloc(count, bytes);
}

HOOK void *realloc(void *memory, size_t bytes)
{
    NOTE("realloc", bytes);
    return __libc_realloc(memory, bytes);
}

HOOK void *memalign(size_t alignment, size_t bytes)
{
    NOTE("memalign", bytes);
    return __libc_memalign(alignment, bytes);
}

HOOK void *aligned_alloc(size_t alignment, size_t bytes)
{
    NOTE("aligned_alloc", bytes);
    return __libc_memalign(alignment, bytes);
}

HOOK int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    void *at;

    NOTE("posix_memalign", bytes);
    at = __libc_memalign(alignment, bytes);
    if (at == NULL)
        return ENOMEM;
    *memory = at;
    return 0;
}

HOOK void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
    NOTE("mmap", bytes);
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
}

HOOK void *mremap(void *at, size_t old_bytes, size_t bytes, int flags, ...)
{
    NOTE("mremap", bytes);
    return (void *)syscall(SYS_mremap, at, old_bytes, bytes, flags, NULL);
}

/* backtrace loads its library when it is first called. */
__attribute__((constructor)) static void allocations_prepare(void)
{
    void *frames[4];

    (void)backtrace(frames, 4);
}

#undef NOTE
#undef HOOK
#endif
#endif
