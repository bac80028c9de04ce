/* requests.c - what one rank asks of all while they train. It travels with the sums that decide a step, and whoever reads
 * a step's numbers reads it. Ranks read them at times of their own, but all of them before the end of the next step: there
 * they do together what was asked. */
#include "trainer.h"

enum {
    ASKS_TO_LEAVE = 1,
    ASKS_TO_ROLL_BACK = 1 << 20
}; /* of each rank that was asked; of rank 0 */

uint64_t trainer_asks(struct ds_trainer *t)
{
    const int is_asked = t->options.leave && t->options.leave(t->options.user);

    if (is_asked && !t->saver && t->options.world->rank == 0)
        ds_warn("asked to leave with a checkpoint, but none are written (checkpoint.interval = 0): "
                "the run goes on");
    t->wants_to_leave |= is_asked && t->saver;
    return (t->wants_to_leave ? ASKS_TO_LEAVE : 0) +
           (t->rollback.found.kind != SPIKE_NONE ? ASKS_TO_ROLL_BACK : 0);
}

static ds_status tell_not_saved(const struct ds_trainer *t, uint64_t step)
{
    return t->options.world->rank == 0
               ? ds_fail(DS_ERR_IO,
                         "asked to leave, but the checkpoint of step %llu could not be written",
                         (unsigned long long)step)
               : DS_ERR_IO;
}

static ds_status leave(struct ds_trainer *t, uint64_t step)
{
    trainer_enter(t, "checkpoint before leaving", step, trainer_deadline_ns(t));
    DS_TRY(trainer_save_last(t, step));
    if (!ds_saver_has(t->saver, step))
        return tell_not_saved(t, step);
    trainer_enter(t, "copy of a checkpoint before leaving", step, trainer_deadline_ns(t));
    DS_TRY(ds_saver_wait_mirror(t->saver)); /* the next launch may be on other hosts */
    ds_info("asked to leave: the same command goes on behind step %llu", (unsigned long long)step);
    return DS_LEAVE;
}

/* What was found in the last two steps has no step to travel with. */
static ds_status look_back(struct ds_trainer *t)
{
    int32_t is_found = t->rollback.found.kind != SPIKE_NONE;

    DS_TRY(ds_comm_broadcast(t->options.world, &is_found, sizeof is_found, 0, NULL));
    return is_found ? trainer_roll_back(t) : DS_OK;
}

/* Who goes back leaves later: it is asked again. */
ds_status trainer_heed(struct ds_trainer *t, uint64_t step)
{
    const double asked = t->exchanges[(step - 1) & 1].asked;

    if (asked >= ASKS_TO_ROLL_BACK)
        return trainer_roll_back(t);
    if (step == t->config->train.steps)
        return t->saver ? look_back(t) : DS_OK;
    return asked > 0 ? leave(t, step) : DS_OK;
}
