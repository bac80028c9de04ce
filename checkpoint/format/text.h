/* text.h - a text that grows inside memory of a fixed size, and says when it did not fit. */
#ifndef CHECKPOINT_TEXT_H
#define CHECKPOINT_TEXT_H

#include <stddef.h>

struct text {
    char *at; /* no NUL is kept behind it */
    size_t bytes, capacity;
    int is_full; /* something did not fit; nothing is added any more */
};

void text_add(struct text *text, const char *from, size_t bytes);
void text_put(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
