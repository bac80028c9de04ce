// link: launch
/* test_stamps.c - the spans of a step are right, and no stamp is queued that nobody needs. The device of these
 * tests is the cpu's with a clock of its own: what a stamp says is how much its stream had been given before, a
 * work counting 1 and a wait WAIT. So every span has one right length, whatever stamps are shared: what was
 * queued on its stream while the host was in its action; and a step is as long as what the compute stream was given
 * from its predecessor's end to its own. */
#include "ranks.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/accounts.h"
#include "dstrain/recorder.h"

#include <math.h>

/* An evaluation goes with the last step. */
enum { STEPS = 6, MARKED_FIRST = 3, MARKED_LAST = 4, ACTIONS_MAX = 1024, WAIT = 1000 };
enum { STREAMS = DS_TIMELINE_ROW_COUNT + 1 }; /* tensor ranks have one that is no row */

static char *folder, *data;
static uint64_t seed;

/* ---- the device */

/* What one step of this rank was given, inside of actions. */
struct given {
    uint64_t step;
    uint64_t costs[ACTIONS_MAX][STREAMS];
    uint64_t wait_costs; /* on the compute stream */
    uint64_t stamps;
    uint32_t action_count;
};

/* Of this rank. */
struct log {
    struct ds_recorder *recorder;
    const struct ds_stream *streams[STREAMS]; /* in the order in which they were opened */
    uint32_t stream_count;
    uint64_t clocks[STREAMS];
    uint64_t ends[STEPS + 1], end_count;         /* of steps: the stamps between actions */
    struct given given[2];                       /* steps in turn */
    uint64_t lengths[2][DS_TIMELINE_WHAT_COUNT]; /* [marked?] of the compute row */
};
static _Thread_local struct log here;
static struct ds_device_ops stamp_ops;

static uint32_t row_of(const struct ds_stream *stream)
{
    uint32_t row = 0;

    while (row < here.stream_count && here.streams[row] != stream)
        row++;
    DS_ASSERT(row < here.stream_count);
    return row;
}

/* Of the step in which the host is; NULL: between actions. */
static struct given *given_now(uint32_t *action)
{
    struct ds_record last;
    struct given *given;

    if (ds_recorder_last(here.recorder, &last, 1) == 0 || last.end_ns != 0)
        return NULL;
    given = &here.given[last.step & 1];
    if (given->step != last.step)
        memset(given, 0, sizeof *given);
    given->step = last.step;
    DS_ASSERT(last.action < ACTIONS_MAX);
    *action = last.action;
    given->action_count = last.action + 1;
    return given;
}

static void give(const struct ds_stream *stream, uint64_t cost)
{
    const uint32_t row = row_of(stream);
    uint32_t action;
    struct given *given = given_now(&action);

    here.clocks[row] += cost;
    if (!given)
        return;
    given->costs[action][row] += cost;
    if (row == DS_TIMELINE_COMPUTE && cost == WAIT)
        given->wait_costs += cost;
}

static ds_status stamp_open(int index, const struct ds_device_options *options,
                            struct ds_device **out)
{
    here.stream_count = 0;
    here.end_count = 0;
    DS_TRY(ds_device_cpu_ops.open(index, options, out));
    (*out)->ops = &stamp_ops;
    return DS_OK;
}

static ds_status stamp_stream_open(struct ds_device *device, uint32_t flags, struct ds_stream **out)
{
    DS_ASSERT(here.stream_count < STREAMS);
    DS_TRY(ds_device_cpu_ops.stream_open(device, flags, out));
    here.clocks[here.stream_count] = 1;
    here.streams[here.stream_count++] = *out;
    return DS_OK;
}

static ds_status stamp_call(struct ds_stream *stream, ds_work_fn work, const void *args,
                            size_t bytes)
{
    give(stream, 1);
    return ds_device_cpu_ops.call(stream, work, args, bytes);
}

static ds_status stamp_copy(struct ds_stream *stream, void *to, const void *from, size_t bytes)
{
    give(stream, 1);
    return ds_device_cpu_ops.copy(stream, to, from, bytes);
}

static ds_status stamp_wait(struct ds_stream *stream, struct ds_event *event)
{
    give(stream, WAIT);
    return ds_device_cpu_ops.stream_wait(stream, event);
}

static ds_status stamp_stamp(struct ds_stream *stream, uint64_t *at_ns)
{
    uint32_t action;
    struct given *given = given_now(&action);

    *at_ns = here.clocks[row_of(stream)];
    if (given) {
        given->stamps++;
    } else { /* the end of a step, once, where its arithmetic is */
        DS_ASSERT(row_of(stream) == DS_TIMELINE_COMPUTE && here.end_count < STEPS);
        here.ends[++here.end_count] = *at_ns;
    }
    return DS_OK;
}

