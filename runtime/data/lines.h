/* lines.h (private) - the lines of a part of a file: those that begin in it. */
#ifndef DSTRAIN_DATA_LINES_H
#define DSTRAIN_DATA_LINES_H

#include "dstrain/fs.h"

struct line {
    const char *
        at; /* until the next call; without its line feed, the first one without a byte order mark */
    size_t bytes;
    int is_too_long; /* nothing of it is there */
};
struct line_reader {
    /* borrows */
    struct ds_fs *fs;
    const char *path;
    int file;
    /* plain values */
    uint64_t end;      /* lines that begin from here on are others' */
    uint64_t file_end; /* bytes of the file */
    uint64_t bytes_max;
    uint64_t offset; /* of the next line */
    uint64_t read_to;
    /* owns */
    char *buffer;
    size_t begin, count, capacity; /* of the buffer: what is not given out yet, what is there */
};
/* `begin`: of the part; the line in whose middle that is belongs to the part before. The caller has filled in what is
 * borrowed and the plain values but for the last two. */
DS_CHECKED ds_status line_reader_begin(struct line_reader *reader, uint64_t begin);
DS_CHECKED ds_status line_next(struct line_reader *reader, struct line *out, int *is_there);
/* pure: spaces alone */
int line_is_blank(const struct line *line);
void line_reader_fini(struct line_reader *reader);

#endif
