/* plan_time.h (private to launch) - how long a step will take, as far as the bytes and FLOPs of its list can tell. Pure.
 *
 * A part of the step (trainer.h) lasts as long as the slowest of what goes on in it: arithmetic, then updates on the
 * device; the way to the device; the way to the host; files, which are read and written in turn; the host, where it
 * updates: its memory has what travels to bear besides, which costs it more. Parts follow each other. Waits for other ranks are not in it. */
#ifndef DSTRAIN_LAUNCH_PLAN_TIME_H
#define DSTRAIN_LAUNCH_PLAN_TIME_H

#include "speeds.h"

#include "dstrain/trainer.h"

/* Of one rank, while the others of its host do the same; a rate of 0: not known, and what goes by it takes no time. */
struct ds_speeds {
    double flops_per_s;                    /* of products and attention */
    double to_device_per_s, to_host_per_s; /* bytes, both ways at once */
    double file_read_per_s, file_write_per_s;
    double updated_per_s, host_updated_per_s; /* bytes that updates name; of memory, that is */
    uint32_t measured;                        /* bits of enum ds_speed: the others are assumed */
};

/* what is taken for granted where nobody has measured: an H100 that multiplies at `peak_flops` by its data sheet (0:
 * not known) with 16 cores on PCIe 5, and a drive or two */
struct ds_speeds ds_speeds_assumed(double peak_flops);
#define ASSUMED_THREADS 16

double ds_plan_step_s(const struct ds_step_work work[DS_STEP_PARTS],
                      const struct ds_speeds *speeds);

#endif
