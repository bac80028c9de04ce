// link: parallel base
/* What layers keep for their backward, on the host in between: lists with it do the same arithmetic in the same order;
 * every copy has as many pieces of arithmetic beside it as it was promised, each way; what the device keeps does not
 * grow with the model; the host has exactly what is away at once; the share that stays are the last layers. */
#include "test.h"

#include "schedule_case.h"

static uint64_t seed, drawn;

static uint32_t draw(uint32_t bound)
{
    return (uint32_t)ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 17), drawn++, bound);
}

static struct schedule_case draw_case(void)
{
    struct schedule_case c = {.kind = draw(DS_SCHEDULE_KIND_COUNT),
                              .stages = 1 + draw(4),
                              .micros = 1 + draw(8),
                              .chunks = 1,
                              .extra = draw(12),
                              .is_sharded = draw(2),
                              .recomputes = draw(2),
                              .is_tied = draw(2),
                              .window = 1 + draw(3),
                              .kept = 1 + draw(4),
                              .kept_share = (1 + draw(4)) * 0.25};

    if (c.kind == DS_SCHEDULE_INTERLEAVED)
        c.chunks = 2;
    c.parts = c.kind == DS_SCHEDULE_ZERO_BUBBLE ? draw(100) : 0;
    c.is_late = draw(2);
    return c;
}

static int is_kept(const struct ds_action *action)
{
    return action->kind == DS_ACTION_EVICT_KEPT || action->kind == DS_ACTION_FETCH_KEPT;
}

static int is_arithmetic(const struct ds_action *action)
{
    return action->kind >= DS_ACTION_FORWARD && action->kind <= DS_ACTION_BACKWARD_WEIGHT;
}

/* ---- the same arithmetic */

static const struct ds_action *next_other(const struct ds_schedule *list, uint32_t *at)
{
    while (*at < list->action_count && is_kept(&list->actions[*at]))
        ++*at;
    return *at < list->action_count ? &list->actions[(*at)++] : NULL;
}

/* Whatever it is, but for the places of activations. */
static void check_same(const struct ds_schedule *with, const struct ds_schedule *without)
{
    uint32_t at[2] = {0, 0};

    for (;;) {
        const struct ds_action *a = next_other(with, &at[0]), *b = next_other(without, &at[1]);
        assert_int_equal(!a, !b);
        if (!a)
            return;
        assert_true(a->kind == b->kind && a->micro == b->micro && a->block == b->block);
        assert_true(a->unit == b->unit && a->strip == b->strip && a->is_ahead == b->is_ahead);
        assert_true(a->transfer_start == b->transfer_start &&
                    a->transfer_count == b->transfer_count);
        assert_true(is_arithmetic(a) || a->slot == b->slot);
    }
}

/* ---- time for copies */

static int uses_stream(const struct ds_schedule *list, const struct ds_action *action,
                       uint32_t place)
{
    for (uint32_t i = 0; i < action->transfer_count && action->kind == DS_ACTION_EXCHANGE; i++)
        if (list->transfers[action->transfer_start + i].slot == place)
            return 1;
    return (is_arithmetic(action) || is_kept(action)) &&
           (action->x == place || action->dy == place || action->out == place);
}

static int uses_saved(const struct ds_action *action, uint32_t place)
{
    return place != DS_NO_SLOT && (is_arithmetic(action) || is_kept(action)) &&
           action->slot == place;
}

/* Pieces of arithmetic between a copy and the next use of its places; of an eviction their next owner's. */
static uint32_t pieces_behind(const struct ds_schedule *list, uint32_t at)
{
    const struct ds_action *copy = &list->actions[at];
    uint32_t pieces = 0;

    for (uint32_t i = at + 1; i < list->action_count; i++) {
        const struct ds_action *action = &list->actions[i];
        if (uses_stream(list, action, copy->x) || uses_saved(action, copy->slot))
            return pieces;
        pieces += (uint32_t)is_arithmetic(action);
    }
    return UINT32_MAX;
}

static void check_time(const struct schedule_case *c, const struct ds_schedule *list)
{
    for (uint32_t i = 0; i < list->action_count; i++)
        if (is_kept(&list->actions[i]))
            assert_true(pieces_behind(list, i) >= c->kept);
}

/* ---- places */

