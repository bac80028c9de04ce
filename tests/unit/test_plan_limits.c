// link: launch
// private: launch
/* A limit holds for every role, to the byte. A refusal names the line that set it and the nearest limit that is enough,
 * and shows what changes the memory that is short; other ranks wait as long as the plan takes. */
#include "test.h"

#include "capture.h"
#include "plan_case.h"
#include "ranks.h"

static const struct setup alone = {"alone", 1, {RECOMPUTES, ROWS, "train.micro_batch_size=4"}};

static void a_limit_of_one_byte_less_is_refused_with_its_size(void **state)
{
    const struct setup *setup = &alone;
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup->ranks);
    struct capture capture;

    (void)state;
    assert_true(load(setup, NULL, DS_AUTO, &config));
    config.memory.device_limit = worst_bytes(&config, setup->ranks);
    assert_ok(ds_plan_check(&question));
    config.memory.device_limit--;
    capture_begin(&capture);
    const ds_status st = ds_plan_check(&question);
    assert_int_equal(st, DS_ERR_CONFIG);
    assert_non_null(strstr(capture_end(&capture), "too little by 1 B"));
}

static void a_limit_of_the_host_is_answered_with_the_host_s_bytes(void **state)
{
    const struct setup *setup = &alone;
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup->ranks);
    struct capture capture;
    struct ds_plan plan;
    uint32_t role;

    (void)state;
    assert_true(load(setup, NULL, DS_AUTO, &config));
    assert_ok(ds_plan_worst(&question, &plan, &role));
    config.memory.host_limit = ds_plan_host_bytes(&plan) - 1;
    capture_begin(&capture);
    const ds_status st = ds_plan_check(&question);
    const char *said = capture_end(&capture);
    assert_int_equal(st, DS_ERR_CONFIG);
    assert_non_null(strstr(said, "[memory] host_limit = "));
    assert_non_null(strstr(said, "changes of the host memory"));
}

/* ---- a refusal names the line that set the limit, and a limit that is enough */

/* The text behind the setup's, a line of the file each; `said`: of the check. */
static ds_status check_limits(const struct setup *setup, const char *limits,
                              struct ds_config *config, struct capture *capture, const char **said)
{
    const struct ds_plan_question question = question_of(config, setup->ranks);
    char text[4096];

    snprintf(text, sizeof text, "%s%s", base_text, limits);
    assert_ok(ds_config_parse("c.ini", text, strlen(text), NULL, 0, config));
    ds_config_resolve(config, setup->ranks);
    capture_begin(capture);
    ds_status st = ds_plan_check(&question);
    *said = capture_end(capture);
    return st;
}

