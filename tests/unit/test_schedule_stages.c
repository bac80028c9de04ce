// link: parallel base
/* Schedules of several stages: the lists of all of them played together, for every shape up to 8
 * stages x 16 micro-batches x 4 chunks. They end, at the tick that the schedule's formula says, with
 * no more micro-batches under way than it allows. The other choices are drawn, and all tried with
 * --long. */
#include "test.h"

#include "dstrain/random.h"
#include "schedule_case.h"

/* ---- what the formulas say */

static uint32_t min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* performance.md section 8: F = B = W = 1. Where there is no formula, what it must not be worse than. */
static void check_ticks(const struct schedule_case *c, uint32_t ticks)
{
    const uint32_t m = c->micros, p = c->stages, v = c->chunks;
    const uint32_t whole = (m + p - 1) / p * p; /* interleaved: as if the last group was full */

    if (c->kind == DS_SCHEDULE_ZERO_BUBBLE && m >= p)
        assert_int_equal(ticks, 3 * m + p - 1);
    else if (c->kind == DS_SCHEDULE_ZERO_BUBBLE)
        assert_true(ticks <= 3 * (m + p - 1));
    else if (c->kind == DS_SCHEDULE_INTERLEAVED && m % p != 0)
        assert_true(ticks <= 3 * (whole * v + p - 1));
    else
        assert_int_equal(ticks, 3 * (m * v + p - 1));
}

/* On one stage a window's micro-batches go together. */
static uint32_t alive_limit(const struct schedule_case *c, uint32_t stage)
{
    const uint32_t m = c->micros, p = c->stages, v = c->chunks, w = p == 1 ? c->window : 1;

    switch (c->kind) {
    case DS_SCHEDULE_1F1B:
        return min(m, (p - stage) * w);
    case DS_SCHEDULE_INTERLEAVED:
        return min(m * v, (2 * (p - 1 - stage) + (v - 1) * p + 1) * w);
    case DS_SCHEDULE_ZERO_BUBBLE:
        return min(m, p * w);
    default:
        return m;
    }
}

/* One embedding or head for itself has less to do than the clock gives it. */
static int ends_have_layers(const struct schedule_fixture *f)
{
    const uint32_t parts = f->shape.stage_count * f->shape.chunk_count;

    return f->first[1] > 1 && f->first[parts] - f->first[parts - 1] > 1;
}

/* ---- training and evaluation of one shape */

static uint32_t layers_of(const struct schedule_fixture *f, uint32_t stage)
{
    uint32_t count = 0;

    for (uint32_t v = stage; v < f->shape.stage_count * f->shape.chunk_count;
         v += f->shape.stage_count)
        for (uint32_t b = f->first[v]; b < f->first[v + 1]; b++)
            count += b > 0 && b + 1 < f->shape.block_count;
    return count;
}

/* Of the largest chunk of the stage: what is under way are micro-batches of one chunk each. */
static uint32_t layers_of_chunk(const struct schedule_fixture *f, uint32_t stage)
{
    uint32_t most = 0;

    for (uint32_t v = stage; v < f->shape.stage_count * f->shape.chunk_count;
         v += f->shape.stage_count) {
        uint32_t count = 0;
        for (uint32_t b = f->first[v]; b < f->first[v + 1]; b++)
            count += b > 0 && b + 1 < f->shape.block_count;
        most = count > most ? count : most;
    }
    return most;
}

/* Places: what layers save, an input for each, and a few for what is on its way. */
static void check_places(const struct schedule_fixture *f, const struct schedule_case *c,
                         uint32_t stage)
{
    const struct ds_schedule *list = &f->lists[stage];
    const uint32_t layers = layers_of_chunk(f, stage), alive = alive_limit(c, stage);
    const int splits = c->kind == DS_SCHEDULE_ZERO_BUBBLE;

    if (c->recomputes && !splits)
        assert_int_equal(list->saved_slot_count, layers > 0);
    assert_true(list->saved_slot_count <= layers * alive + (c->recomputes != 0));
    assert_true(list->held_slot_count <= (splits ? layers * alive : 0));
    if (!splits)
        assert_true(list->stream_slot_count <= (layers + 1) * alive + 3);
    else
        assert_true(list->stream_slot_count <= (2 * layers + 2) * alive + 3);
}

