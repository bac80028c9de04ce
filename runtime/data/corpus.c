/* corpus.c - finds the files of a source and says what makes them what they are. */
#include "corpus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Of the byte tokenizer, part of every fingerprint, with the version of what is written. */
static const char format_tag[] = "bytes bos eos v2";

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

/* A name in the directory that cannot be looked at fails: a text left out quietly would not be missed. */
static ds_status add_name(struct ds_fs *fs, const char *source, const char *name,
                          struct corpus *corpus)
{
    char path[CORPUS_PATH_BYTES];
    struct ds_fs_stat stat;
    int length, code;

    if (name[0] == '.')
        return DS_OK;
    length = snprintf(path, sizeof path, "%s/%s", source, name);
    code = (size_t)length < sizeof path ? ds_fs_stat(fs, path, &stat) : -ENAMETOOLONG;
    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s/%s: cannot read this text: %s", source, name,
                       strerror(-code));
    return stat.is_regular && stat.bytes > 0 ? add_file(corpus, path, &stat) : DS_OK;
}

static ds_status add_directory(struct ds_fs *fs, const char *source, struct corpus *corpus)
{
    char **names = NULL;
    size_t count = 0;
    ds_status st = DS_OK;
    int code = ds_fs_readdir(fs, source, &names, &count);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this directory: %s", source, strerror(-code));
    for (size_t i = 0; i < count && st == DS_OK; i++)
        st = add_name(fs, source, names[i], corpus);
    free(names);
    if (st == DS_OK && corpus->count == 0)
        st = ds_fail(DS_ERR_DATA,
                     "%s: no text: this directory has no regular file that is neither empty nor "
                     "hidden",
                     source);
    return st;
}

static ds_status add_source(struct ds_fs *fs, const char *source, struct corpus *corpus)
{
    struct ds_fs_stat stat;
    int code = ds_fs_stat(fs, source, &stat);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this text: %s", source, strerror(-code));
    if (stat.is_directory)
        return add_directory(fs, source, corpus);
    if (!stat.is_regular)
        return ds_fail(DS_ERR_DATA, "%s: neither a regular file nor a directory", source);
    if (stat.bytes == 0)
        return ds_fail(DS_ERR_DATA, "%s: no text: this file is empty", source);
    return add_file(corpus, source, &stat);
}

ds_status corpus_list(struct ds_fs *fs, const char *source, struct corpus *out)
{
    struct corpus corpus = {0};
    ds_status st = add_source(fs, source, &corpus);

    if (st != DS_OK) {
        corpus_fini(&corpus);
        return st;
    }
    *out = corpus;
    return DS_OK;
}

static int ends_with(const char *path, const char *ending)
{
    const size_t length = strlen(path), wanted = strlen(ending);

    return length >= wanted && strcmp(path + length - wanted, ending) == 0;
}

ds_status corpus_keep_ending(const char *source, const char *ending, struct corpus *corpus)
{
    size_t kept = 0;

    if (corpus->count == 1 && strcmp(corpus->files[0].path, source) == 0)
        return DS_OK;
    for (size_t i = 0; i < corpus->count; i++) {
        struct corpus_file *file = &corpus->files[i];
        if (ends_with(file->path, ending)) {
            corpus->files[kept++] = *file;
            continue;
        }
        corpus->bytes -= file->bytes;
        free(file->path);
    }
    corpus->count = kept;
    return kept ? DS_OK
                : ds_fail(DS_ERR_DATA, "%s: no *%s file in this directory that is not empty",
                          source, ending);
}

void corpus_fini(struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++)
        free(corpus->files[i].path);
    free(corpus->files);
    *corpus = (struct corpus){0};
}

static uint64_t seed_of(const struct ds_tokenizer *tokenizer, int replaces_invalid)
{
    const uint64_t ways[2] = {tokenizer ? ds_tokenizer_fingerprint(tokenizer) : 0,
                              replaces_invalid != 0};

    return tokenizer ? XXH3_64bits(ways, sizeof ways) : XXH3_64bits(format_tag, sizeof format_tag);
}

uint64_t corpus_fingerprint(const struct corpus *corpus, const struct ds_tokenizer *tokenizer,
                            int replaces_invalid)
{
    uint64_t hash = seed_of(tokenizer, replaces_invalid);

    for (size_t i = 0; i < corpus->count; i++) {
        const struct corpus_file *file = &corpus->files[i];
        const uint64_t numbers[2] = {file->bytes, file->mtime_ns};
        hash = XXH3_64bits_withSeed(file->path, strlen(file->path), hash);
        hash = XXH3_64bits_withSeed(numbers, sizeof numbers, hash);
    }
    return hash;
}

ds_status corpus_changed(const char *path)
{
    return ds_fail(DS_ERR_DATA,
                   "%s: changed while it was being prepared; start again when nothing writes to it",
                   path);
}

ds_status corpus_check_unchanged(struct ds_fs *fs, const struct corpus_file *file, int handle)
{
    struct ds_fs_stat stat;
    int code = ds_fs_fstat(fs, handle, &stat);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot look at this text: %s", file->path,
                       strerror(-code));
    return stat.bytes == file->bytes && stat.mtime_ns == file->mtime_ns
               ? DS_OK
               : corpus_changed(file->path);
}

ds_status corpus_read(struct ds_fs *fs, const struct corpus_file *file, uint8_t *to)
{
    const int handle = ds_fs_open(fs, file->path, DS_FS_READ, 0);
    ds_status st;
    int code;

    if (handle < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this text: %s", file->path, strerror(-handle));
    code = ds_fs_read_all(fs, handle, to, file->bytes, 0);
    st = corpus_check_unchanged(fs, file, handle); /* shorter now? then this is the reason */
    if (st == DS_OK && code < 0)
        st = ds_fail(DS_ERR_DATA, "%s: cannot read this text: %s", file->path, strerror(-code));
    (void)ds_fs_close(fs, handle);
    return st;
}
