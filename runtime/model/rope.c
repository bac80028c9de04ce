/* rope.c - rotary frequencies and their table: plain, linear, llama3, yarn (models.md 1.5).
 *
 * Pure. Frequencies are made in fp64 and rounded once to fp32; angles are the fp32 product of position
 * and frequency, as every reference has them, or long positions would turn differently. */
#include "dstrain/model.h"

#include <math.h>

#define TWO_PI 6.28318530717958647692

static double original_positions(const struct ds_model_config *config)
{
    uint64_t given = config->rope.original_max_position_embeddings;

    return (double)(given ? given : config->max_position_embeddings);
}

/* Long waves are stretched by `factor`, short ones kept, those between blended. */
static double llama3_frequency(const struct ds_model_config *config, double w)
{
    const struct ds_rope *rope = &config->rope;
    double waves = original_positions(config) * w / TWO_PI; /* that fit into the original length */

    if (waves > rope->high_freq_factor)
        return w;
    if (waves < rope->low_freq_factor)
        return w / rope->factor;
    double s = (waves - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - s) * w / rope->factor + s * w;
}

/* The pair index whose wave turns `turns` times within the original length. */
static double yarn_pair(const struct ds_model_config *config, double turns)
{
    return (double)config->head_dim * log(original_positions(config) / (TWO_PI * turns)) /
           (2 * log(config->rope.theta));
}

static double yarn_frequency(const struct ds_model_config *config, uint64_t pair, double w)
{
    const struct ds_rope *rope = &config->rope;
    double low = yarn_pair(config, rope->beta_fast), high = yarn_pair(config, rope->beta_slow);

    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)config->head_dim - 1);
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax(((double)pair - low) / (high - low), 0), 1);
    return w / rope->factor * ramp + w * (1 - ramp);
}

static double yarn_temperature(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_attention_factor(const struct ds_rope *rope)
{
    if (rope->attention_factor != 0)
        return rope->attention_factor;
    if (rope->mscale != 0 && rope->mscale_all_dim != 0)
        return yarn_temperature(rope->factor, rope->mscale) /
               yarn_temperature(rope->factor, rope->mscale_all_dim);
    return yarn_temperature(rope->factor, 1);
}

void ds_rope_frequencies(const struct ds_model_config *config, float *inverse, double *factor)
{
    const struct ds_rope *rope = &config->rope;

    DS_ASSERT(config->head_dim > 0);
    for (uint64_t i = 0; i < config->head_dim / 2; i++) {
        double w = pow(rope->theta, -2.0 * (double)i / (double)config->head_dim);

        if (rope->kind == DS_ROPE_LINEAR)
            w /= rope->factor;
        else if (rope->kind == DS_ROPE_LLAMA3)
            w = llama3_frequency(config, w);
        else if (rope->kind == DS_ROPE_YARN)
            w = yarn_frequency(config, i, w);
        inverse[i] = (float)w;
    }
    *factor = rope->kind == DS_ROPE_YARN ? yarn_attention_factor(rope) : 1;
}

void ds_rope_table(const struct ds_model_config *config, uint64_t position_count, float *table)
{
    const uint64_t half = config->head_dim / 2;
    float inverse[DS_MODEL_HEAD_DIM_MAX / 2];
    double factor;

    DS_ASSERT(half <= sizeof inverse / sizeof *inverse);
    ds_rope_frequencies(config, inverse, &factor);
    for (uint64_t position = 0; position < position_count; position++) {
        float *row = table + position * config->head_dim;

        for (uint64_t i = 0; i < half; i++) {
            float angle = (float)position * inverse[i];

            row[i] = (float)(cos((double)angle) * factor);
            row[half + i] = (float)(sin((double)angle) * factor);
        }
    }
}
