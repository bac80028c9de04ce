/* bench_step.h (private to launch) - what the files of `bench step` share. */
#ifndef DSTRAIN_LAUNCH_BENCH_STEP_H
#define DSTRAIN_LAUNCH_BENCH_STEP_H

#include "bench.h"

#include "dstrain/device.h"

/* A product of two square fp32 matrices on a device: the rate that a step is held against. */
struct bench_product {
    /* owns */
    struct ds_stream *stream;
    void *matrices[3];
    /* borrows */
    struct bench *bench;
    struct ds_device *device;
    size_t size; /* rows and columns */
};

/* local, both; close takes an empty or half-open one */
DS_CHECKED ds_status bench_product_open(struct bench *bench, struct ds_device *device, size_t size,
                                        struct bench_product *out);
void bench_product_close(struct bench_product *product);
/* collective: all ranks multiply at once, as in a step */
DS_CHECKED ds_status bench_product_run(const struct bench_product *product, double *seconds);

/* local: a folder of this rank's own with `rows` sequences of random tokens below `vocab`; both paths "" where
 * nothing was made */
struct bench_tokens {
    char folder[256], path[512];
};
DS_CHECKED ds_status bench_tokens_make(struct bench *bench, uint64_t rows, uint64_t width,
                                       uint64_t vocab, struct bench_tokens *out);
void bench_tokens_remove(struct bench *bench, const struct bench_tokens *tokens);

/* local: seconds since this process was started, to a hundredth; NAN where the system does not say */
double bench_process_age_s(struct ds_fs *fs);

#endif
