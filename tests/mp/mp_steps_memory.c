// link: launch
// ranks: 2
/* mp_steps_memory.c - from step 2 on dstrain's own code takes no memory where ranks are processes, over
 * shared memory and over messages. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "allocations.h"
#include "mp_tiny.h"

enum { STEPS = 20 };

static void watch_step(const struct ds_step_report *report)
{
    if (report->step == 2)
        allocations_begin();
    if (report->step == STEPS)
        allocations_end();
}

static void a_step_takes_no_memory_over(int transport)
{
    for (int stage = 0; stage <= 3; stage++)
        for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
            const struct tiny_case c = {.ranks = world->size,
                                        .stage = stage,
                                        .mode = mode,
                                        .transport = transport,
                                        .steps = STEPS,
                                        .global_batch = 8,
                                        .micro_batch = 2,
                                        .seed = data.seed,
                                        .data = data.path,
                                        .step = watch_step};
            struct tiny_result result;
            tiny_run_on(world, &c, &result);
            mp_assert(result.status == DS_OK);
            mp_assert(allocations_told("a rank") == 0);
            tiny_result_fini(&result);
        }
}

static void a_step_takes_no_memory_over_shared_memory(void **state)
{
    (void)state;
    a_step_takes_no_memory_over(DS_TRANSPORT_SHM);
}

static void a_step_takes_no_memory_over_messages(void **state)
{
    (void)state;
    a_step_takes_no_memory_over(DS_TRANSPORT_MPI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DATA(a_step_takes_no_memory_over_shared_memory),
        ON_DATA(a_step_takes_no_memory_over_messages),
    };

    if (!ALLOCATIONS_ARE_COUNTED) {
        fprintf(stderr, "skipped: the sanitizer has malloc for itself\n");
        return 77;
    }
    return mp_run(tests, 60000000000u);
}
