/* normalize.c - Unicode's normal forms by utf8proc, something put in front, something replaced.
 *
 * A normal form changes characters only near those that are not ASCII, so text goes to utf8proc in runs of
 * these, with the one character before them, which a mark may join. */
#include "normalize.h"

#include "part.h"

#include <string.h>
#include <utf8proc.h>

/* ---- from the file */

static ds_status load_prepend(const char *name, const json_t *json, struct tok_normal_step *step)
{
    struct tok_text content;

    step->kind = TOK_NORMAL_PREPEND;
    DS_TRY(tok_part_text(name, json, "prepend", &content));
    return tok_buffer_add(&step->content, content);
}

static ds_status load_replace(const char *name, const json_t *json, struct tok_normal_step *step)
{
    struct tok_text content;

    step->kind = TOK_NORMAL_REPLACE;
    DS_TRY(tok_part_pattern(name, json, &step->pattern));
    DS_TRY(tok_part_text(name, json, "content", &content));
    return tok_buffer_add(&step->content, content);
}

static const struct {
    const char *type;
    int form;
    ds_status (*load)(const char *name, const json_t *json, struct tok_normal_step *step);
} kinds[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE, NULL},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, NULL},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT, NULL},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, NULL},
    {"Prepend", 0, load_prepend},
    {"Replace", 0, load_replace},
};

static ds_status load_step(const char *name, const json_t *json, void *user)
{
    struct tok_normalizer *out = user;
    struct tok_normal_step *step = &out->steps[out->count];
    const char *type = "";

    DS_TRY(tok_part_type(name, json, "normalizer", &type));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(type, kinds[i].type) != 0)
            continue;
        if (out->count == TOK_NORMAL_STEPS_MAX)
            return ds_fail(DS_ERR_DATA, "%s: normalizer: more than %d steps", name,
                           TOK_NORMAL_STEPS_MAX);
        out->count++;
        *step = (struct tok_normal_step){.kind = TOK_NORMAL_FORM, .form = kinds[i].form};
        return kinds[i].load ? kinds[i].load(name, json, step) : DS_OK;
    }
    return tok_part_unknown(name, "normalizer", type,
                            "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
}

ds_status tok_normalizer_load(const char *name, const json_t *json, struct tok_normalizer *out)
{
    return tok_part_each(name, json, "normalizer", "normalizers", load_step, out);
}

void tok_normalizer_fini(struct tok_normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->count; i++) {
        tok_pattern_fini(&normalizer->steps[i].pattern);
        tok_buffer_fini(&normalizer->steps[i].content);
    }
    normalizer->count = 0;
}

void tok_normal_scratch_fini(struct tok_normal_scratch *scratch)
{
    tok_buffer_fini(&scratch->texts[0]);
    tok_buffer_fini(&scratch->texts[1]);
    tok_form_scratch_fini(&scratch->form);
    *scratch = (struct tok_normal_scratch){0};
}

/* ---- the steps. Each adds what becomes of `text` to `to`. */

/* The end of the ASCII at `at`. */
static size_t ascii_end(struct tok_text text, size_t at)
{
    while (at < text.bytes && text.at[at] < 0x80)
        at++;
    return at;
}

static ds_status step_form(int form, struct tok_normal_scratch *scratch, struct tok_text text,
                           struct tok_buffer *to)
{
    size_t done = 0;

    for (size_t at = ascii_end(text, 0); at < text.bytes;) {
        const size_t start = at > done ? at - 1 : at;

        DS_TRY(tok_buffer_add(to, (struct tok_text){text.at + done, start - done}));
        while (at < text.bytes && text.at[at] >= 0x80)
            at++;
        DS_TRY(tok_normal_form(form, &scratch->form, (struct tok_text){text.at + start, at - start},
                               to));
        done = at;
        at = ascii_end(text, at);
    }
    return tok_buffer_add(to, (struct tok_text){text.at + done, text.bytes - done});
}

static ds_status step_replace(const struct tok_normal_step *step, struct tok_matcher *matcher,
                              struct tok_text text, struct tok_buffer *to)
{
    const struct tok_text content = {step->content.at, step->content.count};
    struct tok_match match;
    size_t done = 0, from = 0;

    while (from <= text.bytes) {
        DS_TRY(tok_match(matcher, &step->pattern, text, from, &match));
        if (!match.is_found)
            break;
        if (match.end == match.start) /* nothing is replaced by something in no tokenizer */
            return ds_fail(DS_ERR_DATA, "normalizer: Replace matches no text at all");
        DS_TRY(tok_buffer_add(to, (struct tok_text){text.at + done, match.start - done}));
        DS_TRY(tok_buffer_add(to, content));
        done = from = match.end;
    }
    return tok_buffer_add(to, (struct tok_text){text.at + done, text.bytes - done});
}

static ds_status run_step(const struct tok_normal_step *step, struct tok_matcher *matcher,
                          struct tok_normal_scratch *scratch, struct tok_text text,
                          struct tok_buffer *to)
{
    switch (step->kind) {
    case TOK_NORMAL_FORM:
        return step_form(step->form, scratch, text, to);
    case TOK_NORMAL_PREPEND:
        DS_TRY(tok_buffer_add(to, (struct tok_text){step->content.at, step->content.count}));
        return tok_buffer_add(to, text);
    default:
        return step_replace(step, matcher, text, to);
    }
}

ds_status tok_normalize(const struct tok_normalizer *normalizer, struct tok_matcher *matcher,
                        struct tok_normal_scratch *scratch, struct tok_text text,
                        struct tok_text *out)
{
    size_t which = 0;

    for (size_t i = 0; i < normalizer->count && text.bytes > 0; i++) {
        const struct tok_normal_step *step = &normalizer->steps[i];
        struct tok_buffer *to = &scratch->texts[which];

        if (step->kind == TOK_NORMAL_FORM && ascii_end(text, 0) == text.bytes)
            continue;
        to->count = 0;
        DS_TRY(run_step(step, matcher, scratch, text, to));
        text = (struct tok_text){to->at, to->count};
        which = 1 - which;
    }
    *out = text;
    return DS_OK;
}
