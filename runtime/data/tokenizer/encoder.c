/* encoder.c - a text through all parts of a tokenizer: added tokens, the normalizer, added tokens again, the
 * stages that cut words, and the words' tokens. Short words are remembered with their tokens, since most
 * words of a text have been there before. */
#include "model.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { SLOT_COUNT = 1 << 15, SLOT_BYTES = 30, SLOT_IDS = 8, DRAIN_IDS = 1 << 16 };

/* A word and its tokens; one cache line. */
struct remembered {
    uint8_t bytes, count; /* bytes 0: nothing */
    uint8_t word[SLOT_BYTES];
    uint32_t ids[SLOT_IDS];
};

struct ds_encoder {
    /* borrows */
    const struct ds_tokenizer *tokenizer;
    struct ds_token_list *out; /* of the call in progress */
    const char *name;
    uint32_t flags;
    ds_token_drain *drain; /* or NULL */
    void *drain_user;
    /* owns */
    struct remembered *slots;
    struct tok_matcher matcher;
    struct tok_normal_scratch normal;
    struct tok_buffer repaired, scratch[TOK_STAGES_MAX], mapped;
    struct tok_word word;
};

ds_status ds_token_list_add(struct ds_token_list *list, uint32_t id)
{
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? list->capacity + list->capacity / 2 : 64;
        uint32_t *more = realloc(list->ids, capacity * sizeof *more);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "%zu tokens", capacity);
        list->ids = more;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return DS_OK;
}

void ds_token_list_fini(struct ds_token_list *list)
{
    free(list->ids);
    *list = (struct ds_token_list){0};
}

static ds_status give_all(struct ds_encoder *e, const uint32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        DS_TRY(ds_token_list_add(e->out, ids[i]));
    return DS_OK;
}

/* ---- a word's symbols */

static ds_status no_token(const struct ds_encoder *e, struct tok_text character)
{
    size_t at = 0;

    return ds_fail(DS_ERR_DATA,
                   "%s: the tokenizer has no token for U+%04X, and none for what it does not know",
                   e->name, tok_utf8_next(character, &at));
}

static ds_status symbols_of_bytes(struct ds_encoder *e, struct tok_text word)
{
    const struct tok_bpe *bpe = &e->tokenizer->bpe;

    for (size_t i = 0; i < word.bytes; i++) {
        uint32_t id = bpe->bytes[word.at[i]];

        if (id == TOK_ID_NONE)
            id = bpe->unknown;
        if (id == TOK_ID_NONE)
            return ds_fail(DS_ERR_DATA, "%s: the tokenizer has no token for the byte 0x%02x",
                           e->name, word.at[i]);
        DS_TRY(tok_word_add(&e->word, id));
    }
    return DS_OK;
}

/* All of a character's bytes have tokens? */
static int can_fall_back(const struct tok_bpe *bpe, struct tok_text character)
{
    for (size_t i = 0; i < character.bytes; i++)
        if (!bpe->falls_back || bpe->bytes[character.at[i]] == TOK_ID_NONE)
            return 0;
    return 1;
}

/* A character that is no token: its bytes, or the unknown one, which waits until it is known whether the
 * next is unknown, too. */
static ds_status add_unknown(struct ds_encoder *e, struct tok_text character, int *is_waiting)
{
    const struct tok_bpe *bpe = &e->tokenizer->bpe;

    if (can_fall_back(bpe, character)) {
        for (size_t i = 0; i < character.bytes; i++)
            DS_TRY(tok_word_add(&e->word, bpe->bytes[character.at[i]]));
        return DS_OK;
    }
    if (bpe->unknown == TOK_ID_NONE)
        return no_token(e, character);
    if (*is_waiting && !bpe->fuses_unknown)
        DS_TRY(tok_word_add(&e->word, bpe->unknown));
    *is_waiting = 1;
    return DS_OK;
}

static ds_status symbols_of_chars(struct ds_encoder *e, struct tok_text word)
{
    int is_waiting = 0;

    for (size_t at = 0, next = 0; at < word.bytes; at = next) {
        struct tok_text character;
        uint32_t id;

        (void)tok_utf8_next(word, &next);
        character = (struct tok_text){word.at + at, next - at};
        id = tok_vocabulary_find_model(&e->tokenizer->vocabulary, character);
        if (id == TOK_ID_NONE) {
            DS_TRY(add_unknown(e, character, &is_waiting));
            continue;
        }
        if (is_waiting)
            DS_TRY(tok_word_add(&e->word, e->tokenizer->bpe.unknown));
        is_waiting = 0;
        DS_TRY(tok_word_add(&e->word, id));
    }
    return is_waiting ? tok_word_add(&e->word, e->tokenizer->bpe.unknown) : DS_OK;
}

