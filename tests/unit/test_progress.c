// link: checkpoint
/* test_progress.c - how far a run has come, in the values of a manifest: what is written is read, and what no step leaves
 * is refused, since a launch would go on with it. */
#include "test.h"

#include "dstrain/progress.h"

#include <float.h>
#include <math.h>

static struct ds_progress some(float scale)
{
    return (struct ds_progress){.step = 9,
                                .samples = 72,
                                .tokens = 9216,
                                .updates = 7,
                                .skipped = 2,
                                .next_loss_scale = scale,
                                .finite_count = 5};
}

static ds_status write_and_read(const struct ds_progress *progress, struct ds_progress *out)
{
    struct ds_values values = {0};

    assert_ok(ds_progress_write(progress, &values));
    const ds_status st = ds_progress_read("the checkpoint", &values, out);
    ds_values_fini(&values);
    return st;
}

static void what_is_written_is_read(void **state)
{
    static const float scales[] = {0, FLT_MIN, 0.5f, 65536, 0x1p127f};

    (void)state;
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        const struct ds_progress progress = some(scales[i]);
        struct ds_progress read;

        assert_ok(write_and_read(&progress, &read));
        assert_memory_equal(&read, &progress, sizeof read);
    }
}

static void what_no_step_leaves_is_refused(void **state)
{
    static const float scales[] = {NAN, INFINITY, -INFINITY, -16, -0x1p-126f, 0x1p-149f};
    struct ds_progress progress, read;

    (void)state;
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        progress = some(scales[i]);
        assert_int_equal(write_and_read(&progress, &read), DS_ERR_DATA);
    }
    progress = some(1);
    progress.updates = 10; /* of 9 steps */
    assert_int_equal(write_and_read(&progress, &read), DS_ERR_DATA);
    progress = some(1);
    progress.step = 0;
    assert_int_equal(write_and_read(&progress, &read), DS_ERR_DATA);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(what_no_step_leaves_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
