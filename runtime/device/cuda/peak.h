/* peak.h - what a GPU can do at most by its data sheet: FLOP/s of dense bf16. Known by the name that the driver
 * gives, since neither the clock of a data sheet nor the form factor can be asked for. Plain C, no CUDA. */
#ifndef CUDA_PEAK_H
#define CUDA_PEAK_H

#include <stddef.h>
#include <string.h>

struct cuda_peak {
    const char *part; /* of the name */
    double tflops;
};

/* 0: not known. Of two rows that fit the first is meant. */
static inline double cuda_peak_flops_of(const char *name)
{
    static const struct cuda_peak peaks[] = {
        {"H100 PCIe", 756.5}, {"NVL", 835.5}, {"H100", 989.4}, {"H800", 989.4},  {"H200", 989.4},
        {"H20", 148.0},       {"A100", 312},  {"A800", 312},   {"L40S", 362.05},
    };

    for (size_t i = 0; i < sizeof peaks / sizeof peaks[0]; i++)
        if (strstr(name, peaks[i].part))
            return peaks[i].tflops * 1e12;
    return 0;
}

#endif