/* The token that is all of `word`, as the vocabulary writes it. */
static ds_status find_whole(struct ds_encoder *e, struct tok_text word, uint32_t *id)
{
    if (e->tokenizer->stages.is_byte_level) {
        DS_TRY(tok_buffer_reserve(&e->mapped, 2 * word.bytes));
        e->mapped.count = 0;
        for (size_t i = 0; i < word.bytes; i++)
            e->mapped.count +=
                tok_utf8_put(tok_byte_char(word.at[i]), e->mapped.at + e->mapped.count);
        word = (struct tok_text){e->mapped.at, e->mapped.count};
    }
    *id = tok_vocabulary_find_model(&e->tokenizer->vocabulary, word);
    return DS_OK;
}

static ds_status encode_word(struct ds_encoder *e, struct tok_text word)
{
    const struct tok_bpe *bpe = &e->tokenizer->bpe;
    uint32_t whole = TOK_ID_NONE;

    if (bpe->tries_whole)
        DS_TRY(find_whole(e, word, &whole));
    if (whole != TOK_ID_NONE)
        return ds_token_list_add(e->out, whole);
    e->word.count = 0;
    DS_TRY(e->tokenizer->stages.is_byte_level ? symbols_of_bytes(e, word)
                                              : symbols_of_chars(e, word));
    DS_TRY(tok_word_merge(&e->word, &bpe->merges));
    for (size_t at = 0; at < e->word.count; at = e->word.symbols[at].next)
        DS_TRY(ds_token_list_add(e->out, e->word.symbols[at].id));
    return DS_OK;
}

static ds_status encode_remembered(struct ds_encoder *e, struct tok_text word)
{
    const size_t before = e->out->count;
    struct remembered *slot;

    if (word.bytes > SLOT_BYTES)
        return encode_word(e, word);
    slot = &e->slots[XXH3_64bits(word.at, word.bytes) % SLOT_COUNT];
    if (slot->bytes == word.bytes && memcmp(slot->word, word.at, word.bytes) == 0)
        return give_all(e, slot->ids, slot->count);
    DS_TRY(encode_word(e, word));
    if (e->out->count - before > SLOT_IDS)
        return DS_OK;
    slot->bytes = (uint8_t)word.bytes;
    slot->count = (uint8_t)(e->out->count - before);
    memcpy(slot->word, word.at, word.bytes);
    memcpy(slot->ids, e->out->ids + before, slot->count * sizeof *slot->ids);
    return DS_OK;
}

/* Where the next U+2581 is that has another character before it; the text's end if there is none. */
static size_t next_cut(struct tok_text text, size_t from)
{
    static const uint8_t space[] = {0xe2, 0x96, 0x81};

    for (size_t at = from + 1; at + sizeof space <= text.bytes; at++) {
        const uint8_t *found = memchr(text.at + at, space[0], text.bytes - at);

        if (!found)
            break;
        at = (size_t)(found - text.at);
        if (at + sizeof space <= text.bytes && memcmp(found, space, sizeof space) == 0 &&
            !(at >= from + sizeof space && memcmp(found - sizeof space, space, sizeof space) == 0))
            return at;
    }
    return text.bytes;
}

static ds_status drained(struct ds_encoder *e)
{
    return e->drain && e->out->count >= DRAIN_IDS ? e->drain(e->drain_user, e->out) : DS_OK;
}

/* tok_word_sink */
static ds_status on_word(void *user, struct tok_text word)
{
    struct ds_encoder *e = user;
    const int is_cut = e->tokenizer->bpe.cuts_at_spaces;

    for (size_t at = 0, end; at < word.bytes; at = end) {
        end = is_cut ? next_cut(word, at) : word.bytes;
        DS_TRY(encode_remembered(e, (struct tok_text){word.at + at, end - at}));
        DS_TRY(drained(e));
    }
    return DS_OK;
}

/* ---- the parts between added tokens */

/* tok_added_sink: of what the normalizer made */
static ds_status on_normalized(void *user, const struct tok_added *token, struct tok_text part,
                               int is_start)
{
    struct ds_encoder *e = user;
    const struct tok_walk walk = {.stages = &e->tokenizer->stages,
                                  .matcher = &e->matcher,
                                  .scratch = e->scratch,
                                  .sink = on_word,
                                  .user = e};

    return token ? ds_token_list_add(e->out, token->id) : tok_stages_walk(&walk, part, is_start);
}