/* As many as are away at once, and no one is twice in use. */
static void check_homes(const struct ds_schedule *list)
{
    uint32_t away = 0, most = 0;

    for (uint32_t i = 0; i < list->action_count; i++) {
        away += list->actions[i].kind == DS_ACTION_EVICT_KEPT;
        away -= list->actions[i].kind == DS_ACTION_FETCH_KEPT;
        most = away > most ? away : most;
    }
    assert_int_equal(away, 0);
    assert_int_equal(most, list->home_count);
}

/* Layers of the stage before the last one that goes. */
static void check_share(const struct schedule_fixture *f, const struct schedule_case *c,
                        const struct ds_schedule *list)
{
    uint32_t layers = 0, before = 0, last = 0;

    for (uint32_t i = 0; i < list->action_count; i++)
        if (list->actions[i].kind == DS_ACTION_EVICT_KEPT && list->actions[i].block > last)
            last = list->actions[i].block;
    for (uint32_t v = f->shape.stage; v < c->stages * c->chunks; v += c->stages)
        for (uint32_t b = f->first[v]; b < f->first[v + 1]; b++) {
            layers += b > 0 && b + 1 < f->shape.block_count;
            before += b > 0 && b <= last;
        }
    assert_true(before <= (uint32_t)(c->kept_share * layers + 0.5));
}

static void check_places(const struct ds_schedule *with, const struct ds_schedule *without)
{
    assert_true(with->stream_slot_count <= without->stream_slot_count);
    assert_true(with->saved_slot_count <= without->saved_slot_count);
    assert_int_equal(with->held_slot_count, without->held_slot_count);
    assert_int_equal(without->home_count, 0);
}

static void lists_differ_in_places_and_copies_alone(void **state)
{
    static struct schedule_fixture with, without;
    uint32_t evictions = 0;

    (void)state;
    for (int i = 0; i < (test_is_long() ? 20000 : 1500); i++) {
        struct schedule_case c = draw_case();

        schedule_shape(&with, &c);
        schedule_make(&with);
        assert_ok(schedule_play(&with, with.lists, NULL));
        const uint32_t kept = c.kept;
        c.kept = 0;
        schedule_shape(&without, &c);
        schedule_make(&without);
        c.kept = kept;
        for (uint32_t stage = 0; stage < c.stages; stage++) {
            with.shape.stage = stage;
            check_same(&with.lists[stage], &without.lists[stage]);
            check_time(&c, &with.lists[stage]);
            check_homes(&with.lists[stage]);
            check_share(&with, &c, &with.lists[stage]);
            check_places(&with.lists[stage], &without.lists[stage]);
            evictions += with.lists[stage].home_count;
        }
        schedule_free(&with);
        schedule_free(&without);
    }
    assert_true(evictions > 1000);
}

/* A rank alone, one micro-batch after another: the deeper model has more on the host, not on the device. */
static void the_device_has_no_more_of_a_deeper_model(void **state)
{
    static struct schedule_fixture f;

    (void)state;
    for (uint32_t recomputes = 0; recomputes < 2; recomputes++)
        for (uint32_t distance = 1; distance <= 3; distance++) {
            uint32_t stream = 0, saved = 0;
            for (uint32_t layers = 20; layers <= 60; layers += 8) {
                const struct schedule_case c = {.kind = DS_SCHEDULE_1F1B,
                                                .stages = 1,
                                                .micros = 2,
                                                .chunks = 1,
                                                .extra = layers + 1,
                                                .recomputes = recomputes,
                                                .window = 1,
                                                .kept = distance,
                                                .kept_share = 1};
                schedule_shape(&f, &c);
                schedule_make(&f);
                const struct ds_schedule *list = &f.lists[0];
                assert_true(list->home_count >= layers - 2 * distance);
                assert_true(list->home_count < layers);
                if (stream > 0)
                    assert_true(list->stream_slot_count == stream &&
                                list->saved_slot_count == saved);
                stream = list->stream_slot_count;
                saved = list->saved_slot_count;
                assert_true(stream <= 3 * distance + 4 && saved <= 3 * distance + 2);
                schedule_free(&f);
            }
        }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_differ_in_places_and_copies_alone),
        cmocka_unit_test(the_device_has_no_more_of_a_deeper_model),
    };

    seed = test_seed("test_schedule_kept");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
