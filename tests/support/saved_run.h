/* saved_run.h - a tiny run that saves: a folder with its data and a directory of checkpoints, the same run with and
 * without saving, and whether one that went on is the one that nobody disturbed. A program has one of them. */
#ifndef DSTRAIN_TEST_SAVED_RUN_H
#define DSTRAIN_TEST_SAVED_RUN_H

#include "capture.h"
#include "saved_files.h"
#include "test.h"
#include "tiny_run.h"

static struct saved_run {
    /* owns */
    char *folder, *data;
    char root[512]; /* of checkpoints */
    /* set by the test */
    uint64_t seed; /* of the run; its data are those of the first */
    uint64_t interval, keep;
    uint64_t decay_steps;                   /* rates may not depend on where a run ends */
    void (*also)(struct ds_config *config); /* or NULL: what else is so in this test */
} saved;

typedef void saved_adjust(struct ds_config *config);

/* Prints the seed of `test`; 0 samples: the test makes the data. */
static inline void saved_begin(const char *test, uint64_t samples)
{
    ds_log.is_leader = 0;
    saved.seed = test_seed(test);
    saved.keep = 100;
    saved.folder = tiny_folder();
    snprintf(saved.root, sizeof saved.root, "%s/checkpoints", saved.folder);
    if (samples > 0)
        saved.data = tiny_data(saved.folder, saved.seed, samples);
}

static inline void saved_end(void)
{
    free(saved.data);
    tiny_remove(saved.folder);
}

/* ---- runs */

static inline void with_checkpoints(struct ds_config *config)
{
    config->run.seed = saved.seed;
    config->schedule.decay_steps = saved.decay_steps;
    config->checkpoint.interval = saved.interval;
    config->checkpoint.keep = saved.keep;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", saved.root);
    if (saved.also)
        saved.also(config);
}

static inline void without_checkpoints(struct ds_config *config)
{
    with_checkpoints(config);
    config->checkpoint.dir[0] = config->checkpoint.mirror[0] = '\0';
    config->checkpoint.interval = 0;
}

static inline struct tiny_case saved_case(void)
{
    return (struct tiny_case){.ranks = 2,
                              .stage = 3,
                              .global_batch = 4,
                              .micro_batch = 2,
                              .layers = 1,
                              .data = saved.data};
}

static inline struct tiny_result saved_run(struct tiny_case c, uint64_t steps, saved_adjust *adjust)
{
    struct tiny_result result;

    c.steps = steps;
    c.adjust = adjust;
    tiny_run(&c, &result);
    if (result.status != DS_OK)
        fail_msg("%u ranks, stage %d, %llu steps: %s", c.ranks, c.stage, (unsigned long long)steps,
                 ds_status_text(result.status));
    return result;
}

/* One that saves ends with `status` and says `words`; the result is freed. */
static inline void saved_expect(struct tiny_case c, uint64_t steps, ds_status status,
                                const char *words)
{
    struct tiny_result result;
    struct capture capture;

    c.steps = steps;
    if (!c.adjust)
        c.adjust = with_checkpoints;
    capture_begin(&capture);
    tiny_run(&c, &result);
    const char *said = capture_end(&capture);
    if (result.status != status || !strstr(said, words))
        fail_msg("%s, and '%s' is to be in: %s", ds_status_text(result.status), words, said);
    tiny_result_fini(&result);
}

/* ---- going on */

/* The step behind which it did. */
static inline uint64_t saved_went_on_from(const struct tiny_result *rest)
{
    uint64_t from = 0;

    while (from < TINY_STEPS_MAX && rest->loss[from] == 0 && rest->norm[from] == 0)
        from++;
    return from;
}

/* The bits of all steps behind `from`, and of the weights. */
static inline void assert_same_run(const struct tiny_result *got, const struct tiny_result *whole,
                                   uint64_t from)
{
    for (uint64_t i = from; i < whole->steps; i++)
        if (memcmp(&got->loss[i], &whole->loss[i], sizeof got->loss[i]) != 0 ||
            memcmp(&got->norm[i], &whole->norm[i], sizeof got->norm[i]) != 0)
            fail_msg("%u ranks, stage %d, mode %d: step %llu has loss %.17g norm %.9g, undisturbed "
                     "%.17g, %.9g",
                     got->of.ranks, got->of.stage, got->of.mode, (unsigned long long)i + 1,
                     got->loss[i], got->norm[i], whole->loss[i], whole->norm[i]);
    assert_int_equal(got->param_elems, whole->param_elems);
    assert_memory_equal(got->params, whole->params, whole->param_elems * sizeof *whole->params);
}

#endif
