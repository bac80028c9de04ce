/* mfu.c - see mfu.h. */
#include "mfu.h"

#include <math.h>

double ds_mfu(const struct ds_model *model, uint64_t seq_length, struct ds_device *device,
              double tokens_per_s, uint32_t rank_count)
{
    const double peak = device->ops->peak_flops ? device->ops->peak_flops(device) : 0;

    if (!(peak > 0) || model->share.compute == DS_F32)
        return NAN;
    return ds_model_flops_per_token(model, seq_length) * tokens_per_s / rank_count / peak;
}
