/* lines.c - reads lines of any length up to a limit; behind it a line is passed over in pieces. */
#include "lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 1 << 18 };

static ds_status grow(struct line_reader *r)
{
    const size_t capacity = 2 * r->capacity + PIECE_BYTES;
    char *more = realloc(r->buffer, capacity);

    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: a line of more than %zu bytes", r->path, r->capacity);
    r->buffer = more;
    r->capacity = capacity;
    return DS_OK;
}

/* Some more behind what is there; nothing at the end of the file. */
static ds_status read_more(struct line_reader *r, size_t *got)
{
    uint64_t left = r->file_end - r->read_to;
    int code;

    if (r->begin > 0) {
        memmove(r->buffer, r->buffer + r->begin, r->count - r->begin);
        r->count -= r->begin;
        r->begin = 0;
    }
    if (r->capacity - r->count < PIECE_BYTES)
        DS_TRY(grow(r));
    *got = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
    if (*got == 0)
        return DS_OK;
    code = ds_fs_read_all(r->fs, r->file, r->buffer + r->count, *got, r->read_to);
    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read byte %llu: %s", r->path,
                       (unsigned long long)r->read_to, strerror(-code));
    r->count += *got;
    r->read_to += *got;
    return DS_OK;
}

/* From the buffer's beginning to the next line feed, or to the file's end; `bytes`: with the line feed. What has grown too
 * long is let go. */
static ds_status find_end(struct line_reader *r, struct line *out, size_t *bytes)
{
    size_t seen = 0, got = 1;
    uint64_t gone = 0;

    while (got > 0) {
        const char *from = r->count > r->begin ? r->buffer + r->begin : NULL;
        const char *feed = from ? memchr(from + seen, '\n', r->count - r->begin - seen) : NULL;

        if (feed) {
            *out = (struct line){from, (size_t)(feed - from), gone > 0};
            *bytes = out->bytes + 1;
            r->offset += gone;
            return DS_OK;
        }
        seen = r->count - r->begin;
        if (seen > r->bytes_max) {
            gone += seen;
            r->begin = r->count = seen = 0;
        }
        DS_TRY(read_more(r, &got));
    }
    *out = (struct line){r->buffer + r->begin, r->count - r->begin, gone > 0};
    *bytes = out->bytes;
    r->offset += gone;
    return DS_OK;
}

/* What some editors put in front of a file. */
static void drop_mark(struct line *line)
{
    if (line->bytes >= 3 && memcmp(line->at, "\xef\xbb\xbf", 3) == 0) {
        line->at += 3;
        line->bytes -= 3;
    }
}

ds_status line_next(struct line_reader *r, struct line *out, int *is_there)
{
    const int is_first = r->offset == 0;
    size_t bytes = 0;

    *is_there = r->offset < r->end && r->offset < r->file_end;
    if (!*is_there)
        return DS_OK;
    DS_TRY(find_end(r, out, &bytes));
    out->is_too_long |= out->bytes > r->bytes_max;
    r->begin += bytes;
    r->offset += bytes;
    if (is_first)
        drop_mark(out);
    return DS_OK;
}

int line_is_blank(const struct line *line)
{
    for (size_t i = 0; i < line->bytes; i++)
        if (line->at[i] != ' ' && line->at[i] != '\t' && line->at[i] != '\r')
            return 0;
    return !line->is_too_long;
}

ds_status line_reader_begin(struct line_reader *r, uint64_t begin)
{
    const uint64_t end = r->end;
    struct line line;
    int is_there;

    r->offset = r->read_to = begin > 0 ? begin - 1 : 0;
    r->begin = r->count = 0;
    if (begin == 0)
        return DS_OK;
    r->end = UINT64_MAX;
    DS_TRY(line_next(r, &line, &is_there)); /* what is left of one that began before */
    r->end = end;
    return DS_OK;
}

void line_reader_fini(struct line_reader *r)
{
    free(r->buffer);
    r->buffer = NULL;
    r->begin = r->count = r->capacity = 0;
}
