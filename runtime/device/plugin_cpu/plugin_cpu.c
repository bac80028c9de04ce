/* plugin_cpu.c - makes a plugin of the cpu device: its one exported symbol, and the calls that its
 * code makes of us, forwarded to the host. */
#include "dstrain/plugin.h"

#include <stdarg.h>
#include <stddef.h>

__attribute__((visibility("default"))) const struct ds_plugin *
ds_plugin_get(uint32_t abi, const struct ds_host *host);

static const struct ds_host *plugin_host; /* the one global: set before anything else is called */

ds_status ds_fail_at(ds_status st, const char *file, int line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    st = plugin_host->fail(st, file, line, format, args);
    va_end(args);
    return st;
}

void ds_log_write(enum ds_log_level level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    plugin_host->log(level, format, args);
    va_end(args);
}

void ds_panic(const char *condition, const char *file, int line)
{
    plugin_host->panic(condition, file, line);
    __builtin_unreachable(); /* the host's ends the process */
}

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
    plugin_host = host;
    return &plugin_cpu;
}