static void check_exchanges(const struct ds_schedule *list)
{
    for (uint32_t i = 0; i < list->action_count; i++)
        if (list->actions[i].kind == DS_ACTION_EXCHANGE)
            assert_true(list->actions[i].transfer_count <= DS_EXCHANGE_TRANSFERS_MAX);
}

static void check_training(struct schedule_fixture *f, const struct schedule_case *c)
{
    schedule_make(f);
    assert_ok(schedule_play(f, f->lists, NULL));
    if (!c->parts || c->kind != DS_SCHEDULE_ZERO_BUBBLE) {
        check_ticks(c, f->lists[0].ticks);
        assert_true(f->ticks <= f->lists[0].ticks);
        if (ends_have_layers(f))
            assert_int_equal(f->ticks, f->lists[0].ticks);
    }
    for (uint32_t i = 0; i < c->stages; i++) {
        check_places(f, c, i);
        check_exchanges(&f->lists[i]);
        assert_true(f->played[i].alive_max <= alive_limit(c, i));
        if (ends_have_layers(f) && c->chunks == 1 && c->kind <= DS_SCHEDULE_GPIPE)
            assert_int_equal(f->played[i].alive_max, alive_limit(c, i));
    }
}

static void check_fits(const struct ds_schedule *list, const struct ds_schedule *in)
{
    for (uint32_t k = 0; k < DS_ZERO_SLOT_CLASSES; k++)
        assert_true(list->slots.weight_count[k] <= in->slots.weight_count[k]);
    assert_true(list->stream_slot_count <= in->stream_slot_count);
    assert_true(list->saved_slot_count <= in->saved_slot_count);
    assert_int_equal(list->held_slot_count, 0);
}

static void check_evaluation(struct schedule_fixture *f, const struct schedule_case *c)
{
    f->shape.is_training = 0;
    for (uint32_t i = 0; i < c->stages; i++) {
        f->shape.stage = i;
        f->shape.like = &f->lists[i];
        assert_ok(ds_schedule_make(&f->shape, &f->evals[i]));
        if (c->kept)
            ds_schedule_widen(&f->lists[i], &f->evals[i]);
        check_fits(&f->evals[i], &f->lists[i]);
    }
    assert_ok(schedule_play(f, f->evals, NULL));
    if (c->micros % c->stages == 0 || c->chunks == 1)
        assert_int_equal(f->evals[0].ticks, c->micros * c->chunks + c->stages - 1);
    assert_true(f->ticks <= f->evals[0].ticks);
}

static void check_case(const struct schedule_case *c)
{
    static struct schedule_fixture f;

    schedule_shape(&f, c);
    check_training(&f, c);
    check_evaluation(&f, c);
    schedule_free(&f);
}

/* ---- all shapes */

typedef void case_check(const struct schedule_case *c);

static void for_every_shape(case_check *check, struct schedule_case c)
{
    for (c.kind = 0; c.kind < DS_SCHEDULE_KIND_COUNT; c.kind++)
        for (c.chunks = 1; c.chunks <= CHUNKS_MAX; c.chunks++)
            for (c.stages = 1; c.stages <= STAGES_MAX; c.stages++)
                for (c.micros = 1; c.micros <= 16; c.micros++)
                    if (c.chunks == 1 || c.kind == DS_SCHEDULE_INTERLEAVED)
                        check(&c);
}

enum { CHOICES = 1 << 11, DRAWS = 6 };

