// link: parallel
// tsan
/* test_timeline.c - spans as streams stamp them, on every cpu device; and what is counted from them, on spans
 * made by hand. */
#include "device_rig.h"

#include "dstrain/accounts.h"
#include "dstrain/timeline.h"

enum { ACTIONS = 4 };

struct line {
    struct rig rig;
    struct ds_memory memory;
    struct ds_timeline *timeline;
};

/* rig.a computes, rig.worker communicates */
static struct line line_open(void **state, uint64_t seed)
{
    struct line line = {.rig = rig_open(state, seed)};

    ds_memory_init(&line.memory, line.rig.device);
    return line;
}

static void line_start(struct line *line)
{
    const struct ds_timeline_options options = {.streams = {line->rig.a, line->rig.worker},
                                                .memory = &line->memory,
                                                .action_count = ACTIONS};

    assert_ok(ds_timeline_open(&options, &line->timeline));
}

static void line_close(struct line *line)
{
    ds_timeline_close(line->timeline);
    ds_memory_fini(&line->memory);
    rig_close(&line->rig);
}

/* One action with a wait in it: the compute stream waits for a work of the comm stream. */
static void act(struct line *line, uint32_t action)
{
    struct rig *rig = &line->rig;
    uint32_t outer, inner;

    assert_ok(ds_timeline_action(line->timeline, DS_TIMELINE_COMM, action, &outer));
    call(rig->worker, sleep_work, NULL, 0);
    assert_ok(ds_timeline_end(line->timeline, outer));
    assert_ok(ds_timeline_action(line->timeline, DS_TIMELINE_COMPUTE, action, &outer));
    assert_ok(ds_timeline_wait(line->timeline, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM, &inner));
    assert_ok(ds_stream_after(rig->a, rig->worker, rig->event));
    assert_ok(ds_timeline_end(line->timeline, inner));
    call(rig->a, countdown_work, NULL, 20);
    assert_ok(ds_timeline_end(line->timeline, outer));
}

static void spans_are_stamped_in_order_and_waits_lie_inside_their_action(void **state)
{
    struct line line = line_open(state, test_seed(__func__));
    const struct ds_timeline_span *spans;
    uint32_t count;

    line_start(&line);
    ds_timeline_start(line.timeline, 0, DS_TIMELINE_ALL);
    for (uint32_t i = 0; i < ACTIONS; i++)
        act(&line, i);
    ds_timeline_stop(line.timeline);
    assert_ok(line.rig.ops->stream_sync(line.rig.a));
    spans = ds_timeline_spans(line.timeline, 0, &count);
    assert_int_equal(count, 3 * ACTIONS);
    for (uint32_t i = 0; i < ACTIONS; i++) {
        const struct ds_timeline_span *sent = &spans[3 * i], *outer = sent + 1, *inner = sent + 2;

        assert_true(sent->what == DS_TIMELINE_ACTION && sent->row == DS_TIMELINE_COMM);
        assert_true(outer->what == DS_TIMELINE_ACTION && outer->row == DS_TIMELINE_COMPUTE);
        assert_true(inner->what == DS_TIMELINE_WAIT_COMM && inner->row == DS_TIMELINE_COMPUTE);
        assert_true(sent->action == i && outer->action == i && inner->action == i);
        assert_true(sent->begin_ns > 0 && sent->begin_ns + 1000000 <= sent->end_ns);
        assert_true(outer->begin_ns <= inner->begin_ns && inner->begin_ns <= inner->end_ns);
        assert_true(inner->end_ns <= outer->end_ns && sent->end_ns <= inner->end_ns);
        assert_true(i == 0 ||
                    (outer[-3].end_ns <= outer->begin_ns && sent[-3].end_ns <= sent->begin_ns));
    }
    line_close(&line);
}

static void turns_are_apart_and_marks_outside_of_a_step_do_nothing(void **state)
{
    struct line line = line_open(state, test_seed(__func__));
    const struct ds_timeline_span *first, *second;
    uint32_t counts[2];
    uint64_t end_ns;

    line_start(&line);
    act(&line, 0);
    for (uint32_t turn = 0; turn < 2; turn++) {
        ds_timeline_start(line.timeline, turn, DS_TIMELINE_ALL);
        for (uint32_t i = 0; i <= turn; i++)
            act(&line, i);
        ds_timeline_stop(line.timeline);
        act(&line, 3);
    }
    assert_ok(line.rig.ops->stream_sync(line.rig.a));
    first = ds_timeline_spans(line.timeline, 0, &counts[0]);
    second = ds_timeline_spans(line.timeline, 1, &counts[1]);
    assert_true(counts[0] == 3 && counts[1] == 6);
    end_ns = first[1].end_ns;
    assert_true(end_ns <= second[1].begin_ns);
    ds_timeline_start(line.timeline, 1,
                      DS_TIMELINE_ALL); /* its earlier spans are gone, the other turn's stay */
    ds_timeline_stop(line.timeline);
    second = ds_timeline_spans(line.timeline, 1, &counts[1]);
    first = ds_timeline_spans(line.timeline, 0, &counts[0]);
    assert_true(counts[1] == 0 && counts[0] == 3 && first[1].end_ns == end_ns);
    line_close(&line);
}

