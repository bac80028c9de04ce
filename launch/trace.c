/* trace.c - spans as lines of JSON. Lines go through one buffer, taken at open: a step takes no memory. */
#include "trace.h"

#include "trace_clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES 512
#define PATH_BYTES     (DS_TEXT_MAX + 64)
#define PIECE_BEGIN    "[\n" /* of a rank's file: a list whose end may be missing */

struct ds_trace {
    /* owns */
    int file; /* of fs: this rank's spans; -1: none */
    size_t used;
    char buffer[65536];
    /* borrows */
    struct ds_trace_options options;
    struct ds_trace_clock clock;
    int is_broken; /* this rank has said that its part of the trace is lost */
};

/* ---- files: the first thing that goes wrong is told, and ends this rank's part */

static void give_up(struct ds_trace *trace, const char *doing, const char *path, int code)
{
    if (!trace->is_broken)
        ds_warn("log.trace: no trace is written: %s %s: %s", doing, path, strerror(-code));
    trace->is_broken = 1;
}

static void folder_path(const struct ds_trace *trace, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/trace", trace->options.dir);
}

static void piece_path(const struct ds_trace *trace, uint32_t rank, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/trace/rank-%04u.json", trace->options.dir, rank);
}

static void flush(struct ds_trace *trace, const char *path)
{
    int64_t done = 0;

    if (!trace->is_broken && trace->used > 0)
        done = ds_fs_append(trace->options.fs, trace->file, trace->buffer, trace->used);
    if (!trace->is_broken && done != (int64_t)trace->used)
        give_up(trace, "write", path, done < 0 ? (int)done : -ENOSPC);
    trace->used = 0;
}

__attribute__((format(printf, 2, 3))) static void put(struct ds_trace *trace, const char *format,
                                                      ...)
{
    const size_t room = sizeof trace->buffer - trace->used;
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(trace->buffer + trace->used, room, format, args);
    va_end(args);
    DS_ASSERT(length >= 0 && (size_t)length < room);
    trace->used += (size_t)length;
}

/* ---- lines */

enum said { SAYS_MICRO = 1u << 0, SAYS_BLOCK = 1u << 1, SAYS_UNIT = 1u << 2 };

static const uint8_t said[DS_ACTION_KIND_COUNT] = {
    [DS_ACTION_FORWARD] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_LOSS] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_RECOMPUTE] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_BACKWARD] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_BACKWARD_INPUT] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_BACKWARD_WEIGHT] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_EXCHANGE] = SAYS_MICRO | SAYS_BLOCK, /* of its first message */
    [DS_ACTION_EVICT_KEPT] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_FETCH_KEPT] = SAYS_MICRO | SAYS_BLOCK,
    [DS_ACTION_PREFETCH] = SAYS_UNIT,
    [DS_ACTION_ACQUIRE] = SAYS_UNIT,
    [DS_ACTION_RELEASE] = SAYS_UNIT,
    [DS_ACTION_GRAD_ACQUIRE] = SAYS_UNIT,
    [DS_ACTION_REDUCE] = SAYS_UNIT,
    [DS_ACTION_TIED_REDUCE] = SAYS_UNIT,
    [DS_ACTION_UPDATE] = SAYS_UNIT,
};

static const char *const wait_names[DS_TIMELINE_WHAT_COUNT] = {
    [DS_TIMELINE_WAIT_COMM] = "wait for collective",
    [DS_TIMELINE_WAIT_STAGE] = "wait for stage",
    [DS_TIMELINE_WAIT_COMPUTE] = "wait for arithmetic",
    [DS_TIMELINE_WAIT_COPY] = "wait for copy",
    [DS_TIMELINE_WAIT_OFFLOAD] = "wait for offload",
    [DS_TIMELINE_FETCH] = "fetch",
    [DS_TIMELINE_COLLECTIVE] = "collective of tensor ranks",
};

static void put_name(struct ds_trace *trace, const char *category, const struct ds_action *action)
{
    const uint8_t says = said[action->kind];

    put(trace, "\"cat\":\"%s\",\"name\":\"%s", category, ds_action_names[action->kind]);
    if (says & SAYS_BLOCK)
        put(trace, " block %u", action->block);
    if (says & SAYS_MICRO)
        put(trace, " micro %u", action->micro);
    if (says & SAYS_UNIT)
        put(trace, " unit %u", action->unit);
    put(trace, "\"");
}

static void put_details(struct ds_trace *trace, const struct ds_action *action)
{
    const uint8_t says = said[action->kind];

    if (says & SAYS_BLOCK)
        put(trace, ",\"block\":%u", action->block);
    if (says & SAYS_MICRO)
        put(trace, ",\"micro\":%u", action->micro);
    if (says & SAYS_UNIT)
        put(trace, ",\"unit\":%u", action->unit);
}