/* choice number `choice` of everything that is no shape */
static void choose(struct schedule_case *c, uint32_t choice)
{
    c->is_sharded = choice & 1;
    c->recomputes = choice >> 1 & 1;
    c->is_tied = choice >> 2 & 1;
    c->reshard = choice >> 3 & 1;
    c->window = choice & 16 ? 3 : 1;
    c->extra = choice & 32 ? c->stages * c->chunks : 1;
    c->parts = choice & 64;
    c->away = choice & 128 ? 1 + choice % 5 : 0;
    c->is_late = choice >> 8 & 1;
    c->kept = choice & 512 ? 1 + choice % 3 : 0;
    c->kept_share = choice & 1024 ? 1 : 0.6;
}

static void check_all_choices(const struct schedule_case *c)
{
    for (uint32_t choice = 0; choice < CHOICES; choice++) {
        struct schedule_case chosen = *c;
        choose(&chosen, choice);
        check_case(&chosen);
    }
}

static uint64_t seed;

static void check_drawn_choices(const struct schedule_case *c)
{
    const uint64_t shape = ((c->kind * 8u + c->chunks) * 16u + c->stages) * 32u + c->micros;
    const struct ds_random drawn = ds_random_of(seed, DS_RANDOM_TEST, shape);

    for (uint32_t i = 0; i < DRAWS; i++) {
        struct schedule_case chosen = *c;
        choose(&chosen, (uint32_t)(ds_random_below(drawn, i, CHOICES)));
        if (chosen.parts)
            chosen.parts += (uint32_t)ds_random_below(drawn, DRAWS + i, 1u << 20);
        check_case(&chosen);
    }
}

static void every_shape_ends_in_time_and_memory(void **state)
{
    (void)state;
    seed = test_seed("every_shape_ends_in_time_and_memory");
    for_every_shape(test_is_long() ? check_all_choices : check_drawn_choices,
                    (struct schedule_case){0});
}

/* ---- played with costs of pieces */

enum { FORWARD_NS = 300, INPUT_NS = 200, WEIGHT_NS = 100 };

/* Of every block, `dear` times as much on those of `dear_stage`. */
static void fill_costs(const struct schedule_fixture *f, uint32_t dear_stage, uint64_t dear,
                       uint64_t *costs)
{
    const uint32_t stages = f->shape.stage_count, parts = stages * f->shape.chunk_count;

    for (uint32_t v = 0; v < parts; v++)
        for (uint32_t b = f->first[v]; b < f->first[v + 1]; b++) {
            const uint64_t times = v % stages == dear_stage ? dear : 1;
            costs[ds_schedule_cost_at(b, DS_ACTION_FORWARD)] = times * FORWARD_NS;
            costs[ds_schedule_cost_at(b, DS_ACTION_LOSS)] =
                times * (FORWARD_NS + INPUT_NS + WEIGHT_NS);
            costs[ds_schedule_cost_at(b, DS_ACTION_BACKWARD)] = times * (INPUT_NS + WEIGHT_NS);
            costs[ds_schedule_cost_at(b, DS_ACTION_BACKWARD_INPUT)] = times * INPUT_NS;
            costs[ds_schedule_cost_at(b, DS_ACTION_BACKWARD_WEIGHT)] = times * WEIGHT_NS;
        }
}

/* A stage's arithmetic is the sum of its pieces. It never ends before it, waits for the stage that has most to
 * do, and alone waits for nobody. Where backward is whole, every micro-batch goes down and up the whole
 * pipeline before the first stage is through with it. */
static void check_costs(const struct schedule_case *c)
{
    static struct schedule_fixture f;
    static uint64_t costs[BLOCKS_MAX * DS_ACTION_KIND_COUNT];
    const uint64_t block_ns = FORWARD_NS + INPUT_NS + WEIGHT_NS;
    uint64_t least = 0;

    schedule_shape(&f, c);
    schedule_make(&f);
    for (uint32_t dear = 0; dear < c->stages; dear++) {
        fill_costs(&f, dear, 7, costs);
        assert_ok(schedule_play(&f, f.lists, costs));
        for (uint32_t i = 0; i < c->stages; i++) {
            uint64_t blocks = layers_of(&f, i) + (i == 0) + (i == c->stages - 1);
            uint64_t busy = c->micros * blocks * block_ns * (i == dear ? 7 : 1);
            if (i == 0 && c->kind == DS_SCHEDULE_ZERO_BUBBLE) /* an embedding has no input part */
                busy -= c->micros * (uint64_t)INPUT_NS * (i == dear ? 7 : 1);
            assert_int_equal(f.played[i].busy, busy);
            assert_true(f.played[i].end >= busy);
            least = i == dear ? busy : least;
        }
        assert_true(f.ticks >= least);
        if (c->stages == 1)
            assert_int_equal(f.ticks, least);
    }
    schedule_free(&f);
}

