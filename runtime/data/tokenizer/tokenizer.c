/* tokenizer.c - a tokenizer from its files, and what can be asked of it. */
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { FILE_BYTES_MAX = 256 << 20, PATH_BYTES = 4352 };

/* ---- tokenizer.json */

static ds_status load_parts(const char *name, const json_t *json, struct ds_tokenizer *t)
{
    DS_TRY(tok_normalizer_load(name, json_object_get(json, "normalizer"), &t->normalizer));
    DS_TRY(tok_stages_load(name, json_object_get(json, "pre_tokenizer"), &t->stages));
    DS_TRY(tok_bpe_load(name, json_object_get(json, "model"), t));
    DS_TRY(tok_added_load(name, json_object_get(json, "added_tokens"), &t->normalizer,
                          &t->vocabulary, &t->added));
    DS_TRY(tok_template_load(name, json_object_get(json, "post_processor"), t));
    return tok_decoder_load(name, json_object_get(json, "decoder"), &t->decoder);
}

ds_status ds_tokenizer_parse(const char *name, const char *json, size_t bytes,
                             struct ds_tokenizer **out)
{
    struct ds_tokenizer *t = calloc(1, sizeof *t);
    json_t *root = NULL;
    ds_status st;

    if (!t)
        return ds_fail(DS_ERR_NO_MEMORY, "a tokenizer");
    t->fingerprint = XXH3_64bits(json, bytes);
    st = ds_json_parse(name, json, bytes, &root);
    if (st == DS_OK)
        st = load_parts(name, root, t);
    json_decref(root);
    if (st != DS_OK) {
        ds_tokenizer_close(t);
        return st;
    }
    *out = t;
    return DS_OK;
}

void ds_tokenizer_close(struct ds_tokenizer *t)
{
    if (!t)
        return;
    tok_vocabulary_fini(&t->vocabulary);
    tok_added_fini(&t->added);
    tok_normalizer_fini(&t->normalizer);
    tok_stages_fini(&t->stages);
    tok_merges_fini(&t->bpe.merges);
    tok_decoder_fini(&t->decoder);
    ds_token_list_fini(&t->before);
    ds_token_list_fini(&t->after);
    free(t);
}

/* ---- the byte tokenizer: its tokens are there to be named */

static ds_status add_byte_tokens(struct ds_tokenizer *t)
{
    static const char *const marks[] = {"<bos>", "<eos>", "<pad>"};

    for (uint32_t id = 0; id < 256; id++) {
        uint8_t text[4];
        const size_t bytes = tok_utf8_put(tok_byte_char((uint8_t)id), text);
        DS_TRY(tok_vocabulary_add("bytes", (struct tok_text){text, bytes}, id, TOK_IN_MODEL,
                                  &t->vocabulary));
    }
    for (uint32_t i = 0; i < 3; i++)
        DS_TRY(tok_vocabulary_add("bytes",
                                  (struct tok_text){(const uint8_t *)marks[i], strlen(marks[i])},
                                  256 + i, TOK_IS_ADDED | TOK_IS_SPECIAL, &t->vocabulary));
    return ds_token_list_add(&t->before, 256);
}

static ds_status open_bytes(struct ds_tokenizer **out)
{
    struct ds_tokenizer *t = calloc(1, sizeof *t);
    json_t *empty = json_object();
    ds_status st = DS_ERR_NO_MEMORY;

    if (!t || !empty)
        st = ds_fail(DS_ERR_NO_MEMORY, "a tokenizer");
    else
        st = tok_vocabulary_load("bytes", empty, &t->vocabulary);
    json_decref(empty);
    if (st == DS_OK)
        st = add_byte_tokens(t);
    if (st != DS_OK) {
        ds_tokenizer_close(t);
        return st;
    }
    t->is_bytes = t->decoder.is_there = 1;
    t->fingerprint = XXH3_64bits("bytes", 5);
    t->marks = (struct ds_tokenizer_marks){1, 1, 1, 256, 257, 258};
    *out = t;
    return DS_OK;
}

/* ---- files */

static ds_status read_settings(struct ds_fs *fs, const char *path, struct ds_tokenizer *t)
{
    struct ds_fs_stat stat;
    json_t *root = NULL;
    char *text = NULL;
    size_t bytes = 0;
    ds_status st;

    if (ds_fs_stat(fs, path, &stat) == -ENOENT)
        return DS_OK;
    DS_TRY(ds_fs_read_file(fs, path, FILE_BYTES_MAX, &text, &bytes));
    st = ds_json_parse(path, text, bytes, &root);
    if (st == DS_OK)
        st = tok_settings_load(path, root, t);
    json_decref(root);
    free(text);
    return st;
}

