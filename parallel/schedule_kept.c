/* schedule_kept.c - what layers keep for their backward, on the host in between. It goes right behind the forward and
 * comes back some pieces of arithmetic before it is wanted, so that copies run beside them; places of the device that
 * are copied from are nobody's for as many pieces (schedule_places). What is wanted again before it could have come
 * back stays: the last layers before a loss, which the first layers on the way back are. */
#include "schedule_maker.h"

#include <stdlib.h>

/* Of one layer and micro-batch. */
struct keep {
    uint32_t wanted; /* turn of the first piece of the way back */
    uint32_t is_away;
};

struct travel {
    const struct ds_schedule_shape *shape;
    /* owns */
    struct keep *keeps; /* [block][micro] */
    struct work *works;
    uint32_t count;
    uint32_t away_end; /* of layers before this block what they keep may go */
    uint32_t next;     /* of the works that were there: where to look for what is fetched next */
};

static struct keep *keep_of(const struct travel *t, const struct work *work)
{
    return &t->keeps[(size_t)work->block * t->shape->micro_count + work->micro];
}

static int is_layer_here(const struct ds_schedule_shape *shape, uint32_t block)
{
    return block_is_layer(shape, block) && block_is_here(shape, block);
}

static uint32_t find_away_end(const struct ds_schedule_shape *shape)
{
    uint32_t layers = 0, away = 0, block = 0;

    for (uint32_t b = 0; b < shape->block_count; b++)
        layers += (uint32_t)is_layer_here(shape, b);
    const uint32_t wanted = (uint32_t)(shape->kept_share * layers + 0.5);
    for (; block < shape->block_count && away < wanted; block++)
        away += (uint32_t)is_layer_here(shape, block);
    return block;
}

static int begins_way_back(const struct ds_schedule_shape *shape, const struct work *work)
{
    return block_is_layer(shape, work->block) &&
           (work->kind == DS_ACTION_RECOMPUTE || work->kind == DS_ACTION_BACKWARD ||
            work->kind == DS_ACTION_BACKWARD_INPUT);
}

static void find_wanted(struct travel *t, const struct works *works)
{
    for (uint32_t i = works->count; i-- > 0;) /* the first is written last */
        if (begins_way_back(t->shape, &works->works[i]))
            keep_of(t, &works->works[i])->wanted = works->works[i].turn;
}

/* What would be made again and is there still stays, too. */
static int goes(const struct travel *t, const struct work *work)
{
    return work->kind == DS_ACTION_FORWARD && block_is_layer(t->shape, work->block) &&
           work->block < t->away_end && !(t->shape->recomputes && work->keeps_saved) &&
           keep_of(t, work)->wanted - work->turn > 2 * t->shape->kept_distance;
}

static void append(struct travel *t, enum ds_action_kind kind, const struct work *work,
                   uint32_t turn)
{
    struct work *to = &t->works[t->count++];

    *to = (struct work){.kind = kind,
                        .micro = work->micro,
                        .block = work->block,
                        .turn = turn,
                        .keeps_saved = !t->shape->recomputes};
    to->x = to->dy = to->out = to->held = to->slot = to->home = DS_NO_SLOT;
}

/* Before the work that is `distance` turns ahead of whatever wants them. */
static void append_fetches(struct travel *t, const struct works *works, uint32_t turn)
{
    for (; t->next < works->count && works->works[t->next].turn <= turn + t->shape->kept_distance;
         t->next++) {
        const struct work *work = &works->works[t->next];
        const struct keep *keep = keep_of(t, work);
        if (keep->is_away && begins_way_back(t->shape, work) && keep->wanted == work->turn)
            append(t, DS_ACTION_FETCH_KEPT, work, turn);
    }
}

static void write_all(struct travel *t, const struct works *works)
{
    for (uint32_t i = 0; i < works->count; i++) {
        const struct work *work = &works->works[i];

        append_fetches(t, works, work->turn);
        t->works[t->count++] = *work;
        if (!goes(t, work))
            continue;
        keep_of(t, work)->is_away = 1;
        append(t, DS_ACTION_EVICT_KEPT, work, work->turn + 1);
    }
}

ds_status kept_travel(const struct ds_schedule_shape *shape, struct works *works)
{
    const size_t cells = (size_t)shape->block_count * shape->micro_count;
    struct travel t = {.shape = shape};

    if (!shape->is_training || shape->kept_share <= 0)
        return DS_OK;
    t.away_end = find_away_end(shape);
    t.keeps = calloc(cells, sizeof *t.keeps);
    t.works = malloc((works->count + 2 * cells) * sizeof *t.works);
    if (!t.keeps || !t.works) {
        free(t.keeps);
        free(t.works);
        return ds_fail(DS_ERR_NO_MEMORY, "what %zu pieces keep", cells);
    }
    find_wanted(&t, works);
    write_all(&t, works);
    free(works->works);
    free(t.keeps);
    works->works = t.works;
    works->count = t.count;
    return DS_OK;
}
