/* mesh.c - rank <-> coordinates, pure, and the groups made from them once. A group is a set of axes:
 * ranks that differ only along these belong together. */
#include "dstrain/mesh.h"

#include <stdlib.h>
#include <string.h>

#define AXIS(name) (1u << DS_AXIS_##name)
static const uint32_t group_axes[DS_GROUP_COUNT] = {
    [DS_GROUP_WORLD] = (1u << DS_AXIS_COUNT) - 1,
    [DS_GROUP_SHARD] = AXIS(SHARD) | AXIS(CP) | AXIS(EP),
    [DS_GROUP_EXPERT_SHARD] = AXIS(SHARD) | AXIS(CP),
    [DS_GROUP_REPLICA] = AXIS(REPLICA),
    [DS_GROUP_GRAD] = AXIS(REPLICA) | AXIS(SHARD) | AXIS(CP) | AXIS(EP),
    [DS_GROUP_TP] = AXIS(TP),
    [DS_GROUP_TP_GRAD] = AXIS(TP),
    [DS_GROUP_PP] = AXIS(PP),
    [DS_GROUP_EMBED] = AXIS(PP),
    [DS_GROUP_COPIES] = AXIS(TP),
};
static const char *const group_names[DS_GROUP_COUNT] = {
    [DS_GROUP_WORLD] = "world",
    [DS_GROUP_SHARD] = "shard",
    [DS_GROUP_EXPERT_SHARD] = "expert_shard",
    [DS_GROUP_REPLICA] = "replica",
    [DS_GROUP_GRAD] = "grad",
    [DS_GROUP_TP] = "tp",
    [DS_GROUP_TP_GRAD] = "tp_grad",
    [DS_GROUP_PP] = "pp",
    [DS_GROUP_EMBED] = "embed",
    [DS_GROUP_COPIES] = "copies",
};
static const char *const axis_names[DS_AXIS_COUNT] = {
    [DS_AXIS_REPLICA] = "replica", [DS_AXIS_SHARD] = "shard", [DS_AXIS_CP] = "cp",
    [DS_AXIS_PP] = "pp",           [DS_AXIS_EP] = "ep",       [DS_AXIS_TP] = "tp",
};

struct ds_mesh {
    /* owns */
    struct ds_comm *groups[DS_GROUP_COUNT];
    struct ds_mesh_shape shape;
    uint32_t rank;
};

const char *ds_mesh_group_name(enum ds_group group)
{
    return group_names[group];
}

const char *ds_mesh_axis_name(enum ds_axis axis)
{
    return axis_names[axis];
}

uint32_t ds_mesh_rank_count(const struct ds_mesh_shape *shape)
{
    uint32_t count = 1;

    for (int axis = 0; axis < DS_AXIS_COUNT; axis++) {
        DS_ASSERT(shape->size[axis] >= 1);
        count *= shape->size[axis];
    }
    return count;
}

struct ds_mesh_place ds_mesh_place_of(const struct ds_mesh_shape *shape, uint32_t rank)
{
    struct ds_mesh_place place;

    DS_ASSERT(rank < ds_mesh_rank_count(shape));
    for (int axis = DS_AXIS_COUNT - 1; axis >= 0; axis--) {
        place.at[axis] = rank % shape->size[axis];
        rank /= shape->size[axis];
    }
    return place;
}

uint32_t ds_mesh_rank_of(const struct ds_mesh_shape *shape, const struct ds_mesh_place *place)
{
    uint32_t rank = 0;

    for (int axis = 0; axis < DS_AXIS_COUNT; axis++) {
        DS_ASSERT(place->at[axis] < shape->size[axis]);
        rank = rank * shape->size[axis] + place->at[axis];
    }
    return rank;
}

/* The number that the coordinates along `axes` spell, slowest axis first. */
static uint32_t spell(const struct ds_mesh_shape *shape, uint32_t rank, uint32_t axes)
{
    struct ds_mesh_place place = ds_mesh_place_of(shape, rank);
    uint32_t number = 0;

    for (int axis = 0; axis < DS_AXIS_COUNT; axis++)
        if (axes & 1u << axis)
            number = number * shape->size[axis] + place.at[axis];
    return number;
}

