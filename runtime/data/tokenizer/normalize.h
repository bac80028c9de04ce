/* normalize.h (private) - what happens to text before it is cut into words. */
#ifndef DSTRAIN_TOKENIZER_NORMALIZE_H
#define DSTRAIN_TOKENIZER_NORMALIZE_H

#include "normal_form.h"
#include "pattern.h"

#include "dstrain/json.h"

enum { TOK_NORMAL_STEPS_MAX = 8 };

enum tok_normal_kind { TOK_NORMAL_FORM, TOK_NORMAL_PREPEND, TOK_NORMAL_REPLACE };
struct tok_normal_step {
    enum tok_normal_kind kind;
    int form; /* FORM: utf8proc's options */
    /* owns */
    struct tok_pattern pattern; /* REPLACE */
    struct tok_buffer content;  /* PREPEND, REPLACE: by this */
};
struct tok_normalizer { /* {0}: nothing changes */
    struct tok_normal_step steps[TOK_NORMAL_STEPS_MAX];
    size_t count;
};
/* `json` is the "normalizer" of the file, or NULL */
DS_CHECKED ds_status tok_normalizer_load(const char *name, const json_t *json,
                                         struct tok_normalizer *out);
void tok_normalizer_fini(struct tok_normalizer *normalizer);

struct tok_normal_scratch { /* one thread's; {0} is an empty one */
    struct tok_buffer texts[2];
    struct tok_form_scratch form;
};
void tok_normal_scratch_fini(struct tok_normal_scratch *scratch);

/* `*out` is `text` where nothing changes, else in the scratch until the next call. */
DS_CHECKED ds_status tok_normalize(const struct tok_normalizer *normalizer,
                                   struct tok_matcher *matcher, struct tok_normal_scratch *scratch,
                                   struct tok_text text, struct tok_text *out);

#endif
