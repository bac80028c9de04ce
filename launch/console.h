/* console.h (private to launch) - what rank 0 shows while a run goes on: the first lines, a line every
 * log.interval steps, and on a real terminal a progress line that is written over. Everything goes
 * through the log, so the rank's file has the lines, too (never the progress line). */
#ifndef DSTRAIN_LAUNCH_CONSOLE_H
#define DSTRAIN_LAUNCH_CONSOLE_H

#include "dstrain/clock.h"

#include <stddef.h>
#include <stdint.h>

#define DS_CONSOLE_LINE_MAX 256

/* pure: what people read. 1234567 -> "1.23M", bytes -> "1.2 GiB", seconds -> "1h02m", "3m20s", "12s" */
void ds_console_count(double value, char *to, size_t bytes);
void ds_console_bytes(uint64_t value, char *to, size_t bytes);
void ds_console_seconds(double value, char *to, size_t bytes);

/* pure: printf shows the sign of a NaN, which says nothing: one without */
double ds_console_real(double value);

/* pure: what a noun behind the count ends in */
const char *ds_console_plural(uint64_t count);

/* Is `file` a terminal somebody looks at? Under mpirun every rank has a pty of size 0x0: that is none. */
int ds_console_is_terminal(int file);

/* The first lines. A text that is NULL leaves its line out. */
struct ds_console_banner {
    uint32_t rank_count;
    const char *device; /* as the device describes itself */
    const char *model;  /* "llama, 4 layers, hidden 256" */
    uint64_t params, trainable_params;
    uint64_t data, shard, stage; /* the mesh */
    uint64_t tensor, pipeline;
    const char *schedule;  /* of a pipeline: "1f1b", "interleaved in 2 chunks" */
    const char *precision; /* NULL: fp32 throughout */
    const char *gathered;  /* how long parameters stay; NULL: nothing is gathered */
    uint64_t global_batch, micro_batch, micro_count; /* per update */
    uint64_t seq_length, steps;
    uint64_t samples;      /* of an epoch; 0: not known */
    uint64_t memory_bytes; /* the rank that takes most has taken before step 1 */
    uint64_t
        process_bytes; /* the same with what libraries take beside it; not more: they take nothing */
    const char *dir;   /* where files go */
};
void ds_console_first_lines(const struct ds_console_banner *banner);

struct ds_console {
    uint64_t steps, interval;
    int is_terminal;
    int is_progress_shown;
    double step_s;     /* moving mean, 0: none yet */
    uint64_t shown_ns; /* when the progress line was written last */
    const struct ds_clock *clock;
};

struct ds_console_row {
    uint64_t step;
    double loss, lr, grad_norm, step_s, tokens_per_s;
    double mfu; /* NAN: shown as - */
    uint64_t memory_bytes;
    int is_skipped;
};

void ds_console_init(struct ds_console *console, uint64_t steps, uint64_t interval,
                     const struct ds_clock *clock);
/* pure: the line of a step; `step_s` is what time left is reckoned with */
void ds_console_line(const struct ds_console *console, const struct ds_console_row *row,
                     char to[DS_CONSOLE_LINE_MAX]);
void ds_console_step(struct ds_console *console, const struct ds_console_row *row);
/* a bar for long work with a known size (preparing data); only on a terminal */
void ds_console_progress(struct ds_console *console, const char *what, uint64_t done,
                         uint64_t total);
/* take the progress line away, before other lines and at the end */
void ds_console_clear(struct ds_console *console);

#endif
