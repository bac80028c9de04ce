// link: parallel base
/* The checker and the player of schedules must object: to a list with anything missing, misplaced or
 * out of its place, and to lists that are right one by one and wait for one another. */
#include "test.h"

#include "schedule_case.h"

static const struct schedule_case cases[] = {
    {.kind = DS_SCHEDULE_1F1B, .stages = 3, .micros = 5, .chunks = 1, .is_tied = 1},
    {.kind = DS_SCHEDULE_1F1B, .stages = 2, .micros = 3, .chunks = 1, .recomputes = 1, .away = 2},
    {.kind = DS_SCHEDULE_1F1B, .stages = 2, .micros = 2, .chunks = 1, .away = 2, .is_late = 1},
    {.kind = DS_SCHEDULE_GPIPE, .stages = 2, .micros = 3, .chunks = 1, .is_tied = 1},
    {.kind = DS_SCHEDULE_INTERLEAVED, .stages = 2, .micros = 4, .chunks = 2, .recomputes = 1},
    {.kind = DS_SCHEDULE_ZERO_BUBBLE, .stages = 3, .micros = 4, .chunks = 1, .is_tied = 1},
    {.kind = DS_SCHEDULE_1F1B, .stages = 2, .micros = 3, .chunks = 1, .kept = 1, .kept_share = 1},
    {.kind = DS_SCHEDULE_GPIPE,
     .stages = 2,
     .micros = 3,
     .chunks = 1,
     .recomputes = 1,
     .kept = 2,
     .kept_share = 1},
    {.kind = DS_SCHEDULE_ZERO_BUBBLE,
     .stages = 2,
     .micros = 3,
     .chunks = 1,
     .kept = 1,
     .kept_share = 1},
    {.kind = DS_SCHEDULE_INTERLEAVED,
     .stages = 2,
     .micros = 4,
     .chunks = 2,
     .kept = 1,
     .kept_share = 0.5},
};

/* `change` is done to the lists of each case, undone again, and is seen each time. */
typedef void case_changes(struct schedule_fixture *f);

static void for_every_case(case_changes *changes)
{
    static struct schedule_fixture f;

    ds_log.terminal = -1; /* objections are expected */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct schedule_case c = cases[i];
        c.extra = c.stages * c.chunks;
        c.is_sharded = c.window = 1;
        schedule_shape(&f, &c);
        schedule_make(&f);
        changes(&f);
        assert_ok(schedule_play(&f, f.lists, NULL));
        schedule_free(&f);
    }
    ds_log.terminal = 2;
}

static void assert_refused(struct schedule_fixture *f)
{
    assert_int_equal(schedule_play(f, f->lists, NULL), DS_ERR_CONFIG);
}

/* ---- one action */

/* What zero bubble makes again may be there still, in one of several places. */
static int is_load_bearing(const struct schedule_fixture *f, const struct ds_action *action)
{
    return action->kind != DS_ACTION_BEGIN && action->kind != DS_ACTION_PREFETCH &&
           (action->kind != DS_ACTION_RECOMPUTE || f->shape.kind != DS_SCHEDULE_ZERO_BUBBLE);
}

static void take_out_each_action(struct schedule_fixture *f)
{
    for (uint32_t stage = 0; stage < f->shape.stage_count; stage++) {
        struct ds_schedule *list = &f->lists[stage];
        for (uint32_t gone = 0; gone < list->action_count; gone++) {
            const struct ds_action kept = list->actions[gone];
            const size_t behind = (list->action_count - gone - 1) * sizeof kept;
            if (!is_load_bearing(f, &kept))
                continue;
            memmove(&list->actions[gone], &list->actions[gone + 1], behind);
            list->action_count--;
            assert_refused(f);
            memmove(&list->actions[gone + 1], &list->actions[gone], behind);
            list->actions[gone] = kept;
            list->action_count++;
        }
    }
}

static void a_missing_action_is_noticed(void **state)
{
    (void)state;
    for_every_case(take_out_each_action);
}