static void every_stage_takes_what_its_pieces_cost(void **state)
{
    (void)state;
    for_every_shape(check_costs, (struct schedule_case){.window = 1, .extra = 1});
}

/* Two stages of one block each, one micro-batch after another: a stage of half the cost waits half of the
 * time, and the dear one only until the first message comes. */
static void who_has_less_to_do_waits(void **state)
{
    struct schedule_fixture f;
    uint64_t costs[BLOCKS_MAX * DS_ACTION_KIND_COUNT] = {0};
    const struct schedule_case c = {
        .kind = DS_SCHEDULE_1F1B, .stages = 2, .micros = 10, .chunks = 1, .window = 1, .extra = 2};

    (void)state;
    schedule_shape(&f, &c);
    schedule_make(&f);
    fill_costs(&f, 1, 2, costs);
    assert_ok(schedule_play(&f, f.lists, costs));
    const uint64_t blocks = layers_of(&f, 0) + 1;
    assert_int_equal(layers_of(&f, 1) + 1, blocks);
    assert_int_equal(f.played[1].end - f.played[1].busy, blocks * FORWARD_NS);
    assert_int_equal(f.played[0].end, f.played[1].end + blocks * (INPUT_NS + WEIGHT_NS));
    schedule_free(&f);
}

/* A list that is made for what pieces take ends sooner than one for equal pieces: stages of two layers, the last
 * of one and a head that is as dear and does all of it on the way back. */
static void weight_parts_fill_the_gaps_that_are_there(void **state)
{
    enum { STAGES = 4 };
    struct schedule_fixture f;
    uint64_t costs[BLOCKS_MAX * DS_ACTION_KIND_COUNT] = {0}, equal;
    const struct schedule_case c = {.kind = DS_SCHEDULE_ZERO_BUBBLE,
                                    .stages = STAGES,
                                    .micros = 16,
                                    .chunks = 1,
                                    .window = 1,
                                    .extra = 5};
    static const uint32_t first[] = {0, 3, 5, 7, 9};

    (void)state;
    schedule_shape(&f, &c);
    assert_int_equal(f.shape.block_count, first[STAGES]);
    memcpy(f.first, first, sizeof first);
    fill_costs(&f, 0, 1, costs);
    costs[ds_schedule_cost_at(0, DS_ACTION_FORWARD)] = 0;
    costs[ds_schedule_cost_at(0, DS_ACTION_BACKWARD_WEIGHT)] = 0;
    schedule_make(&f);
    assert_ok(schedule_play(&f, f.lists, costs));
    equal = f.ticks;
    for (uint32_t i = 0; i < STAGES; i++) {
        const int has_head = i + 1 == STAGES;
        ds_schedule_fini(&f.lists[i]);
        f.parts[i] =
            (struct ds_schedule_part){has_head ? 3 : 6, has_head ? 8 : 4, has_head ? 1 : 2};
    }
    f.shape.parts = f.parts;
    schedule_make(&f);
    assert_ok(schedule_play(&f, f.lists, costs));
    assert_true(10 * f.ticks < 9 * equal);
    schedule_free(&f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_ends_in_time_and_memory),
        cmocka_unit_test(every_stage_takes_what_its_pieces_cost),
        cmocka_unit_test(who_has_less_to_do_waits),
        cmocka_unit_test(weight_parts_fill_the_gaps_that_are_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
