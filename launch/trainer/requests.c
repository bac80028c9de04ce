/* requests.c - what one rank asks of all while they train. It travels with the sums that decide a step, and whoever reads
 * a step's numbers reads it. Ranks read them at times of their own, but all of them before the end of the next step: there
 * they do together what was asked. */
#include "trainer.h"

enum { ASKS_TO_LEAVE = 1 }; /* of each rank that was asked */

uint64_t trainer_asks(struct ds_trainer *t)
{
    const int is_asked = t->options.leave && t->options.leave(t->options.user);

    if (is_asked && !t->saver && t->options.world->rank == 0)
        ds_warn("asked to leave with a checkpoint, but none are written (checkpoint.interval = 0): "
                "the run goes on");
    t->wants_to_leave |= is_asked && t->saver;
    return t->wants_to_leave ? ASKS_TO_LEAVE : 0;
}

static ds_status tell_not_saved(const struct ds_trainer *t, uint64_t step)
{
    return t->options.world->rank == 0
               ? ds_fail(DS_ERR_IO,
                         "asked to leave, but the checkpoint of step %llu could not be written",
                         (unsigned long long)step)
               : DS_ERR_IO;
}

/* The numbers of `step` may have been read before anybody knew that they belong to a checkpoint. */
static ds_status leave(struct ds_trainer *t, uint64_t step)
{
    trainer_enter(t, "checkpoint before leaving", step, trainer_deadline_ns(t));
    if (!ds_saver_has(t->saver, step))
        DS_TRY(ds_saver_begin(t->saver, step, 1));
    DS_TRY(trainer_settle(t));
    DS_TRY(ds_saver_note(t->saver, &t->progress));
    DS_TRY(ds_saver_wait(t->saver));
    if (!ds_saver_has(t->saver, step))
        return tell_not_saved(t, step);
    ds_info("asked to leave: the same command goes on behind step %llu", (unsigned long long)step);
    return DS_LEAVE;
}

ds_status trainer_heed(struct ds_trainer *t, uint64_t step)
{
    const double asked = t->exchanges[(step - 1) & 1].asked;

    return asked > 0 && step < t->config->train.steps ? leave(t, step) : DS_OK;
}
