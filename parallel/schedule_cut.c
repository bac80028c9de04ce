/* schedule_cut.c - cuts the blocks of a model into contiguous parts by cost. The dearest part decides
 * how fast a pipeline is: its least possible cost is found by bisection, and then each part takes its
 * share of what is left, as far as no part after it would become dearer than that. */
#include "dstrain/schedule.h"

/* The smallest start from which the blocks up to `end` cost no more than `limit`; at least one of
 * them. */
static uint32_t reach_down(const uint64_t *costs, uint32_t end, uint64_t limit)
{
    uint64_t sum = costs[--end];

    while (end > 0 && sum + costs[end - 1] <= limit)
        sum += costs[--end];
    return end;
}

static int fits(const uint64_t *costs, uint32_t block_count, uint32_t part_count, uint64_t limit)
{
    uint32_t end = block_count;

    for (uint32_t i = 0; i < part_count && end > 0; i++)
        end = reach_down(costs, end, limit);
    return end == 0;
}

static uint64_t least_limit(const uint64_t *costs, uint32_t block_count, uint32_t part_count,
                            uint64_t total)
{
    uint64_t low = 0, high = total;

    for (uint32_t b = 0; b < block_count; b++)
        low = costs[b] > low ? costs[b] : low;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (fits(costs, block_count, part_count, middle))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void ds_schedule_cut(const uint64_t *costs, uint32_t block_count, uint32_t part_count,
                     uint32_t *first)
{
    uint64_t left = 0;

    DS_ASSERT(part_count >= 1 && part_count <= block_count);
    for (uint32_t b = 0; b < block_count; b++)
        left += costs[b];
    const uint64_t limit = least_limit(costs, block_count, part_count, left);

    /* the earliest that each part may begin */
    first[part_count] = block_count;
    for (uint32_t k = part_count; k-- > 1;) {
        const uint32_t begin = reach_down(costs, first[k + 1], limit);
        first[k] = begin > k ? begin : k;
    }
    first[0] = 0;
    for (uint32_t k = 1; k < part_count; k++) {
        const uint32_t parts = part_count - k; /* after this one */
        uint64_t sum = 0;
        uint32_t end = first[k - 1];
        while (end < first[k] || end == first[k - 1] ||
               (end + parts < block_count && sum + costs[end] <= limit &&
                (2 * sum + costs[end]) * (parts + 1) <= 2 * left))
            sum += costs[end++];
        first[k] = end;
        left -= sum;
    }
}
