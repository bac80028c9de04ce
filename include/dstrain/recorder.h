/* recorder.h - every action leaves one record; metrics, watchdog and the flight recorder read it.
 *
 * One page a rank: a small file in a directory that is local to the host (tmpfs), mapped shared, so
 * that it outlives the process and neighbours can read it. Written by the main thread with relaxed
 * atomic stores, a few ns an event, always on. The watchdog thread reads it, never blocks (no MPI, no
 * device, no shared file system before the end), and ends the process with 71 when a section's
 * deadline passes. */
#ifndef DSTRAIN_RECORDER_H
#define DSTRAIN_RECORDER_H

#include "dstrain/clock.h"
#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

#define DS_RECORDER_EVENTS     256
#define DS_RECORDER_PAGE_BYTES 20480

/* One action: what, when. `name` is an index into the names the owner registered. */
struct ds_record {
    uint64_t begin_ns, end_ns; /* end 0: still running */
    uint64_t step;
    uint32_t action, kind; /* position in the list, ds_action_kind */
    uint32_t micro, unit, block, pad;
    uint64_t sequence;
};

struct ds_recorder;

struct ds_recorder_options {
    const char *directory;         /* host-local; NULL: memory of the process only */
    const char *run_id;            /* part of the file name: [A-Za-z0-9._-] */
    const char *incidents;         /* folder for what the watchdog writes before the end, or NULL */
    const char *const *kind_names; /* of actions, for messages */
    uint32_t kind_count;
    uint32_t rank, rank_count;
    const struct ds_clock *clock;
};

/* local: makes the page, and removes old ones that no process has. Where the directory cannot hold it the
 * page is memory of the process only. */
DS_CHECKED ds_status ds_recorder_open(const struct ds_recorder_options *options,
                                      struct ds_recorder **out);
/* local: what keeps the page out of the directory; "": nothing does */
const char *ds_recorder_why_hidden(const struct ds_recorder *recorder);
/* local: leave mark, removes the page */
void ds_recorder_close(struct ds_recorder *recorder, int exit_code);

/* local: name what the main thread is doing now ("load", "step", "eval"); `deadline_ns` from now, 0:
 * none. Beats as well. */
void ds_recorder_section(struct ds_recorder *recorder, const char *name, uint64_t deadline_ns);
void ds_recorder_beat(struct ds_recorder *recorder);
void ds_recorder_step(struct ds_recorder *recorder, uint64_t step);
/* local: the pair around an action; a begin beats as well; returns where the record lies until 256 more have come */
struct ds_record *ds_record_begin(struct ds_recorder *recorder, uint32_t action, uint32_t kind,
                                  uint32_t micro, uint32_t unit, uint32_t block);
void ds_record_end(struct ds_recorder *recorder, struct ds_record *record);
/* local, any thread: the last events, oldest first; returns how many, at most `count` */
size_t ds_recorder_last(const struct ds_recorder *recorder, struct ds_record *to, size_t count);

/* local, main thread, once: this rank fails where its peers wait for it, or it for them, and its process
 * will end with `code`. Evidence before the end: an incident file with the pages of this host's ranks and,
 * after a passed deadline, one line about the rank that is behind, if it is on this host: one that is stopped,
 * else `missing`, the one that all were waiting for, or with DS_RECORDER_NOBODY the one with the fewest actions.
 * Only the first of a host's ranks to call does this; 1: it was this one, so it may end the job. */
#define DS_RECORDER_NOBODY UINT32_MAX
int ds_recorder_accuse(struct ds_recorder *recorder, int code, uint32_t missing);

/* local: start the thread. On a passed deadline it writes one ERROR line (rank, section, step, action),
 * an incident file with the pages of this host's ranks, and calls `end` (NULL: _exit) with 71. Where a rank
 * of this host has accused before, only the last. */
DS_CHECKED ds_status ds_watchdog_start(struct ds_recorder *recorder, uint64_t tick_ns,
                                       void (*end)(int code));
/* local: ends the thread; nothing to do where none was started */
void ds_watchdog_stop(struct ds_recorder *recorder);

#endif