/* Microseconds, as the format wants them, from the start of the run on rank 0's clock. */
static void put_span(struct ds_trace *trace, const struct ds_step_report *report,
                     const struct ds_timeline_span *span)
{
    const struct ds_action *action = &report->actions[span->action];
    const uint64_t at_ns =
        span->begin_ns - (uint64_t)trace->clock.offset_ns - trace->clock.start_ns;
    const uint64_t ns = span->end_ns - span->begin_ns;
    const int is_action = span->what == DS_TIMELINE_ACTION,
              is_kept = span->what == DS_TIMELINE_KEPT;

    put(trace, "{\"ph\":\"X\",\"pid\":%u,\"tid\":%u,\"ts\":%llu.%03u,\"dur\":%llu.%03u,",
        trace->options.world->rank, span->row, (unsigned long long)(at_ns / 1000),
        (unsigned)(at_ns % 1000), (unsigned long long)(ns / 1000), (unsigned)(ns % 1000));
    if (is_action || is_kept)
        put_name(trace, is_action ? "action" : "copy", action);
    else
        put(trace, "\"cat\":\"%s\",\"name\":\"%s\"",
            span->what == DS_TIMELINE_FETCH ? "copy" : "wait", wait_names[span->what]);
    put(trace, ",\"args\":{\"step\":%llu,\"action\":%u", (unsigned long long)report->step,
        span->action);
    if (is_action || is_kept)
        put_details(trace, action);
    put(trace, "}},\n");
}

/* Names of the rank and its rows, and what its clock is worth. */
static void put_rank(struct ds_trace *trace)
{
    static const char *const rows[DS_TIMELINE_ROW_COUNT] = {
        "compute", "communication", "updates", "offload", "activations out", "activations in"};
    const uint32_t rank = trace->options.world->rank;
    const long long offset_ns = trace->clock.offset_ns;
    const unsigned long long error_ns = trace->clock.error_ns;

    put(trace,
        "{\"ph\":\"M\",\"pid\":%u,\"name\":\"process_name\",\"args\":{\"name\":\"rank %u\"}},\n",
        rank, rank);
    put(trace,
        "{\"ph\":\"M\",\"pid\":%u,\"name\":\"process_sort_index\",\"args\":{\"sort_index\":%u}},\n",
        rank, rank);
    put(trace,
        "{\"ph\":\"M\",\"pid\":%u,\"name\":\"process_labels\",\"args\":{\"labels\":\"clock: rank "
        "0's %+lld ns, +-%llu ns\",\"clock_offset_ns\":%lld,\"clock_error_ns\":%llu}},\n",
        rank, offset_ns, error_ns, offset_ns, error_ns);
    for (int row = 0; row < DS_TIMELINE_ROW_COUNT; row++)
        put(trace,
            "{\"ph\":\"M\",\"pid\":%u,\"tid\":%d,\"name\":\"thread_name\",\"args\":{\"name\":\"%"
            "s\"}"
            "},\n",
            rank, row, rows[row]);
}

/* ---- one file of all */

static int copy_piece(struct ds_trace *trace, uint32_t rank, int to)
{
    struct ds_fs *fs = trace->options.fs;
    uint64_t at = sizeof PIECE_BEGIN - 1;
    char path[PATH_BYTES];
    int64_t done;
    int from, code = 0;

    piece_path(trace, rank, path);
    from = ds_fs_open(fs, path, DS_FS_READ, 0);
    if (from < 0)
        return from;
    do {
        done = ds_fs_pread(fs, from, trace->buffer, sizeof trace->buffer, at);
        if (done > 0 && ds_fs_append(fs, to, trace->buffer, (size_t)done) != done)
            code = -ENOSPC;
        at += done > 0 ? (uint64_t)done : 0;
    } while (done > 0 && code == 0);
    (void)ds_fs_close(fs, from);
    return done < 0 ? (int)done : code;
}

static void put_frame(struct ds_trace *trace, int is_end)
{
    if (is_end)
        put(trace, "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_sort_index\",\"args\":{"
                   "\"sort_index\":0}}\n]}\n");
    else
        put(trace,
            "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"program\":\"dstrain\",\"steps\":\"%llu..%"
            "llu\",\"ranks\":%u,\"clock\":\"rank 0's; other ranks' offsets were measured before "
            "the "
            "first step and stand in their process_labels\"},\"traceEvents\":[\n",
            (unsigned long long)trace->options.first, (unsigned long long)trace->options.last,
            trace->options.world->size);
}

static int write_frame(struct ds_trace *trace, int to, int is_end)
{
    int64_t done;

    put_frame(trace, is_end);
    done = ds_fs_append(trace->options.fs, to, trace->buffer, trace->used);
    if (done >= 0 && done != (int64_t)trace->used)
        done = -ENOSPC;
    trace->used = 0;
    return done < 0 ? (int)done : 0;
}

static int write_all(struct ds_trace *trace, int to)
{
    int code = write_frame(trace, to, 0);

    for (uint32_t rank = 0; code == 0 && rank < trace->options.world->size; rank++)
        code = copy_piece(trace, rank, to);
    if (code == 0)
        code = write_frame(trace, to, 1);
    return code < 0 ? code : ds_fs_fsync(trace->options.fs, to);
}

