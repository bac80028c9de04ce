/* matmul_tuning.c - the table of GEMM algorithms as what a device has chosen by the clock: given to other ranks
 * and to later runs. */
#include "matmul.h"

#include <ctype.h>
#include <stdio.h>

static struct cuda_gemm *gemm_of(struct ds_device *device)
{
    return ((struct cuda_device *)device)->math->gemm;
}

/* Letters and digits of the GPU's name, the rest as underscores. */
static void tuning_name(struct ds_device *device, char *to, size_t bytes)
{
    const struct cuda_device *cuda = (const struct cuda_device *)device;

    to[0] = 0;
    if (cuda->is_deterministic)
        return;
    snprintf(to, bytes, "gemm-%s-%zu", cuda->name, cublasLtGetVersion());
    for (char *at = to; *at; at++)
        if (!isalnum((unsigned char)*at) && *at != '-')
            *at = '_';
}

static size_t tuning_save(struct ds_device *device, void *to, int *is_new)
{
    const struct cuda_gemm *gemm = gemm_of(device);

    *is_new = gemm->table.timed_count > 0;
    return gemm_table_save(&gemm->table, gemm->made_for, to);
}

static int tuning_load(struct ds_device *device, const void *from, size_t bytes)
{
    struct cuda_gemm *gemm = gemm_of(device);

    return gemm_table_load(&gemm->table, gemm->made_for, from, bytes);
}

static void tuning_seal(struct ds_device *device)
{
    gemm_of(device)->is_sealed = 1;
}

const struct ds_tuning_ops cuda_tuning_ops = {
    .name = tuning_name,
    .bytes_max = gemm_table_bytes_max,
    .save = tuning_save,
    .load = tuning_load,
    .seal = tuning_seal,
};
