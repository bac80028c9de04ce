/* metrics.c - see metrics.h. Numbers are written with as many digits as it takes to read them back
 * exactly; after a resume a step may appear again, and the last line counts. */
#include "metrics.h"
#include "config/number.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct line {
    char *to;
    size_t used;
};

static void put_text(struct line *line, const char *key, const char *value)
{
    int length = snprintf(line->to + line->used, DS_METRICS_LINE_MAX - line->used, "%s\"%s\": %s",
                          line->used == 1 ? "" : ", ", key, value);

    DS_ASSERT(length > 0 && line->used + (size_t)length + 3 < DS_METRICS_LINE_MAX);
    line->used += (size_t)length;
}

static void put_real(struct line *line, const char *key, double value)
{
    char text[DS_NUMBER_BYTES];

    ds_number_json(value, 17, text);
    put_text(line, key, text);
}

static void put_count(struct line *line, const char *key, uint64_t value)
{
    char text[DS_NUMBER_BYTES];

    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    put_text(line, key, text);
}

size_t ds_metrics_format(const struct ds_metrics_row *row, char to[DS_METRICS_LINE_MAX])
{
    struct line line = {to, 1};

    to[0] = '{';
    put_count(&line, "step", row->step);
    put_real(&line, "loss", row->loss);
    put_real(&line, "grad_norm", row->grad_norm);
    put_real(&line, "lr", row->lr);
    put_count(&line, "trained_tokens", row->trained_tokens);
    put_count(&line, "tokens", row->tokens);
    put_real(&line, "step_s", row->step_s);
    put_real(&line, "tokens_per_s", row->tokens_per_s);
    put_real(&line, "mfu", row->mfu);
    put_count(&line, "device_peak_bytes", row->device_peak_bytes);
    put_count(&line, "host_peak_bytes", row->host_peak_bytes);
    put_real(&line, "wait_data_s", row->wait_data_s);
    put_real(&line, "wait_comm_s", row->wait_comm_s);
    put_real(&line, "wait_offload_s", row->wait_offload_s);
    put_real(&line, "wait_checkpoint_s", row->wait_checkpoint_s);
    put_real(&line, "bubble_s", row->bubble_s);
    if (row->has_eval_loss)
        put_real(&line, "eval_loss", row->eval_loss);
    if (row->is_skipped)
        put_text(&line, "skipped", "true");
    if (row->has_loss_scale)
        put_real(&line, "loss_scale", row->loss_scale);
    memcpy(to + line.used, "}\n", 3);
    return line.used + 2;
}

/* Bytes up to the end of the last whole line. No line of ours is longer than the tail that is read. */
static int whole_lines(struct ds_metrics *metrics, uint64_t bytes, uint64_t *whole)
{
    char tail[DS_METRICS_LINE_MAX];
    size_t count = bytes < sizeof tail ? (size_t)bytes : sizeof tail;
    int code = ds_fs_read_all(metrics->fs, metrics->file, tail, count, bytes - count);

    while (code == 0 && count > 0 && tail[count - 1] != '\n') {
        count--;
        bytes--;
    }
    *whole = bytes;
    return code;
}

static int open_whole(struct ds_metrics *metrics)
{
    struct ds_fs_stat stat;
    int code;

    metrics->file = ds_fs_open(metrics->fs, metrics->path,
                               DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE | DS_FS_APPEND, 0640);
    if (metrics->file < 0)
        return metrics->file;
    code = ds_fs_fstat(metrics->fs, metrics->file, &stat);
    if (code < 0)
        return code;
    code = whole_lines(metrics, stat.bytes, &metrics->bytes);
    if (code == 0 && metrics->bytes != stat.bytes)
        code = ds_fs_truncate(metrics->fs, metrics->file, metrics->bytes);
    return code;
}

ds_status ds_metrics_open(struct ds_metrics *metrics, struct ds_fs *fs, const char *path)
{
    int code;

    *metrics = (struct ds_metrics){.file = -1, .fs = fs, .path = path};
    code = open_whole(metrics);
    if (code == 0)
        return DS_OK;
    ds_metrics_close(metrics);
    return ds_fail(DS_ERR_IO, "%s: %s", path, strerror(-code));
}

static int move_aside(struct ds_fs *fs, const char *path, char *to, size_t bytes)
{
    const char *dot = strrchr(path, '.');
    struct ds_fs_stat stat;
    int code = 0;

    for (unsigned n = 1; code == 0; n++) {
        snprintf(to, bytes, "%.*s-%u%s", (int)(dot - path), path, n, dot);
        code = ds_fs_stat(fs, to, &stat);
    }
    if (code == -ENOENT)
        code = ds_fs_rename(fs, path, to);
    return code < 0 ? code : ds_fs_fsync_parent(fs, path);
}

ds_status ds_metrics_set_aside(struct ds_fs *fs, const char *path, char *to, size_t bytes)
{
    struct ds_fs_stat stat;
    int code = ds_fs_stat(fs, path, &stat);

    DS_ASSERT(strrchr(path, '.') && strlen(path) + 16 < bytes);
    to[0] = '\0';
    if (code == -ENOENT || (code == 0 && stat.bytes == 0))
        return DS_OK;
    if (code == 0)
        code = move_aside(fs, path, to, bytes);
    return code == 0 ? DS_OK
                     : ds_fail(DS_ERR_IO, "%s: cannot make room for a new one: %s", path,
                               strerror(-code));
}

/* A disk that takes a part of a line says why when it is given the rest. */
static int append_all(struct ds_metrics *metrics, const char *line, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        int64_t done = ds_fs_append(metrics->fs, metrics->file, line + at, bytes - at);

        if (done <= 0)
            return done < 0 ? (int)done : -ENOSPC;
        at += (size_t)done;
    }
    return 0;
}

/* A part of a line is cut off again; where the disk does not let it, before the next line. */
static int append_line(struct ds_metrics *metrics, const char *line, size_t bytes)
{
    int code = 0;

    if (metrics->is_torn)
        code = ds_fs_truncate(metrics->fs, metrics->file, metrics->bytes);
    if (code != 0)
        return code;
    metrics->is_torn = 0;
    code = append_all(metrics, line, bytes);
    if (code == 0)
        metrics->bytes += bytes;
    else
        metrics->is_torn = ds_fs_truncate(metrics->fs, metrics->file, metrics->bytes) != 0;
    return code;
}

static void lose(struct ds_metrics *metrics, uint64_t step, int code)
{
    const int is_full = code == -ENOSPC || code == -EDQUOT;

    if (!metrics->is_failing)
        ds_warn("%s: the line of step %llu could not be written: %s; training goes on, lines are "
                "lost until it can be written to: %s",
                metrics->path, (unsigned long long)step, strerror(-code),
                is_full ? "free space there" : "look after its disk");
    metrics->is_failing = 1;
    metrics->lost++;
}

void ds_metrics_write(struct ds_metrics *metrics, const struct ds_metrics_row *row)
{
    char line[DS_METRICS_LINE_MAX];
    const int code = append_line(metrics, line, ds_metrics_format(row, line));

    if (code == 0)
        metrics->is_failing = 0;
    else
        lose(metrics, row->step, code);
}

void ds_metrics_close(struct ds_metrics *metrics)
{
    if (metrics->lost > 0)
        ds_warn("%s: %llu line%s missing, which could not be written", metrics->path,
                (unsigned long long)metrics->lost, metrics->lost == 1 ? " is" : "s are");
    metrics->lost = 0;
    if (metrics->file >= 0)
        (void)ds_fs_close(metrics->fs, metrics->file);
    metrics->file = -1;
}
