/* learner.c - from counted words to a tokenizer.json. */
#include "pairs.h"
#include "stages.h"

#include "dstrain/learner.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Qwen2's: digits stand alone, which small vocabularies can afford. */
static const char word_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
enum { SPECIALS = sizeof specials / sizeof *specials, COUNT_MIN = 2 };

struct ds_learner {
    /* owns */
    struct tok_stages stages;
    struct tok_matcher matcher;
    struct tok_buffer scratch[TOK_STAGES_MAX], repaired;
    struct tok_words words;
    struct tok_pairs pairs;
    json_t *vocab, *merges;
    struct tok_buffer texts; /* of tokens, in the alphabet of bytes, each with a NUL behind it */
    uint64_t *starts;        /* [vocab_size]: in texts, by id */
    uint32_t token_count;
};

/* ---- counting words */

ds_status ds_learner_open(struct ds_learner **out)
{
    json_t *json = json_pack("{s:s,s:s,s:{s:s}}", "type", "Split", "behavior", "Isolated",
                             "pattern", "Regex", word_pattern);
    struct ds_learner *l = calloc(1, sizeof *l);
    ds_status st = DS_OK;

    if (!l || !json)
        st = ds_fail(DS_ERR_NO_MEMORY, "to learn a tokenizer");
    if (st == DS_OK)
        st = tok_stages_load("learner", json, &l->stages);
    if (st == DS_OK)
        st = tok_matcher_init(&l->matcher);
    json_decref(json);
    if (st != DS_OK) {
        ds_learner_close(l);
        return st;
    }
    *out = l;
    return DS_OK;
}

void ds_learner_close(struct ds_learner *l)
{
    if (!l)
        return;
    tok_stages_fini(&l->stages);
    tok_matcher_fini(&l->matcher);
    for (size_t i = 0; i < TOK_STAGES_MAX; i++)
        tok_buffer_fini(&l->scratch[i]);
    tok_buffer_fini(&l->repaired);
    tok_words_fini(&l->words);
    tok_pairs_fini(&l->pairs);
    json_decref(l->vocab);
    json_decref(l->merges);
    tok_buffer_fini(&l->texts);
    free(l->starts);
    free(l);
}

/* tok_word_sink */
static ds_status on_word(void *user, struct tok_text word)
{
    struct ds_learner *l = user;

    return tok_words_add(&l->words, word);
}

ds_status ds_learner_add(struct ds_learner *l, const char *name, const void *text, size_t bytes,
                         int replaces_invalid)
{
    const struct tok_walk walk = {.stages = &l->stages,
                                  .matcher = &l->matcher,
                                  .scratch = l->scratch,
                                  .sink = on_word,
                                  .user = l};
    struct tok_text piece = {text, bytes};
    const size_t valid = tok_utf8_check(piece);

    if (valid < bytes && !replaces_invalid)
        return tok_utf8_refuse(name, valid, piece.at[valid]);
    if (valid < bytes) {
        l->repaired.count = 0;
        DS_TRY(tok_utf8_repair(piece, &l->repaired));
        piece = (struct tok_text){l->repaired.at, l->repaired.count};
    }
    return tok_stages_walk(&walk, piece, 1);
}

/* ---- tokens */

static const char *token_text(const struct ds_learner *l, uint32_t id)
{
    return (const char *)l->texts.at + l->starts[id];
}

/* The text at the end of l->texts, from `start` on, is a token; the one that has it already, or a new one. */
static ds_status end_token(struct ds_learner *l, uint64_t start, uint32_t *id)
{
    const json_t *there;

    DS_TRY(tok_buffer_add(&l->texts, (struct tok_text){(const uint8_t *)"", 1}));
    there = json_object_get(l->vocab, (const char *)l->texts.at + start);
    if (there) {
        *id = (uint32_t)json_integer_value(there);
        l->texts.count = start;
        return DS_OK;
    }
    *id = l->token_count++;
    l->starts[*id] = start;
    return json_object_set_new(l->vocab, token_text(l, *id), json_integer(*id)) == 0
               ? DS_OK
               : ds_fail(DS_ERR_NO_MEMORY, "%u tokens", l->token_count);
}

static ds_status add_text(struct ds_learner *l, const void *text, size_t bytes, uint32_t *id)
{
    const uint64_t start = l->texts.count;

    DS_TRY(tok_buffer_add(&l->texts, (struct tok_text){text, bytes}));
    return end_token(l, start, id);
}