/* The file, and the one beside it. */
static ds_status find_files(struct ds_fs *fs, const char *path, char file[PATH_BYTES],
                            char settings[PATH_BYTES])
{
    const char *slash = strrchr(path, '/');
    const int folder_bytes = slash ? (int)(slash + 1 - path) : 0;
    struct ds_fs_stat stat;
    const int code = ds_fs_stat(fs, path, &stat);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this tokenizer: %s", path, strerror(-code));
    if (strlen(path) + sizeof "/tokenizer_config.json" > PATH_BYTES)
        return ds_fail(DS_ERR_DATA, "%s: the path is too long", path);
    if (stat.is_directory) {
        snprintf(file, PATH_BYTES, "%s/tokenizer.json", path);
        snprintf(settings, PATH_BYTES, "%s/tokenizer_config.json", path);
    } else {
        snprintf(file, PATH_BYTES, "%s", path);
        snprintf(settings, PATH_BYTES, "%.*stokenizer_config.json", folder_bytes, path);
    }
    return DS_OK;
}

ds_status ds_tokenizer_open(struct ds_fs *fs, const char *path, struct ds_tokenizer **out)
{
    char file[PATH_BYTES], settings[PATH_BYTES], *text = NULL;
    struct ds_tokenizer *t = NULL;
    size_t bytes = 0;
    ds_status st;

    if (strcmp(path, "bytes") == 0)
        return open_bytes(out);
    DS_TRY(find_files(fs, path, file, settings));
    DS_TRY(ds_fs_read_file(fs, file, FILE_BYTES_MAX, &text, &bytes));
    st = ds_tokenizer_parse(file, text, bytes, &t);
    free(text);
    if (st == DS_OK)
        st = read_settings(fs, settings, t);
    if (st != DS_OK) {
        ds_tokenizer_close(t);
        return st;
    }
    *out = t;
    return DS_OK;
}

/* ---- questions */

uint32_t ds_tokenizer_id_end(const struct ds_tokenizer *tokenizer)
{
    return tokenizer->vocabulary.id_end;
}

uint64_t ds_tokenizer_fingerprint(const struct ds_tokenizer *t)
{
    const uint32_t marks[] = {(uint32_t)t->marks.has_bos, t->marks.bos, (uint32_t)t->marks.has_eos,
                              t->marks.eos};

    return XXH3_64bits_withSeed(marks, sizeof marks, t->fingerprint);
}

const char *ds_tokenizer_token(const struct ds_tokenizer *tokenizer, uint32_t id)
{
    return (const char *)tok_vocabulary_text(&tokenizer->vocabulary, id).at;
}

int ds_tokenizer_find(const struct ds_tokenizer *tokenizer, const char *token, uint32_t *id)
{
    const uint32_t found = tok_vocabulary_find(
        &tokenizer->vocabulary, (struct tok_text){(const uint8_t *)token, strlen(token)});

    if (found == TOK_ID_NONE)
        return 0;
    *id = found;
    return 1;
}

int ds_tokenizer_is_special(const struct ds_tokenizer *tokenizer, uint32_t id)
{
    return id < tokenizer->vocabulary.id_end &&
           (tokenizer->vocabulary.tokens[id].flags & TOK_IS_SPECIAL) != 0;
}

size_t ds_tokenizer_match_added(const struct ds_tokenizer *tokenizer, const void *text,
                                size_t bytes, uint32_t *id)
{
    const struct tok_added_set *const sets[2] = {&tokenizer->added.raw,
                                                 &tokenizer->added.normalized};

    for (size_t i = 0; i < 2 && bytes > 0; i++) {
        const struct tok_added *found =
            sets[i]->count ? tok_added_longest(sets[i], (struct tok_text){text, bytes}) : NULL;

        if (!found || found->is_word || found->strips_left || found->strips_right)
            continue;
        *id = found->id;
        return found->text.bytes;
    }
    return 0;
}

struct ds_tokenizer_marks ds_tokenizer_marks(const struct ds_tokenizer *tokenizer)
{
    return tokenizer->marks;
}
