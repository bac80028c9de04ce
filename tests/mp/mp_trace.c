// link: launch
// private: launch
// ranks: 2
/* mp_trace.c - one picture of ranks that are processes, over shared memory and over messages: all that every rank
 * did in the steps asked for is in it, on one clock. */
#include "mp_tiny.h"
#include "trace.h"

#include <jansson.h>

enum { STEPS = 4, FIRST = 2, LAST = 3 };

static uint64_t span_count; /* of this rank, in the traced steps */
static uint64_t begin_ns, end_ns;

static ds_status on_step(void *user, const struct ds_step_report *report)
{
    if (report->step >= FIRST && report->step <= LAST)
        span_count += report->span_count;
    return ds_trace_step(user, report);
}

static ds_status run(const struct tiny_case *c, const char *dir)
{
    const struct ds_trace_options options = {.world = world,
                                             .fs = ds_fs_posix(),
                                             .clock = ds_clock_system(),
                                             .dir = dir,
                                             .first = FIRST,
                                             .last = LAST};
    struct ds_trainer *trainer = NULL;
    struct ds_trace *trace = NULL;
    struct ds_config config;
    ds_status st;

    tiny_config(c, &config);
    DS_TRY(ds_trace_open(&options, &trace));
    const struct ds_trainer_options run_options = {.config = &config,
                                                   .mode = DS_TRAINER_TRAIN,
                                                   .world = world,
                                                   .fs = ds_fs_posix(),
                                                   .clock = ds_clock_system(),
                                                   .on_step = on_step,
                                                   .user = trace,
                                                   .settle_step = LAST,
                                                   .marked_first = FIRST,
                                                   .marked_last = LAST};
    st = ds_trainer_open(&run_options, &trainer);
    if (st == DS_OK)
        st = ds_trainer_run(trainer);
    ds_trainer_close(trainer);
    ds_trace_close(trace);
    return st;
}

/* rank 0: has the file `counts[rank]` spans of each rank, all of them in the time of the run? */
static int is_whole(const char *dir, const uint64_t counts[2])
{
    const double run_us = (double)(end_ns - begin_ns) * 1e-3;
    uint64_t seen[2] = {0, 0};
    char path[600];
    json_t *trace, *event;
    size_t i;
    int is_right = 1;

    snprintf(path, sizeof path, "%s/trace.json", dir);
    trace = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    json_array_foreach(json_object_get(trace, "traceEvents"), i, event)
    {
        const double ts = json_number_value(json_object_get(event, "ts"));
        const json_int_t rank = json_integer_value(json_object_get(event, "pid"));
        if (strcmp(json_string_value(json_object_get(event, "ph")), "X") != 0)
            continue;
        is_right = is_right && rank < 2 && ts > 0 && ts < run_us;
        seen[rank & 1]++;
    }
    json_decref(trace);
    return is_right && seen[0] == counts[0] && seen[1] == counts[1] && counts[0] > 0;
}

static void processes_are_in_one_picture_over(int transport, int mode)
{
    const struct tiny_case c = {.ranks = world->size,
                                .stage = 3,
                                .mode = mode,
                                .transport = transport,
                                .steps = STEPS,
                                .global_batch = 8,
                                .micro_batch = 2,
                                .seed = data.seed,
                                .data = data.path};
    uint64_t counts[2] = {0, 0};
    char dir[512];

    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(data.path, '/') - data.path), data.path);
    span_count = 0;
    begin_ns = ds_clock_mono_ns(ds_clock_system());
    mp_assert(run(&c, dir) == DS_OK);
    end_ns = ds_clock_mono_ns(ds_clock_system());
    MPI_Gather(&span_count, 1, MPI_UINT64_T, counts, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    mp_assert(world->rank != 0 || is_whole(dir, counts));
}

static void processes_are_in_one_picture(void **state)
{
    (void)state;
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
        processes_are_in_one_picture_over(DS_TRANSPORT_SHM, mode);
        processes_are_in_one_picture_over(DS_TRANSPORT_MPI, mode);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DATA(processes_are_in_one_picture),
    };

    return mp_run(tests, 60000000000u);
}