static uint32_t extent(const struct ds_mesh_shape *shape, uint32_t axes)
{
    uint32_t count = 1;

    for (int axis = 0; axis < DS_AXIS_COUNT; axis++)
        if (axes & 1u << axis)
            count *= shape->size[axis];
    return count;
}

/* The part of its axis to which a rank of `embed` or `copies` belongs: number, place in it, size. */
struct part {
    uint32_t number, index, size;
};

static struct part part_of(const struct ds_mesh_shape *shape, enum ds_group group, uint32_t rank)
{
    const struct ds_mesh_place place = ds_mesh_place_of(shape, rank);
    const uint32_t stages = shape->size[DS_AXIS_PP], stage = place.at[DS_AXIS_PP];
    const uint32_t copies = shape->tp_copies > 0 ? shape->tp_copies : 1;
    const uint32_t tp = place.at[DS_AXIS_TP];

    if (group == DS_GROUP_COPIES)
        return (struct part){tp / copies, tp % copies, copies};
    if (group == DS_GROUP_EMBED && stages > 1 && (stage == 0 || stage == stages - 1))
        return (struct part){0, stage > 0, 2};
    if (group == DS_GROUP_EMBED)
        return (struct part){stage, 0, 1};
    return (struct part){0, spell(shape, rank, group_axes[group]),
                         extent(shape, group_axes[group])};
}

uint32_t ds_mesh_color(const struct ds_mesh_shape *shape, enum ds_group group, uint32_t rank)
{
    return spell(shape, rank, ~group_axes[group]) * extent(shape, group_axes[group]) +
           part_of(shape, group, rank).number;
}

uint32_t ds_mesh_index(const struct ds_mesh_shape *shape, enum ds_group group, uint32_t rank)
{
    return part_of(shape, group, rank).index;
}

uint32_t ds_mesh_group_size(const struct ds_mesh_shape *shape, enum ds_group group, uint32_t rank)
{
    return part_of(shape, group, rank).size;
}

/* Ranks that differ along cp, pp or tp work on the same samples; ep ranks bring their own. */
void ds_mesh_data_share(const struct ds_mesh_shape *shape, uint32_t rank, uint32_t *share,
                        uint32_t *share_count)
{
    const uint32_t axes = AXIS(REPLICA) | AXIS(SHARD) | AXIS(EP);

    *share = spell(shape, rank, axes);
    *share_count = extent(shape, axes);
}

/* What was asked for, and by which key. */
struct wish {
    const char *who;
    enum ds_transport transport;
    const struct ds_comm_ops *device_comm;
};

static ds_status refuse(struct ds_comm *control, const char *who, const char *transport,
                        const char *why)
{
    if (control->rank != 0)
        return DS_ERR_UNSUPPORTED;
    return ds_fail(DS_ERR_UNSUPPORTED, "%s = %s, but the %s group %s", who, transport,
                   control->group, why);
}

/* What open_data chose is looked at afterwards: only it knows what works here. */
static ds_status open_shm(struct ds_comm *control, const char *name, const char *who,
                          struct ds_comm **out)
{
    struct ds_comm *data = NULL;

    DS_TRY(ds_comm_open_data(control, name, &data));
    if (strcmp(data->ops->name, "shm") != 0) {
        ds_comm_close(data);
        return refuse(control, who, "shm",
                      "cannot have it: all its ranks on one host, under mpirun");
    }
    *out = data;
    return DS_OK;
}

static ds_status open_mpi(struct ds_comm *control, const char *name, const char *who,
                          struct ds_comm **out)
{
    if (strcmp(control->ops->name, "mpi") != 0)
        return refuse(control, who, "mpi", "was not started by mpirun");
    return ds_comm_mpi_open_data(control, name, DS_COMM_MPI_DIRECT_RANKS, out);
}

/* What moves data between devices is theirs: host backends do not reach it, nor it host memory. */
static ds_status open_data(struct ds_comm *control, const char *name, const struct wish *wish,
                           struct ds_comm **out)
{
    static const char *const names[] = {[DS_TRANSPORT_SHM] = "shm", [DS_TRANSPORT_MPI] = "mpi"};
    const enum ds_transport transport = wish->transport;

