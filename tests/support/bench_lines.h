/* bench_lines.h - `dstrain bench` called as main calls it, and what it printed, parsed. */
#ifndef DSTRAIN_TEST_BENCH_LINES_H
#define DSTRAIN_TEST_BENCH_LINES_H

#include "test.h"

#include "command.h"

#include <jansson.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BENCH_LINES_MAX = 64, BENCH_ARGS_MAX = 16 };

struct bench_lines {
    ds_status status;
    size_t count; /* lines; one that is no JSON object is NULL */
    json_t *lines[BENCH_LINES_MAX];
};

static inline void bench_lines_read(FILE *from, struct bench_lines *out)
{
    char line[4096];

    rewind(from);
    while (out->count < BENCH_LINES_MAX && fgets(line, sizeof line, from))
        out->lines[out->count++] = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
}

/* `text`: the words behind `dstrain bench`, separated by spaces */
static inline void bench_lines_run(struct ds_comm *world, const char *text, struct bench_lines *out)
{
    char words[2048], *argv[BENCH_ARGS_MAX];
    int argc = 0, before = dup(STDOUT_FILENO), captured = memfd_create("stdout", MFD_CLOEXEC);
    FILE *from = fdopen(dup(captured), "r");

    *out = (struct bench_lines){0};
    snprintf(words, sizeof words, "%s", text);
    for (char *word = strtok(words, " "); word && argc < BENCH_ARGS_MAX; word = strtok(NULL, " "))
        argv[argc++] = word;
    struct ds_command command = {.argc = argc,
                                 .argv = argv,
                                 .world = world,
                                 .fs = ds_fs_posix(),
                                 .clock = ds_clock_system(),
                                 .thread_count = 2,
                                 .local_count = (int)world->size};
    fflush(stdout);
    dup2(captured, STDOUT_FILENO);
    out->status = ds_bench_main(&command);
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    bench_lines_read(from, out);
    fclose(from);
    close(captured);
    close(before);
}

static inline void bench_lines_fini(struct bench_lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        json_decref(lines->lines[i]);
}

/* The keys every line has, of the kind they must be; times in order. */
static inline int bench_line_is_whole(const json_t *line, const char *bench)
{
    const double min = json_number_value(json_object_get(line, "min"));
    const double median = json_number_value(json_object_get(line, "median"));
    const double p90 = json_number_value(json_object_get(line, "p90"));
    const char *name = json_string_value(json_object_get(line, "bench"));

    return name && strcmp(name, bench) == 0 && json_is_string(json_object_get(line, "case")) &&
           json_is_string(json_object_get(line, "unit")) &&
           json_is_number(json_object_get(line, "load")) && min > 0 && median >= min &&
           p90 >= median;
}

static inline int bench_lines_are_whole(const struct bench_lines *lines, const char *bench)
{
    for (size_t i = 0; i < lines->count; i++)
        if (!bench_line_is_whole(lines->lines[i], bench))
            return 0;
    return 1;
}

static inline double bench_number(const json_t *line, const char *key)
{
    return json_number_value(json_object_get(line, key));
}

/* How many lines' cases begin with `name` and a space. */
static inline int bench_lines_of(const struct bench_lines *lines, const char *name)
{
    int count = 0;

    for (size_t i = 0; i < lines->count; i++) {
        const char *what = json_string_value(json_object_get(lines->lines[i], "case"));
        count += what && strncmp(what, name, strlen(name)) == 0 && what[strlen(name)] == ' ';
    }
    return count;
}

#endif
