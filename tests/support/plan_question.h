/* plan_question.h - what a plan is asked, of a configuration as it is: on this file system, by this clock. */
#ifndef DSTRAIN_TEST_PLAN_QUESTION_H
#define DSTRAIN_TEST_PLAN_QUESTION_H

#include "plan.h"

#include "dstrain/clock.h"
#include "dstrain/fs.h"

static inline struct ds_plan_question question_of(const struct ds_config *config, uint32_t ranks)
{
    return (struct ds_plan_question){
        .config = config, .fs = ds_fs_posix(), .clock = ds_clock_system(), .size = ranks};
}

#endif
