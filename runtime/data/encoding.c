/* encoding.c - encodes a corpus, file by file. A file is read and encoded as a whole; its ids leave in pieces, and
 * with each of them comes a sign of life. */
#include "encoding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct run {
    const struct encoding *encoding;
    uint64_t written, done_bytes; /* tokens; bytes of whole files */
};

int encoding_is_wide(const struct ds_tokenizer *tokenizer)
{
    return ds_tokenizer_id_end(tokenizer) > UINT16_MAX + 1u;
}

/* To 16 bits in the same place. */
static void narrow(struct ds_token_list *list)
{
    uint16_t *to = (uint16_t *)(void *)list->ids;

    for (size_t i = 0; i < list->count; i++) {
        const uint32_t id = list->ids[i];
        const uint16_t short_id = (uint16_t)id;
        memcpy(to + i, &short_id, sizeof short_id);
    }
}

/* ds_token_drain */
static ds_status write_out(void *user, struct ds_token_list *list)
{
    struct run *run = user;
    const struct encoding *encoding = run->encoding;
    const size_t id_bytes = encoding->is_wide ? sizeof(uint32_t) : sizeof(uint16_t);
    int code;

    if (!encoding->is_wide)
        narrow(list);
    code = list->count ? ds_fs_write_all(encoding->fs, encoding->file, list->ids,
                                         list->count * id_bytes, run->written * id_bytes)
                       : 0;
    if (code < 0)
        return ds_fail(DS_ERR_IO, "writing token ids: %s", strerror(-code));
    run->written += list->count;
    list->count = 0;
    if (encoding->progress)
        encoding->progress(encoding->user, run->done_bytes, encoding->corpus->bytes);
    return DS_OK;
}

static ds_status encode_text(struct run *run, struct ds_encoder *encoder,
                             const struct corpus_file *file, const uint8_t *text,
                             struct ds_token_list *list)
{
    const struct ds_tokenizer_marks marks = ds_tokenizer_marks(run->encoding->tokenizer);
    const uint32_t flags = run->encoding->replaces_invalid ? DS_ENCODE_REPLACE : 0;

    if (marks.has_bos)
        DS_TRY(ds_token_list_add(list, marks.bos));
    DS_TRY(ds_encoder_stream(encoder, file->path, text, file->bytes, flags, write_out, run, list));
    if (marks.has_eos)
        DS_TRY(ds_token_list_add(list, marks.eos));
    run->done_bytes += file->bytes;
    return write_out(run, list);
}

static ds_status encode_file(struct run *run, struct ds_encoder *encoder,
                             const struct corpus_file *file, struct ds_token_list *list)
{
    uint8_t *text = malloc(file->bytes);
    ds_status st;

    if (!text)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: %llu bytes of text are encoded as a whole",
                       file->path, (unsigned long long)file->bytes);
    st = corpus_read(run->encoding->fs, file, text);
    if (st == DS_OK)
        st = encode_text(run, encoder, file, text, list);
    free(text);
    return st;
}

ds_status encoding_run(const struct encoding *encoding, uint64_t *documents)
{
    const struct corpus *corpus = encoding->corpus;
    struct run run = {.encoding = encoding};
    struct ds_token_list list = {0};
    struct ds_encoder *encoder;
    ds_status st = DS_OK;

    DS_TRY(ds_encoder_open(encoding->tokenizer, &encoder));
    for (size_t i = 0; i < corpus->count && st == DS_OK; i++) {
        documents[i] = run.written;
        st = encode_file(&run, encoder, &corpus->files[i], &list);
    }
    documents[corpus->count] = run.written;
    ds_token_list_fini(&list);
    ds_encoder_close(encoder);
    return st;
}
