/* status.h - the one error currency of the project, and the log it is written to.
 *
 * A failure is *decided* in one place: the code that first knows what went wrong. That place calls
 * ds_fail(), which logs. Everything above it only passes the status on (DS_TRY). A row carries the
 * exit code of a run that ends with it. Order: of two statuses the later row wins an agreement -
 * first what is often a consequence, then what a restart may cure, then what only a person can. */
#ifndef DSTRAIN_STATUS_H
#define DSTRAIN_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
#define DS_STATUS_LIST(X)                                         \
    X(OK, 0, "success")                                           \
    X(LEAVE, 75, "asked to leave, checkpoint committed")          \
    X(ERR_COMM, 70, "communication failed")                       \
    X(ERR_DEADLINE, 71, "a deadline passed")                      \
    X(ERR_IO, 70, "storage failed")                               \
    X(ERR_NO_MEMORY, 70, "out of memory")                         \
    X(ERR_DEVICE, 70, "device call failed")                       \
    X(ERR_UNFIT, 72, "device or host check failed")               \
    X(ERR_CRASH_LOOP, 68, "no progress after several restarts")   \
    X(ERR_NO_CAPACITY, 69, "no healthy hosts left")               \
    X(ERR_DIVERGED, 67, "diverged, rollback budget spent")        \
    X(ERR_NO_CHECKPOINT, 66, "no checkpoint verifies")            \
    X(ERR_CORRUPT, 65, "stored data failed its checksum")         \
    X(ERR_DATA, 65, "bad data or model input")                    \
    X(ERR_UNSUPPORTED, 64, "not available in this build or here") \
    X(ERR_CONFIG, 64, "bad configuration")                        \
    X(ERR_FENCED, 73, "a newer launch owns the run")
/* clang-format on */

#define DS_STATUS_ENUM(name, code, text) DS_##name,
typedef enum { DS_STATUS_LIST(DS_STATUS_ENUM) DS_STATUS_COUNT } ds_status;
#undef DS_STATUS_ENUM

#define DS_CHECKED __attribute__((warn_unused_result))

/* local: decide a failure: log one ERROR line and return `st`. Statuses that speak of what a person
 * wrote (configuration, data) print the message alone; the others add the place in the code, and a failure
 * to get memory begins with "out of memory: ". */
ds_status ds_fail_at(ds_status st, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5), cold));
#define ds_fail(st, ...) ds_fail_at((st), __FILE__, __LINE__, __VA_ARGS__)

/* Pass a failure on. */
#define DS_TRY(call)                \
    do {                            \
        ds_status try_st_ = (call); \
        if (try_st_ != DS_OK)       \
            return try_st_;         \
    } while (0)

/* The same through a cleanup label; `st` keeps the status. */
#define DS_TRY_GOTO(st, call, label) \
    do {                             \
        (st) = (call);               \
        if ((st) != DS_OK)           \
            goto label;              \
    } while (0)

/* local: bugs, not failures. On in release builds, too: a wrong gradient costs more than the branch. */
void ds_panic(const char *condition, const char *file, int line) __attribute__((noreturn, cold));
#define DS_ASSERT(condition) ((condition) ? (void)0 : ds_panic(#condition, __FILE__, __LINE__))

/* pure: what a status means */
int ds_status_exit_code(ds_status st);
const char *ds_status_name(ds_status st); /* "ERR_IO" */
const char *ds_status_text(ds_status st); /* "storage failed" */

/* ---- the log: words for people, on stderr and in the rank's file. Numbers go to metrics.jsonl. */

enum ds_log_level { DS_LOG_DEBUG, DS_LOG_INFO, DS_LOG_WARN, DS_LOG_ERROR };

/* The one mutable global of the project. Set in main before threads start, then read only but for `is_losing`.
 * INFO reaches the terminal from rank 0 only (`is_leader`); WARN and ERROR from every rank, with its
 * number; everything at or above `level` goes to `file`. A line is one write(). */
struct ds_log {
    enum ds_log_level level;
    int rank, rank_count; /* rank_count 0: not started by mpirun, lines carry no rank */
    int is_leader;
    int terminal;  /* descriptor; 2 unless a test captures it */
    int file;      /* descriptor of log/rank-NNNN.log, or -1 */
    int is_losing; /* the file has not taken the last line: the terminal was told, once */
};
extern struct ds_log ds_log;

/* local, any thread */
void ds_log_write(enum ds_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define ds_debug(...) ds_log_write(DS_LOG_DEBUG, __VA_ARGS__)
#define ds_info(...)  ds_log_write(DS_LOG_INFO, __VA_ARGS__)
#define ds_warn(...)  ds_log_write(DS_LOG_WARN, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
