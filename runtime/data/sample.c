/* sample.c - pieces of text become tokens that are learned or not. */
#include "sample.h"

#include <stdlib.h>
#include <string.h>

/* ---- tokens */

static ds_status reserve_learned(struct sample_writer *w)
{
    uint8_t *more;

    if (w->ids.count <= w->learned_capacity)
        return DS_OK;
    more = realloc(w->learned, 2 * w->ids.count);
    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu tokens", w->ids.count);
    w->learned = more;
    w->learned_capacity = 2 * w->ids.count;
    return DS_OK;
}

/* Tokens from `from` on are learned, or not. */
static ds_status mark(struct sample_writer *w, size_t from, int is_learned)
{
    DS_TRY(reserve_learned(w));
    for (size_t i = from; i < w->ids.count; i++)
        w->learned[i] = is_learned || w->learns_all;
    return DS_OK;
}

static ds_status add_id(struct sample_writer *w, uint32_t id, int is_learned)
{
    DS_TRY(ds_token_list_add(&w->ids, id));
    return mark(w, w->ids.count - 1, is_learned);
}

/* ---- the run */

static ds_status add_to_run(struct sample_writer *w, const char *at, size_t bytes)
{
    const size_t needed = w->run_bytes + bytes;

    if (needed > w->run_capacity) {
        char *more = realloc(w->run, 2 * needed);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "%zu bytes of text", needed);
        w->run = more;
        w->run_capacity = 2 * needed;
    }
    if (bytes > 0)
        memcpy(w->run + w->run_bytes, at, bytes);
    w->run_bytes = needed;
    return DS_OK;
}

static ds_status encode(struct sample_writer *w, size_t from, size_t to, int is_inner,
                        struct ds_token_list *out)
{
    const uint32_t flags = DS_ENCODE_TEXT | (is_inner ? DS_ENCODE_INNER : 0);

    return ds_encoder_encode(w->encoder, w->name, w->run + from, to - from, flags, out);
}

/* Both sides of the seam as they are by themselves, in place of what is there from `begin` on. */
static ds_status encode_apart(struct sample_writer *w, size_t begin, int is_inner)
{
    w->ids.count = begin;
    DS_TRY(encode(w, 0, w->seam, is_inner, &w->ids));
    DS_TRY(mark(w, begin, 0));
    const size_t middle = w->ids.count;
    DS_TRY(encode(w, w->seam, w->run_bytes, 1, &w->ids));
    return mark(w, middle, 1);
}

/* The seam lies in the run: is it between two of its tokens? */
static ds_status encode_with_seam(struct sample_writer *w, size_t begin, int is_inner)
{
    size_t prefix;

    w->scratch.count = 0;
    DS_TRY(encode(w, 0, w->seam, is_inner, &w->scratch));
    prefix = w->scratch.count;
    DS_TRY(encode(w, 0, w->run_bytes, is_inner, &w->ids));
    if (w->ids.count - begin < prefix ||
        (prefix > 0 &&
         memcmp(w->ids.ids + begin, w->scratch.ids, prefix * sizeof *w->scratch.ids) != 0))
        return encode_apart(w, begin, is_inner);
    DS_TRY(mark(w, begin + prefix, 1));
    for (size_t i = begin; i < begin + prefix; i++)
        w->learned[i] = w->learns_all != 0;
    return DS_OK;
}

static ds_status flush(struct sample_writer *w)
{
    const size_t begin = w->ids.count;
    const int is_inner = begin > w->text_begin;

    if (w->run_bytes > 0 && w->seam > 0 && w->seam < w->run_bytes) {
        DS_TRY(encode_with_seam(w, begin, is_inner));
    } else if (w->run_bytes > 0) {
        DS_TRY(encode(w, 0, w->run_bytes, is_inner, &w->ids));
        DS_TRY(mark(w, begin, w->seam == 0));
    }
    w->run_bytes = 0;
    w->seam = SIZE_MAX;
    return DS_OK;
}

/* ---- pieces */

ds_status sample_begin(struct sample_writer *w, int has_bos)
{
    const struct ds_tokenizer_marks marks = ds_tokenizer_marks(w->tokenizer);

    w->begin = w->ids.count;
    w->run_bytes = 0;
    w->seam = SIZE_MAX;
    w->end_count = 0;
    if (has_bos && marks.has_bos)
        DS_TRY(add_id(w, marks.bos, 0));
    w->text_begin = w->ids.count;
    return DS_OK;
}

