/* mesh.h - rank <-> coordinates, and the groups of ranks that talk. The arithmetic is pure. */
#ifndef DSTRAIN_MESH_H
#define DSTRAIN_MESH_H

#include "dstrain/comm.h"
#include "dstrain/status.h"

/* Slowest first: neighbours in rank order differ along the last axis first (tp inside a host). */
enum ds_axis {
    DS_AXIS_REPLICA,
    DS_AXIS_SHARD,
    DS_AXIS_CP,
    DS_AXIS_PP,
    DS_AXIS_EP,
    DS_AXIS_TP,
    DS_AXIS_COUNT
};

/* A group is a *set* of axes: ranks that differ only along these belong together. Two are parts of one:
 * `embed` is the first and the last stage of pp, every other rank is alone in it; `copies` are the runs of
 * tp_copies neighbours along tp that hold the same kv head. Nobody below asks for an axis; ZeRO is given
 * `shard` and `replica`. */
enum ds_group {
    DS_GROUP_WORLD,
    DS_GROUP_SHARD,        /* who shares a unit out */
    DS_GROUP_EXPERT_SHARD, /* the same, for a unit of experts */
    DS_GROUP_REPLICA,      /* who holds an equal shard */
    DS_GROUP_GRAD,         /* who adds to one gradient */
    DS_GROUP_TP,           /* who shares every matrix: inside arithmetic */
    DS_GROUP_TP_GRAD,      /* the same ranks, beside arithmetic */
    DS_GROUP_PP,
    DS_GROUP_EMBED,  /* who holds a tied embedding */
    DS_GROUP_COPIES, /* who holds a copy of the same kv heads */
    DS_GROUP_COUNT
};

struct ds_mesh_shape {
    uint32_t size[DS_AXIS_COUNT]; /* each >= 1; the product is the number of ranks */
    uint32_t tp_copies;           /* divides the size of tp; 0: 1 */
};
struct ds_mesh_place {
    uint32_t at[DS_AXIS_COUNT];
};

/* ---- pure: everything up to the communicators */
uint32_t ds_mesh_rank_count(const struct ds_mesh_shape *shape);
struct ds_mesh_place ds_mesh_place_of(const struct ds_mesh_shape *shape, uint32_t rank);
uint32_t ds_mesh_rank_of(const struct ds_mesh_shape *shape, const struct ds_mesh_place *place);
/* Ranks with an equal color are one group; `index` is the rank's place in it, in rank order. */
uint32_t ds_mesh_color(const struct ds_mesh_shape *shape, enum ds_group group, uint32_t rank);
uint32_t ds_mesh_index(const struct ds_mesh_shape *shape, enum ds_group group, uint32_t rank);
uint32_t ds_mesh_group_size(const struct ds_mesh_shape *shape, enum ds_group group, uint32_t rank);
const char *ds_mesh_group_name(enum ds_group group);
const char *ds_mesh_axis_name(enum ds_axis axis);
/* Which share of the samples a rank reads: index and count over (replica, shard, ep). */
void ds_mesh_data_share(const struct ds_mesh_shape *shape, uint32_t rank, uint32_t *share,
                        uint32_t *share_count);

/* ---- with communicators */
struct ds_mesh;

/* collective over `world` (control): split the groups this run needs (`groups`: bits 1 << ds_group) and
 * open their data communicators: those of `device_comm`, of host memory where it is NULL. A named transport is
 * obeyed or refused with DS_ERR_UNSUPPORTED; a group of one rank needs none. `who` asks for it: the key, which
 * begins the message. */
DS_CHECKED ds_status ds_mesh_open(struct ds_comm *world, const struct ds_mesh_shape *shape,
                                  uint32_t groups, const char *who, enum ds_transport transport,
                                  const struct ds_comm_ops *device_comm, struct ds_mesh **out);
/* collective: closes what open made; NULL is allowed, and local */
void ds_mesh_close(struct ds_mesh *mesh);
/* local: this rank will not come any more: waits of its groups end with DS_ERR_COMM, where they can */
void ds_mesh_poison(struct ds_mesh *mesh);
/* local: looking in */
const struct ds_mesh_shape *ds_mesh_shape_of(const struct ds_mesh *mesh);
struct ds_mesh_place ds_mesh_here(const struct ds_mesh *mesh);
struct ds_comm *ds_mesh_group(const struct ds_mesh *mesh, enum ds_group group); /* data; borrowed */

#endif
