/* plugin_cpu.c - makes a plugin of the cpu device: its one exported symbol. */
#include "plugin_host.h"

#include <stddef.h>

__attribute__((visibility("default"))) const struct ds_plugin *
ds_plugin_get(uint32_t abi, const struct ds_host *host);

static const struct ds_plugin plugin_cpu = {
    .device_bytes = sizeof(struct ds_device_ops),
    .kernel_bytes = sizeof(struct ds_kernel_ops),
    .comm_bytes = sizeof(struct ds_comm_ops),
    .device = &ds_device_cpu_ops,
};

const struct ds_plugin *ds_plugin_get(uint32_t abi, const struct ds_host *host)
{
    if (abi != DS_PLUGIN_ABI)
        return NULL;
    plugin_host_set(host);
    return &plugin_cpu;
}
