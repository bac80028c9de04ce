// link: launch
// cost: 160
/* A step as a graph is the step: the same losses and weights to the bit, on every stage, with evaluations
 * between, and times of its own. What a capture forbids is found: the device of these tests checks it as
 * a GPU would. */
#include "graph_device.h"
#include "test.h"
#include "tiny_run.h"

/* Two queued one by one; a capture for each turn, another one where actions are marked, and again without; what
 * those repeat. */
enum { STEPS = 10, MARKED_FIRST = 5, MARKED_LAST = 7, EVAL_INTERVAL = 3 };

static char *folder, *data;
static uint64_t seed;
static const struct ds_device_ops *graphs;

/* ---- the device of these tests */

struct rig {
    struct ds_device *device;
    struct ds_stream *a, *b;
    struct ds_event *before, *there, *back;
    struct ds_graph *graph;
    int *numbers; /* [4], pinned */
};

static struct rig rig_open(void)
{
    struct ds_device_options options = {
        .mode = DS_DEVICE_DEFERRED, .seed = seed, .thread_count = 1, .clock = ds_clock_system()};
    struct rig rig = {0};
    void *at;

    assert_ok(graphs->open(0, &options, &rig.device));
    assert_ok(graphs->stream_open(rig.device, 0, &rig.a));
    assert_ok(graphs->stream_open(rig.device, 0, &rig.b));
    assert_ok(graphs->event_open(rig.device, &rig.before));
    assert_ok(graphs->event_open(rig.device, &rig.there));
    assert_ok(graphs->event_open(rig.device, &rig.back));
    assert_ok(graphs->alloc(rig.device, DS_MEMORY_PINNED, 4 * sizeof(int), 0, &at));
    rig.numbers = at;
    return rig;
}

static void rig_close(struct rig *rig)
{
    if (rig->graph)
        graphs->graph_close(rig->graph);
    graphs->event_close(rig->before);
    graphs->event_close(rig->there);
    graphs->event_close(rig->back);
    graphs->stream_close(rig->a);
    graphs->stream_close(rig->b);
    graphs->release(rig->device, DS_MEMORY_PINNED, rig->numbers, 4 * sizeof(int));
    graphs->close(rig->device);
}

struct add_args {
    int *to;
    int number;
};

static ds_status add_work(void *self, int *done)
{
    const struct add_args *args = self;

    *args->to = *args->to * 10 + args->number;
    *done = 1;
    return DS_OK;
}

static void add(struct ds_stream *stream, int *to, int number)
{
    struct add_args args = {to, number};

    assert_ok(graphs->call(stream, add_work, &args, sizeof args));
    memset(&args, 0, sizeof args);
}

/* b between two works of a */
static void fork_and_join(struct rig *rig)
{
    add(rig->a, rig->numbers, 1);
    assert_ok(ds_stream_after(rig->b, rig->a, rig->there));
    add(rig->b, rig->numbers, 2);
    assert_ok(ds_stream_after(rig->a, rig->b, rig->back));
    add(rig->a, rig->numbers, 3);
}

static void a_launch_does_what_was_captured_in_its_order(void **state)
{
    struct rig rig = rig_open();

    (void)state;
    assert_ok(graphs->capture_begin(rig.a));
    fork_and_join(&rig);
    assert_ok(graphs->capture_end(rig.a, &rig.graph));
    assert_ok(graphs->stream_sync(rig.a));
    assert_int_equal(rig.numbers[0], 0); /* nothing has run */
    for (int i = 0; i < 2; i++) {
        assert_ok(graphs->graph_launch(rig.a, rig.graph));
        add(rig.a, rig.numbers, 4);
    }
    assert_ok(graphs->stream_sync(rig.a));
    assert_int_equal(rig.numbers[0], 12341234);
    rig_close(&rig);
}

static void a_wait_for_what_was_before_a_capture_fails(void **state)
{
    struct rig rig = rig_open();

    (void)state;
    assert_ok(graphs->event_record(rig.before, rig.b));
    assert_ok(graphs->capture_begin(rig.a));
    assert_int_equal(graphs->stream_wait(rig.a, rig.before), DS_ERR_DEVICE);
    assert_ok(ds_stream_after(rig.b, rig.a, rig.there));
    assert_int_equal(graphs->stream_wait(rig.b, rig.before), DS_ERR_DEVICE);
    assert_ok(graphs->capture_end(rig.a, &rig.graph));
    rig_close(&rig);
}

