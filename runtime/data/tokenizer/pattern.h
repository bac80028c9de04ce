/* pattern.h (private) - the regular expressions of a tokenizer.json, which are written for Oniguruma, run by
 * PCRE2. */
#ifndef DSTRAIN_TOKENIZER_PATTERN_H
#define DSTRAIN_TOKENIZER_PATTERN_H

#include "text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct tok_pattern { /* const once compiled, for any number of threads */
    pcre2_code *code;
};
/* DS_ERR_DATA begins with `name`: not a pattern, or one that the two would not read alike. */
DS_CHECKED ds_status tok_pattern_compile(const char *name, struct tok_text regex,
                                         struct tok_pattern *out);
/* matches `text` itself */
DS_CHECKED ds_status tok_pattern_literal(const char *name, struct tok_text text,
                                         struct tok_pattern *out);
void tok_pattern_fini(struct tok_pattern *pattern);

/* What one thread needs to match. */
struct tok_matcher {
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    pcre2_match_data *data;
};
DS_CHECKED ds_status tok_matcher_init(struct tok_matcher *matcher);
void tok_matcher_fini(struct tok_matcher *matcher);

struct tok_match {
    size_t start, end;
    int is_found;
};
/* The first match of valid text at or behind `from`. DS_ERR_DATA: it takes too many steps. */
DS_CHECKED ds_status tok_match(struct tok_matcher *matcher, const struct tok_pattern *pattern,
                               struct tok_text text, size_t from, struct tok_match *out);

#endif