    if (control->size == 1)
        return ds_comm_open_data(control, name, out);
    if (wish->device_comm && (transport == DS_TRANSPORT_SHM || transport == DS_TRANSPORT_MPI))
        return refuse(control, wish->who, names[transport],
                      "is between GPUs, whose memory it does not reach");
    if (wish->device_comm)
        return wish->device_comm->open_data(control, name, out);
    if (transport == DS_TRANSPORT_NCCL)
        return refuse(control, wish->who, "nccl",
                      "is between hosts' memories: no GPU computes here");
    if (transport == DS_TRANSPORT_SHM)
        return open_shm(control, name, wish->who, out);
    if (transport == DS_TRANSPORT_MPI)
        return open_mpi(control, name, wish->who, out);
    return ds_comm_open_data(control, name, out);
}

static ds_status open_group(struct ds_mesh *mesh, struct ds_comm *world, enum ds_group group,
                            const struct wish *wish)
{
    struct ds_comm *control = NULL;
    ds_status st;

    if (world->ops->place)
        return world->ops->place(world, ds_mesh_index(&mesh->shape, group, mesh->rank),
                                 ds_mesh_group_size(&mesh->shape, group, mesh->rank),
                                 group_names[group], &mesh->groups[group]);
    DS_TRY(ds_comm_split(world, (int)ds_mesh_color(&mesh->shape, group, mesh->rank),
                         (int)ds_mesh_index(&mesh->shape, group, mesh->rank), group_names[group],
                         &control));
    st = open_data(control, group_names[group], wish, &mesh->groups[group]);
    ds_comm_close(control);
    if (st == DS_OK && mesh->groups[group]->size > 1)
        ds_debug("%s group: rank %u of %u over %s", group_names[group], mesh->groups[group]->rank,
                 mesh->groups[group]->size, mesh->groups[group]->ops->name);
    return st;
}

ds_status ds_mesh_open(struct ds_comm *world, const struct ds_mesh_shape *shape, uint32_t groups,
                       const char *who, enum ds_transport transport,
                       const struct ds_comm_ops *device_comm, struct ds_mesh **out)
{
    const struct wish wish = {who, transport, device_comm};
    struct ds_mesh *mesh = calloc(1, sizeof *mesh);
    ds_status st = DS_OK;

    if (!mesh)
        return ds_fail(DS_ERR_NO_MEMORY, "the mesh");
    DS_ASSERT(ds_mesh_rank_count(shape) == world->size);
    mesh->shape = *shape;
    mesh->rank = world->rank;
    for (int group = 0; group < DS_GROUP_COUNT && st == DS_OK; group++)
        if (groups & 1u << group)
            st = ds_comm_agreed(world, open_group(mesh, world, (enum ds_group)group, &wish));
    if (st != DS_OK) {
        ds_mesh_close(mesh);
        return st;
    }
    *out = mesh;
    return DS_OK;
}

void ds_mesh_close(struct ds_mesh *mesh)
{
    if (!mesh)
        return;
    for (int group = 0; group < DS_GROUP_COUNT; group++)
        ds_comm_close(mesh->groups[group]);
    free(mesh);
}

void ds_mesh_poison(struct ds_mesh *mesh)
{
    for (int i = 0; i < DS_GROUP_COUNT; i++) {
        struct ds_comm *group = mesh->groups[i];
        if (group && group->ops->poison)
            group->ops->poison(group);
    }
}

const struct ds_mesh_shape *ds_mesh_shape_of(const struct ds_mesh *mesh)
{
    return &mesh->shape;
}

struct ds_mesh_place ds_mesh_here(const struct ds_mesh *mesh)
{
    return ds_mesh_place_of(&mesh->shape, mesh->rank);
}

struct ds_comm *ds_mesh_group(const struct ds_mesh *mesh, enum ds_group group)
{
    DS_ASSERT(mesh->groups[group]);
    return mesh->groups[group];
}