static void all_of_it_is_pinned_memory_of_the_ledger(void **state)
{
    struct line line = line_open(state, 1);

    line_start(&line);
    assert_true(ds_memory_total(&line.memory, DS_MEMORY_PINNED) >=
                2 * 3 * ACTIONS * sizeof(struct ds_timeline_span));
    assert_int_equal(ds_memory_total(&line.memory, DS_MEMORY_DEVICE), 0);
    ds_memory_freeze(&line.memory);
    ds_timeline_start(line.timeline, 0, DS_TIMELINE_ALL);
    for (uint32_t i = 0; i < ACTIONS; i++)
        act(&line, i);
    ds_timeline_stop(line.timeline);
    assert_ok(line.rig.ops->stream_sync(line.rig.a));
    line_close(&line);
}

/* Works on the compute stream, one an action; behind every third comes one of the other row. */
static void act_in_a_row(struct line *line, uint32_t action)
{
    struct rig *rig = &line->rig;
    const int is_sent = action % 3 == 2;
    uint32_t span;

    assert_ok(ds_timeline_action(line->timeline, is_sent ? DS_TIMELINE_COMM : DS_TIMELINE_COMPUTE,
                                 action, &span));
    call(is_sent ? rig->worker : rig->a, sleep_work, NULL, 0);
    assert_ok(ds_timeline_end(line->timeline, span));
}

/* Without a gap behind an action of the same row, and only there. */
static void an_action_begins_where_the_one_before_it_on_its_row_ended(void **state)
{
    struct line line = line_open(state, test_seed(__func__));
    const struct ds_timeline_span *spans;
    uint32_t count;

    line_start(&line);
    for (int again = 0; again < 2; again++) {
        ds_timeline_start(line.timeline, 1, DS_TIMELINE_ALL);
        for (uint32_t i = 0; i < 2 * ACTIONS; i++)
            act_in_a_row(&line, i);
        ds_timeline_stop(line.timeline);
        assert_ok(ds_stream_after(line.rig.a, line.rig.worker, line.rig.event));
        assert_ok(line.rig.ops->stream_sync(line.rig.a));
        spans = ds_timeline_spans(line.timeline, 1, &count);
        assert_int_equal(count, 2 * ACTIONS);
        for (uint32_t i = 0; i < count; i++) {
            assert_true(spans[i].begin_ns + 1000000 <= spans[i].end_ns);
            assert_true(i % 3 != 1 || spans[i].begin_ns == spans[i - 1].end_ns);
            assert_true(i % 3 != 0 || i == 0 || spans[i].begin_ns >= spans[i - 2].end_ns);
        }
    }
    line_close(&line);
}

static void waits_alone_are_those_of_the_compute_row(void **state)
{
    struct line line = line_open(state, test_seed(__func__));
    const struct ds_timeline_span *spans;
    uint32_t count, span;

    line_start(&line);
    ds_timeline_start(line.timeline, 0, DS_TIMELINE_WAITS);
    for (uint32_t i = 0; i < ACTIONS; i++) {
        assert_ok(
            ds_timeline_wait(line.timeline, DS_TIMELINE_COMM, DS_TIMELINE_WAIT_COMPUTE, &span));
        assert_ok(ds_timeline_end(line.timeline, span));
        act(&line, i);
    }
    ds_timeline_stop(line.timeline);
    assert_ok(line.rig.ops->stream_sync(line.rig.a));
    spans = ds_timeline_spans(line.timeline, 0, &count);
    assert_int_equal(count, ACTIONS);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(spans[i].what == DS_TIMELINE_WAIT_COMM && spans[i].row == DS_TIMELINE_COMPUTE);
        assert_true(spans[i].action == i && spans[i].begin_ns > 0);
        assert_true(spans[i].begin_ns <= spans[i].end_ns);
        assert_true(i == 0 || spans[i - 1].end_ns <= spans[i].begin_ns);
    }
    line_close(&line);
}

static void without_a_timeline_marks_do_nothing(void **state)
{
    struct line line = line_open(state, 1);

    ds_timeline_start(line.timeline, 0, DS_TIMELINE_ALL);
    act(&line, 0);
    ds_timeline_stop(line.timeline);
    assert_ok(line.rig.ops->stream_sync(line.rig.a));
    line_close(&line);
}

