/* tuning.c - the choices of all ranks put together, and the file that keeps them. Nothing here can fail a run but
 * communication and memory: choices are made anew where none are kept. */
#include "tuning.h"

#include "cache_file.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the file */

/* Empty: nothing is chosen by the clock. */
static void find_name(const struct tuning *t, char *to, size_t bytes)
{
    to[0] = 0;
    if (t->device->ops->tuning)
        t->device->ops->tuning->name(t->device, to, bytes);
}

static void find_file(const struct tuning *t, char *to, size_t bytes)
{
    char name[256];

    find_name(t, name, sizeof name);
    snprintf(to, bytes, "%s.bin", name);
}

/* How many bytes there are, `room` at most; 0: none, or they cannot be read. */
static size_t read_file(const struct tuning *t, void *to, size_t room)
{
    char name[264];

    find_file(t, name, sizeof name);
    return ds_cache_read(t->fs, name, to, room);
}

static void write_file(const struct tuning *t, const void *from, size_t bytes)
{
    char name[264];

    find_file(t, name, sizeof name);
    ds_cache_write(t->fs, name, from, bytes, "the next run times its matrix products again");
}

/* ---- ranks */

static ds_status take_memory(const struct tuning *t, size_t bytes, void **out)
{
    *out = calloc(1, bytes);
    return ds_comm_agreed(t->world, *out ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "choices of ranks"));
}

static ds_status share_file(const struct tuning *t, void *room)
{
    const struct ds_tuning_ops *ops = t->device->ops->tuning;
    uint64_t bytes = t->world->rank == 0 ? read_file(t, room, ops->bytes_max()) : 0;

    DS_TRY(ds_comm_broadcast(t->world, &bytes, sizeof bytes, 0, NULL));
    if (bytes == 0)
        return DS_OK;
    DS_TRY(ds_comm_broadcast(t->world, room, (size_t)bytes, 0, NULL));
    if (!ops->load(t->device, room, (size_t)bytes))
        ds_debug("kept choices of algorithms are not for this device, or not whole; ignored");
    return DS_OK;
}

ds_status tuning_recall(const struct tuning *tuning)
{
    char name[256];
    void *room = NULL;
    ds_status st;

    find_name(tuning, name, sizeof name);
    if (!name[0])
        return DS_OK;
    st = take_memory(tuning, tuning->device->ops->tuning->bytes_max(), &room);
    if (st == DS_OK)
        st = share_file(tuning, room);
    free(room);
    return st;
}

/* One rank's bytes, in a place as long as the longest. */
struct place {
    uint64_t bytes;
    unsigned char data[];
};

static const struct place *place_of(const void *places, size_t stride, uint32_t rank)
{
    return (const struct place *)((const char *)places + rank * stride);
}

/* Later ones replace earlier ones: the lowest rank comes last. */
static void take_over_all(const struct tuning *t, const void *places, size_t stride)
{
    for (uint32_t rank = t->world->size; rank-- > 0;) {
        const struct place *place = place_of(places, stride, rank);

        (void)t->device->ops->tuning->load(t->device, place->data, (size_t)place->bytes);
    }
}

static ds_status exchange(const struct tuning *t, struct place *own, size_t stride)
{
    const struct ds_tuning_ops *ops = t->device->ops->tuning;
    void *places = NULL;
    int is_new;
    ds_status st = take_memory(t, stride * t->world->size, &places);

    if (st == DS_OK)
        st = ds_comm_all_gather(t->world, own, places, stride, DS_U8, NULL);
    if (st == DS_OK) {
        take_over_all(t, places, stride);
        if (t->world->rank == 0)
            write_file(t, own->data, ops->save(t->device, own->data, &is_new));
    }
    free(places);
    return st;
}

static ds_status settle(const struct tuning *t, struct place *own)
{
    int is_new = 0;
    uint64_t most[2]; /* is something new, bytes: the largest of any rank */

    own->bytes = t->device->ops->tuning->save(t->device, own->data, &is_new);
    most[0] = is_new != 0;
    most[1] = own->bytes;
    DS_TRY(ds_comm_all_reduce(t->world, most, 2, DS_U64, DS_REDUCE_MAX, NULL));
    if (most[0])
        DS_TRY(exchange(t, own, (sizeof *own + (size_t)most[1] + 7) / 8 * 8));
    t->device->ops->tuning->seal(t->device);
    return DS_OK;
}

ds_status tuning_settle(const struct tuning *tuning)
{
    char name[256];
    void *own = NULL;
    ds_status st;

    find_name(tuning, name, sizeof name);
    if (!name[0])
        return DS_OK;
    st = take_memory(tuning, sizeof(struct place) + tuning->device->ops->tuning->bytes_max() + 8,
                     &own);
    if (st == DS_OK)
        st = settle(tuning, own);
    free(own);
    return st;
}
