/* absence.h - why there is no GPU here, in words that say what to do. pure. */
#ifndef CUDA_ABSENCE_H
#define CUDA_ABSENCE_H

#include <stddef.h>
#include <stdio.h>

struct cuda_absence {
    int driver, runtime; /* versions as CUDA counts them, 13000 for 13.0; driver 0: there is none */
    int is_too_old;      /* the runtime says so of the driver */
    const char *visible; /* CUDA_VISIBLE_DEVICES; NULL: not set */
    const char *error;   /* what the runtime said; NULL: that no device is there */
};

static inline void cuda_absence_tell(const struct cuda_absence *a, char *to, size_t bytes)
{
    if (a->driver == 0)
        snprintf(to, bytes, "no CUDA driver here (libcuda.so.1 of the NVIDIA driver is not found)");
    else if (a->is_too_old)
        snprintf(
            to, bytes,
            "the NVIDIA driver is too old: it has CUDA %d.%d, this build of dstrain is for CUDA "
            "%d.%d",
            a->driver / 1000, a->driver % 1000 / 10, a->runtime / 1000, a->runtime % 1000 / 10);
    else if (a->error)
        snprintf(to, bytes, "the driver (CUDA %d.%d) cannot start: %s", a->driver / 1000,
                 a->driver % 1000 / 10, a->error);
    else if (a->visible)
        snprintf(to, bytes,
                 "the driver shows no CUDA device to this process (CUDA_VISIBLE_DEVICES is '%s')",
                 a->visible);
    else
        snprintf(to, bytes, "the driver shows no CUDA device to this process");
}

#endif
