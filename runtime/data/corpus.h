/* corpus.h (private) - the text files of a source, with what identifies them. */
#ifndef DSTRAIN_DATA_CORPUS_H
#define DSTRAIN_DATA_CORPUS_H

#include "dstrain/data.h"
#include "dstrain/tokenizer.h"

enum { CORPUS_PATH_BYTES = 4352 };

struct corpus_file {
    char *path;
    uint64_t bytes, mtime_ns;
};
struct corpus {
    struct corpus_file *files;
    size_t count;
    uint64_t bytes;
};

/* local: `source` itself, or the regular files in it that are neither hidden nor empty, sorted by name,
 * whatever they are called. Links are followed; directories below are not entered. */
DS_CHECKED ds_status corpus_list(struct ds_fs *fs, const char *source, struct corpus *out);
/* local: of a directory keep the files whose names end so. DS_ERR_DATA: there is none. */
DS_CHECKED ds_status corpus_keep_ending(const char *source, const char *ending,
                                        struct corpus *corpus);
void corpus_fini(struct corpus *corpus);
/* pure: changes when a file's path, size or time does, or the way tokens are made; tokenizer NULL: bytes */
uint64_t corpus_fingerprint(const struct corpus *corpus, const struct ds_tokenizer *tokenizer,
                            int replaces_invalid);
/* local: `handle` is the file as it was listed? Asked after reading, so that a change before or meanwhile is
 * seen; DS_ERR_DATA: it is not. */
DS_CHECKED ds_status corpus_check_unchanged(struct ds_fs *fs, const struct corpus_file *file,
                                            int handle);
/* local: all of it, as it was listed */
DS_CHECKED ds_status corpus_read(struct ds_fs *fs, const struct corpus_file *file, uint8_t *to);
/* always DS_ERR_DATA */
DS_CHECKED ds_status corpus_changed(const char *path);

#endif
