// link: launch
// private: launch
/* The plan is what a run asks for, byte for byte: assembled on the null device for each rank, against the
 * ledger of the same run on the cpu. */
#include "test.h"

#include "capture.h"
#include "plan.h"
#include "tiny_run.h"

static char *folder, *data;

static struct ds_plan_question question_of(const struct ds_config *config, uint32_t ranks)
{
    return (struct ds_plan_question){config, ds_fs_posix(), ds_clock_system(), ranks};
}

static void the_plan_is_what_a_run_takes_to_the_byte(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 4; ranks++)
        for (int variant = 0; variant < 12; variant++) {
            struct tiny_case c = {.ranks = ranks,
                                  .stage = variant % 4,
                                  .steps = 2,
                                  .global_batch = 2 * ranks,
                                  .micro_batch = 1,
                                  .seed = 5,
                                  .is_tied = variant & 1,
                                  .recompute = variant / 4,
                                  .data = data};
            struct ds_config config;
            struct tiny_result r;
            struct ds_plan plan;
            const struct ds_plan_question question = question_of(&config, ranks);
            tiny_run(&c, &r);
            assert_int_equal(r.status, DS_OK);
            tiny_config(&c, &config);
            for (uint32_t rank = 0; rank < ranks; rank++) {
                assert_ok(ds_plan_measure(&question, rank, &plan));
                assert_memory_equal(plan.bytes[DS_MEMORY_DEVICE], r.bytes, sizeof r.bytes);
                assert_memory_equal(plan.bytes[DS_MEMORY_PINNED], r.pinned_bytes,
                                    sizeof r.pinned_bytes);
            }
            tiny_result_fini(&r);
        }
}

static void a_limit_of_one_byte_less_is_refused_and_says_what_would_fit(void **state)
{
    struct tiny_case c = {.ranks = 4,
                          .stage = 1,
                          .steps = 1,
                          .global_batch = 16,
                          .micro_batch = 4,
                          .seed = 5,
                          .data = data};
    struct ds_config config;
    struct ds_plan plan;
    const struct ds_plan_question question = question_of(&config, 4);

    (void)state;
    tiny_config(&c, &config);
    assert_ok(ds_plan_measure(&question, 0, &plan));
    config.memory.device_limit = ds_plan_device_bytes(&plan);
    assert_ok(ds_plan_check(&question));
    config.memory.device_limit--;
    struct capture capture;
    capture_begin(&capture);
    ds_status st = ds_plan_check(&question);
    const char *text = capture_end(&capture);
    assert_int_equal(st, DS_ERR_CONFIG);
    assert_non_null(strstr(text, "too little by 1 B"));
    assert_non_null(strstr(text, "train.micro_batch_size = 2"));
    assert_non_null(strstr(text, "zero.stage = 2"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_what_a_run_takes_to_the_byte),
        cmocka_unit_test(a_limit_of_one_byte_less_is_refused_and_says_what_would_fit),
    };
    int failed;

    folder = tiny_folder();
    data = tiny_data(folder, 3, 16);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