static void a_wait_outside_for_what_was_captured_fails(void **state)
{
    struct rig rig = rig_open();

    (void)state;
    assert_ok(graphs->capture_begin(rig.a));
    fork_and_join(&rig);
    assert_ok(graphs->capture_end(rig.a, &rig.graph));
    assert_ok(graphs->graph_launch(rig.a, rig.graph));
    assert_int_equal(graphs->stream_wait(rig.b, rig.back), DS_ERR_DEVICE);
    assert_int_equal(graphs->event_sync(rig.back), DS_ERR_DEVICE);
    assert_ok(graphs->event_record(rig.back, rig.a));
    assert_ok(graphs->stream_wait(rig.b, rig.back));
    rig_close(&rig);
}

static void a_stream_that_nobody_waits_for_ends_no_capture(void **state)
{
    struct rig rig = rig_open();

    (void)state;
    assert_ok(graphs->capture_begin(rig.a));
    fork_and_join(&rig);
    add(rig.b, rig.numbers, 5);
    assert_int_equal(graphs->capture_end(rig.a, &rig.graph), DS_ERR_DEVICE);
    rig_close(&rig);
}

static void the_host_does_not_wait_inside_a_capture(void **state)
{
    struct rig rig = rig_open();
    int done;

    (void)state;
    assert_ok(graphs->capture_begin(rig.a));
    assert_int_equal(graphs->stream_sync(rig.a), DS_ERR_DEVICE);
    assert_int_equal(graphs->event_sync(rig.before), DS_ERR_DEVICE);
    assert_int_equal(graphs->event_query(rig.before, &done), DS_ERR_DEVICE);
    assert_ok(graphs->capture_end(rig.a, &rig.graph));
    rig_close(&rig);
}

/* ---- steps */

struct row {
    int stage, compute, master;
    uint64_t ranks, pipeline, shard;
    uint64_t away;           /* 0, or slots for moments that live elsewhere */
    int is_kept_away;        /* what layers keep */
    int is_late, is_on_host; /* updates */
    int home;                /* enum ds_home */
};

static struct row row_now;
static int with_graphs;
static _Thread_local uint64_t last_end_ns[DS_TIMELINE_ROW_COUNT]; /* of the steps before */
static uint64_t replays;

static void adjust(struct ds_config *config)
{
    config->run.graphs = with_graphs;
    config->train.eval_interval = EVAL_INTERVAL; /* between steps of either turn */
    config->precision.compute = row_now.compute;
    config->precision.master = row_now.master;
    config->offload.updates = row_now.is_late ? DS_UPDATES_KEY_LATE : DS_UPDATES_KEY_END;
    if (row_now.is_kept_away)
        config->offload.activations = (struct ds_home_key){row_now.home, 1};
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", folder);
    if (row_now.away == 0)
        return;
    config->offload.exp_avg_sq = (struct ds_home_key){row_now.home, 0.6};
    config->offload.exp_avg = (struct ds_home_key){row_now.home, 1};
    config->offload.grads = (struct ds_home_key){row_now.home, 0.8};
    config->offload.depth = row_now.away;
    if (row_now.is_on_host) {
        config->offload.optimizer_compute = (struct ds_home_key){DS_OPTIMIZER_CPU, 1};
        config->offload.master.home =
            row_now.compute == DS_PRECISION_BF16 && row_now.master != DS_MASTER_KEY_NONE
                ? DS_HOME_HOST
                : DS_HOME_DEVICE;
        config->offload.master.share = config->offload.master.home ? 1 : 0;
    }
    if (row_now.stage == 3 && !row_now.is_on_host)
        config->offload.params = (struct ds_home_key){row_now.home, 1};
}

/* A row's spans follow each other, a wait lies in its action, all behind the step before. One rank has none where
 * actions are not marked and no state travels. */
