/* pattern.c - compiles what pattern_write.c wrote, and matches it, through the compiler of PCRE2 where the
 * system lets programs make code, else through its interpreter. Steps and memory of a match are limited, so a
 * pattern that was made to take for ever fails. */
#include "pattern.h"

#include "pattern_write.h"

#include <stdio.h>

enum { STACK_BYTES_FIRST = 32 << 10, STACK_BYTES_MAX = 8 << 20, HEAP_KIB_MAX = 256 << 10 };

static ds_status refuse(const char *name, struct tok_text regex, const char *why)
{
    return ds_fail(DS_ERR_DATA, "%s: regular expression '%.80s': %s", name,
                   regex.bytes ? (const char *)regex.at : "", why);
}

static ds_status compile(const char *name, struct tok_text regex, struct tok_text written,
                         struct tok_pattern *out)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    char why[TOK_PATTERN_WHY_BYTES];
    PCRE2_SIZE where = 0;
    int code = 0;

    if (!context)
        return ds_fail(DS_ERR_NO_MEMORY, "a regular expression");
    (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    out->code = pcre2_compile(written.bytes ? written.at : (const uint8_t *)"", written.bytes,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C |
                                  PCRE2_NO_UTF_CHECK,
                              &code, &where, context);
    pcre2_compile_context_free(context);
    if (!out->code && code == PCRE2_ERROR_NOMEMORY)
        return ds_fail(DS_ERR_NO_MEMORY, "a regular expression");
    if (!out->code) {
        (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return refuse(name, regex, why);
    }
    (void)pcre2_jit_compile(out->code,
                            PCRE2_JIT_COMPLETE); /* where it fails, matching interprets */
    return DS_OK;
}

ds_status tok_pattern_compile(const char *name, struct tok_text regex, struct tok_pattern *out)
{
    struct tok_buffer written = {0};
    char why[TOK_PATTERN_WHY_BYTES];
    ds_status st = tok_pattern_write(regex, &written, why);

    if (st == DS_OK)
        st = why[0] ? refuse(name, regex, why)
                    : compile(name, regex, (struct tok_text){written.at, written.count}, out);
    tok_buffer_fini(&written);
    return st;
}

ds_status tok_pattern_literal(const char *name, struct tok_text text, struct tok_pattern *out)
{
    struct tok_buffer written = {0};
    ds_status st = DS_OK;

    for (size_t i = 0; i < text.bytes && st == DS_OK; i++) {
        const uint8_t c = text.at[i];
        const int is_plain =
            c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        char code[8];

        snprintf(code, sizeof code, is_plain ? "%c" : "\\x{%02x}", c);
        for (const char *at = code; *at && st == DS_OK; at++)
            st = tok_buffer_add(&written, (struct tok_text){(const uint8_t *)at, 1});
    }
    if (st == DS_OK)
        st = compile(name, text, (struct tok_text){written.at, written.count}, out);
    tok_buffer_fini(&written);
    return st;
}

void tok_pattern_fini(struct tok_pattern *pattern)
{
    pcre2_code_free(pattern->code);
    pattern->code = NULL;
}

ds_status tok_matcher_init(struct tok_matcher *matcher)
{
    *matcher = (struct tok_matcher){
        .context = pcre2_match_context_create(NULL),
        .stack = pcre2_jit_stack_create(STACK_BYTES_FIRST, STACK_BYTES_MAX, NULL),
        .data = pcre2_match_data_create(1, NULL)};
    if (!matcher->context || !matcher->data) {
        tok_matcher_fini(matcher);
        return ds_fail(DS_ERR_NO_MEMORY, "to match regular expressions");
    }
    (void)pcre2_set_heap_limit(matcher->context, HEAP_KIB_MAX);
    if (matcher->stack) /* NULL where code cannot be made: then nobody needs it */
        pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    return DS_OK;
}

void tok_matcher_fini(struct tok_matcher *matcher)
{
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    *matcher = (struct tok_matcher){0};
}

static ds_status failed_match(size_t from, int code)
{
    char why[TOK_PATTERN_WHY_BYTES];

    if (code == PCRE2_ERROR_NOMEMORY)
        return ds_fail(DS_ERR_NO_MEMORY, "to match a regular expression");
    (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return ds_fail(DS_ERR_DATA,
                   "the tokenizer's regular expression fails at byte %zu of a piece of text: %s",
                   from, why);
}

ds_status tok_match(struct tok_matcher *matcher, const struct tok_pattern *pattern,
                    struct tok_text text, size_t from, struct tok_match *out)
{
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(matcher->data);
    int code = pcre2_match(pattern->code, text.at, text.bytes, from, PCRE2_NO_UTF_CHECK,
                           matcher->data, matcher->context);

    if (code == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter's stack is the heap */
        code = pcre2_match(pattern->code, text.at, text.bytes, from,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->data, matcher->context);
    if (code < PCRE2_ERROR_NOMATCH)
        return failed_match(from, code);
    *out = (struct tok_match){.is_found = code >= 0};
    if (code >= 0) {
        DS_ASSERT(place[0] >= from && place[0] <= place[1] && place[1] <= text.bytes);
        out->start = place[0];
        out->end = place[1];
    }
    return DS_OK;
}