/* What travels with a strip is its unit's whole gradient. */
static void fetch_before_the_last_reduce(struct schedule_fixture *f)
{
    for (uint32_t stage = 0; stage < f->shape.stage_count && f->shape.strips; stage++) {
        struct ds_schedule *list = &f->lists[stage];
        for (uint32_t i = 0; i < list->action_count; i++) {
            const struct ds_action kept = list->actions[i];
            if (kept.kind != DS_ACTION_FETCH || list->actions[i - 1].kind == DS_ACTION_EVICT)
                continue;
            memmove(&list->actions[2], &list->actions[1], (i - 1) * sizeof kept);
            list->actions[1] = kept;
            assert_refused(f);
            memmove(&list->actions[1], &list->actions[2], (i - 1) * sizeof kept);
            list->actions[i] = kept;
        }
    }
}

static void a_strip_without_its_gradient_is_noticed(void **state)
{
    (void)state;
    for_every_case(fetch_before_the_last_reduce);
}

static int is_arithmetic(const struct ds_action *action)
{
    return action->kind >= DS_ACTION_FORWARD && action->kind <= DS_ACTION_BACKWARD_WEIGHT;
}

static int travels(const struct ds_action *action)
{
    return action->kind == DS_ACTION_FETCH || action->kind == DS_ACTION_UPDATE ||
           action->kind == DS_ACTION_EVICT;
}

static void move_place(struct schedule_fixture *f, uint32_t *place, uint32_t count)
{
    const uint32_t kept = *place;

    if (kept == DS_NO_SLOT)
        return;
    for (uint32_t other = 0; other <= count; other++)
        if (other != kept) {
            *place = other;
            assert_refused(f);
        }
    *place = kept;
}

/* Reading elsewhere, writing over what is needed, writing where nobody reads. What a forward saves
 * only to be made again may lie anywhere. */
static void move_each_place(struct schedule_fixture *f)
{
    for (uint32_t stage = 0; stage < f->shape.stage_count; stage++) {
        struct ds_schedule *list = &f->lists[stage];
        for (uint32_t i = 0; i < list->action_count; i++) {
            struct ds_action *action = &list->actions[i];
            if (travels(action))
                move_place(f, &action->slot, list->slots.strip_count);
            if (action->kind == DS_ACTION_EVICT_KEPT || action->kind == DS_ACTION_FETCH_KEPT)
                move_place(f, &action->home, list->home_count);
            else if (!is_arithmetic(action))
                continue;
            move_place(f, &action->x, list->stream_slot_count);
            move_place(f, &action->dy, list->stream_slot_count);
            move_place(f, &action->out, list->stream_slot_count);
            move_place(f, &action->held, list->held_slot_count);
            if (!f->shape.recomputes)
                move_place(f, &action->slot, list->saved_slot_count);
        }
        for (uint32_t i = 0; i < list->transfer_count; i++)
            move_place(f, &list->transfers[i].slot, list->stream_slot_count);
    }
}

static void a_wrong_place_is_noticed(void **state)
{
    (void)state;
    for_every_case(move_each_place);
}

/* ---- messages */

static void change_each_message(struct schedule_fixture *f)
{
    for (uint32_t stage = 0; stage < f->shape.stage_count; stage++)
        for (uint32_t i = 0; i < f->lists[stage].transfer_count; i++) {
            struct ds_transfer *t = &f->lists[stage].transfers[i];
            const struct ds_transfer kept = *t;
            t->micro = (t->micro + 1) % f->shape.micro_count;
            assert_refused(f);
            *t = kept;
            t->block++;
            assert_refused(f);
            *t = kept;
            t->is_gradient = !t->is_gradient;
            assert_refused(f);
            *t = kept;
            t->is_send = !t->is_send;
            assert_refused(f);
            *t = kept;
            t->peer = (t->peer + 1) % f->shape.stage_count;
            assert_refused(f);
            *t = kept;
        }
}

