/* text.c - appending. */
#include "text.h"

#include "dstrain/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void text_add(struct text *text, const char *from, size_t bytes)
{
    text->is_full |= bytes > text->capacity - text->bytes;
    if (text->is_full)
        return;
    memcpy(text->at + text->bytes, from, bytes);
    text->bytes += bytes;
}

void text_put(struct text *text, const char *format, ...)
{
    char line[1024];
    va_list args;

    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    DS_ASSERT(length >= 0 && (size_t)length < sizeof line);
    text_add(text, line, (size_t)length);
}
