/* order.c - which sample lies at a position of the endless order; pure, any position in a few steps.
 *
 * Positions are dealt between two halves of the sources by floor(p * left / all), and so on down: a
 * half's count over any prefix is off by less than one, and a source's by less than one per level.
 * Within a source, draw k is sample k % n of its epoch k / n, permuted when shuffling. */
#include "sources.h"

static uint64_t scale(uint64_t p, uint64_t part, uint64_t whole)
{
    return (uint64_t)((unsigned __int128)p * part / whole);
}

static uint64_t share_of(const struct order *order, size_t first, size_t count)
{
    uint64_t share = 0;

    for (size_t i = first; i < first + count; i++)
        share += order->sources[i].share;
    return share;
}

/* One file after the other, every epoch. */
static struct order_place plain_at(const struct order *order, uint64_t position)
{
    uint64_t left = position % order->epoch_samples;
    size_t i = 0;

    while (left >= order->sources[i].sample_count)
        left -= order->sources[i++].sample_count;
    return (struct order_place){i, left};
}

struct order_place order_at(const struct order *order, uint64_t position)
{
    size_t first = 0, count = order->source_count;

    if (order->is_plain)
        return plain_at(order, position);
    while (count > 1) {
        const size_t half = count / 2;
        const uint64_t left = share_of(order, first, half), all = share_of(order, first, count);
        const uint64_t before = scale(position, left, all);
        if (scale(position + 1, left, all) > before) {
            position = before;
            count = half;
        } else {
            position -= before;
            first += half;
            count -= half;
        }
    }
    const uint64_t n = order->sources[first].sample_count;
    uint64_t sample = position % n;
    if (order->shuffle)
        sample = ds_random_permute(ds_random_of(order->seed, DS_RANDOM_SHUFFLE,
                                                (position / n) * order->source_count + first),
                                   sample, n);
    return (struct order_place){first, sample};
}
