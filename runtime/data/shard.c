/* shard.c - samples from a token shard, as prepare writes them: sample i is the tokens i*S .. i*S + S, the
 * last of them only a target. Documents that begin inside start their positions and their attention
 * anew, and nobody is asked to predict their first token. */
#include "sources.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static ds_status check_documents(const struct source *s)
{
    for (uint64_t i = 0; i <= s->document_count; i++) {
        uint64_t low = i > 0 ? s->documents[i - 1] : 0;
        if (s->documents[i] < low || s->documents[i] > s->token_count ||
            (i == 0 && s->documents[0] != 0))
            return ds_fail(DS_ERR_DATA,
                           "%s: documents[%llu] = %llu is out of order; prepare it again",
                           ds_safetensors_path(s->file), (unsigned long long)i,
                           (unsigned long long)s->documents[i]);
    }
    return DS_OK;
}

static ds_status check_checksum(const struct source *s)
{
    const char *text = ds_safetensors_metadata(s->file, "checksum");
    char have[32];

    snprintf(
        have, sizeof have, "%016llx",
        (unsigned long long)XXH3_64bits(s->tokens, (size_t)s->token_count * sizeof *s->tokens));
    if (!text || strcmp(text, have) != 0)
        return ds_fail(DS_ERR_CORRUPT,
                       "%s: the tokens' checksum is %s, the file says %s; prepare it again",
                       ds_safetensors_path(s->file), have, text ? text : "nothing");
    return DS_OK;
}

static ds_status find_tensors(struct source *s)
{
    const char *path = ds_safetensors_path(s->file);
    const struct ds_safetensors_entry *tokens = ds_safetensors_find(s->file, "tokens");
    const struct ds_safetensors_entry *documents = ds_safetensors_find(s->file, "documents");
    const uint8_t *data;

    if (!tokens || tokens->dtype != DS_U16 || tokens->dim_count != 1)
        return ds_fail(DS_ERR_DATA, "%s: a token shard has 'tokens' U16 [N]; prepare it again",
                       path);
    if (!documents || documents->dtype != DS_U64 || documents->dim_count != 1 ||
        documents->elems < 2)
        return ds_fail(DS_ERR_DATA,
                       "%s: a token shard has 'documents' U64 [n + 1]; prepare it again", path);
    DS_TRY(ds_safetensors_map(s->file, &data));
    s->tokens = (const uint16_t *)(const void *)(data + tokens->offset);
    s->documents = (const uint64_t *)(const void *)(data + documents->offset);
    s->token_count = tokens->elems;
    s->document_count = documents->elems - 1;
    if (tokens->offset % 2 != 0 || documents->offset % 8 != 0)
        return ds_fail(DS_ERR_DATA, "%s: unaligned tensors; prepare it again", path);
    return DS_OK;
}

/* The last document that starts at or before token `at`. */
static uint64_t document_of(const struct source *s, uint64_t at)
{
    uint64_t low = 0, high = s->document_count;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (s->documents[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static ds_status read_shard(const struct source *s, uint64_t index, const struct ds_sample *to)
{
    const uint64_t base = index * s->seq_length;
    uint64_t document = document_of(s, base);
    int32_t start = 0;

    for (uint64_t t = 0; t < s->seq_length; t++) {
        const uint64_t at = base + t;
        while (document + 1 < s->document_count && s->documents[document + 1] <= at) {
            document++;
            start = (int32_t)t;
        }
        const int ends_here =
            document + 1 < s->document_count && s->documents[document + 1] == at + 1;
        if (s->tokens[at] >= s->vocab_size)
            return source_bad_id(s, index, t, s->tokens[at]);
        if (s->tokens[at + 1] >= s->vocab_size)
            return source_bad_id(s, index, t + 1, s->tokens[at + 1]);
        to->id[t] = s->tokens[at];
        to->target[t] = ends_here ? -100 : s->tokens[at + 1];
        to->position[t] = (int32_t)t - start;
        to->document[t] = start;
    }
    return DS_OK;
}

static const struct source_ops shard_ops = {read_shard};

ds_status source_open_shard(struct ds_fs *fs, const char *path, struct source *out)
{
    DS_TRY(ds_safetensors_open(fs, path, &out->file));
    out->ops = &shard_ops;
    DS_TRY(find_tensors(out));
    DS_TRY(check_documents(out));
    DS_TRY(check_checksum(out));
    if (out->token_count < out->seq_length + 1)
        return ds_fail(
            DS_ERR_DATA, "%s: %llu tokens are less than one sample of train.seq_length + 1 = %llu",
            path, (unsigned long long)out->token_count, (unsigned long long)out->seq_length + 1);
    out->sample_count = (out->token_count - 1) / out->seq_length;
    return DS_OK;
}
