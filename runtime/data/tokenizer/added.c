/* added.c - finds added tokens: at the leftmost place where one begins, the longest one. */
#include "added.h"

#include <stdlib.h>
#include <string.h>

enum { ADDED_MAX = 1 << 16 }; /* the vocabulary keeps so many places */

/* ---- from the file */

static ds_status read_token(const char *name, const json_t *json, struct tok_added *token,
                            int *is_normalized)
{
    uint64_t id = UINT64_MAX;

    if (!json_is_object(json))
        return ds_fail(DS_ERR_DATA, "%s: an added token must be an object", name);
    DS_TRY(tok_part_text(name, json, "content", &token->text));
    DS_TRY(ds_json_u64(name, json, "id", 0, TOK_ID_MAX, &id));
    if (id == UINT64_MAX)
        return ds_fail(DS_ERR_DATA, "%s: added token '%.80s' has no 'id'", name,
                       (const char *)token->text.at);
    token->id = (uint32_t)id;
    DS_TRY(ds_json_bool(name, json, "special", &token->is_special));
    DS_TRY(ds_json_bool(name, json, "single_word", &token->is_word));
    DS_TRY(ds_json_bool(name, json, "lstrip", &token->strips_left));
    DS_TRY(ds_json_bool(name, json, "rstrip", &token->strips_right));
    *is_normalized = !token->is_special;
    return ds_json_bool(name, json, "normalized", is_normalized);
}

static ds_status put_in_set(struct tok_added_set *set, const struct tok_added *token,
                            struct tok_text text)
{
    struct tok_buffer *copy = &set->texts[set->count];

    if (text.bytes == 0)
        return DS_OK;
    DS_TRY(tok_buffer_add(copy, text));
    set->tokens[set->count] = *token;
    set->tokens[set->count].text = (struct tok_text){copy->at, copy->count};
    set->count++;
    return DS_OK;
}

struct loading {
    const char *name;
    const struct tok_normalizer *normalizer;
    struct tok_matcher matcher;
    struct tok_normal_scratch scratch;
    struct tok_vocabulary *vocabulary;
    struct tok_added_sets *out;
};

static ds_status load_token(struct loading *l, const json_t *json)
{
    struct tok_added token = {0};
    struct tok_text text;
    int is_normalized = 0;

    DS_TRY(read_token(l->name, json, &token, &is_normalized));
    DS_TRY(tok_vocabulary_add(l->name, token.text, token.id,
                              TOK_IS_ADDED | (token.is_special ? TOK_IS_SPECIAL : 0),
                              l->vocabulary));
    if (!is_normalized)
        return put_in_set(&l->out->raw, &token, token.text);
    DS_TRY(tok_normalize(l->normalizer, &l->matcher, &l->scratch, token.text, &text));
    return put_in_set(&l->out->normalized, &token, text);
}

static int by_text(const void *a, const void *b)
{
    const struct tok_text x = ((const struct tok_added *)a)->text;
    const struct tok_text y = ((const struct tok_added *)b)->text;
    const int order = memcmp(x.at, y.at, x.bytes < y.bytes ? x.bytes : y.bytes);

    if (order || x.bytes != y.bytes)
        return order ? order : (x.bytes > y.bytes) - (x.bytes < y.bytes);
    return ((const struct tok_added *)a)->id < ((const struct tok_added *)b)->id ? -1 : 1;
}

static void sort_set(struct tok_added_set *set)
{
    size_t at = 0;

    if (set->count > 0)
        qsort(set->tokens, set->count, sizeof *set->tokens, by_text);
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (at < set->count && set->tokens[at].text.at[0] < byte)
            at++;
        set->first[byte] = (uint32_t)at;
    }
}

static ds_status take_sets(struct tok_added_sets *sets, size_t count)
{
    struct tok_added_set *const both[2] = {&sets->raw, &sets->normalized};

    for (size_t i = 0; i < 2; i++) {
        both[i]->tokens = calloc(count + 1, sizeof *both[i]->tokens);
        both[i]->texts = calloc(count + 1, sizeof *both[i]->texts);
        if (!both[i]->tokens || !both[i]->texts)
            return ds_fail(DS_ERR_NO_MEMORY, "%zu added tokens", count);
    }
    return DS_OK;
}

static ds_status compile_words(struct tok_added_sets *sets)
{
    static const char begins[] = "\\A[\\w\\u200c\\u200d]", ends[] = "[\\w\\u200c\\u200d]\\z";

    DS_TRY(tok_pattern_compile("added tokens",
                               (struct tok_text){(const uint8_t *)begins, sizeof begins - 1},
                               &sets->word));
    return tok_pattern_compile(
        "added tokens", (struct tok_text){(const uint8_t *)ends, sizeof ends - 1}, &sets->word_end);
}

ds_status tok_added_load(const char *name, const json_t *json,
                         const struct tok_normalizer *normalizer, struct tok_vocabulary *vocabulary,
                         struct tok_added_sets *out)
{
    struct loading l = {
        .name = name, .normalizer = normalizer, .vocabulary = vocabulary, .out = out};
    const size_t count = json_array_size(json);
    ds_status st;