static void check_spans(const struct ds_step_report *report)
{
    const struct ds_timeline_span *action[DS_TIMELINE_ROW_COUNT] = {NULL};
    const int is_marked = report->step >= MARKED_FIRST && report->step <= MARKED_LAST;
    uint64_t *end_ns = last_end_ns;

    assert_int_equal(report->span_count > 0,
                     is_marked || row_now.ranks > 1 || row_now.away > 0 || row_now.is_kept_away);
    assert_int_equal(report->arithmetic_s > 0, is_marked);
    for (uint32_t i = 0; i < report->span_count; i++) {
        const struct ds_timeline_span *span = &report->spans[i];
        assert_true(span->begin_ns <= span->end_ns);
        assert_true(span->end_ns <= ds_clock_mono_ns(ds_clock_system()));
        if (span->what != DS_TIMELINE_ACTION && action[span->row] &&
            action[span->row]->action == span->action) {
            assert_true(span->begin_ns >= action[span->row]->begin_ns);
            assert_true(span->end_ns <= action[span->row]->end_ns);
            continue;
        }
        assert_true(span->begin_ns >= end_ns[span->row]);
        end_ns[span->row] = span->end_ns;
        if (span->what == DS_TIMELINE_ACTION)
            action[span->row] = span;
    }
}

static void on_step(const struct ds_step_report *report)
{
    if (report->step == 1)
        memset(last_end_ns, 0, sizeof last_end_ns);
    check_spans(report);
    replays = graph_rig.launches;
}

/* The first two are none, nor is late one behind an evaluation: there is nothing to make up for. */
static uint64_t expected_replays(void)
{
    uint64_t count = 0;

    for (uint64_t step = 3; step <= STEPS; step++)
        count += !row_now.is_late || (step - 1) % EVAL_INTERVAL != 0;
    return count;
}

static struct tiny_result run(const struct tiny_case *c, int has_graphs)
{
    struct tiny_result result;

    with_graphs = has_graphs;
    replays = 0;
    tiny_run(c, &result);
    assert_int_equal(result.status, DS_OK);
    assert_int_equal(result.steps, STEPS);
    assert_int_equal(replays, has_graphs ? expected_replays() : 0);
    return result;
}

static void compare(const struct tiny_case *c)
{
    struct tiny_result eager = run(c, 0), graph = run(c, 1);

    assert_memory_equal(eager.loss, graph.loss, sizeof eager.loss);
    assert_memory_equal(eager.norm, graph.norm, sizeof eager.norm);
    assert_memory_equal(&eager.eval_loss, &graph.eval_loss, sizeof eager.eval_loss);
    assert_memory_equal(eager.params, graph.params, eager.param_elems * sizeof *eager.params);
    tiny_result_fini(&eager);
    tiny_result_fini(&graph);
}

static struct tiny_case case_of(const struct row *row, int mode, int recompute)
{
    struct tiny_case c = {.ranks = (uint32_t)row->ranks,
                          .shard = (uint32_t)row->shard,
                          .pipeline = (uint32_t)row->pipeline,
                          .schedule = DS_PIPELINE_1F1B,
                          .stage = row->stage,
                          .mode = mode,
                          .recompute = recompute,
                          .layers = row->is_kept_away ? 9 : 0,
                          .steps = STEPS,
                          .global_batch = 8,
                          .micro_batch = 2,
                          .seed = seed,
                          .device = graphs,
                          .marked_first = MARKED_FIRST,
                          .marked_last = MARKED_LAST,
                          .adjust = adjust,
                          .step = on_step};

    c.data = data;
    row_now = *row;
    return c;
}

static void check_home(const struct row *row)
{
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++)
        for (int recompute = DS_RECOMPUTE_NONE; recompute <= DS_RECOMPUTE_FULL;
             recompute += DS_RECOMPUTE_FULL) {
            const struct tiny_case c = case_of(row, mode, recompute);
            if (TEST_IS_SANITIZED && (mode == DS_DEVICE_INLINE) != (recompute == DS_RECOMPUTE_NONE))
                continue;
            compare(&c);
        }
}

/* What travels comes from the host, and from files. */
static void check(const struct row *row)
{
    struct row there = *row;

    for (there.home = DS_HOME_HOST;
         there.home <=
         ((row->away || row->is_kept_away) && !row->is_on_host ? DS_HOME_NVME : DS_HOME_HOST);
         there.home++)
        check_home(&there);
}

