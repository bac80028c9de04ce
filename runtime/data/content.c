/* content.c - what files hold, as one digest, wherever they lie and whatever leads there. Says nothing: who needs the files
 * says what is wrong with them. */
#include "corpus.h"

#include "dstrain/data.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Read of a source at most, and a piece more of each file. What is larger is looked at in pieces that lie equally far
 * apart: to read a corpus or a large model would take minutes at every start. */
enum { PIECE_BYTES = 64 << 10 };
#define READ_BYTES (64ull << 20)

struct walk {
    struct ds_fs *fs;
    uint64_t total_bytes, stride; /* stride 0: only the bytes are counted */
    uint8_t *piece;
    struct ds_digest digest;
};

static void add(struct walk *w, const void *data, size_t bytes)
{
    const struct ds_digest both[2] = {w->digest, ds_digest_of(data, bytes)};

    w->digest = ds_digest_of(both, sizeof both);
}

static int add_pieces(struct walk *w, int file, uint64_t bytes)
{
    int code = 0;

    add(w, &bytes, sizeof bytes);
    for (uint64_t at = 0; at < bytes && code == 0; at += w->stride) {
        const uint64_t left = bytes - at;
        const size_t count = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;

        code = ds_fs_read_all(w->fs, file, w->piece, count, at);
        if (code == 0)
            add(w, w->piece, count);
    }
    return code;
}

static int add_file(struct walk *w, const char *path, uint64_t bytes)
{
    int file, code;

    w->total_bytes += bytes;
    if (w->stride == 0)
        return 0;
    file = ds_fs_open(w->fs, path, DS_FS_READ, 0);
    if (file < 0)
        return file;
    code = add_pieces(w, file, bytes);
    (void)ds_fs_close(w->fs, file);
    return code;
}

static int add_folder(struct walk *w, const char *folder)
{
    char path[CORPUS_PATH_BYTES], **names = NULL;
    struct ds_fs_stat stat;
    size_t count = 0;
    int code = ds_fs_readdir(w->fs, folder, &names, &count);

    for (size_t i = 0; i < count && code == 0; i++) {
        if (names[i][0] == '.')
            continue;
        const int length = snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        code = (size_t)length < sizeof path ? ds_fs_stat(w->fs, path, &stat) : -ENAMETOOLONG;
        if (code == 0 && stat.is_regular && stat.bytes > 0)
            code = add_file(w, path, stat.bytes);
    }
    free(names);
    return code;
}

static int add_source(struct walk *w, const char *source)
{
    struct ds_fs_stat stat;
    const int code = ds_fs_stat(w->fs, source, &stat);

    if (code < 0)
        return code;
    if (stat.is_directory)
        return add_folder(w, source);
    return stat.is_regular ? add_file(w, source, stat.bytes) : -EINVAL;
}

int ds_data_content(struct ds_fs *fs, const char *source, struct ds_digest *out)
{
    struct walk w = {.fs = fs, .piece = malloc(PIECE_BYTES), .digest = ds_digest_of("", 0)};
    int code = w.piece ? add_source(&w, source) : -ENOMEM;

    w.stride = (w.total_bytes / READ_BYTES + 1) * PIECE_BYTES;
    if (code == 0)
        code = add_source(&w, source);
    free(w.piece);
    if (code == 0)
        *out = w.digest;
    return code;
}