/* Once, before there are threads. */
static void make_device(void)
{
    stamp_ops = ds_device_cpu_ops;
    stamp_ops.name = "stamp";
    stamp_ops.open = stamp_open;
    stamp_ops.stream_open = stamp_stream_open;
    stamp_ops.call = stamp_call;
    stamp_ops.copy = stamp_copy;
    stamp_ops.stream_wait = stamp_wait;
    stamp_ops.stream_stamp = stamp_stamp;
}

/* ---- what is right of a step */

#define HOLDS(step, fact)                                                                      \
    do {                                                                                       \
        if (!(fact))                                                                           \
            return ds_fail(DS_ERR_UNFIT, "step %llu, line %d: %s", (unsigned long long)(step), \
                           __LINE__, #fact);                                                   \
    } while (0)

static int is_marked(uint64_t step)
{
    return step >= MARKED_FIRST && step <= MARKED_LAST;
}

/* Every action once, as long as what it has queued; on the compute row they are all there is; and one that
 * begins where the one before it ended has no stamp of its own for it. */
static ds_status check_actions(const struct ds_step_report *r, const struct given *given)
{
    const struct ds_timeline_span *last = NULL, *first_computing = NULL;
    uint64_t computing = 0, end_ns = 0, joints = 0;
    uint32_t next = 0;

    for (uint32_t i = 0; i < r->span_count; i++) {
        const struct ds_timeline_span *span = &r->spans[i];
        const uint64_t length = span->end_ns - span->begin_ns;
        if (span->what != DS_TIMELINE_ACTION)
            continue;
        HOLDS(r->step, span->action == next++);
        HOLDS(r->step, length == given->costs[span->action][span->row]);
        joints += last && last->row == span->row;
        last = span;
        if (span->row != DS_TIMELINE_COMPUTE)
            continue;
        first_computing = first_computing ? first_computing : span;
        computing += length;
        end_ns = span->end_ns;
    }
    HOLDS(r->step, next > 0 && next == given->action_count);
    HOLDS(r->step, end_ns - first_computing->begin_ns == computing);
    HOLDS(r->step, joints > 0 && given->stamps == 2 * r->span_count - joints);
    return DS_OK;
}

/* Without actions there are waits of the compute row, with two stamps each. */
static ds_status check_waits_alone(const struct ds_step_report *r, const struct given *given)
{
    for (uint32_t i = 0; i < r->span_count; i++) {
        HOLDS(r->step, r->spans[i].what != DS_TIMELINE_ACTION);
        HOLDS(r->step, r->spans[i].row == DS_TIMELINE_COMPUTE);
    }
    HOLDS(r->step, given->stamps == 2 * r->span_count);
    HOLDS(r->step, r->arithmetic_s == 0);
    return DS_OK;
}

static int is_near(double seconds, uint64_t ns)
{
    return fabs(seconds - (double)ns * 1e-9) < 1e-12;
}

/* What the compute stream is given to wait for are waits for others, all of them, but of a rank alone: it has
 * nobody to wait for. */
static ds_status check_waits(const struct ds_step_report *r, const struct given *given,
                             const struct tiny_case *c)
{
    uint64_t *lengths = here.lengths[is_marked(r->step)];
    uint64_t waits, talks;

    memset(lengths, 0, sizeof here.lengths[0]);
    for (uint32_t i = 0; i < r->span_count; i++)
        if (r->spans[i].row == DS_TIMELINE_COMPUTE)
            lengths[r->spans[i].what] += r->spans[i].end_ns - r->spans[i].begin_ns;
    waits = lengths[DS_TIMELINE_WAIT_COMM] + lengths[DS_TIMELINE_WAIT_STAGE];
    talks = lengths[DS_TIMELINE_COLLECTIVE];
    HOLDS(r->step, waits + talks == (c->ranks > 1 ? given->wait_costs : 0));
    HOLDS(r->step, (talks > 0) == (c->tensor > 1));
    HOLDS(r->step, (lengths[DS_TIMELINE_WAIT_STAGE] > 0) == (c->pipeline > 1));
    HOLDS(r->step, is_near(r->wait_comm_s, lengths[DS_TIMELINE_WAIT_COMM] + talks));
    HOLDS(r->step, is_near(r->bubble_s, lengths[DS_TIMELINE_WAIT_STAGE]));
    lengths[DS_TIMELINE_ACTION] = 0; /* the others are the same with and without */
    HOLDS(r->step, r->step <= MARKED_LAST ||
                       memcmp(here.lengths[0], here.lengths[1], sizeof here.lengths[0]) == 0);
    return DS_OK;
}

/* A step took what the device was at it, whenever the host comes to read its numbers. */
static ds_status check_length(const struct ds_step_report *r)
{
    HOLDS(r->step, here.end_count == r->step || here.end_count == r->step + 1);
    HOLDS(r->step, r->step == 1 || is_near(r->step_s, here.ends[r->step] - here.ends[r->step - 1]));
    return DS_OK;
}

static ds_status on_step(void *user, const struct ds_step_report *r)
{
    const struct given *given = &here.given[r->step & 1];

    DS_TRY(check_length(r));
    if (r->step == STEPS)
        return DS_OK;
    HOLDS(r->step, given->step == r->step);
    DS_TRY(is_marked(r->step) ? check_actions(r, given) : check_waits_alone(r, given));
    return check_waits(r, given, user);
}

/* ---- runs */

struct job {
    struct tiny_case c;
    pthread_mutex_t lock;
    ds_status status;
};

static ds_status run_rank(struct ds_comm *world, struct tiny_case *c)
{
    struct ds_config config;
    struct ds_trainer *trainer = NULL;
    ds_status st;

    tiny_config(c, &config);
    const struct ds_trainer_options run = {.config = &config,
                                           .mode = DS_TRAINER_TRAIN,
                                           .world = world,
                                           .fs = ds_fs_posix(),
                                           .clock = ds_clock_system(),
                                           .recorder = here.recorder,
                                           .device = &stamp_ops,
                                           .on_step = on_step,
                                           .user = c,
                                           .marked_first = MARKED_FIRST,
                                           .marked_last = MARKED_LAST};
    st = ds_trainer_open(&run, &trainer);
    if (st == DS_OK)
        st = ds_trainer_run(trainer);
    ds_trainer_close(trainer);
    return st;
}

static void run_thread(struct ds_comm *world, void *user)
{
    const struct ds_recorder_options recorder = {.run_id = "stamps",
                                                 .kind_names = ds_action_names,
                                                 .kind_count = DS_ACTION_KIND_COUNT,
                                                 .rank = world->rank,
                                                 .rank_count = world->size,
                                                 .clock = ds_clock_system()};
    struct job *job = user;
    ds_status st = ds_recorder_open(&recorder, &here.recorder);

    if (st == DS_OK)
        st = run_rank(world, &job->c);
    ds_recorder_close(here.recorder, 0);
    pthread_mutex_lock(&job->lock);
    job->status = st > job->status ? st : job->status;
    pthread_mutex_unlock(&job->lock);
}

static int adds_in_place;

static void adjust(struct ds_config *config)
{
    config->run.deterministic = !adds_in_place;
}

/* As one micro-batch a rank and as several, on every device of the cpu. */
static void check(struct tiny_case c)
{
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++)
        for (uint32_t micros = 1; micros <= 3; micros += 2)
            for (adds_in_place = 0; adds_in_place < 2; adds_in_place++) {
                struct job job = {.c = c, .lock = PTHREAD_MUTEX_INITIALIZER};

                job.c.mode = mode;
                job.c.steps = STEPS;
                job.c.global_batch = (uint64_t)micros * c.ranks;
                job.c.micro_batch = 1;
                job.c.seed = seed;
                job.c.data = data;
                job.c.adjust = adjust;
                assert_true(run_ranks(c.ranks, 60000000000u, run_thread, &job));
                assert_int_equal(job.status, DS_OK);
            }
}

