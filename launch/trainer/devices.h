/* devices.h (private to launch) - what the ranks of a run have each chosen to compute on, side by side. pure:
 * everything here. */
#ifndef DSTRAIN_LAUNCH_DEVICES_H
#define DSTRAIN_LAUNCH_DEVICES_H

#include <stddef.h>
#include <stdint.h>

/* One rank's choice, as it travels. */
struct device_choice {
    uint64_t identity; /* no other device has it; 0: devices of this kind are not told apart */
    char device[24];   /* "cpu", "cuda" */
};

/* How many ranks have chosen the same device as `rank`, itself included; 1 where they are not told apart. */
uint32_t device_sharers(const struct device_choice *choices, uint32_t rank_count, uint32_t rank);

/* Do all compute on devices of one kind, and each on its own unless `may_share`? 0: no, and what is to be done
 * about it. `asked` is the value of run.device. */
int device_choices_fit(const struct device_choice *choices, uint32_t rank_count, const char *asked,
                       int may_share, char *why, size_t bytes);

#endif
