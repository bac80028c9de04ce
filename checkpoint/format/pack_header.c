/* pack_header.c - a pack's safetensors header, made from its table: one entry a run, and one a gap, since the format
 * wants every byte to belong to a tensor. Names are KIND/NAME@BEGIN-END, with @box:... between for a part that
 * tensor ranks cut out; elements are counted inside the box. */
#include "pack_format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct header {
    struct text text;
    const struct ds_pack_info *info;
    uint64_t at; /* where the next entry begins, in the file */
    uint32_t pad_count;
};

static void put_entry(struct header *h, const char *dtype, const char *shape, uint64_t bytes)
{
    const uint64_t begin = h->at - h->info->header_bytes;

    text_put(&h->text,
             ":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", dtype,
             shape, begin, begin + bytes);
    h->at += bytes;
}

static void put_pad(struct header *h)
{
    char shape[32];
    const uint64_t bytes = pack_aligned(h->at) - h->at;

    if (bytes == 0)
        return;
    snprintf(shape, sizeof shape, "%" PRIu64, bytes);
    text_put(&h->text, ",\"__dstrain__.pad.%06u\"", h->pad_count++);
    put_entry(h, "U8", shape, bytes);
}

static void put_records(struct header *h, const char *name, uint32_t count, uint32_t bytes)
{
    char shape[32];

    if (count == 0)
        return;
    snprintf(shape, sizeof shape, "%u,%u", count, bytes);
    text_put(&h->text, ",\"__dstrain__.%s\"", name);
    put_entry(h, "U8", shape, (uint64_t)count * bytes);
    put_pad(h);
}

/* The name of elements [begin, end) of a box; box NULL: the whole tensor. */
static void put_name(struct text *text, const struct ds_logical_tensor *tensor,
                     const struct ds_box *box, uint64_t begin, uint64_t end)
{
    text_put(text, "%s/%s@", ds_state_kind_name(tensor->kind), tensor->name);
    for (uint32_t dim = 0; box && dim < box->dim_count; dim++)
        text_put(text, "%s%" PRIu64 "-%" PRIu64, dim ? "," : "box:", box->begin[dim],
                 box->end[dim]);
    text_put(text, "%s%" PRIu64 "-%" PRIu64, box ? "@" : "", begin, end);
}

static void shape_of(const struct ds_box *box, uint64_t elems, char *to, size_t bytes)
{
    struct text text = {.at = to, .capacity = bytes - 1};

    if (elems != ds_box_elems(box))
        text_put(&text, "%" PRIu64, elems);
    else
        for (uint32_t dim = 0; dim < box->dim_count; dim++)
            text_put(&text, "%s%" PRIu64, dim ? "," : "", box->end[dim] - box->begin[dim]);
    DS_ASSERT(!text.is_full);
    to[text.bytes] = '\0';
}

/* Chunks [first, last] of the table as one tensor. */
static void put_run(struct header *h, const struct ds_pack_chunk *first,
                    const struct ds_pack_chunk *last, const struct ds_box *boxes,
                    const struct ds_logical_tensor *tensor)
{
    const struct ds_box whole = ds_box_whole(tensor);
    const struct ds_box *box = first->box ? &boxes[first->box - 1] : NULL;
    char shape[DS_LOGICAL_DIMS_MAX * 21 + 1];

    shape_of(box ? box : &whole, last->end - first->begin, shape, sizeof shape);
    text_put(&h->text, ",\"");
    put_name(&h->text, tensor, box, first->begin, last->end);
    text_put(&h->text, "\"");
    put_entry(h, ds_dtype_name(first->dtype), shape,
              last->offset + last->body_bytes - first->offset);
    put_pad(h);
}

static void put_metadata(struct header *h)
{
    const struct ds_pack_id *id = &h->info->id;
    char run[DS_DIGEST_TEXT_BYTES];
    struct ds_digest as_digest;

    memcpy(as_digest.bytes, h->info->run, sizeof as_digest.bytes);
    ds_digest_text(&as_digest, run);
    text_put(&h->text,
             "{\"__metadata__\":{\"dstrain\":\"pack/1\",\"align\":\"%u\",\"run\":\"%s\","
             "\"epoch\":\"%" PRIu64 "\",\"step\":\"%" PRIu64
             "\",\"rank\":\"%u\",\"part\":\"%u\",\"try\":\"%u\"}",
             DS_PACK_ALIGN, run, id->epoch, id->step, id->rank, id->part, id->attempt);
}

int pack_header_make(const struct ds_pack_info *info, const struct ds_pack_chunk *chunks,
                     const struct ds_box *boxes, const struct ds_catalogue *catalogue, char *to)
{
    struct header h = {.text = {.at = to + 8, .capacity = info->header_bytes - 8},
                       .info = info,
                       .at = info->header_bytes};

    put_metadata(&h);
    for (uint32_t i = 0, next; i < info->chunk_count; i = next) {
        next = i + 1;
        if (!pack_is_here(&chunks[i]))
            continue;
        while (next < info->chunk_count && pack_continues(&chunks[next - 1], &chunks[next]))
            next++;
        put_run(&h, &chunks[i], &chunks[next - 1], boxes, &catalogue->tensors[chunks[i].tensor]);
    }
    put_records(&h, "boxes", info->box_count, PACK_BOX_BYTES);
    put_records(&h, "table", info->chunk_count, PACK_ENTRY_BYTES);
    put_records(&h, "footer", 2, PACK_FOOTER_BYTES);
    text_put(&h.text, "}");
    if (h.text.is_full)
        return 0;
    memset(h.text.at + h.text.bytes, ' ', h.text.capacity - h.text.bytes);
    for (int i = 0; i < 8; i++)
        to[i] = (char)(h.text.capacity >> 8 * i & 0xff);
    return 1;
}

uint64_t pack_header_share(const struct ds_pack_chunk *chunk, const struct ds_box *boxes,
                           const struct ds_catalogue *catalogue)
{
    const struct ds_logical_tensor *tensor = &catalogue->tensors[chunk->tensor];
    const struct ds_box *box = chunk->box ? &boxes[chunk->box - 1] : NULL;
    char name[PACK_TENSOR_BYTES_MAX];
    struct text text = {.at = name, .capacity = sizeof name};

    put_name(&text, tensor, box, UINT64_MAX, UINT64_MAX);
    if (text.is_full)
        return 0;
    /* dtype, shape and offsets take at most 300 bytes, a pad 130 */
    return text.bytes + 430;
}
