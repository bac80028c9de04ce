/* executor_places.c - see executor_places.h. */
#include "executor_places.h"

#include <stdlib.h>

typedef ds_status take_fn(struct ds_memory *memory, size_t bytes, void **at);

static ds_status take_device(struct ds_memory *memory, size_t bytes, void **at)
{
    return ds_memory_take(memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_ACTIVATIONS, bytes, at);
}

static ds_status take_symmetric(struct ds_memory *memory, size_t bytes, void **at)
{
    return ds_memory_take_symmetric(memory, DS_MEMORY_LABEL_ACTIVATIONS, bytes, at);
}

static ds_status take_pinned(struct ds_memory *memory, size_t bytes, void **at)
{
    return ds_memory_take(memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_ACTIVATIONS, bytes, at);
}

static ds_status open_place(struct ds_memory *memory, take_fn *take, size_t bytes,
                            struct place *out)
{
    void *at = NULL;

    DS_TRY(take(memory, bytes, &at));
    out->at = at;
    return memory->device->ops->event_open(memory->device, &out->event);
}

static ds_status open_places(struct ds_memory *memory, take_fn *take, uint32_t count, size_t bytes,
                             struct places *out)
{
    out->places = calloc(count + 1u, sizeof *out->places);
    if (!out->places)
        return ds_fail(DS_ERR_NO_MEMORY, "%u places of activations", count);
    out->count = count;
    for (uint32_t i = 0; i < count; i++)
        DS_TRY(open_place(memory, take, bytes, &out->places[i]));
    return DS_OK;
}

ds_status places_open(struct ds_memory *memory, enum ds_memory_kind kind, uint32_t count,
                      size_t bytes, struct places *out)
{
    return open_places(memory, kind == DS_MEMORY_DEVICE ? take_device : take_pinned, count, bytes,
                       out);
}

ds_status places_open_symmetric(struct ds_memory *memory, uint32_t count, size_t bytes,
                                struct places *out)
{
    return open_places(memory, take_symmetric, count, bytes, out);
}

void places_close(struct places *places)
{
    for (uint32_t i = 0; i < places->count; i++) {
        struct ds_event *event = places->places[i].event;
        if (event)
            event->device->ops->event_close(event);
    }
    free(places->places);
    *places = (struct places){0};
}

void places_forget(struct places *places)
{
    for (uint32_t i = 0; i < places->count; i++)
        places->places[i].user = NULL;
}

ds_status place_claim(const struct place *place, struct ds_stream *stream)
{
    if (!place->user || place->user == stream)
        return DS_OK;
    return stream->device->ops->stream_wait(stream, place->event);
}

ds_status place_leave(struct place *place, struct ds_stream *stream)
{
    place->user = stream;
    return stream->device->ops->event_record(place->event, stream);
}