static void a_wrong_message_is_noticed(void **state)
{
    (void)state;
    for_every_case(change_each_message);
}

static void swap_messages(struct ds_schedule *list, uint32_t a, uint32_t b)
{
    const struct ds_transfer kept = list->transfers[a];

    list->transfers[a] = list->transfers[b];
    list->transfers[b] = kept;
}

static void swap_each_two_messages(struct schedule_fixture *f)
{
    for (uint32_t stage = 0; stage < f->shape.stage_count; stage++) {
        struct ds_schedule *list = &f->lists[stage];
        for (uint32_t i = 0; i + 1 < list->transfer_count; i++) {
            if (list->transfers[i].peer != list->transfers[i + 1].peer ||
                list->transfers[i].is_send != list->transfers[i + 1].is_send)
                continue;
            swap_messages(list, i, i + 1);
            assert_refused(f);
            swap_messages(list, i, i + 1);
        }
    }
}

static void messages_that_overtake_are_noticed(void **state)
{
    (void)state;
    for_every_case(swap_each_two_messages);
}

/* ---- waiting in a circle */

/* Each message as an action of its own, what is received before what is sent. */
static void ungroup(struct ds_schedule *list)
{
    struct ds_action *actions =
        malloc((list->action_count + list->transfer_count) * sizeof *actions);
    struct ds_transfer *transfers = malloc((list->transfer_count + 1u) * sizeof *transfers);
    uint32_t n = 0, sent = 0;

    assert_true(actions && transfers);
    for (uint32_t i = 0; i < list->action_count; i++) {
        const struct ds_action *action = &list->actions[i];
        if (action->kind != DS_ACTION_EXCHANGE) {
            actions[n++] = *action;
            continue;
        }
        for (uint32_t is_send = 0; is_send < 2; is_send++)
            for (uint32_t k = 0; k < action->transfer_count; k++) {
                if (list->transfers[action->transfer_start + k].is_send != is_send)
                    continue;
                transfers[sent] = list->transfers[action->transfer_start + k];
                actions[n] = *action;
                actions[n].transfer_start = sent++;
                actions[n++].transfer_count = 1;
            }
    }
    free(list->actions);
    free(list->transfers);
    list->actions = actions;
    list->transfers = transfers;
    list->action_count = n;
}

/* The textbook's receive, forward, send: each stage's list is right, and together they stand still
 * wherever two stages have something for one another at once. */
static void messages_one_by_one_hang(void **state)
{
    static struct schedule_fixture f;
    uint32_t hang_count = 0;

    (void)state;
    ds_log.terminal = -1;
    for (uint32_t stages = 2; stages <= STAGES_MAX; stages++)
        for (uint32_t micros = 1; micros <= 16; micros++) {
            struct schedule_case c = {.kind = DS_SCHEDULE_1F1B,
                                      .stages = stages,
                                      .micros = micros,
                                      .chunks = 1,
                                      .extra = stages,
                                      .window = 1};
            schedule_shape(&f, &c);
            schedule_make(&f);
            for (uint32_t i = 0; i < stages; i++)
                ungroup(&f.lists[i]);
            for (uint32_t i = 0; i < stages; i++) {
                f.shape.stage = i;
                assert_ok(ds_schedule_check(&f.shape, &f.lists[i]));
            }
            hang_count += schedule_play(&f, f.lists, NULL) != DS_OK;
            schedule_free(&f);
        }
    ds_log.terminal = 2;
    printf("%u of %u shapes hang\n", hang_count, (STAGES_MAX - 1) * 16);
    assert_true(hang_count > 80);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_action_is_noticed),
        cmocka_unit_test(a_strip_without_its_gradient_is_noticed),
        cmocka_unit_test(a_wrong_place_is_noticed),
        cmocka_unit_test(a_wrong_message_is_noticed),
        cmocka_unit_test(messages_that_overtake_are_noticed),
        cmocka_unit_test(messages_one_by_one_hang),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
