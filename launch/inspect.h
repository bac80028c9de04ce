/* inspect.h (private to launch) - what the parts of `dstrain inspect` share. local: everything here. */
#ifndef DSTRAIN_LAUNCH_INSPECT_H
#define DSTRAIN_LAUNCH_INSPECT_H

#include "checkpoint_place.h"

#include "dstrain/model.h"
#include "dstrain/safetensors.h"

/* what a terminal would obey is not printed; spaces up to `width` */
void inspect_print_plain(const char *text, size_t width);
void inspect_print_shape(enum ds_dtype dtype, uint32_t dim_count, const uint64_t *shape);
void inspect_print_model(const struct ds_model_config *config);

/* All that are looked at: the parts of a quantised matrix may lie in several. */
struct inspect_files {
    struct ds_safetensors **files;
    size_t count;
};
/* prints nothing where nothing is quantised; DS_ERR_DATA, DS_ERR_UNSUPPORTED: as in ds_quant_open */
DS_CHECKED ds_status inspect_quantised(struct inspect_files *files);

/* DS_ERR_CORRUPT, DS_ERR_NO_CHECKPOINT: some, or all, cannot be used */
DS_CHECKED ds_status inspect_checkpoints(struct ds_fs *fs, const struct ds_checkpoint_place *place,
                                         int is_verbose);

#endif
