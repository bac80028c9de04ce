// link: parallel
/* The list of a step: played by a checker that shares no code with its maker, over every shape; and the
 * checker itself, which must object to every list with one action missing or moved. */
#include "test.h"

#include "dstrain/schedule.h"

enum { LAYERS_MAX = 6, UNITS_MAX = LAYERS_MAX + 2 };

struct fixture {
    struct ds_schedule_block blocks[UNITS_MAX];
    uint64_t elems[UNITS_MAX];
    uint32_t first[2];
    struct ds_schedule_shape shape;
};

static void make_shape(struct fixture *f, uint32_t layers, uint32_t micros, int is_tied, int stage,
                       int is_training)
{
    memset(f, 0, sizeof *f);
    for (uint32_t b = 0; b < layers + 2; b++) {
        f->blocks[b] = (struct ds_schedule_block){1, {b}};
        f->elems[b] = b == 0 || b == layers + 1 ? 5000 : 3000;
    }
    if (is_tied) {
        f->blocks[layers + 1] = (struct ds_schedule_block){2, {layers + 1, 0}};
        f->elems[layers + 1] = 64;
    }
    f->shape = (struct ds_schedule_shape){.blocks = f->blocks,
                                          .block_count = layers + 2,
                                          .unit_cost = f->elems,
                                          .unit_count = layers + 2,
                                          .micro_count = micros,
                                          .zero_stage = (uint32_t)stage,
                                          .is_training = is_training,
                                          .stage_count = 1,
                                          .chunk_count = 1,
                                          .chunk_first = f->first,
                                          .tied_unit = DS_NO_UNIT,
                                          .window = 1};
    f->first[1] = layers + 2;
}

static void every_list_keeps_its_promises(void **state)
{
    (void)state;
    for (uint32_t layers = 1; layers <= LAYERS_MAX; layers++)
        for (uint32_t micros = 1; micros <= 5; micros++)
            for (int variant = 0; variant < 32; variant++) {
                struct fixture f;
                struct ds_schedule list;
                make_shape(&f, layers, micros, variant & 1, variant >> 2 & 3, !(variant & 2));
                f.shape.recomputes = variant >> 4;
                assert_ok(ds_schedule_make(&f.shape, &list));
                assert_ok(ds_schedule_check(&f.shape, &list));
                ds_schedule_fini(&list);
            }
}

static void slots_take_no_more_than_four_units(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++)
        for (uint64_t big = 500; big < 20000; big += 700) {
            struct fixture f;
            struct ds_schedule list;
            uint64_t total = 0, largest = 0;
            make_shape(&f, 4, 2, variant & 1, 3, 1);
            f.elems[0] = big;
            if (!(variant & 1))
                f.elems[5] = variant & 2 ? big : 100;
            assert_ok(ds_schedule_make(&f.shape, &list));
            for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
                uint64_t most = 0;
                for (uint32_t i = 0; i < f.shape.unit_count; i++) {
                    largest = f.elems[i] > largest ? f.elems[i] : largest;
                    if (list.slot_class[i] == c && f.elems[i] > most)
                        most = f.elems[i];
                }
                total += most * (list.slots.weight_count[c] + list.slots.grad_count[c]);
            }
            assert_true(total <= 4 * largest);
            ds_schedule_fini(&list);
        }
}

/* An evaluation list runs on the slots that were taken for training. */
static void evaluation_fits_into_the_slots_of_training(void **state)
{
    (void)state;
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        struct fixture f;
        struct ds_schedule train, eval;
        make_shape(&f, 4, 3, is_tied, 3, 1);
        assert_ok(ds_schedule_make(&f.shape, &train));
        f.shape.is_training = 0;
        f.shape.like = &train;
        assert_ok(ds_schedule_make(&f.shape, &eval));
        assert_ok(ds_schedule_check(&f.shape, &eval));
        for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++)
            assert_true(eval.slots.weight_count[c] <= train.slots.weight_count[c]);
        assert_memory_equal(eval.slot_class, train.slot_class,
                            f.shape.unit_count * sizeof *train.slot_class);
        ds_schedule_fini(&train);
        ds_schedule_fini(&eval);
    }
}

/* The gather of the next unit is in flight while a block computes: where slots allow, every forward but
 * the first of a step finds its weights prefetched. */
static void the_next_unit_is_gathered_ahead(void **state)
{
    struct fixture f;
    struct ds_schedule list;
    uint32_t acquires = 0, prefetched = 0;

    (void)state;
    make_shape(&f, 4, 2, 0, 3, 1);
    assert_ok(ds_schedule_make(&f.shape, &list));
    for (uint32_t i = 0; i < list.action_count; i++) {
        if (list.actions[i].kind != DS_ACTION_ACQUIRE)
            continue;
        acquires++;
        for (uint32_t j = i; j-- > 0;)
            if (list.actions[j].unit == list.actions[i].unit &&
                list.actions[j].kind == DS_ACTION_PREFETCH) {
                prefetched++;
                break;
            }
    }
    assert_true(prefetched >= acquires - 1);
    ds_schedule_fini(&list);
}

static int is_load_bearing(const struct ds_action *action)
{
    return action->kind != DS_ACTION_BEGIN && action->kind != DS_ACTION_PREFETCH;
}

static void the_checker_objects_to_any_missing_action(void **state)
{
    struct fixture f;
    struct ds_schedule list;

    (void)state;
    ds_log.terminal = -1; /* its objections are expected */
    make_shape(&f, 3, 2, 1, 3, 1);
    f.shape.recomputes = 1;
    assert_ok(ds_schedule_make(&f.shape, &list));
    for (uint32_t gone = 0; gone < list.action_count; gone++) {
        struct ds_action kept = list.actions[gone];
        if (!is_load_bearing(&kept))
            continue;
        memmove(&list.actions[gone], &list.actions[gone + 1],
                (list.action_count - gone - 1) * sizeof kept);
        list.action_count--;
        assert_int_not_equal(ds_schedule_check(&f.shape, &list), DS_OK);
        memmove(&list.actions[gone + 1], &list.actions[gone],
                (list.action_count - gone) * sizeof kept);
        list.actions[gone] = kept;
        list.action_count++;
    }
    assert_ok(ds_schedule_check(&f.shape, &list));
    ds_log.terminal = 2;
    ds_schedule_fini(&list);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_list_keeps_its_promises),
        cmocka_unit_test(slots_take_no_more_than_four_units),
        cmocka_unit_test(evaluation_fits_into_the_slots_of_training),
        cmocka_unit_test(the_next_unit_is_gathered_ahead),
        cmocka_unit_test(the_checker_objects_to_any_missing_action),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
