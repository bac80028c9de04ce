/* encoding.h (private) - the texts of a corpus as token ids in a file, before it is known how many there are. */
#ifndef DSTRAIN_DATA_ENCODING_H
#define DSTRAIN_DATA_ENCODING_H

#include "corpus.h"

struct encoding {
    struct ds_fs *fs;
    const struct ds_tokenizer *tokenizer;
    const struct corpus *corpus;
    int replaces_invalid;
    int file;    /* ids go there from its beginning on, U16, or U32 where they do not fit */
    int is_wide; /* U32 */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* or NULL */
    void *user;
};
/* pure: an id of this tokenizer needs more than 16 bits */
int encoding_is_wide(const struct ds_tokenizer *tokenizer);
/* local: documents[i]: where each begins, and the last one ends */
DS_CHECKED ds_status encoding_run(const struct encoding *encoding, uint64_t *documents);

#endif
