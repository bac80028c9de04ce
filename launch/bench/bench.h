/* bench.h (private to launch) - one way to time and one way to print, for all of `dstrain bench`.
 *
 * A case is checked for right results before it is timed. Then 3 warm-ups and 25 repetitions, each
 * timed on its own; works that are compared take turns, so that a noisy minute meets both. With several
 * ranks a repetition starts behind a barrier and lasts as long as its slowest rank. */
#ifndef DSTRAIN_LAUNCH_BENCH_H
#define DSTRAIN_LAUNCH_BENCH_H

#include "command.h"

#include "dstrain/random.h"

#define BENCH_REPEATS_MAX 400
#define BENCH_WORKS_MAX   2

struct bench {
    struct ds_command *command;
    const char *name;      /* "kernels" */
    struct ds_comm *world; /* whose slowest rank counts; rank 0 prints */
    uint32_t warmups, repeats;
    int is_quick; /* --quick: small cases, few repetitions; for tests, not for figures */
    int argc;     /* arguments that are left */
    char **argv;
};

/* What is timed: `run` is called `calls` times in a repetition, then `finish`, if there is one, waits for what they
 * have queued; times are those of one call. */
struct bench_work {
    ds_status (*run)(void *user);
    ds_status (*finish)(void *user);
    void *user;
    uint32_t calls;
};

struct bench_spread {
    double min, median, p90;
};

struct bench_figure {
    const char *name;
    double value;
};

/* pure: sorts `samples` */
struct bench_spread bench_spread_of(double *samples, size_t count);
/* collective over bench->world: seconds of each work; they take turns */
DS_CHECKED ds_status bench_time(const struct bench *bench, const struct bench_work *works,
                                size_t count, struct bench_spread *out);
/* local: one line of JSON on rank 0's standard output; with the keys of `figures` and this host's load */
DS_CHECKED ds_status bench_print(const struct bench *bench, const char *what, const char *unit,
                                 const struct bench_spread *spread,
                                 const struct bench_figure *figures, size_t figure_count);
/* local: the value behind option `name` ("--size"), taken from the arguments; NULL: not given. An option
 * that ends the line is DS_ERR_CONFIG. */
DS_CHECKED ds_status bench_option(struct bench *bench, const char *name, const char **value);
/* the same for a whole number in min..max; absent: *out stays */
DS_CHECKED ds_status bench_option_count(struct bench *bench, const char *name, uint64_t min,
                                        uint64_t max, uint64_t *out);
int bench_flag(struct bench *bench, const char *name); /* local: was it there */
/* local: the threads of this rank, told to OpenMP; `wanted` 0: its part of the host's cores */
int bench_threads(const struct bench *bench, uint64_t wanted);
/* local: at most `count_max` arguments are left, none of which looks like an option */
DS_CHECKED ds_status bench_arguments_end(const struct bench *bench, int count_max);

ds_status ds_bench_kernels(struct bench *bench);
ds_status ds_bench_comm(struct bench *bench);
ds_status ds_bench_storage(struct bench *bench);
ds_status ds_bench_step(struct bench *bench);
ds_status ds_bench_tokenizer(struct bench *bench);
ds_status ds_bench_host(struct bench *bench);
ds_status ds_bench_link(struct bench *bench);

#endif