static void steps_of_one_rank_are_the_same_as_graphs(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage++) {
        check(&(struct row){stage, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 1, 1, 1, .away = 0});
        check(&(struct row){stage, DS_PRECISION_BF16, DS_MASTER_KEY_FP32, 1, 1, 1, .away = 0});
    }
    check(&(struct row){0, DS_PRECISION_BF16, DS_MASTER_KEY_NONE, 1, 1, 1, .away = 0});
    check(&(struct row){3, DS_PRECISION_FP16, DS_MASTER_KEY_FP32, 1, 1, 1, .away = 0});
}

/* Units travel here, and between stages what a layer gives. */
static void steps_of_several_ranks_are_the_same_as_graphs(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage++)
        check(&(struct row){stage, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 2, 1, 2, .away = 0});
    check(&(struct row){3, DS_PRECISION_BF16, DS_MASTER_KEY_FP32, 2, 1, 2, .away = 0});
    check(&(struct row){0, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 2, 2, 1, .away = 0});
    check(&(struct row){3, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 4, 2, 2, .away = 0});
}

/* Their streams are in the capture, too. */
static void steps_whose_states_travel_are_the_same_as_graphs(void **state)
{
    (void)state;
    check(&(struct row){2, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 1, 1, 1, .away = 2});
    check(&(struct row){3, DS_PRECISION_BF16, DS_MASTER_KEY_FP32, 2, 1, 2, .away = 3});
    check(&(struct row){3, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 1, 1, 1, .away = 1});
}

/* The first strips are fetched in one graph and updated in the next. */
static void steps_with_late_updates_are_the_same_as_graphs(void **state)
{
    (void)state;
    check(&(struct row){1, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 1, 1, 1, .is_late = 1});
    check(
        &(struct row){2, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 2, 1, 2, .away = 2, .is_late = 1});
    check(
        &(struct row){3, DS_PRECISION_BF16, DS_MASTER_KEY_FP32, 2, 1, 2, .away = 3, .is_late = 1});
    check(
        &(struct row){3, DS_PRECISION_BF16, DS_MASTER_KEY_NONE, 1, 1, 1, .away = 1, .is_late = 1});
}

/* A thread that no launch tells anything goes through its updates again and again. */
static void steps_that_the_host_updates_are_the_same_as_graphs(void **state)
{
    (void)state;
    check(&(struct row){3, DS_PRECISION_BF16, DS_MASTER_KEY_FP32, 1, 1, 1, .away = 2,
                        .is_on_host = 1});
    check(&(struct row){2, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 2, 1, 2, .away = 3, .is_late = 1,
                        .is_on_host = 1});
}

/* What layers keep goes and comes inside of a graph. */
static void steps_whose_activations_travel_are_the_same_as_graphs(void **state)
{
    (void)state;
    check(&(struct row){0, DS_PRECISION_FP32, DS_MASTER_KEY_FP32, 1, 1, 1, .is_kept_away = 1});
    check(&(struct row){3, DS_PRECISION_BF16, DS_MASTER_KEY_FP32, 4, 2, 2, .away = 2, .is_late = 1,
                        .is_kept_away = 1});
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_launch_does_what_was_captured_in_its_order),
        cmocka_unit_test(a_wait_for_what_was_before_a_capture_fails),
        cmocka_unit_test(a_wait_outside_for_what_was_captured_fails),
        cmocka_unit_test(a_stream_that_nobody_waits_for_ends_no_capture),
        cmocka_unit_test(the_host_does_not_wait_inside_a_capture),
        cmocka_unit_test(steps_of_one_rank_are_the_same_as_graphs),
        cmocka_unit_test(steps_of_several_ranks_are_the_same_as_graphs),
        cmocka_unit_test(steps_whose_states_travel_are_the_same_as_graphs),
        cmocka_unit_test(steps_with_late_updates_are_the_same_as_graphs),
        cmocka_unit_test(steps_that_the_host_updates_are_the_same_as_graphs),
        cmocka_unit_test(steps_whose_activations_travel_are_the_same_as_graphs),
    };
    int failed;

    seed = test_seed("test_graphs");
    graphs = graph_device();
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
