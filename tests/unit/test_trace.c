// link: launch
// private: launch
/* test_trace.c - log.trace: one file of valid JSON with every action of every rank and stream of the steps that
 * were asked for, and of no others, in order of time on every row; clocks of hosts made one; and a disk that
 * fails costs the trace alone. */
#include "capture.h"
#include "command.h"
#include "ranks.h"
#include "test.h"
#include "tiny_run.h"
#include "trace.h"
#include "trace_clock.h"

#include "dstrain/accounts.h"
#include "dstrain/random.h"

#include <errno.h>
#include <jansson.h>

enum { STEPS = 5, FIRST = 2, LAST = 3, MICROS = 2, RANKS_MAX = 4, BLOCKS = 5 };

static char *folder, *data;
static uint64_t seed;

/* ---- reading a trace */

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static const char *string(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    assert_non_null(value);
    return value;
}

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

static int is_there(struct ds_fs *fs, const char *dir, const char *name)
{
    struct ds_fs_stat stat;
    char path[600];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return ds_fs_stat(fs, path, &stat) == 0;
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

/* ---- the program */

/* Files of the trace: a disk with so many bytes. */
static int64_t trace_bytes_left;
static int trace_files[1024];

static int open_and_note(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    const int file = ds_fs_posix()->ops->open(fs, path, flags, mode);

    if (file >= 0 && file < 1024)
        trace_files[file] = strstr(path, "/trace") != NULL;
    return file;
}

static int64_t append_while_room(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    if (file < 1024 && trace_files[file] && (trace_bytes_left -= (int64_t)bytes) < 0)
        return -ENOSPC;
    return ds_fs_posix()->ops->append(fs, file, from, bytes);
}

static size_t count_of(const char *text, const char *word)
{
    size_t count = 0;

    for (; (text = strstr(text, word)); text++)
        count++;
    return count;
}

/* `dstrain config.ini` where the trace has room for so many bytes; what it said */
static const char *run_program(struct capture *capture, const char *dir, int64_t room)
{
    static struct ds_config config;
    struct ds_fs_ops ops = *ds_fs_posix()->ops;
    struct ds_fs fs = {&ops};
    struct ds_command command = {
        .config = &config, .fs = &fs, .clock = ds_clock_system(), .thread_count = 1};
    const struct tiny_case c = {
        .ranks = 1, .stage = 3, .steps = STEPS, .global_batch = 2, .micro_batch = 1, .data = data};
    const char *said;
    ds_status st;

    ops.open = open_and_note;
    ops.append = append_while_room;
    trace_bytes_left = room;
    tiny_config(&c, &config);
    snprintf(config.run.dir, sizeof config.run.dir, "%s", dir);
    strcpy(config.log.trace, "4..9"); /* there are five */
    assert_ok(ds_comm_self_open(ds_clock_system(), &command.world));
    ds_log.is_leader = 1;
    capture_begin(capture);
    st = ds_train_main(&command);
    said = capture_end(capture);
    ds_log.is_leader = 0;
    ds_comm_close(command.world);
    assert_int_equal(st, DS_OK);
    return said;
}

static double bytes_of(const char *dir, const char *name)
{
    struct ds_fs_stat stat;
    char path[600];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(ds_fs_stat(ds_fs_posix(), path, &stat), 0);
    return (double)stat.bytes;
}

static size_t lines_of(const char *dir, const char *name)
{
    char path[600], *text;
    size_t bytes, count;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1u << 20, &text, &bytes));
    count = count_of(text, "\n");
    free(text);
    return count;
}

static void a_full_disk_costs_the_trace_and_one_warning(void **state)
{
    double rooms[] = {1e9, 0, 0.1, 0.6,
                      1.5}; /* then: of what a whole trace takes; the ranks' part is one */
    struct capture capture;
    char dir[600], line[640];

    (void)state;
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        const int is_whole = i == 0;
        snprintf(dir, sizeof dir, "%s/run-%zu", folder, i);
        const char *said = run_program(&capture, dir, (int64_t)rooms[i]);
        assert_int_equal(count_of(said, "no trace is written"), !is_whole);
        snprintf(line, sizeof line, "trace: %s/trace.json", dir);
        assert_int_equal(count_of(said, line), is_whole);
        assert_int_equal(is_there(ds_fs_posix(), dir, "trace.json"), is_whole);
        assert_false(is_there(ds_fs_posix(), dir, "trace.json.tmp"));
        assert_false(is_there(ds_fs_posix(), dir, "trace"));
        assert_int_equal(lines_of(dir, "metrics.jsonl"), STEPS);
        for (size_t k = 1; i == 0 && k < sizeof rooms / sizeof *rooms; k++)
            rooms[k] *= bytes_of(dir, "trace.json");
    }
}