ds_status sample_text(struct sample_writer *w, struct row_text text)
{
    return add_to_run(w, text.at, text.bytes);
}

/* How many bytes a token takes that `text` begins with: of a template, {bos}, {eos} or an added token. `has_id` 0:
 * the tokenizer has no such mark. */
static size_t match_template(const struct sample_writer *w, const char *text, size_t bytes,
                             uint32_t *id, int *has_id)
{
    const struct ds_tokenizer_marks marks = ds_tokenizer_marks(w->tokenizer);

    *has_id = 1;
    if (bytes >= 5 && memcmp(text, "{bos}", 5) == 0) {
        *id = marks.bos;
        *has_id = marks.has_bos;
        return 5;
    }
    if (bytes >= 5 && memcmp(text, "{eos}", 5) == 0) {
        *id = marks.eos;
        *has_id = marks.has_eos;
        return 5;
    }
    return ds_tokenizer_match_added(w->tokenizer, text, bytes, id);
}

static ds_status add_template(struct sample_writer *w, const char *text, size_t bytes,
                              int is_learned)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t id = 0;
        int has_id;
        const size_t length = match_template(w, text + at, bytes - at, &id, &has_id);

        if (length == 0)
            DS_TRY(add_to_run(w, text + at, 1));
        else
            DS_TRY(flush(w));
        if (length > 0 && has_id)
            DS_TRY(add_id(w, id, is_learned));
        if (is_learned && w->seam > w->run_bytes)
            w->seam = 0; /* behind a token of an end its text goes on */
        at += length ? length : 1;
    }
    return DS_OK;
}

ds_status sample_template(struct sample_writer *w, const char *text, size_t bytes)
{
    return add_template(w, text, bytes, 0);
}

static int is_control(const struct sample_writer *w, uint32_t id)
{
    for (size_t i = 0; i < w->control_count; i++)
        if (w->control[i] == id)
            return 1;
    return ds_tokenizer_is_special(w->tokenizer, id);
}

ds_status sample_answer(struct sample_writer *w, struct row_text text, int is_learned)
{
    if (is_learned)
        w->seam = w->run_bytes;
    return sample_answer_more(w, text, is_learned);
}

ds_status sample_answer_more(struct sample_writer *w, struct row_text text, int is_learned)
{
    for (size_t at = 0, from = 0; at < text.bytes;) {
        uint32_t id = 0;
        const size_t length =
            ds_tokenizer_match_added(w->tokenizer, text.at + at, text.bytes - at, &id);

        at += length ? length : 1;
        if (length > 0 && !is_control(w, id)) {
            DS_TRY(add_to_run(w, text.at + from, at - length - from));
            DS_TRY(flush(w));
            DS_TRY(add_id(w, id, is_learned));
            w->seam = is_learned ? 0 : SIZE_MAX;
            from = at;
        }
        if (at >= text.bytes)
            DS_TRY(add_to_run(w, text.at + from, text.bytes - from));
    }
    return DS_OK;
}

/* Not so where it is nothing but marks that the tokenizer has not. */
static int says_something(const struct sample_writer *w, const char *text)
{
    for (size_t at = 0, bytes = strlen(text); at < bytes;) {
        uint32_t id;
        int has_id;
        const size_t length = match_template(w, text + at, bytes - at, &id, &has_id);

        if (length == 0 || has_id)
            return 1;
        at += length;
    }
    return 0;
}

ds_status sample_end(struct sample_writer *w, const char *text, int is_learned)
{
    DS_TRY(add_template(w, text, strlen(text), is_learned));
    DS_TRY(flush(w));
    w->end_count += says_something(w, text) && (is_learned || w->learns_all);
    return DS_OK;
}

void sample_drop(struct sample_writer *w)
{
    w->ids.count = w->begin;
    w->run_bytes = 0;
}

/* The first token is nobody's target. */
ds_status sample_finish(struct sample_writer *w, uint64_t *learned_count)
{
    uint64_t count = 0;
    size_t end = w->begin;

    DS_TRY(flush(w));
    for (size_t i = w->begin + 1; i < w->ids.count; i++)
        if (w->learned[i]) {
            count++;
            end = i + 1;
        }
    w->ids.count = end;
    *learned_count = count;
    return DS_OK;
}

void sample_writer_fini(struct sample_writer *w)
{
    ds_token_list_fini(&w->ids);
    ds_token_list_fini(&w->scratch);
    free(w->learned);
    free(w->run);
    *w = (struct sample_writer){0};
}
