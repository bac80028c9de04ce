/* test_kernels_dropout.c - which elements become zeros is a matter of their places in the whole and of the step: of any
 * part of the rows and columns the same, about as many as were asked for, and what is kept is larger by as much. */
// link: device kernels base
#include "test.h"

#include "kernel_case.h"

#include "dstrain/philox.h"

#include <math.h>

struct whole {
    uint64_t rows, columns, key, step;
    uint32_t threshold;
};

static int is_kept(const struct whole *w, uint64_t row, uint64_t column)
{
    const uint64_t number = row * w->columns + column, block = number / 8;
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)w->step,
                                 (uint32_t)(w->step >> 32)};
    uint32_t words[4];

    ds_philox(counter, w->key, words);
    return (words[number % 8 / 2] >> 16 * (number & 1) & 0xffffu) >= w->threshold;
}

/* Rows and columns [start, start + count) of the whole, onto what is there if asked. */
static void check_part(struct kernel_case *k, const struct whole *w, const uint64_t start[2],
                       const uint64_t count[2], int add)
{
    struct ds_step_record record = {.step = w->step};
    const uint64_t elems = count[0] * count[1];
    float *x = case_floats(k, elems), *y = case_floats(k, elems), *before = case_floats(k, elems);
    const double scale = 65536.0 / (65536 - w->threshold);
    struct ds_dropout_args args = {.y = ds_tensor2(y, DS_F32, count[0], count[1]),
                                   .x = ds_tensor2(x, DS_F32, count[0], count[1]),
                                   .record = &record,
                                   .key = w->key,
                                   .first_row = start[0],
                                   .first_column = start[1],
                                   .whole_columns = w->columns,
                                   .threshold = w->threshold,
                                   .add = add};

    for (uint64_t i = 0; i < elems; i++) {
        x[i] = case_rounded(k->storage, x[i]);
        before[i] = y[i] = add ? case_rounded(k->storage, y[i]) : NAN;
    }
    case_store(k, &args.x);
    case_store(k, &args.y);
    assert_ok(CASE_RUN(dropout, &args));
    case_load(k);
    for (uint64_t i = 0; i < elems; i++) {
        const int kept = is_kept(w, start[0] + i / count[1], start[1] + i % count[1]);
        const double want = (add ? before[i] : 0) + (kept ? x[i] * scale : 0);
        const double unit = k->storage == CASE_F32   ? 0x1p-22
                            : k->storage == CASE_F16 ? 0x1p-10
                                                     : 0x1p-7;
        const double last = k->storage == CASE_F16 ? 0x1p-25 : 0; /* half of a subnormal's place */

        if (!(fabs(y[i] - want) <= unit * (fabs(want) + (add ? fabs(before[i]) : 0)) + last))
            fail_msg("element %llu is %g, not %g", (unsigned long long)i, (double)y[i], want);
    }
}

static void elements_go_by_their_places(void **state)
{
    static const struct whole wholes[] = {{1, 1, 1, 1, 6554},
                                          {7, 33, 2, 5, 32768},
                                          {64, 129, 3, 1ull << 33, 655},
                                          {1ull << 40, 4096, 4, 9, 60000},
                                          {5, 300, 5, 2, 0}};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(wholes, i)
    for (int turn = 0; turn < 12; turn++) {
        const struct whole *w = &wholes[i];
        const uint64_t rows = 1 + case_bits(&k) % (w->rows < 40 ? w->rows : 40);
        const uint64_t columns = 1 + case_bits(&k) % (w->columns < 90 ? w->columns : 90);
        const uint64_t start[2] = {case_bits(&k) % (w->rows - rows + 1),
                                   case_bits(&k) % (w->columns - columns + 1)};
        const uint64_t count[2] = {rows, columns};

        k.storage = (enum case_storage)(turn % CASE_STORAGE_COUNT);
        check_part(&k, w, start, count, turn / 3 % 2);
        case_free(&k);
    }
}

/* Within six deviations; and what is in sum stays. */
static void as_many_go_as_were_asked_for(void **state)
{
    enum { ROWS = 256, COLUMNS = 512, COUNT = ROWS * COLUMNS };
    static const uint32_t thresholds[] = {3277, 6554, 32768};
    struct ds_step_record record = {.step = test_seed(__func__)};
    float *x = malloc(COUNT * sizeof *x);

    (void)state;
    FOR_ROWS(thresholds, i)
    {
        const double rate = thresholds[i] / 65536.0;
        double gone = 0, sum = 0;
        const struct ds_tensor tensor = ds_tensor2(x, DS_F32, ROWS, COLUMNS);
        const struct ds_dropout_args args = {.y = tensor,
                                             .x = tensor, /* in its place */
                                             .record = &record,
                                             .key = i,
                                             .whole_columns = COLUMNS,
                                             .threshold = thresholds[i]};

        for (int k = 0; k < COUNT; k++)
            x[k] = 1;
        assert_ok(CASE_RUN(dropout, &args));
        for (int k = 0; k < COUNT; k++) {
            gone += x[k] == 0;
            sum += x[k];
        }
        assert_true(fabs(gone / COUNT - rate) < 6 * sqrt(rate * (1 - rate) / COUNT));
        assert_true(fabs(sum / COUNT - 1) < 6 * sqrt(rate / (1 - rate) / COUNT));
    }
    free(x);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_go_by_their_places),
        cmocka_unit_test(as_many_go_as_were_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
