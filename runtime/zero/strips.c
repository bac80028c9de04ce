/* strips.c - how much of each kind of state stays in device memory, and in which strips the optimizer goes through
 * a unit. Pure; the picture is in dstrain/zero.h. */
#include "dstrain/zero.h"

#include <math.h>

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t strips_of(uint64_t elems, uint64_t strip_elems)
{
    return (elems + strip_elems - 1) / strip_elems;
}

/* Strips from the end on go away; what these come to too little or too much, the next units make good. */
static uint64_t near_of(const struct ds_zero_strips *unit, double share, double *owed)
{
    const double elems = (double)unit->elems, strip = (double)unit->strip_elems;
    const double wanted = *owed + share * elems;
    const double kept = share >= 1 || wanted > elems ? 0 : elems - wanted;
    uint64_t near = least((uint64_t)(kept / strip + 0.5) * unit->strip_elems, unit->elems);

    if (elems - kept < fabs(kept - (double)near)) /* the last strip may be short */
        near = unit->elems;
    *owed = wanted - (double)(unit->elems - near);
    return near;
}

/* Behind what is near of any of its kinds, and not more than the host's share. */
static uint64_t host_elems(const struct ds_zero_homes *homes, const struct ds_zero_strips *unit,
                           double *owed)
{
    uint64_t near = homes->host_kinds ? near_of(unit, homes->host_share, owed) : unit->elems;

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        if (homes->host_kinds >> kind & 1 && unit->near_elems[kind] > near)
            near = unit->near_elems[kind];
    return unit->elems - near;
}

void ds_zero_strips_share(const struct ds_zero_homes *homes, struct ds_zero_strips *units,
                          uint32_t unit_count)
{
    double owed_to_host = 0;

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        const double share = homes->home[kind] == DS_HOME_DEVICE ? 0 : homes->share[kind];
        double owed = 0;

        for (uint32_t i = 0; i < unit_count; i++) {
            const int stays = kind == DS_ZERO_GRAD && units[i].keeps_gradient;
            DS_ASSERT(units[i].strip_elems > 0 && units[i].strip_elems % DS_ZERO_CUT_ELEMS == 0);
            units[i].near_elems[kind] = stays ? units[i].elems : near_of(&units[i], share, &owed);
        }
    }
    for (uint32_t i = 0; i < unit_count; i++)
        units[i].host_elems = host_elems(homes, &units[i], &owed_to_host);
}

/* of all kinds */
static uint64_t all_near(const struct ds_zero_strips *strips)
{
    uint64_t near = strips->elems;

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        near = least(near, strips->near_elems[kind]);
    return near;
}

uint32_t ds_zero_strip_count(const struct ds_zero_strips *strips)
{
    const uint64_t near = all_near(strips);

    if (near == strips->elems)
        return near > 0;
    return (uint32_t)((near > 0) + strips_of(strips->elems - near, strips->strip_elems));
}

uint32_t ds_zero_strip_first_away(const struct ds_zero_strips *strips)
{
    return all_near(strips) > 0;
}

struct ds_span ds_zero_strip_at(const struct ds_zero_strips *strips, uint32_t index)
{
    const uint64_t near = all_near(strips);

    DS_ASSERT(index < ds_zero_strip_count(strips));
    if (near > 0 && index == 0)
        return (struct ds_span){0, near};
    const uint64_t start = near + (index - (near > 0)) * strips->strip_elems;
    return (struct ds_span){start, least(strips->strip_elems, strips->elems - start)};
}

int ds_zero_strip_on_host(const struct ds_zero_strips *strips, uint32_t index)
{
    return strips->host_elems > 0 &&
           ds_zero_strip_at(strips, index).start >= strips->elems - strips->host_elems;
}
