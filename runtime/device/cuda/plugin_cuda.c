/* plugin_cuda.c - libdstrain_cuda.so: the CUDA device, its kernels, and NCCL. */
#include "device_cuda.h"
#include "plugin_host.h"

__attribute__((visibility("default"))) const struct ds_plugin *
ds_plugin_get(uint32_t abi, const struct ds_host *host);

static const struct ds_plugin plugin_cuda = {
    .device_bytes = sizeof(struct ds_device_ops),
    .kernel_bytes = sizeof(struct ds_kernel_ops),
    .comm_bytes = sizeof(struct ds_comm_ops),
    .device = &ds_device_cuda_ops,
};

const struct ds_plugin *ds_plugin_get(uint32_t abi, const struct ds_host *host)
{
    if (abi != DS_PLUGIN_ABI)
        return NULL;
    plugin_host_set(host);
    return &plugin_cuda;
}
