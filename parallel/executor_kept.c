/* executor_kept.c - see executor_kept.h. */
#include "executor_kept.h"

enum { PART_ALIGN = 256 }; /* of memory for kernels and copies */

ds_status kept_open(struct kept *kept, struct ds_memory *memory, uint32_t home_count,
                    size_t saved_bytes)
{
    if (home_count == 0)
        return DS_OK;
    DS_ASSERT(kept->out && kept->in);
    kept->saved_at = (kept->input_bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    kept->saved_bytes = saved_bytes;
    DS_TRY(places_open(memory, DS_MEMORY_PINNED, home_count,
                       kept->drive_count > 0 ? 0 : kept->saved_at + saved_bytes, &kept->homes));
    if (kept->drive_count > 0)
        DS_TRY(kept_files_open(kept, memory));
    return memory->device->ops->event_open(memory->device, &kept->handover);
}

void kept_close(struct kept *kept)
{
    ds_swap_close(kept->swap);
    places_close(&kept->homes);
    if (kept->handover)
        kept->handover->device->ops->event_close(kept->handover);
}

static ds_status claim_all(const struct kept_places *places, struct ds_stream *stream)
{
    DS_TRY(place_claim(places->home, stream));
    DS_TRY(place_claim(places->input, stream));
    return places->saved ? place_claim(places->saved, stream) : DS_OK;
}

static ds_status leave_all(const struct kept_places *places, struct ds_stream *stream)
{
    DS_TRY(place_leave(places->home, stream));
    DS_TRY(place_leave(places->input, stream));
    return places->saved ? place_leave(places->saved, stream) : DS_OK;
}

static ds_status copy_input(const struct kept *kept, const struct kept_places *places,
                            struct ds_stream *stream)
{
    uint8_t *home = places->home->at, *near = places->input->at;
    const int is_out = stream == kept->out;

    return stream->device->ops->copy(stream, is_out ? home : near, is_out ? near : home,
                                     kept->input_bytes);
}

static ds_status copy_saved(const struct kept *kept, const struct kept_places *places,
                            struct ds_stream *stream)
{
    uint8_t *home = places->home->at + kept->saved_at;
    const int is_out = stream == kept->out;

    if (!places->saved)
        return DS_OK;
    uint8_t *near = places->saved->at;
    return stream->device->ops->copy(stream, is_out ? home : near, is_out ? near : home,
                                     places->saved_bytes);
}

static ds_status copy(const struct kept *kept, const struct kept_places *places,
                      struct ds_stream *stream)
{
    DS_TRY(copy_input(kept, places, stream));
    return copy_saved(kept, places, stream);
}

static ds_status move(struct kept *kept, const struct kept_places *places, struct ds_stream *stream,
                      enum ds_timeline_row row)
{
    uint32_t span;

    DS_TRY(ds_stream_after(stream, kept->compute, kept->handover));
    DS_TRY(claim_all(places, stream));
    DS_TRY(ds_timeline_wait(kept->timeline, row, DS_TIMELINE_KEPT, &span));
    DS_TRY(kept->swap ? kept_files_move(kept, places, stream) : copy(kept, places, stream));
    DS_TRY(ds_timeline_end(kept->timeline, span));
    return leave_all(places, stream);
}

ds_status kept_evict(struct kept *kept, const struct kept_places *places)
{
    return move(kept, places, kept->out, DS_TIMELINE_KEPT_OUT);
}

ds_status kept_fetch(struct kept *kept, const struct kept_places *places)
{
    return move(kept, places, kept->in, DS_TIMELINE_KEPT_IN);
}

ds_status kept_join(struct kept *kept)
{
    if (kept->homes.count == 0)
        return DS_OK;
    DS_TRY(ds_stream_after(kept->compute, kept->out, kept->handover));
    return ds_stream_after(kept->compute, kept->in, kept->handover);
}
