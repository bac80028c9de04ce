/* pattern_write.h (private) - one dialect of regular expressions into another. */
#ifndef DSTRAIN_TOKENIZER_PATTERN_WRITE_H
#define DSTRAIN_TOKENIZER_PATTERN_WRITE_H

#include "text.h"

enum { TOK_PATTERN_WHY_BYTES = 160 };

/* Oniguruma's `regex` (valid UTF-8) as PCRE2 has to be told it. `why` says what cannot be, "" where all can. */
DS_CHECKED ds_status tok_pattern_write(struct tok_text regex, struct tok_buffer *to,
                                       char why[TOK_PATTERN_WHY_BYTES]);

#endif