/* ---- hand-made steps: every call of the file system fails once */

static const struct ds_action few_actions[] = {{.kind = DS_ACTION_BEGIN},
                                               {.kind = DS_ACTION_FORWARD, .micro = 1, .block = 2}};
static const struct ds_timeline_span few_spans[] = {
    {5000000000, 5000001001, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
    {5000000100, 5000000900, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
    {5000002000, 5000003000, 1, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
};

/* Steps 1..4 of which 2..3 are traced. */
static ds_status trace_few(struct ds_comm *world, struct ds_fs *fs, const char *dir,
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

static json_t *read_from(struct ds_fs *fs)
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

static size_t spans_in(const json_t *trace)
{
    const json_t *event;
    size_t i, count = 0;

    json_array_foreach(json_object_get(trace, "traceEvents"), i, event) count +=
        strcmp(string(event, "ph"), "X") == 0;
    return count;
}

static void any_call_may_fail_and_the_trace_is_whole_or_absent(void **state)
{
    struct ds_clock_manual manual;
    uint64_t fail_at = 1, whole = 0;
    int is_hit = 1;

    (void)state;
    ds_clock_manual_init(&manual);
    for (; is_hit; fail_at++) {
        struct ds_fs *sim, *fault;
        struct ds_comm *self;
        struct capture capture;

        assert_ok(ds_fs_sim_open(&sim));
        assert_int_equal(ds_fs_mkdir(sim, "/run", 0750), 0);
        assert_ok(ds_fs_fault_open(sim, fail_at, &fault));
        assert_ok(ds_comm_self_open(&manual.clock, &self));
        capture_begin(&capture);
        assert_ok(trace_few(self, fault, "/run", &manual.clock, 0));
        const char *said = capture_end(&capture);
        is_hit = ds_fs_fault_hit(fault);
        const int is_whole = is_there(sim, "/run", "trace.json");
        assert_true(count_of(said, "no trace is written") <= 1);
        assert_true(is_whole || count_of(said, "no trace is written") == 1);
        if (is_whole) {
            json_t *trace = read_from(sim);
            assert_int_equal(spans_in(trace), 2 * 3);
            json_decref(trace);
            whole++;
        }
        assert_int_equal(ds_fs_sim_open_files(sim), 0);
        ds_comm_close(self);
        ds_fs_fault_close(fault);
        ds_fs_sim_close(sim);
    }
    assert_true(fail_at > 10 && whole >= 1 && whole < fail_at / 2);
}

/* ---- clocks */

struct far_clock {
    struct ds_clock clock;
    int64_t ahead_ns;
};

static uint64_t far_mono_ns(void *self)
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

static void measure_and_trace(struct ds_comm *world, void *user)
{
    struct hosts *hosts = user;
    const uint32_t r = world->rank;
    const uint64_t ahead_ns = hosts->at_ns + (uint64_t)hosts->clocks[r].ahead_ns;

    hosts->status[r] = trace_few(world, hosts->own[r] ? hosts->own[r] : hosts->fs, "/run",
                                 &hosts->clocks[r].clock, ahead_ns);
}

static struct hosts hosts_open(void)
{
    struct hosts hosts = {
        .clocks = {[1] = {.ahead_ns = 7000000000000}, [2] = {.ahead_ns = -3000000000}}};

    hosts.at_ns = ds_clock_mono_ns(ds_clock_system());
    assert_ok(ds_fs_sim_open(&hosts.fs));
    assert_int_equal(ds_fs_mkdir(hosts.fs, "/run", 0750), 0);
    return hosts;
}

static void run_hosts(struct hosts *hosts)
{
    for (int i = 0; i < 3; i++)
        hosts->clocks[i].clock = (struct ds_clock){.mono_ns = far_mono_ns,
                                                   .sleep_ns = ds_clock_system()->sleep_ns,
                                                   .self = &hosts->clocks[i]};
    assert_true(run_ranks(3, 60000000000u, measure_and_trace, hosts));
    for (int i = 0; i < 3; i++)
        assert_int_equal(hosts->status[i], DS_OK);
}

/* The first span of every rank was stamped at one moment, by clocks that are hours apart. */
static void ranks_of_hosts_land_on_one_time(void **state)
{
    struct hosts hosts = hosts_open();
    double at[3] = {-1, -1, -1}, error[3] = {0};
    const json_t *event;
    json_t *trace;
    size_t i;

    (void)state;
    run_hosts(&hosts);
    trace = read_from(hosts.fs);
    json_array_foreach(json_object_get(trace, "traceEvents"), i, event)
    {
        const uint32_t rank = (uint32_t)number(event, "pid");
        if (strcmp(string(event, "ph"), "X") == 0 && at[rank] < 0)
            at[rank] = number(event, "ts");
        if (strcmp(string(event, "name"), "process_labels") == 0)
            error[rank] = number(json_object_get(event, "args"), "clock_error_ns") * 1e-3;
    }
    assert_true(at[0] > 0 && error[0] == 0);
    for (int r = 1; r < 3; r++) {
        assert_true(error[r] > 0 && error[r] < 1e6); /* microseconds; and it is true: */
        assert_true(at[r] >= at[0] - error[r] - 2e-3 && at[r] <= at[0] + error[r] + 2e-3);
    }
    json_decref(trace);
    ds_fs_sim_close(hosts.fs);
}

static void a_rank_whose_disk_fails_takes_the_trace_of_all(void **state)
{
    struct hosts hosts = hosts_open();
    struct capture capture;

    (void)state;
    assert_ok(ds_fs_fault_open(hosts.fs, 2, &hosts.own[2])); /* the first line it writes */
    capture_begin(&capture);
    run_hosts(&hosts);
    assert_int_equal(count_of(capture_end(&capture), "no trace is written"), 1);
    assert_false(is_there(hosts.fs, "/run", "trace.json"));
    assert_false(is_there(hosts.fs, "/run", "trace"));
    assert_int_equal(ds_fs_sim_open_files(hosts.fs), 0);
    ds_fs_fault_close(hosts.own[2]);
    ds_fs_sim_close(hosts.fs);
}

/* Two clocks `ahead` apart meet: both come, then both leave, in any order and after any time. */
static struct ds_trace_bounds meet(struct ds_random random, uint64_t meetings, int64_t ahead_ns)
{
    struct ds_trace_bounds bounds = {INT64_MIN, INT64_MAX};
    uint64_t now_ns = 1000000000000;

    for (uint64_t i = 0; i < meetings; i++) {
        uint64_t t[4];
        for (uint64_t k = 0; k < 4; k++)
            t[k] = now_ns + (k / 2) * 5000 + ds_random_below(random, 4 * i + k, 5000);
        const struct ds_trace_meeting root = {t[0], t[2]};
        const struct ds_trace_meeting own = {t[1] + (uint64_t)ahead_ns, t[3] + (uint64_t)ahead_ns};
        ds_trace_bounds_narrow(&bounds, own, root);
        now_ns += 20000;
    }
    return bounds;
}

static void bounds_hold_the_true_offset_and_clocks_of_one_host_are_one(void **state)
{
    const int64_t aheads_ns[] = {0, 1000000, -1000000, 86400000000000, -500000000000};

    (void)state;
    for (uint64_t n = 0; n < 200; n++)
        for (int k = 0; k < 5; k++) {
            struct ds_trace_clock clock;
            const struct ds_trace_bounds bounds =
                meet(ds_random_of(seed, DS_RANDOM_TEST, n), 1 + n % 16, aheads_ns[k]);
            const int64_t ahead_ns = aheads_ns[k];
            ds_trace_clock_of(bounds, &clock);
            assert_true(bounds.low_ns <= ahead_ns && ahead_ns <= bounds.high_ns);
            assert_true(clock.offset_ns <= ahead_ns + (int64_t)clock.error_ns &&
                        clock.offset_ns >= ahead_ns - (int64_t)clock.error_ns);
            assert_true(clock.error_ns <= 10000);
            assert_true(k > 0 || (clock.offset_ns == 0 && clock.error_ns == 0));
        }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_action_of_the_steps_asked_for_is_there_and_no_other),
        cmocka_unit_test(what_layers_keep_is_seen_to_go_and_come),
        cmocka_unit_test(collectives_of_tensor_ranks_are_in_the_picture),
        cmocka_unit_test(stages_of_a_pipeline_are_in_one_picture),
        cmocka_unit_test(the_step_to_settle_is_told_before_the_next_begins),
        cmocka_unit_test(a_full_disk_costs_the_trace_and_one_warning),
        cmocka_unit_test(any_call_may_fail_and_the_trace_is_whole_or_absent),
        cmocka_unit_test(ranks_of_hosts_land_on_one_time),
        cmocka_unit_test(a_rank_whose_disk_fails_takes_the_trace_of_all),
        cmocka_unit_test(bounds_hold_the_true_offset_and_clocks_of_one_host_are_one),
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
