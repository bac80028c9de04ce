/* sim_data.h - the content of one simulated file: what programs see, what would survive a crash for
 * sure, and the changes between the two. Memory that cannot be had is a bug: the disk serves tests. */
#ifndef STORAGE_SIM_DATA_H
#define STORAGE_SIM_DATA_H

#include <stddef.h>
#include <stdint.h>

struct sim_image {
    uint8_t *bytes;
    uint64_t size, capacity;
};

/* A write, or with `bytes` NULL a change of size to `offset`. */
struct sim_change {
    uint8_t *bytes;
    uint64_t offset, count;
    struct sim_change *next;
};

struct sim_data { /* all zero: an empty file */
    struct sim_image now, kept;
    struct sim_change *first, *last; /* since the last sync, oldest first */
};

/* Survives or not: decided by a seed. Seed 0 loses everything, seed 1 keeps everything, any other
 * draws first how likely survival is and then each case. Or decided case by case, by the bits of `choices`. */
struct sim_dice {
    uint64_t seed, next;
    uint64_t choices, asked;
    int is_chosen;
};
int sim_dice_survives(struct sim_dice *dice);

void *sim_memory(void *old, size_t bytes); /* realloc that does not fail */
void sim_data_write(struct sim_data *data, const void *from, size_t bytes, uint64_t offset);
void sim_data_resize(struct sim_data *data, uint64_t bytes);
void sim_data_sync(struct sim_data *data);
/* Each half of each unsynced write, and each change of size, survives or not. */
void sim_data_crash(struct sim_data *data, struct sim_dice *dice);
void sim_data_copy(struct sim_data *to, const struct sim_data *from); /* to an empty one */
void sim_data_fini(struct sim_data *data);

#endif
