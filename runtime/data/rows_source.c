/* rows_source.c - samples from a shard of rows: documents beside each other, none of which sees another: each has
 * positions and attention of its own. What is left of a sample is nobody's, and nothing is learned there. */
#include "sources.h"

#include <stdio.h>

/* One document's tokens from `begin` on, at place `start` of the sample; returns the place behind it. */
static ds_status put_piece(const struct source *s, uint64_t index, uint64_t begin,
                           const struct ds_sample *to, uint64_t *place)
{
    const struct shard_file *shard = &s->shard;
    const uint64_t end = shard->documents[packing_document(shard, begin) + 1];
    const uint64_t left = end - begin - 1, count = left < s->seq_length ? left : s->seq_length;
    const uint64_t start = *place;

    for (uint64_t i = 0; i < count; i++) {
        const uint64_t t = start + i;
        const uint32_t id = shard_file_token(shard, begin + i);
        const uint32_t next = shard_file_token(shard, begin + i + 1);

        if (id >= s->vocab_size)
            return source_bad_id(s, "token id", index, t, id, 0);
        if (next >= s->vocab_size)
            return source_bad_id(s, "token id", index, t + 1, next, 0);
        to->id[t] = (int32_t)id;
        to->target[t] = shard->learned[begin + i + 1] ? (int32_t)next : -100;
        to->position[t] = (int32_t)i;
        to->document[t] = (int32_t)start;
    }
    *place = start + count;
    return DS_OK;
}

/* Behind documents the rest is one more; behind one alone it goes on: nothing looks at what comes later. */
static void put_rest(const struct source *s, const struct ds_sample *to, uint64_t start)
{
    const uint64_t begin = s->one_document ? 0 : start;

    for (uint64_t t = start; t < s->seq_length; t++) {
        to->id[t] = 0;
        to->target[t] = -100;
        to->position[t] = (int32_t)(t - begin);
        to->document[t] = (int32_t)begin;
    }
}

static ds_status read_rows(const struct source *s, uint64_t index, const struct ds_sample *to)
{
    const struct packing *packing = &s->packing;
    uint64_t place = 0;

    for (uint64_t i = packing->samples[index]; i < packing->samples[index + 1]; i++)
        DS_TRY(put_piece(s, index, packing->pieces[i], to, &place));
    put_rest(s, to, place);
    return DS_OK;
}

static const struct source_ops rows_ops = {read_rows};

/* ---- opening */

static const char *name_of(const struct source *s)
{
    const char *source = ds_safetensors_metadata(s->file, "source");

    return source ? source : ds_safetensors_path(s->file);
}

static ds_status refuse_long(const struct source *s)
{
    const struct packing *p = &s->packing;

    return ds_fail(DS_ERR_DATA,
                   "%s: row %llu has %llu tokens, more than a sample of "
                   "train.seq_length + 1 = %llu%s; %llu of %llu rows are so long, the longest has "
                   "%llu: data.overlong = cut, split or drop says what becomes of them",
                   name_of(s), (unsigned long long)p->first_long + 1,
                   (unsigned long long)(s->shard.documents[p->first_long + 1] -
                                        s->shard.documents[p->first_long]),
                   (unsigned long long)s->seq_length + 1, s->seq_place,
                   (unsigned long long)p->long_count, (unsigned long long)p->document_count,
                   (unsigned long long)p->longest);
}

static ds_status refuse_empty(const struct source *s, const struct packing_options *options)
{
    const struct packing *p = &s->packing;

    if (p->document_count == 0)
        return ds_fail(DS_ERR_DATA, "%s: data.eval_share = %g leaves none of %llu rows to %s",
                       name_of(s), options->eval_share, (unsigned long long)s->shard.document_count,
                       options->side == DS_SIDE_EVAL
                           ? "evaluate on; a larger share does, with 0 there is no evaluation"
                           : "train on; a smaller share does");
    return ds_fail(
        DS_ERR_DATA,
        "%s: all %llu rows are longer than train.seq_length + 1 = %llu tokens%s, and nothing "
        "is learned of what data.overlong leaves of them",
        name_of(s), (unsigned long long)p->document_count, (unsigned long long)s->seq_length + 1,
        s->seq_place);
}

/* An end that is cut off is learned by nobody. */
static ds_status check_ends(const struct source *s, const struct packing_options *options)
{
    const struct packing *p = &s->packing;

    if (options->overlong != DS_OVERLONG_CUT || p->long_count < p->document_count)
        return DS_OK;
    return ds_fail(DS_ERR_DATA,
                   "%s: all %llu rows are longer than train.seq_length + 1 = %llu tokens%s, and "
                   "cut: no end of an "
                   "answer is left to learn, so a model would never stop",
                   name_of(s), (unsigned long long)p->document_count,
                   (unsigned long long)s->seq_length + 1, s->seq_place);
}

static void say_long(const struct source *s, const struct packing_options *options)
{
    static const char *const ways[] = {[DS_OVERLONG_AUTO] = "they go on in the next samples",
                                       [DS_OVERLONG_ERROR] = "refused",
                                       [DS_OVERLONG_CUT] = "they are cut",
                                       [DS_OVERLONG_SPLIT] = "they go on in the next samples",
                                       [DS_OVERLONG_DROP] = "they are left out"};
    const struct packing *p = &s->packing;
    const uint64_t lost = p->unlearned_count + p->dropped_count;
    char nothing[80] = "";

    if (lost > 0)
        snprintf(nothing, sizeof nothing, "; of %llu of them nothing is learned",
                 (unsigned long long)lost);
    if (p->long_count > 0)
        ds_info("%s: %llu of %llu rows are longer than train.seq_length + 1 = %llu tokens, the "
                "longest has %llu: %s%s",
                name_of(s), (unsigned long long)p->long_count,
                (unsigned long long)p->document_count, (unsigned long long)s->seq_length + 1,
                (unsigned long long)p->longest, ways[options->overlong], nothing);
}

ds_status source_open_rows(struct ds_fs *fs, const char *path, const struct shard_check *check,
                           const struct packing_options *options, struct source *out)
{
    char why[SHARD_WHY_BYTES];

    DS_TRY(ds_safetensors_open(fs, path, &out->file));
    out->ops = &rows_ops;
    DS_TRY(shard_file_check(out->file, check, &out->shard, why));
    if (!why[0] && !out->shard.learned)
        snprintf(why, sizeof why, "it does not say what is learned");
    if (why[0])
        return ds_fail(DS_ERR_CORRUPT,
                       "%s: not a sound shard of rows: %s; remove it and prepare it again", path,
                       why);
    DS_TRY(packing_make(&out->shard, options, &out->packing));
    if (out->packing.is_refused)
        return refuse_long(out);
    if (out->packing.sample_count == 0)
        return refuse_empty(out, options);
    DS_TRY(check_ends(out, options));
    if (!check->skips_sum)
        say_long(out, options);
    out->token_count = out->shard.token_count;
    out->sample_count = out->packing.sample_count;
    out->one_document = !options->packs;
    out->sample_documents =
        (double)out->packing.piece_count / (double)out->sample_count +
        (out->packing.places < out->sample_count * out->seq_length && options->packs);
    return DS_OK;
}