static void merge(struct ds_trace *trace)
{
    struct ds_fs *fs = trace->options.fs;
    char path[PATH_BYTES], beside[PATH_BYTES + 8];
    int file, code;

    snprintf(path, sizeof path, "%s/trace.json", trace->options.dir);
    snprintf(beside, sizeof beside, "%s.tmp", path);
    file = ds_fs_open(fs, beside, DS_FS_WRITE | DS_FS_CREATE | DS_FS_TRUNCATE | DS_FS_APPEND, 0640);
    code = file < 0 ? file : write_all(trace, file);
    if (file >= 0)
        (void)ds_fs_close(fs, file);
    if (code == 0)
        code = ds_fs_rename(fs, beside, path);
    if (code == 0)
        code = ds_fs_fsync_dir(fs, trace->options.dir);
    if (code == 0) {
        ds_info("trace: %s", path);
        return;
    }
    give_up(trace, "write", path, code);
    (void)ds_fs_unlink(fs, beside);
}

/* Each by its name: listing a folder takes memory. */
static void remove_pieces(struct ds_trace *trace)
{
    char path[PATH_BYTES];

    for (uint32_t rank = 0; rank < trace->options.world->size; rank++) {
        piece_path(trace, rank, path);
        (void)ds_fs_unlink(trace->options.fs, path);
    }
    folder_path(trace, path);
    (void)ds_fs_rmdir(trace->options.fs, path);
}

static void close_piece(struct ds_trace *trace)
{
    char path[PATH_BYTES];

    piece_path(trace, trace->options.world->rank, path);
    flush(trace, path);
    if (trace->file >= 0)
        (void)ds_fs_close(trace->options.fs, trace->file);
    trace->file = -1;
}

/* Who has failed has said so; rank 0 then leaves nothing behind that looks like a whole trace. */
static ds_status finish(struct ds_trace *trace)
{
    ds_status verdict = DS_OK;

    close_piece(trace);
    DS_TRY(ds_comm_agree(trace->options.world, trace->is_broken ? DS_ERR_IO : DS_OK, &verdict));
    if (trace->options.world->rank != 0)
        return DS_OK;
    if (verdict == DS_OK)
        merge(trace);
    remove_pieces(trace);
    return DS_OK;
}

/* ---- from outside */

/* The first line makes folder and file: a launch that does not come to it leaves nothing. */
static void open_piece(struct ds_trace *trace)
{
    struct ds_fs *fs = trace->options.fs;
    char path[PATH_BYTES];
    int code;

    folder_path(trace, path);
    code = ds_fs_mkdir(fs, path, 0750);
    if (code < 0 && code != -EEXIST) {
        give_up(trace, "make", path, code);
        return;
    }
    piece_path(trace, trace->options.world->rank, path);
    trace->file =
        ds_fs_open(fs, path, DS_FS_WRITE | DS_FS_CREATE | DS_FS_TRUNCATE | DS_FS_APPEND, 0640);
    if (trace->file < 0) {
        give_up(trace, "create", path, trace->file);
        return;
    }
    put(trace, PIECE_BEGIN);
    put_rank(trace);
}

ds_status ds_trace_step(struct ds_trace *trace, const struct ds_step_report *report)
{
    char path[PATH_BYTES];

    if (report->step < trace->options.first || report->step > trace->options.last)
        return DS_OK;
    if (trace->file < 0 && !trace->is_broken)
        open_piece(trace);
    piece_path(trace, trace->options.world->rank, path);
    for (uint32_t i = 0; i < report->span_count && !trace->is_broken; i++) {
        if (sizeof trace->buffer - trace->used < LINE_MAX_BYTES)
            flush(trace, path);
        put_span(trace, report, &report->spans[i]);
    }
    flush(trace, path);
    return report->step == trace->options.last ? finish(trace) : DS_OK;
}

ds_status ds_trace_open(const struct ds_trace_options *options, struct ds_trace **out)
{
    struct ds_trace *trace = calloc(1, sizeof *trace);
    char path[PATH_BYTES];
    ds_status st;

    st = ds_comm_agreed(options->world,
                        trace ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "a trace's buffer"));
    DS_TRY_GOTO(st, st, fail);
    trace->options = *options;
    trace->file = -1;
    folder_path(trace, path);
    if (options->world->rank == 0)
        (void)ds_fs_remove_tree(options->fs, path); /* what an earlier launch did not come to end */
    DS_TRY_GOTO(st, ds_trace_clock_measure(options->world, options->clock, &trace->clock), fail);
    *out = trace;
    return DS_OK;

fail:
    free(trace);
    return st;
}

void ds_trace_close(struct ds_trace *trace)
{
    if (!trace)
        return;
    if (trace->file >= 0)
        (void)ds_fs_close(trace->options.fs, trace->file);
    free(trace);
}
