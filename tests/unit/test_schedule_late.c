// link: parallel base
/* Lists with late updates: they do what others do, with the updates of the step before elsewhere, each unit's right
 * before it is gathered; and cut in two they are the list of a step that has nothing to make up for, and what makes up for
 * one that no other follows. */
#include "test.h"

#include "schedule_case.h"

static uint64_t seed, drawn;

static uint32_t draw(uint32_t bound)
{
    return (uint32_t)ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 3), drawn++, bound);
}

static struct schedule_case draw_case(void)
{
    struct schedule_case c = {.kind = draw(DS_SCHEDULE_KIND_COUNT),
                              .stages = 1 + draw(4),
                              .micros = 1 + draw(6),
                              .chunks = 1,
                              .extra = draw(9),
                              .is_sharded = draw(2),
                              .recomputes = draw(2),
                              .is_tied = draw(2),
                              .reshard = draw(2),
                              .window = 1 + draw(3),
                              .away = draw(7)};

    if (c.kind == DS_SCHEDULE_INTERLEAVED)
        c.chunks = 1 + draw(3);
    return c;
}

typedef void pair_check(const struct schedule_fixture *late, const struct schedule_fixture *end,
                        uint32_t stage);

static void for_drawn_cases(pair_check *check)
{
    static struct schedule_fixture late, end;

    for (int i = 0; i < 400; i++) {
        struct schedule_case c = draw_case();

        schedule_shape(&end, &c);
        schedule_make(&end);
        c.is_late = 1;
        schedule_shape(&late, &c);
        schedule_make(&late);
        for (uint32_t stage = 0; stage < c.stages; stage++)
            check(&late, &end, stage);
        schedule_free(&late);
        schedule_free(&end);
    }
}

/* Updates, and what comes and goes for them. */
static int is_travel(const struct ds_action *action)
{
    return action->kind == DS_ACTION_UPDATE || action->kind == DS_ACTION_EVICT ||
           action->kind == DS_ACTION_FETCH;
}

/* The next action from *at on that is none of those, or NULL. */
static const struct ds_action *next_work(const struct ds_schedule *list, uint32_t *at)
{
    while (*at < list->action_count && is_travel(&list->actions[*at]))
        ++*at;
    return *at < list->action_count ? &list->actions[(*at)++] : NULL;
}

static void check_same_work(const struct schedule_fixture *late, const struct schedule_fixture *end,
                            uint32_t stage)
{
    uint32_t at[2] = {0, 0};

    for (;;) {
        const struct ds_action *a = next_work(&late->lists[stage], &at[0]);
        const struct ds_action *b = next_work(&end->lists[stage], &at[1]);

        assert_int_equal(!a, !b);
        if (!a)
            break;
        assert_memory_equal(a, b, sizeof *a);
    }
    assert_int_equal(late->lists[stage].slots.strip_count, end->lists[stage].slots.strip_count);
}

static void all_but_the_updates_is_as_without(void **state)
{
    (void)state;
    for_drawn_cases(check_same_work);
}

/* Between a unit's last update and its first gather there is no other work, only what another strip does. */
static void check_right_before(const struct schedule_fixture *late,
                               const struct schedule_fixture *end, uint32_t stage)
{
    const struct ds_schedule *list = &late->lists[stage];
    uint8_t seen[BLOCKS_MAX] = {0};
    uint32_t last = 0;

    (void)end;
    for (uint32_t i = 0; i < list->action_count; i++) {
        const struct ds_action *action = &list->actions[i];
        if (action->kind == DS_ACTION_UPDATE)
            last = i;
        if ((action->kind != DS_ACTION_PREFETCH && action->kind != DS_ACTION_ACQUIRE) ||
            seen[action->unit]++)
            continue;
        assert_int_equal(list->actions[last].unit, action->unit);
        for (uint32_t k = last + 1; k < i; k++)
            assert_true(is_travel(&list->actions[k]));
    }
}

static void updates_are_right_before_their_unit_is_gathered(void **state)
{
    (void)state;
    for_drawn_cases(check_right_before);
}

/* What is in slots: those of the list before, which these actions alone shall empty. */
static void check_makes_up(const struct schedule_fixture *late, const struct schedule_fixture *end,
                           uint32_t stage)
{
    const struct ds_schedule *list = &late->lists[stage];
    uint32_t in_slot[8] = {0}, update_count[2] = {0};

    for (uint32_t i = 0; i < list->action_count; i++)
        if (list->actions[i].kind == DS_ACTION_FETCH && list->actions[i].is_ahead)
            in_slot[list->actions[i].slot] = 1;
    for (uint32_t i = 0; i < list->action_count; i++) {
        const struct ds_action *action = &list->actions[i];
        if (!ds_action_is_late(action))
            continue;
        update_count[0] += action->kind == DS_ACTION_UPDATE;
        if (action->slot == DS_NO_SLOT)
            continue;
        assert_int_equal(in_slot[action->slot], action->kind != DS_ACTION_FETCH);
        in_slot[action->slot] = action->kind != DS_ACTION_EVICT;
    }
    for (uint32_t slot = 0; slot < 8; slot++)
        assert_int_equal(in_slot[slot], 0);
    for (uint32_t i = 0; i < end->lists[stage].action_count; i++)
        update_count[1] += end->lists[stage].actions[i].kind == DS_ACTION_UPDATE;
    assert_int_equal(update_count[0], update_count[1]);
}

static void updates_alone_empty_the_slots(void **state)
{
    (void)state;
    for_drawn_cases(check_makes_up);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_but_the_updates_is_as_without),
        cmocka_unit_test(updates_are_right_before_their_unit_is_gathered),
        cmocka_unit_test(updates_alone_empty_the_slots),
    };

    seed = test_seed("test_schedule_late");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
