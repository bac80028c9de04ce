// link: launch
// private: launch
/* test_trace.c - log.trace: one file of valid JSON with every action of every rank and stream of the steps that
 * were asked for, and of no others, in order of time on every row. */
#include "ranks.h"
#include "test.h"
#include "tiny_run.h"
#include "trace.h"
#include "trace_case.h"

#include "dstrain/accounts.h"

#include <jansson.h>

enum { STEPS = 5, MICROS = 2, RANKS_MAX = 4, BLOCKS = 5 };

static char *folder, *data;
static uint64_t seed;

/* ---- reading a trace */

static json_t *read_trace(const char *dir)
{
    char path[600];
    json_error_t error;
    json_t *trace;

    snprintf(path, sizeof path, "%s/trace.json", dir);
    trace = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!trace)
        fail_msg("%s: line %d: %s", path, error.line, error.text);
    assert_true(json_is_array(json_object_get(trace, "traceEvents")));
    return trace;
}

/* One rank's row: events in order of time, each inside of the one that is open or behind it. */
struct row {
    double begin, end; /* of the last action */
    uint32_t actions;
};

struct seen {
    struct row rows[RANKS_MAX][DS_TIMELINE_ROW_COUNT];
    uint32_t kinds[RANKS_MAX][DS_ACTION_KIND_COUNT];
    uint32_t next_action[RANKS_MAX][STEPS + 1];
    uint32_t waits, stage_waits[RANKS_MAX], comm_waits[RANKS_MAX], names[RANKS_MAX];
    uint32_t collectives[RANKS_MAX]; /* of tensor ranks */
};

static int kind_of(const char *name)
{
    const size_t length = strcspn(name, " ");

    for (int kind = 0; kind < DS_ACTION_KIND_COUNT; kind++)
        if (strlen(ds_action_names[kind]) == length &&
            strncmp(ds_action_names[kind], name, length) == 0)
            return kind;
    fail_msg("no action is called %s", name);
    return 0;
}

static void see_action(struct seen *seen, const json_t *event, uint32_t rank, uint32_t tid,
                       uint64_t step)
{
    const int kind = kind_of(string(event, "name"));
    const double action = number(json_object_get(event, "args"), "action");

    assert_int_equal(tid, kind == DS_ACTION_EVICT_KEPT ? DS_TIMELINE_KEPT_OUT
                          : kind == DS_ACTION_FETCH_KEPT
                              ? DS_TIMELINE_KEPT_IN
                              : ds_action_row((enum ds_action_kind)kind));
    assert_true(action == seen->next_action[rank][step]++); /* each once, in the list's order */
    assert_true((action == 0) == (kind == DS_ACTION_BEGIN));
    seen->kinds[rank][kind]++;
    seen->rows[rank][tid].actions++;
}

static void see_collective(struct seen *seen, const json_t *event, uint32_t rank, uint32_t tid)
{
    if (strcmp(string(event, "name"), "collective of tensor ranks") != 0)
        return;
    assert_int_equal(tid, DS_TIMELINE_COMPUTE);
    seen->collectives[rank]++;
}

static void see_event(struct seen *seen, const json_t *event, uint32_t ranks)
{
    const uint32_t rank = (uint32_t)number(event, "pid"), tid = (uint32_t)number(event, "tid");
    const double step = number(json_object_get(event, "args"), "step");
    const double begin = number(event, "ts"), end = begin + number(event, "dur");
    struct row *row = &seen->rows[rank][tid];

    assert_true(rank < ranks && tid < DS_TIMELINE_ROW_COUNT);
    assert_true(step >= FIRST && step <= LAST);
    assert_true(begin > 0 && end >= begin && begin >= row->begin);
    if (strcmp(string(event, "cat"), "wait") == 0) {
        /* in an action; an ACQUIRE that nobody prefetched for waits on the comm row, between actions */
        assert_true(end <= row->end + 1e-3 ||
                    (tid == DS_TIMELINE_COMM && begin >= row->end - 1e-3));
        row->end = end > row->end ? end : row->end;
        seen->waits++;
        seen->stage_waits[rank] += strcmp(string(event, "name"), "wait for stage") == 0;
        seen->comm_waits[rank] += strcmp(string(event, "name"), "wait for collective") == 0;
        see_collective(seen, event, rank, tid);
        return;
    }
    see_action(seen, event, rank, tid, (uint64_t)step);
    assert_true(begin >= row->end - 1e-3);
    row->begin = begin;
    row->end = end;
}