/* ---- accounts */

static void accounts_are_sums_by_what_was_waited_for(void **state)
{
    struct ds_action actions[] = {{.kind = DS_ACTION_ACQUIRE},
                                  {.kind = DS_ACTION_FORWARD},
                                  {.kind = DS_ACTION_REDUCE},
                                  {.kind = DS_ACTION_NORM},
                                  {.kind = DS_ACTION_LOSS}};
    const struct ds_schedule list = {.actions = actions, .action_count = 5};
    const struct ds_timeline_span spans[] = {
        {100, 150, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
        {101, 141, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
        {150, 1150, 1, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
        {150, 350, 1, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_STAGE},
        {0, 5000, 2, DS_TIMELINE_COMM, DS_TIMELINE_ACTION},
        {0, 4000, 2, DS_TIMELINE_COMM, DS_TIMELINE_WAIT_COMPUTE},
        {1150, 1750, 3, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
        {1200, 1202, 3, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
        {1300, 1303, 3, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
        {1800, 1830, 4, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
        {1801, 1808, 4, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
        {1810, 1821, 4, DS_TIMELINE_COMPUTE, DS_TIMELINE_COLLECTIVE},
    };
    const struct ds_accounts none = ds_accounts_of(&list, spans, 0);
    const struct ds_accounts sums = ds_accounts_of(&list, spans, sizeof spans / sizeof *spans);

    (void)state;
    assert_true(none.arithmetic_ns == 0 && none.wait_comm_ns == 0 && none.bubble_ns == 0);
    assert_int_equal(sums.wait_comm_ns, 40 + 2 + 3 + 7 + 11);
    assert_int_equal(sums.bubble_ns, 200);
    assert_int_equal(sums.arithmetic_ns, 1000 - 200 + 30 - 7 - 11);
}

/* Waits count the same, but there is nothing that they could be taken from. */
static void accounts_without_actions_are_of_waits(void **state)
{
    struct ds_action actions[] = {{.kind = DS_ACTION_FORWARD}, {.kind = DS_ACTION_NORM}};
    const struct ds_schedule list = {.actions = actions, .action_count = 2};
    const struct ds_timeline_span spans[] = {
        {150, 350, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_STAGE},
        {400, 410, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_COLLECTIVE},
        {1200, 1203, 1, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
    };
    const struct ds_accounts sums = ds_accounts_of(&list, spans, 3);
    uint64_t ns[DS_ACTION_KIND_COUNT] = {0}, calls[DS_ACTION_KIND_COUNT] = {0};

    (void)state;
    assert_int_equal(sums.wait_comm_ns, 10 + 3);
    assert_int_equal(sums.bubble_ns, 200);
    assert_int_equal(sums.arithmetic_ns, 0);
    ds_accounts_add_costs(actions, spans, 3, ns, calls);
    for (int kind = 0; kind < DS_ACTION_KIND_COUNT; kind++)
        assert_true(ns[kind] == 0 && calls[kind] == 0);
}

/* ---- the bubble of a schedule (performance.md, section 8): p stages, m micro-batches, v chunks */

static double bubble_of(enum ds_schedule_kind kind, uint32_t stages, uint32_t micros,
                        uint32_t chunks, uint32_t stage)
{
    enum { BLOCKS_MAX = 64 };
    struct ds_schedule_block blocks[BLOCKS_MAX];
    uint64_t costs[BLOCKS_MAX];
    uint32_t first[BLOCKS_MAX + 1];
    const uint32_t parts = stages * chunks, count = 2 * parts;
    struct ds_schedule_shape shape = {.blocks = blocks,
                                      .block_count = count,
                                      .unit_cost = costs,
                                      .unit_count = count,
                                      .micro_count = micros,
                                      .zero_stage = 3,
                                      .is_training = 1,
                                      .kind = kind,
                                      .stage = stage,
                                      .stage_count = stages,
                                      .chunk_count = chunks,
                                      .chunk_first = first,
                                      .tied_unit = DS_NO_UNIT,
                                      .window = 1};
    struct ds_schedule list;
    double bubble;

    assert_true(count <= BLOCKS_MAX);
    for (uint32_t b = 0; b < count; b++) {
        blocks[b] = (struct ds_schedule_block){1, {b}};
        costs[b] = 1000;
    }
    for (uint32_t v = 0; v <= parts; v++)
        first[v] = 2 * v;
    assert_ok(ds_schedule_make(&shape, &list));
    bubble = ds_accounts_ideal_bubble(&list);
    ds_schedule_fini(&list);
    return bubble;
}

static int is_near(double x, double y)
{
    return x - y < 1e-12 && y - x < 1e-12;
}

static void the_ideal_bubble_is_the_schedules(void **state)
{
    (void)state;
    for (uint32_t p = 1; p <= 8; p *= 2)
        for (uint32_t m = 1; m <= 16; m += 3)
            for (uint32_t stage = 0; stage < p; stage++) {
                const double p1 = p - 1.0;
                assert_true(is_near(bubble_of(DS_SCHEDULE_GPIPE, p, m, 1, stage), p1 / m));
                assert_true(is_near(bubble_of(DS_SCHEDULE_1F1B, p, m, 1, stage), p1 / m));
                if (m >= p)
                    assert_true(
                        is_near(bubble_of(DS_SCHEDULE_ZERO_BUBBLE, p, m, 1, stage), p1 / (3 * m)));
            }
    for (uint32_t p = 2; p <= 4; p++)
        for (uint32_t v = 2; v <= 4; v++)
            for (uint32_t m = p; m <= 4 * p; m += p)
                assert_true(is_near(bubble_of(DS_SCHEDULE_INTERLEAVED, p, m, v, p - 1),
                                    (p - 1.0) / (v * m)));
}

/* Every piece without its waits, apart by block and kind. */
static void costs_are_of_pieces_without_their_waits(void **state)
{
    const struct ds_action actions[] = {{.kind = DS_ACTION_FORWARD, .block = 1},
                                        {.kind = DS_ACTION_BACKWARD, .block = 1},
                                        {.kind = DS_ACTION_FORWARD, .block = 1},
                                        {.kind = DS_ACTION_NORM, .block = 1}};
    const struct ds_timeline_span spans[] = {
        {100, 150, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
        {110, 120, 0, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_STAGE},
        {100, 900, 0, DS_TIMELINE_COMM, DS_TIMELINE_ACTION},
        {200, 260, 1, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
        {210, 215, 1, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM},
        {300, 330, 2, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
        {400, 500, 3, DS_TIMELINE_COMPUTE, DS_TIMELINE_ACTION},
    };
    uint64_t ns[2 * DS_ACTION_KIND_COUNT] = {0}, calls[2 * DS_ACTION_KIND_COUNT] = {0}, sum = 0;

    (void)state;
    ds_accounts_add_costs(actions, spans, sizeof spans / sizeof *spans, ns, calls);
    assert_int_equal(ns[ds_schedule_cost_at(1, DS_ACTION_FORWARD)], 50 - 10 + 30);
    assert_int_equal(calls[ds_schedule_cost_at(1, DS_ACTION_FORWARD)], 2);
    assert_int_equal(ns[ds_schedule_cost_at(1, DS_ACTION_BACKWARD)], 60 - 5);
    assert_int_equal(calls[ds_schedule_cost_at(1, DS_ACTION_BACKWARD)], 1);
    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
        sum += calls[i];
    assert_int_equal(sum, 3);
}

static void only_what_moves_data_is_on_the_comm_row(void **state)
{
    (void)state;
    for (int kind = 0; kind < DS_ACTION_KIND_COUNT; kind++)
        if (ds_action_is_arithmetic((enum ds_action_kind)kind))
            assert_int_equal(ds_action_row((enum ds_action_kind)kind), DS_TIMELINE_COMPUTE);
    assert_int_equal(ds_action_row(DS_ACTION_PREFETCH), DS_TIMELINE_COMM);
    assert_int_equal(ds_action_row(DS_ACTION_REDUCE), DS_TIMELINE_COMM);
    assert_int_equal(ds_action_row(DS_ACTION_ACQUIRE), DS_TIMELINE_COMPUTE);
    assert_int_equal(ds_action_row(DS_ACTION_UPDATE), DS_TIMELINE_COMPUTE);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        FOR_EACH_BACKEND(spans_are_stamped_in_order_and_waits_lie_inside_their_action),
        FOR_EACH_BACKEND(turns_are_apart_and_marks_outside_of_a_step_do_nothing),
        FOR_EACH_BACKEND(all_of_it_is_pinned_memory_of_the_ledger),
        FOR_EACH_BACKEND(an_action_begins_where_the_one_before_it_on_its_row_ended),
        FOR_EACH_BACKEND(waits_alone_are_those_of_the_compute_row),
        FOR_EACH_BACKEND(without_a_timeline_marks_do_nothing),
        cmocka_unit_test(accounts_are_sums_by_what_was_waited_for),
        cmocka_unit_test(accounts_without_actions_are_of_waits),
        cmocka_unit_test(costs_are_of_pieces_without_their_waits),
        cmocka_unit_test(the_ideal_bubble_is_the_schedules),
        cmocka_unit_test(only_what_moves_data_is_on_the_comm_row),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
