/* hf_tied.c - a head that config.json ties to the embedding and that lies in the weights all the same. Some
 * programs write the copy out; what differs is a head of its own, and whoever believes the file rather than
 * config.json computes with it. */
#include "hf_read.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE_ELEMS = 1 << 20 };
static const char embedding_name[] = "model.embed_tokens.weight", head_name[] = "lm_head.weight";

struct stored {
    const struct ds_safetensors *file;
    const struct ds_safetensors_entry *entry;
};

static ds_status refuse(const struct stored *head, const char *how)
{
    return ds_fail(DS_ERR_DATA,
                   "%s: tensor '%s' differs from '%s'%s, but config.json has tie_word_embeddings = "
                   "true; set that to false there, or take the tensor out of the file",
                   ds_safetensors_path(head->file), head_name, embedding_name, how);
}

static uint64_t first_difference(const float *a, const float *b, uint64_t count)
{
    uint64_t i = 0;

    while (i < count && a[i] == b[i])
        i++;
    return i;
}

static ds_status compare(const struct stored *embedding, const struct stored *head,
                         float pieces[2][PIECE_ELEMS])
{
    const uint64_t elems = embedding->entry->shape[0] * embedding->entry->shape[1];
    char at[64];

    for (uint64_t done = 0; done < elems; done += PIECE_ELEMS) {
        const uint64_t count = elems - done < PIECE_ELEMS ? elems - done : PIECE_ELEMS;
        DS_TRY(ds_safetensors_read_f32(embedding->file, embedding->entry, done, count, pieces[0]));
        DS_TRY(ds_safetensors_read_f32(head->file, head->entry, done, count, pieces[1]));
        const uint64_t same = first_difference(pieces[0], pieces[1], count);
        if (same == count)
            continue;
        snprintf(at, sizeof at, " at element %llu", (unsigned long long)(done + same));
        return refuse(head, at);
    }
    return DS_OK;
}

static int are_comparable(const struct stored *embedding, const struct stored *head)
{
    float unused;

    return head->entry->dim_count == 2 &&
           memcmp(head->entry->shape, embedding->entry->shape, 2 * sizeof *head->entry->shape) ==
               0 &&
           ds_dtype_to_f32(&unused, &unused, head->entry->dtype, 0);
}

ds_status ds_hf_check_tied(const struct ds_hf *hf, const struct ds_model *model)
{
    struct stored embedding, head;
    float(*pieces)[PIECE_ELEMS];
    ds_status st;

    if (!model->config.tie_word_embeddings || !(head.entry = hf_find(hf, head_name, &head.file)))
        return DS_OK;
    embedding.entry = hf_find(hf, embedding_name, &embedding.file);
    DS_ASSERT(embedding.entry); /* ds_hf_check was asked first */
    if (!are_comparable(&embedding, &head))
        return refuse(&head, " in shape or type");
    pieces = malloc(2 * sizeof *pieces);
    if (!pieces)
        return ds_fail(DS_ERR_NO_MEMORY, "to compare a tied head");
    st = compare(&embedding, &head, pieces);
    free(pieces);
    return st;
}