static void see(struct seen *seen, const json_t *trace, uint32_t ranks)
{
    const json_t *event;
    size_t i;

    memset(seen, 0, sizeof *seen);
    json_array_foreach(json_object_get(trace, "traceEvents"), i, event)
    {
        const char *kind = string(event, "ph");
        if (strcmp(kind, "X") == 0)
            see_event(seen, event, ranks);
        else
            assert_string_equal(kind, "M");
        if (strcmp(string(event, "name"), "thread_name") == 0)
            seen->names[(uint32_t)number(event, "pid")]++;
    }
}

/* ---- whole runs */

struct job {
    const struct tiny_case *c;
    const char *dir;
    struct ds_fs *fs;
    pthread_mutex_t lock;
    ds_status status;
};

static ds_status on_step(void *user, const struct ds_step_report *report)
{
    return ds_trace_step(user, report);
}

static ds_status run_rank(struct ds_comm *world, const struct job *job)
{
    struct ds_trace_options options = {.world = world,
                                       .fs = job->fs,
                                       .clock = ds_clock_system(),
                                       .dir = job->dir,
                                       .first = FIRST,
                                       .last = LAST};
    struct ds_trainer *trainer = NULL;
    struct ds_trace *trace = NULL;
    struct ds_config config;
    ds_status st;

    tiny_config(job->c, &config);
    DS_TRY(ds_trace_open(&options, &trace));
    const struct ds_trainer_options run = {.config = &config,
                                           .mode = DS_TRAINER_TRAIN,
                                           .world = world,
                                           .fs = ds_fs_posix(),
                                           .clock = ds_clock_system(),
                                           .on_step = on_step,
                                           .user = trace,
                                           .settle_step = LAST,
                                           .marked_first = FIRST,
                                           .marked_last = LAST};
    st = ds_trainer_open(&run, &trainer);
    if (st == DS_OK)
        st = ds_trainer_run(trainer);
    ds_trainer_close(trainer);
    ds_trace_close(trace);
    return st;
}

static void run_thread(struct ds_comm *world, void *user)
{
    struct job *job = user;
    const ds_status st = run_rank(world, job);

    pthread_mutex_lock(&job->lock);
    job->status = st > job->status ? st : job->status;
    pthread_mutex_unlock(&job->lock);
}

static void check_run(uint32_t ranks, int stage, int mode)
{
    const struct tiny_case c = {.ranks = ranks,
                                .stage = stage,
                                .mode = mode,
                                .steps = STEPS,
                                .global_batch = MICROS * ranks,
                                .micro_batch = 1,
                                .seed = seed,
                                .data = data};
    struct job job = {
        .c = &c, .dir = folder, .fs = ds_fs_posix(), .lock = PTHREAD_MUTEX_INITIALIZER};
    struct seen seen;
    json_t *trace;

    assert_true(run_ranks(ranks, 60000000000u, run_thread, &job));
    assert_int_equal(job.status, DS_OK);
    trace = read_trace(folder);
    see(&seen, trace, ranks);
    for (uint32_t r = 0; r < ranks; r++) {
        const uint32_t steps = LAST - FIRST + 1;
        assert_int_equal(seen.kinds[r][DS_ACTION_FORWARD], steps * MICROS * (BLOCKS - 1));
        assert_int_equal(seen.kinds[r][DS_ACTION_BACKWARD], steps * MICROS * (BLOCKS - 1));
        assert_int_equal(seen.kinds[r][DS_ACTION_LOSS], steps * MICROS);
        assert_int_equal(seen.kinds[r][DS_ACTION_NORM], steps);
        assert_int_equal(seen.kinds[r][DS_ACTION_UPDATE], steps * BLOCKS);
        assert_int_equal(seen.kinds[r][DS_ACTION_REDUCE], steps * MICROS * BLOCKS);
        assert_int_equal(seen.next_action[r][FIRST], seen.next_action[r][LAST]);
        assert_true(seen.rows[r][DS_TIMELINE_COMM].actions > 0);
        assert_true((seen.comm_waits[r] > 0) == (ranks > 1));
        assert_int_equal(seen.names[r], DS_TIMELINE_ROW_COUNT);
    }
    assert_true(seen.waits > 0);
    assert_false(is_there(ds_fs_posix(), folder, "trace"));
    assert_false(is_there(ds_fs_posix(), folder, "trace.json.tmp"));
    json_decref(trace);
}

