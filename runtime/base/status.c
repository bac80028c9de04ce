/* status.c - names and exit codes of statuses, and the log: one line is one write(). */
#include "dstrain/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ds_log ds_log = {.level = DS_LOG_INFO, .is_leader = 1, .terminal = 2, .file = -1};

struct status_row {
    const char *name;
    int exit_code;
    const char *text;
};

#define STATUS_ROW(name, code, text) [DS_##name] = {#name, code, text},
static const struct status_row status_rows[DS_STATUS_COUNT] = {DS_STATUS_LIST(STATUS_ROW)};

int ds_status_exit_code(ds_status st)
{
    DS_ASSERT(st < DS_STATUS_COUNT);
    return status_rows[st].exit_code;
}

const char *ds_status_name(ds_status st)
{
    DS_ASSERT(st < DS_STATUS_COUNT);
    return status_rows[st].name;
}

const char *ds_status_text(ds_status st)
{
    DS_ASSERT(st < DS_STATUS_COUNT);
    return status_rows[st].text;
}

/* What a person wrote is answered with the message alone; the place in our code would not help. */
static int speaks_of_input(ds_status st)
{
    return st == DS_ERR_CONFIG || st == DS_ERR_DATA || st == DS_ERR_UNSUPPORTED ||
           st == DS_ERR_CORRUPT || st == DS_ERR_FENCED;
}

/* 0 or an errno */
static int write_whole(int file, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t done = write(file, text, bytes);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : ENOSPC;
        text += done;
        bytes -= (size_t)done;
    }
    return 0;
}

static const char *const level_names[] = {"debug", "info", "warning", "error"};

static void print_rank(char to[32])
{
    to[0] = '\0';
    if (ds_log.rank_count > 1)
        snprintf(to, 32, " [rank %d]", ds_log.rank);
}

/* The terminal alone is told, and not by way of log_line. */
static void lose_line(int code)
{
    char line[512], rank[32];

    if (__atomic_exchange_n(&ds_log.is_losing, 1, __ATOMIC_RELAXED) || ds_log.level > DS_LOG_WARN)
        return;
    print_rank(rank);
    const int length =
        snprintf(line, sizeof line,
                 "dstrain%s: warning: log/rank-%04d.log in run.dir: a line could not be "
                 "written: %s; lines are lost until it can be\n",
                 rank, ds_log.rank, strerror(code));
    (void)write_whole(ds_log.terminal, line, (size_t)length); /* there is nobody else to tell */
}

/* What is left of a lost line ends before the next one. */
static void write_to_file(const char *line, size_t bytes)
{
    int code = 0;

    if (__atomic_load_n(&ds_log.is_losing, __ATOMIC_RELAXED))
        code = write_whole(ds_log.file, "\n", 1);
    if (code == 0)
        code = write_whole(ds_log.file, line, bytes);
    if (code != 0)
        lose_line(code);
    else
        __atomic_store_n(&ds_log.is_losing, 0, __ATOMIC_RELAXED);
}

static void log_line(enum ds_log_level level, const char *message)
{
    char line[8192];
    char rank[32];
    int length;

    print_rank(rank);
    if (level == DS_LOG_INFO)
        length = snprintf(line, sizeof line, "%s\n", message);
    else
        length =
            snprintf(line, sizeof line, "dstrain%s: %s: %s\n", rank, level_names[level], message);
    if (length < 0)
        return;
    if ((size_t)length >= sizeof line) {
        length = (int)sizeof line - 1;
        line[length - 1] = '\n';
    }
    if (level >= ds_log.level && (level != DS_LOG_INFO || ds_log.is_leader) &&
        (level != DS_LOG_DEBUG || ds_log.level == DS_LOG_DEBUG))
        (void)write_whole(ds_log.terminal, line, (size_t)length);
    if (ds_log.file >= 0)
        write_to_file(line, (size_t)length);
}

void ds_log_write(enum ds_log_level level, const char *format, ...)
{
    char message[7168];
    va_list args;

    if (level < ds_log.level && ds_log.file < 0)
        return;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    log_line(level, message);
}

ds_status ds_fail_at(ds_status st, const char *file, int line, const char *format, ...)
{
    char message[7168];
    va_list args;
    /* a failure to get memory is named as what it is, however the place puts it */
    int length =
        st == DS_ERR_NO_MEMORY ? snprintf(message, sizeof message, "%s: ", ds_status_text(st)) : 0;

    va_start(args, format);
    length += vsnprintf(message + length, sizeof message - (size_t)length, format, args);
    va_end(args);
    if (!speaks_of_input(st) && length >= 0 && (size_t)length < sizeof message)
        snprintf(message + length, sizeof message - (size_t)length, " (%s:%d)", file, line);
    log_line(DS_LOG_ERROR, message);
    return st;
}

void ds_panic(const char *condition, const char *file, int line)
{
    char message[512];

    snprintf(message, sizeof message, "bug: %s does not hold (%s:%d)", condition, file, line);
    log_line(DS_LOG_ERROR, message);
    abort();
}
