/* spikes.c - see spikes.h. How far a number is above the usual is counted in robust standard deviations: 1.4826 times the
 * median distance from the median, which is the standard deviation where numbers scatter normally. What scatters little
 * is given a least deviation, so that small steps up from a calm stretch are none: training that goes on as it should
 * falls, jumps a little where data change, and has norms that now and then are a multiple of the usual. */
#include "spikes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVIATIONS      6.0
#define OF_A_MEDIAN     1.4826
#define MULTIPLE        10.0 /* of the largest that was usual: at once */
#define LOSS_LEAST      0.05 /* of the median */
#define LOSS_LEAST_NATS 0.02
#define NORM_LEAST      0.5 /* of the median */

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Sorts them. */
static double median(float *values, uint32_t count)
{
    qsort(values, count, sizeof *values, by_size);
    return count % 2 ? (double)values[count / 2]
                     : ((double)values[count / 2 - 1] + (double)values[count / 2]) / 2;
}

struct usual {
    double median, deviation, largest;
};

static struct usual usual_of(const float *values, uint32_t count)
{
    float sorted[SPIKES_WINDOW];
    struct usual u;

    memcpy(sorted, values, count * sizeof *values);
    u.median = median(sorted, count);
    u.largest = (double)sorted[count - 1];
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = (float)fabs((double)values[i] - u.median);
    u.deviation = OF_A_MEDIAN * median(sorted, count);
    return u;
}

static void take(struct spikes *s, const struct spikes_step *step)
{
    if (s->count == SPIKES_WINDOW) {
        s->count--;
        memmove(s->losses, s->losses + 1, s->count * sizeof *s->losses);
        memmove(s->norms, s->norms + 1, s->count * sizeof *s->norms);
    }
    s->losses[s->count] = (float)step->loss;
    s->norms[s->count++] = (float)step->norm;
}

/* How a step is unusual: SPIKE_NONE where it is not. *is_sure: it needs no others. */
static struct spike judge(const struct spikes *s, const struct spikes_step *step, int *is_sure)
{
    const struct usual loss = usual_of(s->losses, s->count), norm = usual_of(s->norms, s->count);
    const double loss_least = fmax(LOSS_LEAST * loss.median, LOSS_LEAST_NATS);
    const double loss_height = (step->loss - loss.median) / fmax(loss.deviation, loss_least);
    const double norm_height =
        (step->norm - norm.median) / fmax(norm.deviation, NORM_LEAST * norm.median);
    const int is_norm_large = step->norm > step->norm_limit;

    *is_sure = loss_height > DEVIATIONS && step->loss > MULTIPLE * loss.largest;
    if (loss_height > DEVIATIONS)
        return (struct spike){.kind = SPIKE_LOSS, .value = step->loss, .usual = loss.median};
    /* one gradient that is clipped moves weights no further than others do: training that goes well has such, too */
    *is_sure = step->norm_limit == 0 && step->norm > MULTIPLE * norm.largest;
    if (is_norm_large && norm_height > DEVIATIONS)
        return (struct spike){.kind = SPIKE_NORM, .value = step->norm, .usual = norm.median};
    return (struct spike){.kind = SPIKE_NONE};
}

static struct spike look_finite(struct spikes *s, const struct spikes_step *step)
{
    int is_sure = 0;
    struct spike spike = {.kind = SPIKE_NONE};

    s->not_finite = 0;
    if (s->count >= SPIKES_LEAST)
        spike = judge(s, step, &is_sure);
    if (spike.kind == SPIKE_NONE) {
        s->unusual = 0;
        take(s, step);
        return spike;
    }
    if (s->unusual++ == 0)
        s->first = step->step;
    if (!is_sure && s->unusual < SPIKES_ROW)
        spike.kind = SPIKE_NONE;
    spike.first = s->first;
    spike.step = step->step;
    return spike;
}

struct spike spikes_look(struct spikes *s, const struct spikes_step *step)
{
    if (step->is_finite)
        return look_finite(s, step);
    if (!step->is_skip_counted)
        return (struct spike){.kind = SPIKE_NONE};
    if (s->not_finite++ == 0 && s->unusual == 0)
        s->first = step->step;
    return (struct spike){.kind =
                              s->not_finite >= SPIKES_NOT_FINITE ? SPIKE_NOT_FINITE : SPIKE_NONE,
                          .first = s->first,
                          .step = step->step,
                          .value = step->loss};
}

/* ---- as text */

static void print(const float *values, uint32_t count, char *to)
{
    uint32_t bits;

    to[0] = '\0';
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&bits, &values[i], sizeof bits);
        snprintf(to + 8 * (size_t)i, 9, "%08x", bits);
    }
}

static int parse(const char *text, float *values, uint32_t count)
{
    char digits[9] = "";
    uint32_t bits;

    if (strspn(text, "0123456789abcdef") != 8 * (size_t)count)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(digits, text + 8 * (size_t)i, 8);
        bits = (uint32_t)strtoul(digits, NULL, 16);
        memcpy(&values[i], &bits, sizeof bits);
        if (!isfinite(values[i]))
            return 0;
    }
    return 1;
}

void spikes_print(const struct spikes *s, char losses[SPIKES_TEXT_BYTES],
                  char norms[SPIKES_TEXT_BYTES])
{
    print(s->losses, s->count, losses);
    print(s->norms, s->count, norms);
}

int spikes_parse(const char *losses, const char *norms, struct spikes *out)
{
    const size_t bytes = strlen(losses);
    struct spikes s = {.count = (uint32_t)(bytes / 8)};

    if (bytes % 8 != 0 || bytes > SPIKES_WINDOW * 8 || strlen(norms) != bytes ||
        !parse(losses, s.losses, s.count) || !parse(norms, s.norms, s.count))
        return 0;
    *out = s;
    return 1;
}
