/* corpus.c - finds the files of a source and says what makes them what they are. */
#include "corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Part of every fingerprint: the tokenizer and the version of what is written. */
static const char format_tag[] = "bytes bos eos v1";

static ds_status add_file(struct corpus *corpus, const char *path, const struct ds_fs_stat *stat)
{
    struct corpus_file *more = realloc(corpus->files, (corpus->count + 1) * sizeof *more);

    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu files", corpus->count + 1);
    corpus->files = more;
    more[corpus->count] = (struct corpus_file){strdup(path), stat->bytes, stat->mtime_ns};
    if (!more[corpus->count].path)
        return ds_fail(DS_ERR_NO_MEMORY, "a path");
    corpus->count++;
    corpus->bytes += stat->bytes;
    return DS_OK;
}

static ds_status add_directory(struct ds_fs *fs, const char *source, struct corpus *corpus)
{
    char **names = NULL, path[4352];
    size_t count = 0;
    ds_status st = DS_OK;
    int code = ds_fs_readdir(fs, source, &names, &count);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this directory: %s", source, strerror(-code));
    for (size_t i = 0; i < count && st == DS_OK; i++) {
        struct ds_fs_stat stat;
        snprintf(path, sizeof path, "%s/%s", source, names[i]);
        if (names[i][0] != '.' && ds_fs_stat(fs, path, &stat) == 0 && stat.is_regular &&
            stat.bytes > 0)
            st = add_file(corpus, path, &stat);
    }
    free(names);
    return st;
}

ds_status corpus_list(struct ds_fs *fs, const char *source, struct corpus *out)
{
    struct corpus corpus = {0};
    struct ds_fs_stat stat;
    ds_status st;
    int code = ds_fs_stat(fs, source, &stat);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this text: %s", source, strerror(-code));
    st = stat.is_directory ? add_directory(fs, source, &corpus) : add_file(&corpus, source, &stat);
    if (st == DS_OK && corpus.bytes == 0)
        st = ds_fail(DS_ERR_DATA, "%s: no text: %s", source,
                     stat.is_directory ? "the directory has no file that is not empty or hidden"
                                       : "the file is empty");
    if (st != DS_OK) {
        corpus_fini(&corpus);
        return st;
    }
    *out = corpus;
    return DS_OK;
}

void corpus_fini(struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++)
        free(corpus->files[i].path);
    free(corpus->files);
    *corpus = (struct corpus){0};
}

uint64_t corpus_fingerprint(const struct corpus *corpus)
{
    uint64_t hash = XXH3_64bits(format_tag, sizeof format_tag);

    for (size_t i = 0; i < corpus->count; i++) {
        const struct corpus_file *file = &corpus->files[i];
        const uint64_t numbers[2] = {file->bytes, file->mtime_ns};
        hash = XXH3_64bits_withSeed(file->path, strlen(file->path), hash);
        hash = XXH3_64bits_withSeed(numbers, sizeof numbers, hash);
    }
    return hash;
}
