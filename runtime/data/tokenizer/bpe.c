/* bpe.c - reads the "model" of a tokenizer.json: a vocabulary, merges, and what becomes of characters that
 * are no token. */
#include "model.h"

#include <stdio.h>
#include <string.h>

static ds_status read_flags(const char *name, const json_t *json, struct tok_bpe *bpe)
{
    DS_TRY(ds_json_bool(name, json, "byte_fallback", &bpe->falls_back));
    DS_TRY(ds_json_bool(name, json, "fuse_unk", &bpe->fuses_unknown));
    return ds_json_bool(name, json, "ignore_merges", &bpe->tries_whole);
}

/* What other tokenizers have and this does not. */
static ds_status check_model(const char *name, const json_t *json)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = "BPE", *affix = "";
    double dropout = 0;

    if (!json_is_object(json))
        return ds_fail(DS_ERR_DATA, "%s: no 'model' is there", name);
    DS_TRY(ds_json_text(name, json, "type", &type));
    if (strcmp(type, "BPE") != 0)
        return ds_fail(DS_ERR_DATA, "%s: model '%.40s' is not supported (there is BPE)", name,
                       type);
    for (size_t i = 0; i < 2; i++) {
        DS_TRY(ds_json_text(name, json, affixes[i], &affix));
        if (affix[0])
            return ds_fail(DS_ERR_DATA, "%s: model: %s '%.40s' is not supported", name, affixes[i],
                           affix);
    }
    DS_TRY(ds_json_real(name, json, "dropout", 0, 1, &dropout));
    if (dropout != 0)
        return ds_fail(DS_ERR_DATA, "%s: model: dropout %g is not supported: ids would be random",
                       name, dropout);
    return DS_OK;
}

static ds_status find_unknown(const char *name, const json_t *json,
                              const struct tok_vocabulary *vocabulary, struct tok_bpe *bpe)
{
    const char *unknown = NULL;

    bpe->unknown = TOK_ID_NONE;
    DS_TRY(ds_json_text(name, json, "unk_token", &unknown));
    if (!unknown)
        return DS_OK;
    bpe->unknown = tok_vocabulary_find_model(
        vocabulary, (struct tok_text){(const uint8_t *)unknown, strlen(unknown)});
    if (bpe->unknown == TOK_ID_NONE)
        return ds_fail(DS_ERR_DATA, "%s: model: unk_token '%.80s' is not in the vocabulary", name,
                       unknown);
    return DS_OK;
}

static void find_bytes(const struct ds_tokenizer *tokenizer, struct tok_bpe *bpe)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t text[8];
        size_t bytes;

        if (tokenizer->stages.is_byte_level)
            bytes = tok_utf8_put(tok_byte_char((uint8_t)byte), text);
        else
            bytes = (size_t)snprintf((char *)text, sizeof text, "<0x%02X>", byte);
        bpe->bytes[byte] =
            tok_vocabulary_find_model(&tokenizer->vocabulary, (struct tok_text){text, bytes});
    }
}

/* ---- may a text be cut where words begin? */

static const uint8_t space[] = {0xe2, 0x96, 0x81}; /* U+2581 */

static int begins_with_space(struct tok_text text)
{
    return text.bytes >= sizeof space && memcmp(text.at, space, sizeof space) == 0;
}

static int ends_with_space(struct tok_text text)
{
    return text.bytes >= sizeof space &&
           memcmp(text.at + text.bytes - sizeof space, space, sizeof space) == 0;
}

/* Where no merge has another character on its left and a U+2581 on its right, no token ever lies across
 * such a place, and the words between can be encoded, and remembered, by themselves. */
static int finds_cuts(const struct ds_tokenizer *tokenizer)
{
    const struct tok_vocabulary *vocabulary = &tokenizer->vocabulary;
    const struct tok_merges *merges = &tokenizer->bpe.merges;

    if (tokenizer->stages.is_byte_level || tokenizer->bpe.tries_whole ||
        tok_vocabulary_find_model(vocabulary, (struct tok_text){space, sizeof space}) ==
            TOK_ID_NONE)
        return 0;
    for (uint64_t slot = 0; slot <= merges->slot_mask; slot++) {
        const uint64_t pair = merges->slots[slot].pair;

        if (pair != UINT64_MAX &&
            begins_with_space(tok_vocabulary_text(vocabulary, (uint32_t)pair)) &&
            !ends_with_space(tok_vocabulary_text(vocabulary, (uint32_t)(pair >> 32))))
            return 0;
    }
    return 1;
}

ds_status tok_bpe_load(const char *name, const json_t *json, struct ds_tokenizer *tokenizer)
{
    struct tok_bpe *bpe = &tokenizer->bpe;

    DS_TRY(check_model(name, json));
    DS_TRY(read_flags(name, json, bpe));
    DS_TRY(tok_vocabulary_load(name, json_object_get(json, "vocab"), &tokenizer->vocabulary));
    DS_TRY(tok_merges_load(name, json_object_get(json, "merges"), &tokenizer->vocabulary,
                           &bpe->merges));
    DS_TRY(find_unknown(name, json, &tokenizer->vocabulary, bpe));
    find_bytes(tokenizer, bpe);
    bpe->cuts_at_spaces = finds_cuts(tokenizer);
    return DS_OK;
}
