/* directories.h (private) - the directories of a run's checkpoints, found or made, and claimed by a launch. local, rank 0:
 * everything here. */
#ifndef DSTRAIN_TRAINER_DIRECTORIES_H
#define DSTRAIN_TRAINER_DIRECTORIES_H

#include "trainer.h"

/* t->launch and t->checkpoint_dir, if there is one, or should be. DS_ERR_CONFIG: what the keys name cannot be that */
DS_CHECKED ds_status directories_open(struct ds_trainer *t);
/* Who is at work there is fenced off from here on. */
DS_CHECKED ds_status directories_claim(struct ds_trainer *t);
/* The launch goes no further: its claims go again, and what it has made. */
void directories_withdraw(struct ds_trainer *t);

#endif