static struct tok_added_walk added_walk(struct ds_encoder *e, const struct tok_added_set *set,
                                        tok_added_sink *sink)
{
    return (struct tok_added_walk){.sets = &e->tokenizer->added,
                                   .set = set,
                                   .matcher = &e->matcher,
                                   .leaves_special = (e->flags & DS_ENCODE_PLAIN) != 0,
                                   .sink = sink,
                                   .user = e};
}

/* tok_added_sink: of the text as it came */
static ds_status on_raw(void *user, const struct tok_added *token, struct tok_text part,
                        int is_start)
{
    struct ds_encoder *e = user;
    const struct tok_added_walk walk =
        added_walk(e, &e->tokenizer->added.normalized, on_normalized);

    if (token)
        return ds_token_list_add(e->out, token->id);
    DS_TRY(tok_normalize(&e->tokenizer->normalizer, &e->matcher, &e->normal, part, &part));
    return e->flags & DS_ENCODE_TEXT ? on_normalized(e, NULL, part, is_start)
                                     : tok_added_walk(&walk, part, is_start);
}

static ds_status check_text(struct ds_encoder *e, struct tok_text *text)
{
    const size_t valid = tok_utf8_check(*text);

    if (valid == text->bytes)
        return DS_OK;
    if (!(e->flags & DS_ENCODE_REPLACE))
        return tok_utf8_refuse(e->name, valid, text->at[valid]);
    e->repaired.count = 0;
    DS_TRY(tok_utf8_repair(*text, &e->repaired));
    *text = (struct tok_text){e->repaired.at, e->repaired.count};
    return DS_OK;
}

static ds_status encode_text(struct ds_encoder *e, struct tok_text text)
{
    const struct tok_added_walk walk = added_walk(e, &e->tokenizer->added.raw, on_raw);
    const int is_start = !(e->flags & DS_ENCODE_INNER);

    DS_TRY(check_text(e, &text));
    if (text.bytes > 0 && (e->flags & DS_ENCODE_TEXT))
        return on_raw(e, NULL, text, is_start);
    return tok_added_walk(&walk, text, is_start);
}

static ds_status encode_bytes(struct ds_encoder *e, struct tok_text text)
{
    for (size_t i = 0; i < text.bytes; i++) {
        DS_TRY(ds_token_list_add(e->out, text.at[i]));
        DS_TRY(drained(e));
    }
    return DS_OK;
}

ds_status ds_encoder_encode(struct ds_encoder *encoder, const char *name, const void *text,
                            size_t bytes, uint32_t flags, struct ds_token_list *out)
{
    return ds_encoder_stream(encoder, name, text, bytes, flags, NULL, NULL, out);
}

ds_status ds_encoder_stream(struct ds_encoder *encoder, const char *name, const void *text,
                            size_t bytes, uint32_t flags, ds_token_drain *drain, void *user,
                            struct ds_token_list *out)
{
    const struct ds_tokenizer *tokenizer = encoder->tokenizer;
    const struct tok_text piece = {text, bytes};

    encoder->name = name;
    encoder->flags = flags;
    encoder->out = out;
    encoder->drain = drain;
    encoder->drain_user = user;
    if (flags & DS_ENCODE_TEMPLATE)
        DS_TRY(give_all(encoder, tokenizer->before.ids, tokenizer->before.count));
    DS_TRY(tokenizer->is_bytes ? encode_bytes(encoder, piece) : encode_text(encoder, piece));
    if (flags & DS_ENCODE_TEMPLATE)
        DS_TRY(give_all(encoder, tokenizer->after.ids, tokenizer->after.count));
    return DS_OK;
}

ds_status ds_encoder_open(const struct ds_tokenizer *tokenizer, struct ds_encoder **out)
{
    struct ds_encoder *e = calloc(1, sizeof *e);
    ds_status st;

    if (!e)
        return ds_fail(DS_ERR_NO_MEMORY, "an encoder");
    e->tokenizer = tokenizer;
    e->slots = calloc(SLOT_COUNT, sizeof *e->slots);
    st = e->slots ? tok_matcher_init(&e->matcher) : ds_fail(DS_ERR_NO_MEMORY, "an encoder");
    if (st != DS_OK) {
        ds_encoder_close(e);
        return st;
    }
    *out = e;
    return DS_OK;
}

void ds_encoder_close(struct ds_encoder *e)
{
    if (!e)
        return;
    free(e->slots);
    tok_matcher_fini(&e->matcher);
    tok_normal_scratch_fini(&e->normal);
    tok_buffer_fini(&e->repaired);
    for (size_t i = 0; i < TOK_STAGES_MAX; i++)
        tok_buffer_fini(&e->scratch[i]);
    tok_buffer_fini(&e->mapped);
    tok_word_fini(&e->word);
    free(e);
}
