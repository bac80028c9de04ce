/* shard_file.c - finds the parts of a token shard and checks them, trusting nothing in the file. */
#include "shard_file.h"

#include <stdio.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state without malloc */
#include <xxhash.h>

enum { PIECE_BYTES = 16 << 20 };

uint64_t shard_file_seed(const uint64_t *documents, uint64_t document_count)
{
    return XXH3_64bits(documents, (size_t)(document_count + 1) * sizeof *documents);
}

void shard_file_sum_text(uint64_t sum, char to[SHARD_SUM_BYTES])
{
    snprintf(to, SHARD_SUM_BYTES, "%016llx", (unsigned long long)sum);
}

static void check_tensor(const struct ds_safetensors_entry *entry, const char *name,
                         enum ds_dtype dtype, uint64_t elems_min, char *why)
{
    if (!entry || entry->dtype != dtype || entry->dim_count != 1 || entry->elems < elems_min)
        snprintf(why, SHARD_WHY_BYTES, "there is no '%s' %s [%llu or more]", name,
                 ds_dtype_name(dtype), (unsigned long long)elems_min);
    else if (entry->offset % ds_dtype_bytes(dtype) != 0)
        snprintf(why, SHARD_WHY_BYTES, "'%s' begins at byte %llu, which is not aligned", name,
                 (unsigned long long)entry->offset);
}

static void check_documents(const struct shard_file *shard, char *why)
{
    uint64_t before = 0;

    for (uint64_t i = 0; i <= shard->document_count; i++) {
        const uint64_t at = shard->documents[i];
        const uint64_t low = i < shard->document_count ? before : shard->token_count;
        const uint64_t high = i == 0 ? 0 : shard->token_count;
        if (at < low || at > high) {
            snprintf(why, SHARD_WHY_BYTES, "documents[%llu] is %llu, which is not in %llu..%llu",
                     (unsigned long long)i, (unsigned long long)at, (unsigned long long)low,
                     (unsigned long long)high);
            return;
        }
        before = at;
    }
}

struct summing {
    XXH3_state_t sum;
    const struct shard_check *check;
    uint64_t done_bytes, total_bytes;
};

/* In pieces, so that whoever waits sees that it goes on. */
static void add_to_sum(struct summing *s, const void *from, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += PIECE_BYTES) {
        const uint64_t left = bytes - at;
        const uint64_t piece = left < PIECE_BYTES ? left : PIECE_BYTES;
        XXH3_64bits_update(&s->sum, (const uint8_t *)from + at, (size_t)piece);
        if (s->check->progress)
            s->check->progress(s->check->user, s->done_bytes, s->total_bytes);
        s->done_bytes += piece;
    }
}

static uint64_t sum_tokens(const struct shard_file *shard, const struct shard_check *check)
{
    const uint64_t id_bytes = shard->tokens ? sizeof *shard->tokens : sizeof *shard->wide_tokens;
    const void *tokens = shard->tokens ? (const void *)shard->tokens : shard->wide_tokens;
    struct summing s = {.check = check,
                        .total_bytes = shard->token_count * (id_bytes + (shard->learned != NULL))};

    XXH3_INITSTATE(&s.sum);
    XXH3_64bits_reset_withSeed(&s.sum, shard_file_seed(shard->documents, shard->document_count));
    add_to_sum(&s, tokens, shard->token_count * id_bytes);
    if (shard->learned)
        add_to_sum(&s, shard->learned, shard->token_count);
    return XXH3_64bits_digest(&s.sum);
}

static void check_sum(const struct shard_file *shard, const struct shard_check *check,
                      const char *wanted, char *why)
{
    char have[SHARD_SUM_BYTES];

    shard_file_sum_text(sum_tokens(shard, check), have);
    if (!wanted || strcmp(wanted, have) != 0)
        snprintf(why, SHARD_WHY_BYTES, "its checksum is %s, but it says %.32s", have,
                 wanted ? wanted : "nothing");
}

ds_status shard_file_check(struct ds_safetensors *file, const struct shard_check *check,
                           struct shard_file *out, char why[SHARD_WHY_BYTES])
{
    const struct ds_safetensors_entry *tokens = ds_safetensors_find(file, "tokens");
    const struct ds_safetensors_entry *documents = ds_safetensors_find(file, "documents");
    const struct ds_safetensors_entry *learned = ds_safetensors_find(file, "learned");
    struct shard_file shard;
    const uint8_t *data;

    why[0] = '\0';
    const int is_wide = tokens && tokens->dtype == DS_U32;
    check_tensor(tokens, "tokens", is_wide ? DS_U32 : DS_U16, 1, why);
    if (!why[0])
        check_tensor(documents, "documents", DS_U64, 2, why);
    if (!why[0] && learned)
        check_tensor(learned, "learned", DS_U8, tokens->elems, why);
    if (why[0])
        return DS_OK;
    DS_TRY(ds_safetensors_map(file, &data));
    shard = (struct shard_file){
        .tokens = is_wide ? NULL : (const uint16_t *)(const void *)(data + tokens->offset),
        .wide_tokens = is_wide ? (const uint32_t *)(const void *)(data + tokens->offset) : NULL,
        .learned = learned ? data + learned->offset : NULL,
        .documents = (const uint64_t *)(const void *)(data + documents->offset),
        .token_count = tokens->elems,
        .document_count = documents->elems - 1,
    };
    check_documents(&shard, why);
    if (!why[0] && !check->skips_sum)
        check_sum(&shard, check, ds_safetensors_metadata(file, "checksum"), why);
    if (!why[0])
        *out = shard;
    return DS_OK;
}
