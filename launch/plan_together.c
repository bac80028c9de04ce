/* plan_together.c - before a run touches anything: rank 0 asks the plan about every role, which may take
 * longer than a wait may last; the others wait as long as they hear from it. */
#include "plan.h"

enum { PLANNING, PLANNED };

struct leader {
    struct ds_comm *world;
    const struct ds_clock *clock;
    uint64_t told_ns; /* when the others last heard, and how that ended */
    ds_status told;
};

static ds_status tell(struct ds_comm *world, int32_t *word)
{
    return ds_comm_broadcast(world, word, sizeof *word, 0, NULL);
}

/* Eight times in what a wait may last. */
static void tell_others(void *user)
{
    struct leader *leader = user;
    const uint64_t now_ns = ds_clock_mono_ns(leader->clock);
    int32_t word = PLANNING;

    if (leader->told != DS_OK || now_ns - leader->told_ns < leader->world->deadline_ns / 8)
        return;
    leader->told_ns = now_ns;
    leader->told = tell(leader->world, &word);
}

static ds_status plan_as_leader(const struct ds_plan_ranks *ranks, enum ds_config_use use,
                                const struct ds_plan_room *room, const struct ds_speeds *speeds,
                                struct ds_config *config, ds_status *planned)
{
    struct leader leader = {ranks->world, ranks->clock, ds_clock_mono_ns(ranks->clock), DS_OK};
    const struct ds_plan_question question = {.config = config,
                                              .use = use,
                                              .fs = ranks->fs,
                                              .clock = ranks->clock,
                                              .size = ranks->world->size,
                                              .room = *room,
                                              .speeds = speeds,
                                              .alive = tell_others,
                                              .user = &leader};
    int32_t word = PLANNED;

    *planned = ds_plan_settle(&question, config);
    if (*planned == DS_OK)
        *planned = ds_plan_check(&question);
    return leader.told == DS_OK ? tell(ranks->world, &word) : leader.told;
}

/* A sign may be late by as long as one role takes. */
static ds_status await_leader(struct ds_comm *world)
{
    const uint64_t deadline_ns = world->deadline_ns;
    int32_t word = PLANNING;
    ds_status st = DS_OK;

    world->deadline_ns = deadline_ns + deadline_ns / 8;
    while (st == DS_OK && word == PLANNING)
        st = tell(world, &word);
    world->deadline_ns = deadline_ns;
    return st;
}

ds_status ds_plan_together(const struct ds_plan_ranks *ranks, enum ds_config_use use,
                           struct ds_config *config)
{
    struct ds_comm *world = ranks->world;
    uint64_t since_ns = ds_clock_mono_ns(ranks->clock);
    ds_status planned = DS_OK;
    struct ds_plan_room room;
    struct ds_speeds speeds;

    DS_TRY(ds_plan_agree_on_room(ranks, config, &room));
    DS_TRY(ds_plan_agree_on_speeds(ranks, config, &speeds));
    DS_TRY(world->rank == 0 ? plan_as_leader(ranks, use, &room, &speeds, config, &planned)
                            : await_leader(world));
    DS_TRY(ds_comm_agreed(world, planned));
    ds_clock_tell_start(ranks->clock, "plan", &since_ns);
    return ds_comm_broadcast(world, config, sizeof *config, 0, NULL);
}