static void a_rank_alone_stamps_what_is_asked_for_and_nothing_else(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage++)
        check((struct tiny_case){.ranks = 1, .stage = stage});
}

static void spans_are_right_where_ranks_share_units_out(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage++) {
        check((struct tiny_case){.ranks = 2, .stage = stage, .is_tied = 1});
        check((struct tiny_case){.ranks = 2, .stage = stage, .shard = 1});
    }
}

static void spans_are_right_in_a_pipeline(void **state)
{
    (void)state;
    for (int schedule = DS_PIPELINE_GPIPE; schedule <= DS_PIPELINE_ZERO_BUBBLE; schedule++)
        check((struct tiny_case){.ranks = 2,
                                 .pipeline = 2,
                                 .chunks = schedule == DS_PIPELINE_INTERLEAVED ? 2 : 1,
                                 .layers = 4,
                                 .schedule = schedule,
                                 .is_tied = schedule == DS_PIPELINE_1F1B});
    check((struct tiny_case){.ranks = 4, .pipeline = 2, .schedule = DS_PIPELINE_1F1B, .stage = 3});
}

static void spans_are_right_where_tensor_ranks_meet(void **state)
{
    (void)state;
    for (int sp = 0; sp < 2; sp++)
        check((struct tiny_case){.ranks = 2, .tensor = 2, .sequence_parallel = sp, .stage = 3});
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_alone_stamps_what_is_asked_for_and_nothing_else),
        cmocka_unit_test(spans_are_right_where_ranks_share_units_out),
        cmocka_unit_test(spans_are_right_in_a_pipeline),
        cmocka_unit_test(spans_are_right_where_tensor_ranks_meet),
    };
    int failed;

    seed = test_seed("test_stamps");
    make_device();
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
