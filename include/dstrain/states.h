/* states.h - which states a run has, and what of them lies on a rank: the bridge between a model spread over a mesh
 * and logical coordinates. Snapshot and loading go by the same list. pure: everything here, but that it takes
 * memory. */
#ifndef DSTRAIN_STATES_H
#define DSTRAIN_STATES_H

#include "dstrain/logical.h"
#include "dstrain/mesh.h"
#include "dstrain/model.h"
#include "dstrain/zero.h"

/* Every parameter in turn: its master in fp32 (or the parameter itself, where there is no master), then exp_avg and
 * exp_avg_sq; nothing of what is frozen, with which a launch begins as the run did. The same on every rank of any layout; dtypes are those
 * that are kept, remainders count as the fp32 that they make. `out` is the caller's to free(tensors). */
DS_CHECKED ds_status ds_states_catalogue(const struct ds_model *model,
                                         const struct ds_zero_dtypes *dtypes,
                                         struct ds_catalogue *out);

/* A rank, by plain values. */
struct ds_states_place {
    const struct ds_model *model; /* as this rank computes it */
    const struct ds_zero_dtypes *dtypes;
    const struct ds_mesh_shape *mesh;
    uint32_t rank;
    const uint8_t *has_unit; /* [unit_count]; NULL: all */
    const uint32_t *
        stage_of_unit; /* [unit_count]: of two stages with a copy, the one that writes; NULL: stage 0 */
};

struct ds_state_piece {
    struct ds_piece piece;
    uint32_t unit;
    enum ds_state_kind kind;
    uint64_t start;     /* elements from the beginning of this rank's shard of the unit */
    uint8_t is_written; /* by this rank; 0: another one has the same and writes it */
};

/* What this rank's shards hold, padding left out: unit by unit, of each one kind after the other, in the order in
 * which it lies. All ranks' written pieces together are each tensor once. malloc'ed. */
DS_CHECKED ds_status ds_states_pieces(const struct ds_states_place *place,
                                      struct ds_state_piece **out, uint32_t *count);

#endif
