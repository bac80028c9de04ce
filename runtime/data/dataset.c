/* dataset.c - sources in one order: the sample at any position, read on any thread. */
#include "sources.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct ds_dataset {
    /* owns */
    struct source *sources;
    size_t source_count;
    struct order order;
    uint64_t *first; /* [source_count] number of a source's first sample among all */
};

ds_status source_bad_id(const struct source *source, const char *what, uint64_t index, uint64_t at,
                        int64_t id, int is_signed)
{
    const int is_negative = is_signed && id < 0;

    return ds_fail(
        DS_ERR_DATA,
        "%s: sample %llu has %s %s%llu at position %llu, but the vocabulary has %llu ids "
        "(0..%llu); tokenise the data with the model's own tokenizer, or give a new "
        "model a larger model.vocab_size",
        ds_safetensors_path(source->file), (unsigned long long)index, what, is_negative ? "-" : "",
        is_negative ? 0ull - (unsigned long long)id : (unsigned long long)id,
        (unsigned long long)at, (unsigned long long)source->vocab_size,
        (unsigned long long)source->vocab_size - 1);
}

void source_close(struct source *source)
{
    ds_safetensors_close(source->file);
    packing_fini(&source->packing);
    *source = (struct source){0};
}

static ds_status open_source(const struct ds_dataset_options *options, size_t index,
                             struct source *out)
{
    const struct shard_check check = {options->is_checked, options->progress, options->user};
    const struct packing_options packing = {options->seq_length, options->packs,
                                            options->overlong,   options->side,
                                            options->eval_share, options->seed};

    out->seq_length = options->seq_length;
    if (options->seq_place)
        snprintf(out->seq_place, sizeof out->seq_place, " (%.120s)", options->seq_place);
    out->vocab_size = options->vocab_size;
    if (options->format == DS_DATA_SAFETENSORS) {
        DS_TRY(source_open_tokenised(options->fs, options->paths[index], out));
        return options->is_checked ? DS_OK : source_check_tokenised(out, &check);
    }
    if (options->format == DS_DATA_JSONL)
        return source_open_rows(options->fs, options->paths[index], &check, &packing, out);
    return source_open_shard(options->fs, options->paths[index], &check, out);
}

/* Of shards it is known that they have some. */
static ds_status check_trained(const struct ds_dataset_options *options, const struct ds_dataset *d)
{
    if (options->format != DS_DATA_SAFETENSORS || options->is_checked)
        return DS_OK;
    for (size_t i = 0; i < d->source_count; i++)
        if (d->sources[i].trained_count > 0)
            return DS_OK;
    return ds_fail(DS_ERR_DATA,
                   "%s%s: no token is trained: 'labels' is -100 everywhere behind the first token "
                   "of a sample; it must hold the ids to predict",
                   options->paths[0], d->source_count > 1 ? " and the files after it" : "");
}

static uint64_t share_of(double weight, uint64_t samples)
{
    const double share = nearbyint(weight * (double)samples);

    return weight == 1.0 ? samples : (uint64_t)fmin(fmax(share, 1.0), 0x1p53);
}

static ds_status make_order(const struct ds_dataset_options *options, struct ds_dataset *d)
{
    struct order *order = &d->order;

    order->sources = calloc(d->source_count, sizeof *order->sources);
    d->first = calloc(d->source_count, sizeof *d->first);
    if (!order->sources || !d->first)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu sources", d->source_count);
    order->source_count = d->source_count;
    order->seed = options->seed;
    order->shuffle = options->shuffle;
    order->is_plain = !options->shuffle;
    for (size_t i = 0; i < d->source_count; i++) {
        const uint64_t n = d->sources[i].sample_count;
        const double weight = options->weights ? options->weights[i] : 1.0;
        order->sources[i] = (struct order_source){n, share_of(weight, n)};
        order->epoch_samples += order->sources[i].share;
        order->is_plain &= weight == 1.0;
        d->first[i] = i ? d->first[i - 1] + d->sources[i - 1].sample_count : 0;
    }
    return DS_OK;
}

ds_status ds_dataset_open(const struct ds_dataset_options *options, struct ds_dataset **out)
{
    struct ds_dataset *d;
    ds_status st = DS_OK;

    DS_ASSERT(options->path_count > 0 && options->vocab_size > 0);
    DS_ASSERT(options->seq_length > 0 && options->seq_length <= INT32_MAX);
    DS_ASSERT(options->vocab_size <= (uint64_t)INT32_MAX + 1); /* an id is an int32 */
    d = calloc(1, sizeof *d);
    if (!d)
        return ds_fail(DS_ERR_NO_MEMORY, "a data set");
    d->sources = calloc(options->path_count, sizeof *d->sources);
    if (!d->sources)
        st = ds_fail(DS_ERR_NO_MEMORY, "%zu sources", options->path_count);
    for (size_t i = 0; i < options->path_count && st == DS_OK; i++) {
        d->source_count = i + 1;
        st = open_source(options, i, &d->sources[i]);
    }
    if (st == DS_OK)
        st = check_trained(options, d);
    if (st == DS_OK)
        st = make_order(options, d);
    if (st != DS_OK) {
        ds_dataset_close(d);
        return st;
    }
    *out = d;
    return DS_OK;
}

void ds_dataset_close(struct ds_dataset *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->source_count; i++)
        source_close(&d->sources[i]);
    free(d->sources);
    free(d->order.sources);
    free(d->first);
    free(d);
}

uint64_t ds_dataset_sample_count(const struct ds_dataset *d)
{
    return d->order.epoch_samples;
}

uint64_t ds_dataset_token_count(const struct ds_dataset *d)
{
    uint64_t count = 0;

    for (size_t i = 0; i < d->source_count; i++)
        count += d->sources[i].token_count;
    return count;
}

int ds_dataset_one_document(const struct ds_dataset *d)
{
    for (size_t i = 0; i < d->source_count; i++)
        if (!d->sources[i].one_document)
            return 0;
    return 1;
}

double ds_dataset_documents(const struct ds_dataset *d)
{
    double count = 0;

    for (size_t i = 0; i < d->source_count; i++)
        count += d->sources[i].sample_documents * (double)d->order.sources[i].share;
    return count / (double)d->order.epoch_samples;
}

uint64_t ds_dataset_order(const struct ds_dataset *d, uint64_t position)
{
    struct order_place place = order_at(&d->order, position);

    return d->first[place.source] + place.sample;
}

ds_status ds_dataset_read(const struct ds_dataset *d, uint64_t position, const struct ds_sample *to)
{
    struct order_place place = order_at(&d->order, position);
    const struct source *source = &d->sources[place.source];

    return source->ops->read(source, place.sample, to);
}
