// link: parallel base
/* How often units are gathered, and how many at once: always again, once a window, once a step. */
#include "test.h"

#include "schedule_case.h"

static uint32_t acquires_of(const struct ds_schedule *list, uint32_t unit)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < list->action_count; i++)
        count += list->actions[i].kind == DS_ACTION_ACQUIRE && list->actions[i].unit == unit;
    return count;
}

static uint32_t slots_of(const struct ds_schedule *list)
{
    return list->slots.weight_count[0] + list->slots.weight_count[1];
}

static void make(struct schedule_fixture *f, struct schedule_case c)
{
    c.is_sharded = 1;
    schedule_shape(f, &c);
    schedule_make(f);
    assert_ok(schedule_play(f, f->lists, NULL));
}

static void never_gathers_each_unit_once_a_step(void **state)
{
    static struct schedule_fixture f;

    (void)state;
    for (uint32_t kind = 0; kind < DS_SCHEDULE_KIND_COUNT; kind++)
        for (uint32_t stages = 1; stages <= 4; stages++) {
            make(&f, (struct schedule_case){.kind = kind,
                                            .stages = stages,
                                            .micros = 5,
                                            .chunks = kind == DS_SCHEDULE_INTERLEAVED ? 2 : 1,
                                            .extra = 8,
                                            .reshard = DS_RESHARD_NEVER,
                                            .window = 1});
            for (uint32_t unit = 0; unit < f.shape.unit_count; unit++) {
                uint32_t count = 0;
                for (uint32_t i = 0; i < stages; i++)
                    count += acquires_of(&f.lists[i], unit);
                assert_int_equal(count, 1);
            }
            schedule_free(&f);
        }
}

/* Once on the way up and once on the way down for each window; no more slots than without. */
static void one_stage_gathers_once_a_window(void **state)
{
    static struct schedule_fixture f;

    (void)state;
    for (uint32_t micros = 1; micros <= 9; micros++)
        for (uint32_t window = 1; window <= 4; window++)
            for (uint32_t recomputes = 0; recomputes < 2; recomputes++) {
                const uint32_t windows = (micros + window - 1) / window;
                make(&f, (struct schedule_case){.kind = DS_SCHEDULE_1F1B,
                                                .stages = 1,
                                                .micros = micros,
                                                .chunks = 1,
                                                .extra = 6,
                                                .recomputes = recomputes,
                                                .window = window});
                assert_int_equal(f.shape.unit_count, 7);
                for (uint32_t unit = 1; unit < 5; unit++) /* the last layer turns at once */
                    assert_int_equal(acquires_of(&f.lists[0], unit), 2 * windows);
                assert_true(slots_of(&f.lists[0]) <= 4);
                schedule_free(&f);
            }
}

/* The head's and the embedding's gradient is one: only the way up goes in windows. */
static void a_tied_unit_is_gathered_for_each_micro_batch_on_the_way_back(void **state)
{
    static struct schedule_fixture f;

    (void)state;
    make(&f, (struct schedule_case){.kind = DS_SCHEDULE_1F1B,
                                    .stages = 1,
                                    .micros = 8,
                                    .chunks = 1,
                                    .extra = 6,
                                    .is_tied = 1,
                                    .window = 4});
    for (uint32_t unit = 1; unit < 5; unit++)
        assert_int_equal(acquires_of(&f.lists[0], unit), 2 + 8);
    schedule_free(&f);
}

/* Chunks stay while pieces of them follow one another: fewer gathers than without windows, and fewer
 * slots than the whole stage has units. */
static void a_chunk_stays_gathered_within_a_window(void **state)
{
    static struct schedule_fixture f;
    uint32_t count[2], slots[2];

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        make(&f, (struct schedule_case){.kind = DS_SCHEDULE_INTERLEAVED,
                                        .stages = 4,
                                        .micros = 8,
                                        .chunks = 4,
                                        .extra = 4 * 4 * 2,
                                        .window = i ? 4 : 1});
        count[i] = acquires_of(&f.lists[1], f.first[1] + 1);
        slots[i] = slots_of(&f.lists[1]);
        schedule_free(&f);
    }
    assert_int_equal(count[0], 2 * 8);
    assert_true(count[1] <= 2 * 8 / 2);
    assert_true(slots[0] <= 4 && slots[1] < 12);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_gathers_each_unit_once_a_step),
        cmocka_unit_test(one_stage_gathers_once_a_window),
        cmocka_unit_test(a_tied_unit_is_gathered_for_each_micro_batch_on_the_way_back),
        cmocka_unit_test(a_chunk_stays_gathered_within_a_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