static void keep_on_the_host(struct ds_config *config)
{
    config->offload.activations = (struct ds_home_key){DS_HOME_HOST, 1};
}

/* Copies of what layers keep are on rows of their own: of all layers but the last two, whose backward comes at once. */
static void check_kept(int recompute, int mode)
{
    const struct tiny_case c = {.ranks = 2,
                                .stage = 3,
                                .mode = mode,
                                .recompute = recompute,
                                .schedule = DS_PIPELINE_1F1B,
                                .layers = 7,
                                .steps = STEPS,
                                .global_batch = 2 * MICROS,
                                .micro_batch = 1,
                                .seed = seed,
                                .data = data,
                                .adjust = keep_on_the_host};
    struct job job = {
        .c = &c, .dir = folder, .fs = ds_fs_posix(), .lock = PTHREAD_MUTEX_INITIALIZER};
    struct seen seen;
    json_t *trace;

    assert_true(run_ranks(2, 60000000000u, run_thread, &job));
    assert_int_equal(job.status, DS_OK);
    trace = read_trace(folder);
    see(&seen, trace, 2);
    for (uint32_t r = 0; r < 2; r++) {
        const uint32_t steps = LAST - FIRST + 1, gone = seen.kinds[r][DS_ACTION_EVICT_KEPT];
        assert_int_equal(gone, steps * MICROS * 5);
        assert_int_equal(seen.kinds[r][DS_ACTION_FETCH_KEPT], gone);
    }
    json_decref(trace);
}

static void what_layers_keep_is_seen_to_go_and_come(void **state)
{
    (void)state;
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
        check_kept(DS_RECOMPUTE_NONE, mode);
        check_kept(DS_RECOMPUTE_FULL, mode);
    }
}

/* Tensor ranks meet inside blocks: in every layer for two sums on the way there and two back, each with a gather
 * where tokens are shared out, in the embedding once, in the head for the maximum, two sums and its gradient. */
static void check_tensor(int sequence_parallel, int recompute, int mode)
{
    const struct tiny_case c = {.ranks = 2,
                                .tensor = 2,
                                .sequence_parallel = sequence_parallel,
                                .recompute = recompute,
                                .stage = 3,
                                .mode = mode,
                                .steps = STEPS,
                                .global_batch = MICROS,
                                .micro_batch = 1,
                                .seed = seed,
                                .data = data};
    const uint32_t layers = BLOCKS - 2;
    const uint32_t layer = sequence_parallel ? 2 * 2 + 6 : 4, head = sequence_parallel ? 4 : 3;
    const uint32_t again = recompute == DS_RECOMPUTE_FULL ? (sequence_parallel ? 3 : 1) : 0;
    const uint32_t embedding = sequence_parallel ? 2 : 1;
    struct job job = {
        .c = &c, .dir = folder, .fs = ds_fs_posix(), .lock = PTHREAD_MUTEX_INITIALIZER};
    struct seen seen;
    json_t *trace;

    assert_true(run_ranks(c.ranks, 60000000000u, run_thread, &job));
    assert_int_equal(job.status, DS_OK);
    trace = read_trace(folder);
    see(&seen, trace, c.ranks);
    for (uint32_t r = 0; r < c.ranks; r++)
        assert_int_equal(seen.collectives[r], (LAST - FIRST + 1) * MICROS *
                                                  (layers * (layer + again) + head + embedding));
    json_decref(trace);
}

static void collectives_of_tensor_ranks_are_in_the_picture(void **state)
{
    (void)state;
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++)
        for (int sp = 0; sp < 2; sp++)
            for (int recompute = DS_RECOMPUTE_NONE; recompute <= DS_RECOMPUTE_FULL; recompute++)
                check_tensor(sp, recompute, mode);
}

static void every_action_of_the_steps_asked_for_is_there_and_no_other(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_MAX; ranks += 3)
        for (int stage = 0; stage <= 3; stage++)
            for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++)
                check_run(ranks, stage, mode);
}

/* Two stages of two ranks each: all of the model's blocks are in the picture once for every micro-batch of a
 * pipeline, and each stage waits for its neighbour. */
