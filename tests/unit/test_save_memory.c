// link: launch
// timeout: 10800
/* Memory that is refused: the n-th request of a run's own code after its first step fails, for every n. The run goes
 * on without that checkpoint, or all ranks end together and say why; it never crashes, and what has been committed
 * goes on with the bits of a run that nobody disturbed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "saved_run.h"

#include "dstrain/random.h"

#include <stdatomic.h>
#include <unistd.h>

enum { STEPS = 8, INTERVAL = 3, MORE = 2, TRIES = 40 };

/* ---- the n-th request */

static atomic_int is_armed;
static atomic_ulong calls;
static unsigned long fail_at;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_IS_OURS 0 /* a sanitizer has taken these places already */
#else
#define MEMORY_IS_OURS 1

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

extern const char __executable_start, etext; /* the linker's */

/* What libraries ask for is theirs: not all of them live without. */
static int is_refused(const void *caller)
{
    if (!atomic_load(&is_armed) || (const char *)caller < &__executable_start ||
        (const char *)caller >= &etext)
        return 0;
    return atomic_fetch_add(&calls, 1) + 1 == fail_at;
}

#define REFUSED is_refused(__builtin_return_address(0))
#define HOOK    __attribute__((noinline, visibility("default")))

HOOK void *malloc(size_t bytes)
{
    return REFUSED ? NULL : __libc_malloc(bytes);
}

HOOK void *calloc(size_t count, size_t bytes)
{
    return REFUSED ? NULL : __libc_calloc(count, bytes);
}

HOOK void *realloc(void *memory, size_t bytes)
{
    return REFUSED ? NULL : __libc_realloc(memory, bytes);
}
#endif

static void arm(const struct ds_step_report *report)
{
    if (report->step == 1)
        atomic_store(&is_armed, 1);
    if (report->step == STEPS) /* behind it the test takes memory, too */
        atomic_store(&is_armed, 0);
    usleep(2000); /* saves are written meanwhile */
}

/* ---- runs */

static struct tiny_result run(uint64_t steps, saved_adjust *adjust,
                              void (*step)(const struct ds_step_report *report))
{
    struct tiny_case c = saved_case();
    struct tiny_result result;

    c.steps = steps;
    c.adjust = adjust;
    c.step = step;
    tiny_run(&c, &result);
    atomic_store(&is_armed, 0);
    return result;
}

/* How many requests there were. */
static unsigned long try_refusal(unsigned long number, const struct tiny_result *whole)
{
    struct capture capture;

    fail_at = number;
    atomic_store(&calls, 0);
    capture_begin(&capture);
    struct tiny_result result = run(STEPS, with_checkpoints, arm);
    const char *said = capture_end(&capture);
    const unsigned long count = atomic_load(&calls);
    if ((result.status != DS_OK && result.status != DS_ERR_NO_MEMORY) ||
        (result.status == DS_OK &&
         memcmp(result.loss, whole->loss, STEPS * sizeof *whole->loss) != 0))
        fail_msg("request %lu refused: %s: %s", number, ds_status_text(result.status), said);
    struct tiny_result rest = run(STEPS + MORE, with_checkpoints, NULL);
    assert_int_equal(rest.status, DS_OK);
    assert_same_run(&rest, whole, STEPS);
    saved_forget(saved.root);
    tiny_result_fini(&result);
    tiny_result_fini(&rest);
    return count;
}

static void memory_that_is_refused_costs_a_checkpoint_or_ends_all(void **state)
{
    const struct ds_random random = ds_random_of(saved.seed, DS_RANDOM_TEST, 0);
    struct tiny_result whole = run(STEPS + MORE, without_checkpoints, NULL);
    const unsigned long count = try_refusal(0, &whole);

    (void)state;
    assert_true(count > 100);
    if (test_is_long())
        for (unsigned long number = 1; number <= count; number++)
            (void)try_refusal(number, &whole);
    else
        for (uint64_t i = 0; i < TRIES; i++)
            (void)try_refusal(1 + (unsigned long)ds_random_below(random, i, count), &whole);
    tiny_result_fini(&whole);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_is_refused_costs_a_checkpoint_or_ends_all),
    };
    int failed;

    if (!MEMORY_IS_OURS) {
        fprintf(stderr, "skipped: the sanitizer has malloc for itself\n");
        return 77;
    }
    saved_begin("test_save_memory", 64);
    saved.interval = INTERVAL;
    saved.keep = 2;
    saved.decay_steps = STEPS;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
