/* vocabulary.c - one table for all tokens: a text has one id and an id one text. */
#include "vocabulary.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static uint32_t slot_of(const struct tok_vocabulary *v, struct tok_text text)
{
    return (uint32_t)XXH3_64bits(text.at, text.bytes) & v->slot_mask;
}

static ds_status grow_ids(struct tok_vocabulary *v, uint32_t id_end)
{
    struct tok_token *more;

    if (id_end <= v->id_end)
        return DS_OK;
    more = realloc(v->tokens, id_end * sizeof *more);
    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "a vocabulary of %u tokens", id_end);
    memset(more + v->id_end, 0, (id_end - v->id_end) * sizeof *more);
    v->tokens = more;
    v->id_end = id_end;
    return DS_OK;
}

static ds_status make_slots(struct tok_vocabulary *v, size_t token_count)
{
    size_t count = 64;

    while (count < token_count * 2)
        count *= 2;
    v->slots = malloc(count * sizeof *v->slots);
    if (!v->slots)
        return ds_fail(DS_ERR_NO_MEMORY, "a vocabulary of %zu tokens", token_count);
    memset(v->slots, 0xff, count * sizeof *v->slots); /* TOK_ID_NONE */
    v->slot_mask = (uint32_t)(count - 1);
    return DS_OK;
}

static void put_slot(struct tok_vocabulary *v, struct tok_text text, uint32_t id)
{
    uint32_t slot = slot_of(v, text);

    while (v->slots[slot] != TOK_ID_NONE)
        slot = (slot + 1) & v->slot_mask;
    v->slots[slot] = id;
}

static ds_status add_new(struct tok_vocabulary *v, struct tok_text text, uint32_t id,
                         uint32_t flags)
{
    const uint64_t at = v->texts.count;

    DS_TRY(tok_buffer_add(&v->texts, text));
    DS_TRY(tok_buffer_add(&v->texts, (struct tok_text){(const uint8_t *)"", 1}));
    v->tokens[id] = (struct tok_token){at, (uint32_t)text.bytes, flags};
    put_slot(v, text, id);
    return DS_OK;
}

ds_status tok_vocabulary_add(const char *name, struct tok_text text, uint32_t id, uint32_t flags,
                             struct tok_vocabulary *v)
{
    const uint32_t there = tok_vocabulary_find(v, text);

    DS_ASSERT(id <= TOK_ID_MAX);
    if (text.bytes == 0 || text.bytes > UINT16_MAX)
        return ds_fail(DS_ERR_DATA, "%s: the token with id %u has %zu bytes", name, id, text.bytes);
    if (there != TOK_ID_NONE && there != id)
        return ds_fail(DS_ERR_DATA, "%s: token '%.80s' has two ids: %u and %u", name,
                       (const char *)text.at, there, id);
    DS_TRY(grow_ids(v, id + 1));
    if (there == TOK_ID_NONE && v->tokens[id].bytes > 0)
        return ds_fail(DS_ERR_DATA, "%s: id %u is that of '%.80s' and of '%.80s'", name, id,
                       (const char *)v->texts.at + v->tokens[id].at, (const char *)text.at);
    if (there == TOK_ID_NONE)
        return add_new(v, text, id, flags);
    v->tokens[id].flags |= flags;
    return DS_OK;
}

static ds_status check_ids(const char *name, const json_t *json, uint32_t *id_end)
{
    const char *text;
    json_t *value;

    *id_end = 0;
    json_object_foreach((json_t *)json, text, value)
    {
        const json_int_t id = json_integer_value(value);

        if (!json_is_integer(value) || id < 0 || id > (json_int_t)TOK_ID_MAX)
            return ds_fail(DS_ERR_DATA, "%s: vocab: the id of '%.80s' must be an integer in 0..%u",
                           name, text, TOK_ID_MAX);
        *id_end = (uint32_t)id >= *id_end ? (uint32_t)id + 1 : *id_end;
    }
    return DS_OK;
}

/* The table of slots is made once: added tokens come behind these, in places kept for them. */
enum { ADDED_MAX = 1 << 16 };

ds_status tok_vocabulary_load(const char *name, const json_t *json, struct tok_vocabulary *out)
{
    uint32_t id_end;
    const char *text;
    json_t *value;

    if (!json_is_object(json))
        return ds_fail(DS_ERR_DATA, "%s: model: 'vocab' must be an object", name);
    DS_TRY(check_ids(name, json, &id_end));
    DS_TRY(grow_ids(out, id_end));
    DS_TRY(make_slots(out, json_object_size(json) + ADDED_MAX));
    json_object_foreach((json_t *)json, text, value)
    {
        DS_TRY(tok_vocabulary_add(name, (struct tok_text){(const uint8_t *)text, strlen(text)},
                                  (uint32_t)json_integer_value(value), TOK_IN_MODEL, out));
    }
    return DS_OK;
}

void tok_vocabulary_fini(struct tok_vocabulary *vocabulary)
{
    free(vocabulary->tokens);
    free(vocabulary->slots);
    tok_buffer_fini(&vocabulary->texts);
    *vocabulary = (struct tok_vocabulary){0};
}

struct tok_text tok_vocabulary_text(const struct tok_vocabulary *v, uint32_t id)
{
    if (id >= v->id_end || v->tokens[id].bytes == 0)
        return (struct tok_text){NULL, 0};
    return (struct tok_text){v->texts.at + v->tokens[id].at, v->tokens[id].bytes};
}

uint32_t tok_vocabulary_find(const struct tok_vocabulary *v, struct tok_text text)
{
    for (uint32_t slot = slot_of(v, text); v->slots[slot] != TOK_ID_NONE;
         slot = (slot + 1) & v->slot_mask) {
        const struct tok_text there = tok_vocabulary_text(v, v->slots[slot]);

        if (there.bytes == text.bytes && memcmp(there.at, text.at, text.bytes) == 0)
            return v->slots[slot];
    }
    return TOK_ID_NONE;
}

uint32_t tok_vocabulary_find_model(const struct tok_vocabulary *v, struct tok_text text)
{
    const uint32_t id = tok_vocabulary_find(v, text);

    return id != TOK_ID_NONE && (v->tokens[id].flags & TOK_IN_MODEL) ? id : TOK_ID_NONE;
}
