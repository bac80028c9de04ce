/* shard.c - samples from a token shard, as prepare writes them: sample i is the tokens i*S .. i*S + S, the
 * last of them only a target. Documents that begin inside start their positions and their attention
 * anew, and nobody is asked to predict their first token. */
#include "sources.h"

/* The last document that starts at or before token `at`. */
static uint64_t document_of(const struct shard_file *shard, uint64_t at)
{
    uint64_t low = 0, high = shard->document_count;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (shard->documents[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Is `at` the first token of a document behind `document`? */
static int begins_anew(const struct shard_file *shard, uint64_t document, uint64_t at)
{
    return document + 1 < shard->document_count && shard->documents[document + 1] == at;
}

static ds_status read_shard(const struct source *s, uint64_t index, const struct ds_sample *to)
{
    const struct shard_file *shard = &s->shard;
    const uint64_t base = index * s->seq_length;
    uint64_t document = document_of(shard, base);
    int32_t start = 0;

    for (uint64_t t = 0; t < s->seq_length; t++) {
        const uint32_t id = shard_file_token(shard, base + t);
        const uint32_t next = shard_file_token(shard, base + t + 1);
        while (begins_anew(shard, document, base + t)) { /* more than once past an empty one */
            document++;
            start = (int32_t)t;
        }
        if (id >= s->vocab_size)
            return source_bad_id(s, "token id", index, t, id, 0);
        if (next >= s->vocab_size)
            return source_bad_id(s, "token id", index, t + 1, next, 0);
        to->id[t] = (int32_t)id;
        to->target[t] = begins_anew(shard, document, base + t + 1) ? -100 : (int32_t)next;
        to->position[t] = (int32_t)t - start;
        to->document[t] = start;
    }
    return DS_OK;
}

static const struct source_ops shard_ops = {read_shard};

/* A person knows the text, not the shard that was made of it. */
static ds_status refuse_short(const struct source *s, const char *path)
{
    const char *text = ds_safetensors_metadata(s->file, "source");

    return ds_fail(
        DS_ERR_DATA,
        "%s: %llu tokens are less than one sample of train.seq_length + 1 = %llu%s%s%s%s",
        text ? text : path, (unsigned long long)s->token_count,
        (unsigned long long)s->seq_length + 1, s->seq_place, text ? " (prepared as " : "",
        text ? path : "", text ? ")" : "");
}

ds_status source_open_shard(struct ds_fs *fs, const char *path, const struct shard_check *check,
                            struct source *out)
{
    char why[SHARD_WHY_BYTES];

    DS_TRY(ds_safetensors_open(fs, path, &out->file));
    out->ops = &shard_ops;
    DS_TRY(shard_file_check(out->file, check, &out->shard, why));
    if (why[0])
        return ds_fail(DS_ERR_CORRUPT,
                       "%s: not a sound token shard: %s; remove it and prepare it again", path,
                       why);
    out->token_count = out->shard.token_count;
    out->one_document = out->shard.document_count == 1;
    if (out->token_count <= out->seq_length)
        return refuse_short(out, path);
    out->sample_count = (out->token_count - 1) / out->seq_length;
    out->sample_documents = 1 + (double)(out->shard.document_count - 1) / (double)out->sample_count;
    return DS_OK;
}