/* Bytes in the order of the characters that they are written as. */
static ds_status first_tokens(struct ds_learner *l, uint32_t byte_ids[256])
{
    uint32_t id;

    for (size_t i = 0; i < SPECIALS; i++)
        DS_TRY(add_text(l, specials[i], strlen(specials[i]), &id));
    for (uint32_t code = 0; code < 0x144; code++) {
        const int byte = tok_char_byte(code);
        uint8_t text[4];

        if (byte >= 0)
            DS_TRY(add_text(l, text, tok_utf8_put(code, text), &byte_ids[byte]));
    }
    return DS_OK;
}

static ds_status add_merge(struct ds_learner *l, uint64_t key, uint32_t *id)
{
    const char *left, *right;
    const uint64_t start = l->texts.count;

    DS_TRY(tok_buffer_reserve(&l->texts, strlen(token_text(l, (uint32_t)(key >> 32))) +
                                             strlen(token_text(l, (uint32_t)key)) + 1));
    left = token_text(l, (uint32_t)(key >> 32)); /* the buffer stays where it is from here on */
    right = token_text(l, (uint32_t)key);
    if (json_array_append_new(l->merges, json_sprintf("%s %s", left, right)) != 0)
        return ds_fail(DS_ERR_NO_MEMORY, "%u tokens", l->token_count);
    DS_TRY(tok_buffer_add(&l->texts, (struct tok_text){(const uint8_t *)left, strlen(left)}));
    DS_TRY(tok_buffer_add(&l->texts, (struct tok_text){(const uint8_t *)right, strlen(right)}));
    return end_token(l, start, id);
}

/* ---- the file */

static json_t *byte_level(void)
{
    return json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 0, "use_regex", 0);
}

static json_t *added_tokens(void)
{
    json_t *list = json_array();

    for (int id = 0; id < SPECIALS; id++)
        json_array_append_new(list, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", id, "content",
                                              specials[id], "single_word", 0, "lstrip", 0, "rstrip",
                                              0, "normalized", 0, "special", 1));
    return list;
}

static ds_status write_json(const struct ds_learner *l, char **json)
{
    json_t *root = json_pack(
        "{s:s,s:n,s:n,s:o,s:n,s:{s:s,s:[{s:s,s:{s:s},s:s,s:b},o]},s:o,s:o,s:{s:s,s:n,s:n,s:n,s:n,s:"
        "b,s:b,s:b,s:O,s:O}}",
        "version", "1.0", "truncation", "padding", "added_tokens", added_tokens(), "normalizer",
        "pre_tokenizer", "type", "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
        word_pattern, "behavior", "Isolated", "invert", 0, byte_level(), "post_processor",
        byte_level(), "decoder", byte_level(), "model", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
        "ignore_merges", 0, "vocab", l->vocab, "merges", l->merges);

    *json = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    return *json ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "a tokenizer.json");
}

static ds_status learn_all(struct ds_learner *l, uint32_t vocab_size,
                           void (*progress)(void *user, uint64_t done, uint64_t total), void *user)
{
    uint32_t byte_ids[256];
    uint64_t key = 0;
    int is_found = 1;

    DS_TRY(first_tokens(l, byte_ids));
    DS_TRY(tok_pairs_init(&l->pairs, &l->words, byte_ids));
    while (l->token_count < vocab_size) {
        uint32_t id = 0;

        DS_TRY(tok_pairs_next(&l->pairs, COUNT_MIN, &key, &is_found));
        if (!is_found)
            break;
        DS_TRY(add_merge(l, key, &id));
        DS_TRY(tok_pairs_merge(&l->pairs, key, id));
        if (progress)
            progress(user, l->token_count, vocab_size);
    }
    return DS_OK;
}

ds_status ds_learner_learn(struct ds_learner *l, uint32_t vocab_size,
                           void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                           char **json)
{
    DS_ASSERT(vocab_size >= DS_LEARNER_VOCAB_MIN && vocab_size <= DS_LEARNER_VOCAB_MAX);
    DS_ASSERT(!l->vocab);
    l->vocab = json_object();
    l->merges = json_array();
    l->starts = malloc(vocab_size * sizeof *l->starts);
    if (!l->vocab || !l->merges || !l->starts)
        return ds_fail(DS_ERR_NO_MEMORY, "%u tokens", vocab_size);
    DS_TRY(learn_all(l, vocab_size, progress, user));
    return write_json(l, json);
}