    if (json && !json_is_null(json) && !json_is_array(json))
        return ds_fail(DS_ERR_DATA, "%s: 'added_tokens' must be a list", name);
    if (count > ADDED_MAX)
        return ds_fail(DS_ERR_DATA, "%s: %zu added tokens are more than %d", name, count,
                       ADDED_MAX);
    DS_TRY(take_sets(out, count));
    DS_TRY(compile_words(out));
    DS_TRY(tok_matcher_init(&l.matcher));
    st = DS_OK;
    for (size_t i = 0; i < count && st == DS_OK; i++)
        st = load_token(&l, json_array_get(json, i));
    tok_matcher_fini(&l.matcher);
    tok_normal_scratch_fini(&l.scratch);
    sort_set(&out->raw);
    sort_set(&out->normalized);
    return st;
}

static void set_fini(struct tok_added_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        tok_buffer_fini(&set->texts[i]);
    free(set->texts);
    free(set->tokens);
    *set = (struct tok_added_set){0};
}

void tok_added_fini(struct tok_added_sets *sets)
{
    set_fini(&sets->raw);
    set_fini(&sets->normalized);
    tok_pattern_fini(&sets->word);
    tok_pattern_fini(&sets->word_end);
}

/* ---- finding */

/* The longest that begins the text: the range of those that agree with it is made smaller byte by byte; one
 * that ends here is the first of its range. */
const struct tok_added *tok_added_longest(const struct tok_added_set *set, struct tok_text text)
{
    size_t low = set->first[text.at[0]], high = set->first[text.at[0] + 1];
    const struct tok_added *best = NULL;

    for (size_t depth = 1; low < high; depth++) {
        if (set->tokens[low].text.bytes == depth)
            best = &set->tokens[low];
        while (low < high && set->tokens[low].text.bytes == depth)
            low++;
        if (depth == text.bytes)
            break;
        while (low < high && set->tokens[low].text.at[depth] < text.at[depth])
            low++;
        while (low < high && set->tokens[high - 1].text.at[depth] > text.at[depth])
            high--;
    }
    return best;
}

static const struct tok_added *find_next(const struct tok_added_set *set, struct tok_text text,
                                         size_t *at)
{
    for (; *at < text.bytes; ++*at) {
        const uint8_t byte = text.at[*at];
        const struct tok_added *found;

        if (set->first[byte] == set->first[byte + 1])
            continue;
        found = tok_added_longest(set, (struct tok_text){text.at + *at, text.bytes - *at});
        if (found)
            return found;
    }
    return NULL;
}

/* ---- what the flags of a token ask for */

/* Back to the start of the last character before `at`. */
static size_t char_before(struct tok_text text, size_t at)
{
    do
        at--;
    while ((text.at[at] & 0xc0) == 0x80);
    return at;
}

static ds_status touches_word(const struct tok_added_walk *walk, struct tok_text text, size_t start,
                              size_t end, int *out)
{
    struct tok_match match = {0};

    if (start > 0) {
        const size_t before = char_before(text, start);
        DS_TRY(tok_match(walk->matcher, &walk->sets->word_end,
                         (struct tok_text){text.at + before, start - before}, 0, &match));
    }
    if (!match.is_found && end < text.bytes)
        DS_TRY(tok_match(walk->matcher, &walk->sets->word,
                         (struct tok_text){text.at + end, text.bytes - end}, 0, &match));
    *out = match.is_found;
    return DS_OK;
}

static int is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

static size_t skip_spaces_left(struct tok_text text, size_t from, size_t low)
{
    while (from > low) {
        size_t at = char_before(text, from);
        const size_t before = at;

        if (!is_space(tok_utf8_next(text, &at)))
            break;
        from = before;
    }
    return from < low ? low : from;
}

static size_t skip_spaces_right(struct tok_text text, size_t from)
{
    size_t at = from;

    while (from < text.bytes && is_space(tok_utf8_next(text, &at)))
        from = at;
    return from;
}

/* A token that its flags keep from being one is passed over as a whole. */
static ds_status is_kept(const struct tok_added_walk *walk, const struct tok_added *token,
                         struct tok_text text, size_t at, int *out)
{
    int touches = 0;

    *out = !(walk->leaves_special && token->is_special);
    if (*out && token->is_word)
        DS_TRY(touches_word(walk, text, at, at + token->text.bytes, &touches));
    *out = *out && !touches;
    return DS_OK;
}

static ds_status give(const struct tok_added_walk *walk, const struct tok_added *token,
                      struct tok_text text, size_t start, size_t end, int is_start)
{
    return start >= end
               ? DS_OK
               : walk->sink(walk->user, token, (struct tok_text){text.at + start, end - start},
                            is_start && start == 0);
}

ds_status tok_added_walk(const struct tok_added_walk *walk, struct tok_text text, int is_start)
{
    size_t done = 0, at = 0;
    const struct tok_added *token;

    while ((token = find_next(walk->set, text, &at))) {
        size_t start = at, end = at + token->text.bytes;
        int keeps;

        DS_TRY(is_kept(walk, token, text, at, &keeps));
        at = end;
        if (!keeps)
            continue;
        if (token->strips_left)
            start = skip_spaces_left(text, start, done);
        if (token->strips_right)
            end = skip_spaces_right(text, end);
        DS_TRY(give(walk, NULL, text, done, start, is_start));
        DS_TRY(give(walk, token, text, start, end, is_start));
        done = at = end;
    }
    return give(walk, NULL, text, done, text.bytes, is_start);
}
