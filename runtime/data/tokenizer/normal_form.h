/* normal_form.h (private) - Unicode's normal forms of a piece of text. */
#ifndef DSTRAIN_TOKENIZER_NORMAL_FORM_H
#define DSTRAIN_TOKENIZER_NORMAL_FORM_H

#include "text.h"

struct tok_form_scratch { /* one thread's; {0} is an empty one */
    int32_t *codes, *sorted;
    size_t capacity, sorted_capacity;
};
void tok_form_scratch_fini(struct tok_form_scratch *scratch);

/* Adds the normal form of valid text; `options` are utf8proc's. */
DS_CHECKED ds_status tok_normal_form(int options, struct tok_form_scratch *scratch,
                                     struct tok_text text, struct tok_buffer *to);

#endif
