/* metrics.h (private to launch) - metrics.jsonl: one object a step, whole lines. Knows numbers and a file,
 * nothing of how they came about. One owner thread, on rank 0. */
#ifndef DSTRAIN_LAUNCH_METRICS_H
#define DSTRAIN_LAUNCH_METRICS_H

#include "dstrain/fs.h"

/* Seconds, bytes, counts. A number that is not finite is written as null, so NAN says "none". */
struct ds_metrics_row {
    uint64_t step;
    double loss;      /* mean over trained tokens */
    double grad_norm; /* before clipping */
    double lr;
    uint64_t trained_tokens; /* of this step */
    uint64_t tokens;         /* so far */
    double step_s, tokens_per_s, mfu;
    uint64_t device_peak_bytes, host_peak_bytes;
    double wait_data_s, wait_comm_s, wait_offload_s, wait_checkpoint_s, bubble_s;
    /* written where they apply */
    int has_eval_loss, is_skipped, has_loss_scale;
    double eval_loss, loss_scale;
};

#define DS_METRICS_LINE_MAX 1024
/* pure: the line with its line feed; returns its bytes */
size_t ds_metrics_format(const struct ds_metrics_row *row, char to[DS_METRICS_LINE_MAX]);

struct ds_metrics {
    /* owns */
    int file;       /* of fs; -1: none */
    uint64_t bytes; /* of whole lines */
    uint64_t lost;  /* lines */
    int is_failing; /* the last line was lost */
    int is_torn;    /* a part of it is still there */
    /* borrows */
    struct ds_fs *fs;
    const char *path;
};
/* local: open for appending; half a line that a crash has left is cut off */
DS_CHECKED ds_status ds_metrics_open(struct ds_metrics *metrics, struct ds_fs *fs,
                                     const char *path);
/* local: a file with numbers of an earlier run makes room: it becomes NAME-N.jsonl, with the first N that
 * is free, which `to` then names; "" where there was none */
DS_CHECKED ds_status ds_metrics_set_aside(struct ds_fs *fs, const char *path, char *to,
                                          size_t bytes);
/* local: appends a line. One that cannot be written is lost, which the first of them in a row says; no part of it stays
 * in front of the next one. */
void ds_metrics_write(struct ds_metrics *metrics, const struct ds_metrics_row *row);
/* local: says how many lines were lost, if any */
void ds_metrics_close(struct ds_metrics *metrics);

#endif
