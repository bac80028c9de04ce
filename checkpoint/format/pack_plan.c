/* pack_plan.c - from a rank's pieces to chunks, boxes and files. Nothing here depends on what is saved, so it is
 * made once. */
#include "pack_format.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BOXES_LOOKED_AT    16u
#define HEADER_FIXED_BYTES 1024u /* length, metadata, boxes, table, footer and their pads */

/* ---- chunks */

static uint64_t chunk_elems(const struct ds_logical_tensor *tensor)
{
    return DS_PACK_CHUNK_BYTES / ds_dtype_bytes(tensor->dtype);
}

static uint64_t chunks_of(const struct ds_catalogue *catalogue, const struct ds_piece *piece)
{
    const uint64_t elems = chunk_elems(&catalogue->tensors[piece->tensor]);

    return (piece->end - piece->begin + elems - 1) / elems;
}

/* The number of a box among those of split tensors; 0: it is the whole tensor. */
static uint32_t box_number(struct ds_pack_plan *plan, const struct ds_piece *piece)
{
    const struct ds_box whole = ds_box_whole(&plan->catalogue->tensors[piece->tensor]);

    if (ds_box_equal(&piece->box, &whole))
        return 0;
    /* states of one parameter follow one another; a box that is there twice does no harm */
    for (uint32_t back = 1; back <= BOXES_LOOKED_AT && back <= plan->box_count; back++)
        if (ds_box_equal(&plan->boxes[plan->box_count - back], &piece->box))
            return plan->box_count - back + 1;
    plan->boxes[plan->box_count++] = piece->box;
    return plan->box_count;
}

static void add_chunks(struct ds_pack_plan *plan, const struct ds_piece *piece)
{
    const struct ds_logical_tensor *tensor = &plan->catalogue->tensors[piece->tensor];
    const uint64_t elems = chunk_elems(tensor);
    const uint32_t box = box_number(plan, piece);

    for (uint64_t begin = piece->begin; begin < piece->end; begin += elems) {
        const uint64_t end = piece->end - begin < elems ? piece->end : begin + elems;
        const uint32_t bytes = (uint32_t)((end - begin) * ds_dtype_bytes(tensor->dtype));

        plan->chunks[plan->chunk_count++] = (struct ds_pack_chunk){
            .tensor = piece->tensor,
            .box = box,
            .kind = tensor->kind,
            .dtype = tensor->dtype,
            .begin = begin,
            .end = end,
            .body_bytes = bytes,
            .stored_bytes = (uint32_t)pack_aligned(bytes),
            .pack = DS_PACK_HERE,
            .copy_pack = DS_PACK_HERE,
        };
    }
}

/* ---- files */

static void end_part(struct ds_pack_plan *plan, uint64_t header_bytes, uint64_t stored_bytes)
{
    struct ds_pack_part *part = &plan->parts[plan->part_count++];

    part->header_bytes = pack_aligned(header_bytes);
    part->file_bytes_max = part->header_bytes + stored_bytes + pack_boxes_bytes(plan->box_count) +
                           pack_table_bytes(part->count) + 2 * PACK_FOOTER_BYTES;
}

static ds_status cut_parts(struct ds_pack_plan *plan, uint32_t chunks_max)
{
    uint64_t header_bytes = HEADER_FIXED_BYTES, stored_bytes = 0;
    struct ds_pack_part *part = plan->parts;

    for (uint32_t i = 0; i < plan->chunk_count; i++) {
        const struct ds_pack_chunk *chunk = &plan->chunks[i];
        const uint64_t share = pack_header_share(chunk, plan->boxes, plan->catalogue);

        if (share == 0)
            return ds_fail(DS_ERR_DATA, "the name of '%s' is too long for a file of tensors",
                           plan->catalogue->tensors[chunk->tensor].name);
        if (part->count == chunks_max || header_bytes + share > PACK_HEADER_BYTES_MAX) {
            end_part(plan, header_bytes, stored_bytes);
            *++part = (struct ds_pack_part){.first = i};
            header_bytes = HEADER_FIXED_BYTES;
            stored_bytes = 0;
        }
        part->count++;
        header_bytes += share;
        stored_bytes += chunk->stored_bytes;
    }
    if (part->count > 0)
        end_part(plan, header_bytes, stored_bytes);
    return DS_OK;
}

static ds_status plan_take(struct ds_pack_plan *plan, uint64_t chunk_count, size_t piece_count,
                           uint32_t chunks_max)
{
    /* a part ends where it has all the chunks that it may, or a header of 64 MiB */
    const uint64_t part_count = chunk_count / chunks_max + chunk_count / 65536 + 2;

    plan->chunks = calloc(chunk_count + 1, sizeof *plan->chunks);
    plan->boxes = calloc(piece_count + 1, sizeof *plan->boxes);
    plan->parts = calloc(part_count, sizeof *plan->parts);
    if (!plan->chunks || !plan->boxes || !plan->parts)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the plan of a checkpoint");
    return DS_OK;
}

static ds_status plan_fill(struct ds_pack_plan *plan, const struct ds_piece *pieces, size_t count,
                           uint32_t chunks_max)
{
    uint64_t chunk_count = 0;

    for (size_t i = 0; i < count; i++) {
        DS_ASSERT(ds_piece_fits(&pieces[i], plan->catalogue));
        chunk_count += chunks_of(plan->catalogue, &pieces[i]);
    }
    if (chunk_count > UINT32_MAX || count > DS_PACK_BOXES_MAX)
        return ds_fail(DS_ERR_UNSUPPORTED, "a rank's checkpoint of %" PRIu64 " chunks, %zu pieces",
                       chunk_count, count);
    DS_TRY(plan_take(plan, chunk_count, count, chunks_max));
    for (size_t i = 0; i < count; i++)
        add_chunks(plan, &pieces[i]);
    return cut_parts(plan, chunks_max);
}

ds_status ds_pack_plan_make(const struct ds_catalogue *catalogue, const struct ds_piece *pieces,
                            size_t count, uint32_t chunks_max, struct ds_pack_plan *out)
{
    struct ds_pack_plan plan = {.catalogue = catalogue};

    DS_ASSERT(chunks_max > 0 && chunks_max <= DS_PACK_CHUNKS_MAX);
    ds_status st = plan_fill(&plan, pieces, count, chunks_max);
    if (st != DS_OK) {
        ds_pack_plan_fini(&plan);
        return st;
    }
    *out = plan;
    return DS_OK;
}

void ds_pack_plan_fini(struct ds_pack_plan *plan)
{
    free(plan->chunks);
    free(plan->boxes);
    free(plan->parts);
    *plan = (struct ds_pack_plan){0};
}
