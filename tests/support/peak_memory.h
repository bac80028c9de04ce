/* peak_memory.h - how much memory a process has taken at most since it was asked to forget. */
#ifndef PEAK_MEMORY_H
#define PEAK_MEMORY_H

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { PEAK_IS_MEASURED = 0 }; /* sanitizers take memory of their own */
#else
enum { PEAK_IS_MEASURED = 1 };
#endif

/* "VmRSS:" or "VmHWM:", bytes; 0: not to be had */
static inline uint64_t peak_status(const char *what)
{
    FILE *file = fopen("/proc/self/status", "r");
    unsigned long long kib = 0;
    char line[256];

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, what, strlen(what)) == 0)
            kib = strtoull(line + strlen(what), NULL, 10);
    if (file)
        (void)fclose(file);
    return kib * 1024;
}

/* What is taken now is *before; 0: it cannot be measured here. */
static inline int peak_forget(uint64_t *before)
{
    malloc_trim(0);
    FILE *file = PEAK_IS_MEASURED ? fopen("/proc/self/clear_refs", "w") : NULL;
    const int is_done = file && fputs("5", file) >= 0 && fflush(file) == 0;

    if (file)
        (void)fclose(file);
    *before = peak_status("VmRSS:");
    return is_done && peak_status("VmHWM:") < *before + (1u << 20);
}

static inline uint64_t peak_since(uint64_t before)
{
    const uint64_t peak = peak_status("VmHWM:");

    return peak > before ? peak - before : 0;
}

#endif