static uint32_t count_lines(const char *text)
{
    uint32_t lines = 0;

    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static uint64_t nearest_of(const char *said, const char *key)
{
    const char *at = strstr(said, key);

    at = at ? strstr(at, "nearest: ") : NULL;
    assert_non_null(at);
    return strtoull(at + strlen("nearest: "), NULL, 10);
}

static void a_limit_that_is_too_little_is_named_with_its_line_and_one_that_is_enough(void **state)
{
    const struct setup *setup = &alone;
    const uint32_t first = count_lines(base_text) + 1; /* the first line of what stands behind it */
    static struct ds_config config;
    struct capture capture;
    char limits[256], places[2][64];
    const char *said;

    (void)state;
    assert_int_equal(check_limits(setup, "[memory]\ndevice_limit = 4096\nhost_limit = 100\n",
                                  &config, &capture, &said),
                     DS_ERR_CONFIG);
    snprintf(places[0], sizeof places[0],
             "error: c.ini:%u: [memory] device_limit = 4096 (4.0 KiB) is", first + 1);
    snprintf(places[1], sizeof places[1], "c.ini:%u: [memory] host_limit = 100 (100 B) is",
             first + 2);
    for (int i = 0; i < 2; i++)
        if (!strstr(said, places[i]))
            fail_msg("'%s' is not in %s", places[i], said);
    const uint64_t device = nearest_of(said, "[memory] device_limit");
    const uint64_t host = nearest_of(said, "[memory] host_limit");
    for (uint64_t less = 0; less < 2; less++) { /* it is the nearest: one byte less is too little */
        snprintf(limits, sizeof limits, "[memory]\ndevice_limit = %llu\nhost_limit = %llu\n",
                 (unsigned long long)(device - less), (unsigned long long)host);
        assert_int_equal(check_limits(setup, limits, &config, &capture, &said),
                         less ? DS_ERR_CONFIG : DS_OK);
        assert_null(strstr(said, "[memory] host_limit = "));
    }
}

/* Limits hold for every role: also where one that takes less of the device takes too much of the host. */
static void the_worst_role_is_one_that_does_not_fit(void **state)
{
    const struct setup setup = {
        "stages", 2, {"parallel.pipeline=2", "model.tie_word_embeddings=true"}};
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup.ranks);
    struct ds_plan roles[2], worst;
    uint32_t role;

    (void)state;
    assert_true(load(&setup, NULL, DS_AUTO, &config));
    for (uint32_t i = 0; i < 2; i++)
        assert_ok(ds_plan_measure(&question, ds_plan_role_rank(&config, i), &roles[i]));
    assert_true(ds_plan_device_bytes(&roles[0]) > ds_plan_device_bytes(&roles[1]));
    assert_true(ds_plan_host_bytes(&roles[0]) < ds_plan_host_bytes(&roles[1]));
    config.memory.host_limit = ds_plan_host_bytes(&roles[0]);
    assert_ok(ds_plan_worst(&question, &worst, &role));
    assert_int_equal(role, 1);
}

/* ---- in a run: others wait longer than a deadline, as long as the plan goes on */

static uint64_t slow_mono_ns(void *self)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), 100000000u);
    return ds_clock_mono_ns(ds_clock_system());
}

static uint64_t slow_real_ns(void *self)
{
    (void)self;
    return ds_clock_real_ns(ds_clock_system());
}

static void slow_sleep_ns(void *self, uint64_t ns)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), ns);
}

static const uint64_t wait_ns = 1500000000u;

struct slow_plan {
    struct ds_config config;
    ds_status st[8];
};

static void plan_slowly(struct ds_comm *world, void *user)
{
    const struct ds_clock slow = {slow_mono_ns, slow_real_ns, slow_sleep_ns, NULL};
    struct slow_plan *plan = user;
    struct ds_config *config = malloc(sizeof *config);

    assert_non_null(config);
    *config = plan->config;
    plan->st[world->rank] = ds_plan_together(
        &(struct ds_plan_ranks){world, ds_fs_posix(), &slow, world->rank, (int)world->size, 1},
        DS_CONFIG_TRAIN, config);
    free(config);
}

static void a_plan_may_take_longer_than_a_wait(void **state)
{
    const struct setup setup = {"slow", 8, {RECOMPUTES}};
    static struct slow_plan plan;
    struct capture capture;

    (void)state;
    assert_true(load(&setup, NULL, 4096, &plan.config));
    const uint64_t begin_ns = ds_clock_mono_ns(ds_clock_system());
    capture_begin(&capture);
    assert_true(run_ranks(8, wait_ns, plan_slowly, &plan));
    const char *said = capture_end(&capture);
    if (ds_clock_mono_ns(ds_clock_system()) - begin_ns < 2 * wait_ns)
        fail_msg("the plan was not slow");
    for (int i = 0; i < 8; i++)
        assert_int_equal(plan.st[i], DS_ERR_CONFIG);
    assert_non_null(strstr(said, "what one key changes"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_limit_of_one_byte_less_is_refused_with_its_size),
        cmocka_unit_test(a_limit_that_is_too_little_is_named_with_its_line_and_one_that_is_enough),
        cmocka_unit_test(a_limit_of_the_host_is_answered_with_the_host_s_bytes),
        cmocka_unit_test(the_worst_role_is_one_that_does_not_fit),
        cmocka_unit_test(a_plan_may_take_longer_than_a_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