static void check_pipeline(int schedule, uint32_t chunks, int mode)
{
    const struct tiny_case c = {.ranks = 4,
                                .pipeline = 2,
                                .schedule = schedule,
                                .chunks = chunks,
                                .layers = 4,
                                .stage = 3,
                                .mode = mode,
                                .steps = STEPS,
                                .global_batch = 2 * 4,
                                .micro_batch = 1,
                                .seed = seed,
                                .data = data};
    const uint32_t times = (LAST - FIRST + 1) * 8; /* steps x micro-batches of all pipelines */
    uint32_t forwards = 0, backwards = 0, losses = 0, messages = 0;
    struct job job = {
        .c = &c, .dir = folder, .fs = ds_fs_posix(), .lock = PTHREAD_MUTEX_INITIALIZER};
    struct seen seen;
    json_t *trace;

    assert_true(run_ranks(c.ranks, 60000000000u, run_thread, &job));
    assert_int_equal(job.status, DS_OK);
    trace = read_trace(folder);
    see(&seen, trace, c.ranks);
    for (uint32_t r = 0; r < c.ranks; r++) {
        forwards += seen.kinds[r][DS_ACTION_FORWARD];
        backwards += seen.kinds[r][DS_ACTION_BACKWARD] + seen.kinds[r][DS_ACTION_BACKWARD_WEIGHT];
        losses += seen.kinds[r][DS_ACTION_LOSS];
        messages += seen.kinds[r][DS_ACTION_EXCHANGE];
        assert_true(seen.stage_waits[r] > 0);
    }
    assert_int_equal(forwards, times * 5); /* embedding and four layers */
    assert_int_equal(backwards, times * 5);
    assert_int_equal(losses, times);
    assert_true(messages > 0);
    json_decref(trace);
}

static void stages_of_a_pipeline_are_in_one_picture(void **state)
{
    (void)state;
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
        check_pipeline(DS_PIPELINE_1F1B, 1, mode);
        check_pipeline(DS_PIPELINE_INTERLEAVED, 2, mode);
        check_pipeline(DS_PIPELINE_ZERO_BUBBLE, 1, mode);
    }
}

/* ---- the step in which ranks may talk */

struct settled {
    struct ds_recorder *recorder;
    uint64_t ahead; /* steps that were told when the next one was queued already */
};

static ds_status watch_step(void *user, const struct ds_step_report *report)
{
    struct settled *settled = user;
    struct ds_record last;

    assert_int_equal(ds_recorder_last(settled->recorder, &last, 1), 1);
    settled->ahead += last.step > report->step;
    assert_true(report->step != LAST || last.step == LAST);
    return DS_OK;
}

/* Deferred nothing of a step is done when it is queued, so the host is a step ahead but for that one. */
static void the_step_to_settle_is_told_before_the_next_begins(void **state)
{
    const struct tiny_case c = {.ranks = 1,
                                .mode = DS_DEVICE_DEFERRED,
                                .steps = 2 * STEPS,
                                .global_batch = 2,
                                .micro_batch = 1,
                                .data = data};
    const struct ds_recorder_options recorder = {.run_id = "settled",
                                                 .kind_names = ds_action_names,
                                                 .kind_count = DS_ACTION_KIND_COUNT,
                                                 .rank_count = 1,
                                                 .clock = ds_clock_system()};
    struct settled settled = {0};
    struct ds_config config;
    struct ds_trainer *trainer;
    struct ds_comm *self;

    (void)state;
    tiny_config(&c, &config);
    assert_ok(ds_comm_self_open(ds_clock_system(), &self));
    assert_ok(ds_recorder_open(&recorder, &settled.recorder));
    const struct ds_trainer_options run = {.config = &config,
                                           .mode = DS_TRAINER_TRAIN,
                                           .world = self,
                                           .fs = ds_fs_posix(),
                                           .clock = ds_clock_system(),
                                           .recorder = settled.recorder,
                                           .on_step = watch_step,
                                           .user = &settled,
                                           .settle_step = LAST};
    assert_ok(ds_trainer_open(&run, &trainer));
    assert_ok(ds_trainer_run(trainer));
    assert_true(settled.ahead > 0);
    ds_trainer_close(trainer);
    ds_recorder_close(settled.recorder, 0);
    ds_comm_close(self);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_action_of_the_steps_asked_for_is_there_and_no_other),
        cmocka_unit_test(what_layers_keep_is_seen_to_go_and_come),
        cmocka_unit_test(collectives_of_tensor_ranks_are_in_the_picture),
        cmocka_unit_test(stages_of_a_pipeline_are_in_one_picture),
        cmocka_unit_test(the_step_to_settle_is_told_before_the_next_begins),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_trace");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
