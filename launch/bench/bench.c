/* bench.c - `dstrain bench kernels|comm|storage|step|tokenizer|host|link`: the arguments, the clock and the lines that
 * all of them share. Numbers go to standard output, words to the log. */
#include "bench.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- arguments */

static void drop(struct bench *bench, int at, int count)
{
    for (int i = at; i + count < bench->argc; i++)
        bench->argv[i] = bench->argv[i + count];
    bench->argc -= count;
}

static int find(const struct bench *bench, const char *name)
{
    for (int i = 0; i < bench->argc; i++)
        if (strcmp(bench->argv[i], name) == 0)
            return i;
    return -1;
}

int bench_flag(struct bench *bench, const char *name)
{
    const int at = find(bench, name);

    if (at >= 0)
        drop(bench, at, 1);
    return at >= 0;
}

ds_status bench_option(struct bench *bench, const char *name, const char **value)
{
    const int at = find(bench, name);

    *value = NULL;
    if (at < 0)
        return DS_OK;
    if (at + 1 == bench->argc)
        return ds_fail(DS_ERR_CONFIG, "bench %s: %s needs a value", bench->name, name);
    *value = bench->argv[at + 1];
    drop(bench, at, 2);
    return DS_OK;
}

ds_status bench_option_count(struct bench *bench, const char *name, uint64_t min, uint64_t max,
                             uint64_t *out)
{
    const char *text;
    char *end = NULL;
    unsigned long long value;

    DS_TRY(bench_option(bench, name, &text));
    if (!text)
        return DS_OK;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < min || value > max)
        return ds_fail(DS_ERR_CONFIG, "bench %s: %s = '%s' must be a whole number in %llu..%llu",
                       bench->name, name, text, (unsigned long long)min, (unsigned long long)max);
    *out = value;
    return DS_OK;
}

int bench_threads(const struct bench *bench, uint64_t wanted)
{
    const struct ds_command *command = bench->command;
    const int sharing = bench->world->size > 1 ? command->local_count : 1;
    int threads = wanted ? (int)wanted : command->thread_count / sharing;

    threads = threads > 0 ? threads : 1;
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    return threads;
}

ds_status bench_arguments_end(const struct bench *bench, int count_max)
{
    for (int i = 0; i < bench->argc; i++)
        if (i >= count_max || bench->argv[i][0] == '-')
            return ds_fail(DS_ERR_CONFIG, "bench %s: unknown argument '%s'", bench->name,
                           bench->argv[i]);
    return DS_OK;
}

/* ---- time */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

struct bench_spread bench_spread_of(double *samples, size_t count)
{
    qsort(samples, count, sizeof *samples, by_size);
    return (struct bench_spread){samples[0], samples[count / 2], samples[count * 9 / 10]};
}

static ds_status time_once(const struct bench *bench, const struct bench_work *work, double *to)
{
    const struct ds_clock *clock = bench->command->clock;
    uint64_t start_ns;

    DS_TRY(ds_comm_barrier(bench->world));
    start_ns = ds_clock_mono_ns(clock);
    for (uint32_t i = 0; i < work->calls; i++)
        DS_TRY(work->run(work->user));
    if (work->finish)
        DS_TRY(work->finish(work->user));
    *to = (double)(ds_clock_mono_ns(clock) - start_ns) * 1e-9 / work->calls;
    return DS_OK;
}

ds_status bench_time(const struct bench *bench, const struct bench_work *works, size_t count,
                     struct bench_spread *out)
{
    double samples[BENCH_WORKS_MAX][BENCH_REPEATS_MAX], unused;

    DS_ASSERT(count <= BENCH_WORKS_MAX && bench->repeats <= BENCH_REPEATS_MAX);
    for (uint32_t i = 0; i < bench->warmups; i++)
        for (size_t w = 0; w < count; w++)
            DS_TRY(time_once(bench, &works[w], &unused));
    for (uint32_t i = 0; i < bench->repeats; i++)
        for (size_t w = 0; w < count; w++)
            DS_TRY(time_once(bench, &works[w], &samples[w][i]));
    for (size_t w = 0; w < count; w++) {
        DS_TRY(ds_comm_all_reduce(bench->world, samples[w], bench->repeats, DS_F64, DS_REDUCE_MAX,
                                  NULL));
        out[w] = bench_spread_of(samples[w], bench->repeats);
    }
    return DS_OK;
}

/* ---- lines */

/* Counts stay whole; six digits are more than any timing has. */
static json_t *rounded(double value)
{
    char text[32];

    if (!isfinite(value))
        return json_null(); /* there is no such figure here */
    if (value == floor(value) && fabs(value) < 0x1p53)
        return json_integer((json_int_t)value);

    snprintf(text, sizeof text, "%.6g", value);
    return json_real(strtod(text, NULL));
}

ds_status bench_print(const struct bench *bench, const char *what, const char *unit,
                      const struct bench_spread *spread, const struct bench_figure *figures,
                      size_t figure_count)
{
    double load = 0;
    json_t *line;
    char *text;

    if (bench->world->rank != 0)
        return DS_OK;
    (void)getloadavg(&load, 1);
    line = json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "bench", bench->name, "case", what, "unit",
                     unit, "min", rounded(spread->min), "median", rounded(spread->median), "p90",
                     rounded(spread->p90));
    for (size_t i = 0; line && i < figure_count; i++)
        json_object_set_new(line, figures[i].name, rounded(figures[i].value));
    if (line)
        json_object_set_new(line, "load", rounded(load));
    text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(line);
    if (!text)
        return ds_fail(DS_ERR_NO_MEMORY, "a line of figures");
    puts(text);
    free(text);
    return fflush(stdout) == 0 ? DS_OK : ds_fail(DS_ERR_IO, "standard output cannot be written");
}

/* ---- which */

struct kind {
    const char *name;
    ds_status (*run)(struct bench *bench);
    int with_ranks; /* the others run on rank 0 alone, whatever mpirun started */
};

static const struct kind kinds[] = {
    {"kernels", ds_bench_kernels, 0},     {"comm", ds_bench_comm, 1},
    {"storage", ds_bench_storage, 0},     {"step", ds_bench_step, 1},
    {"tokenizer", ds_bench_tokenizer, 0}, {"host", ds_bench_host, 0},
    {"link", ds_bench_link, 1},
};

/* The world may be larger than the ranks that measure. */
static ds_status run(const struct kind *kind, struct bench *bench)
{
    struct ds_comm *self = NULL;
    ds_status st;

    if (kind->with_ranks)
        return kind->run(bench);
    if (bench->world->rank != 0)
        return DS_OK;
    DS_TRY(ds_comm_self_open(bench->command->clock, &self));
    bench->world = self;
    st = kind->run(bench);
    ds_comm_close(self);
    return st;
}

ds_status ds_bench_main(struct ds_command *command)
{
    const char *name = command->argc > 0 ? command->argv[0] : "";
    struct bench bench = {.command = command,
                          .world = command->world,
                          .warmups = 3,
                          .repeats = 25,
                          .argc = command->argc - 1,
                          .argv = command->argv + 1};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, name) != 0)
            continue;
        bench.name = name;
        bench.is_quick = bench_flag(&bench, "--quick");
        if (bench.is_quick) {
            bench.warmups = 1;
            bench.repeats = 3;
        }
        return run(&kinds[i], &bench);
    }
    return command->world->rank == 0 ? ds_command_usage("bench") : DS_ERR_CONFIG;
}
