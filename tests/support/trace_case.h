/* trace_case.h - traces of a few steps made by hand, of one rank and of ranks whose clocks are apart; and reading a trace. */
#ifndef DSTRAIN_TEST_TRACE_CASE_H
#define DSTRAIN_TEST_TRACE_CASE_H

#include "ranks.h"
#include "test.h"
#include "trace.h"

#include "dstrain/accounts.h"

#include <jansson.h>

enum { FIRST = 2, LAST = 3 }; /* steps that are traced */

static inline double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static inline const char *string(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    assert_non_null(value);
    return value;
}

static inline int is_there(struct ds_fs *fs, const char *dir, const char *name)
{
    struct ds_fs_stat stat;
    char path[600];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return ds_fs_stat(fs, path, &stat) == 0;
}

/* ---- hand-made steps */

static const struct ds_action few_actions[] = {{.kind = DS_ACTION_BEGIN},
                                               {.kind = DS_ACTION_FORWARD, .micro = 1, .block = 2}};
static const struct ds_timeline_span few_spans[] = {
    {5000000000, 5000001001, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
    {5000000100, 5000000900, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
    {5000002000, 5000003000, 1, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
};

/* Steps 1..4 of which 2..3 are traced. */
static inline ds_status trace_few(struct ds_comm *world, struct ds_fs *fs, const char *dir,
                                  const struct ds_clock *clock, uint64_t ahead_ns)
{
    const struct ds_trace_options options = {
        .world = world, .fs = fs, .clock = clock, .dir = dir, .first = FIRST, .last = LAST};
    struct ds_timeline_span spans[3];
    struct ds_trace *trace;

    memcpy(spans, few_spans, sizeof spans);
    for (int i = 0; i < 3; i++) {
        spans[i].begin_ns += ahead_ns;
        spans[i].end_ns += ahead_ns;
    }
    DS_TRY(ds_trace_open(&options, &trace));
    for (uint64_t step = 1; step <= 4; step++) {
        const struct ds_step_report report = {
            .step = step, .spans = spans, .actions = few_actions, .span_count = 3};
        DS_TRY(ds_trace_step(trace, &report));
    }
    ds_trace_close(trace);
    return DS_OK;
}

static inline json_t *read_from(struct ds_fs *fs)
{
    char *text;
    size_t bytes;
    json_t *trace;

    assert_ok(ds_fs_read_file(fs, "/run/trace.json", 1u << 20, &text, &bytes));
    trace = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    assert_non_null(trace);
    return trace;
}

/* ---- ranks whose clocks are apart */

struct far_clock {
    struct ds_clock clock;
    int64_t ahead_ns;
};

static inline uint64_t far_mono_ns(void *self)
{
    return ds_clock_mono_ns(ds_clock_system()) + (uint64_t)((struct far_clock *)self)->ahead_ns;
}

struct hosts {
    struct ds_fs *fs;
    struct far_clock clocks[3];
    struct ds_fs *own[3];
    ds_status status[3];
    uint64_t at_ns;
};

static inline void measure_and_trace(struct ds_comm *world, void *user)
{
    struct hosts *hosts = user;
    const uint32_t r = world->rank;
    const uint64_t ahead_ns = hosts->at_ns + (uint64_t)hosts->clocks[r].ahead_ns;

    hosts->status[r] = trace_few(world, hosts->own[r] ? hosts->own[r] : hosts->fs, "/run",
                                 &hosts->clocks[r].clock, ahead_ns);
}

static inline struct hosts hosts_open(void)
{
    struct hosts hosts = {
        .clocks = {[1] = {.ahead_ns = 7000000000000}, [2] = {.ahead_ns = -3000000000}}};

    hosts.at_ns = ds_clock_mono_ns(ds_clock_system());
    assert_ok(ds_fs_sim_open(&hosts.fs));
    assert_int_equal(ds_fs_mkdir(hosts.fs, "/run", 0750), 0);
    return hosts;
}

static inline void run_hosts(struct hosts *hosts)
{
    for (int i = 0; i < 3; i++)
        hosts->clocks[i].clock = (struct ds_clock){.mono_ns = far_mono_ns,
                                                   .sleep_ns = ds_clock_system()->sleep_ns,
                                                   .self = &hosts->clocks[i]};
    assert_true(run_ranks(3, 60000000000u, measure_and_trace, hosts));
    for (int i = 0; i < 3; i++)
        assert_int_equal(hosts->status[i], DS_OK);
}

#endif
