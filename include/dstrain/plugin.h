/* plugin.h - the boundary to a device that comes as a shared object. One exported symbol,
 * `ds_plugin_get`. Sizes travel with the tables, so that an old plugin is refused with a sentence and
 * not with a crash. The plugin's ds_fail_at, ds_log_write and ds_panic forward to `host`: its code
 * reads like ours and links nothing of ours. */
#ifndef DSTRAIN_PLUGIN_H
#define DSTRAIN_PLUGIN_H

#include "dstrain/clock.h"
#include "dstrain/comm.h"
#include "dstrain/device.h"
#include "dstrain/kernels.h"

#include <stdarg.h>

#define DS_PLUGIN_ABI 3u

struct ds_host {
    ds_status (*fail)(ds_status st, const char *file, int line, const char *format, va_list args);
    void (*log)(enum ds_log_level level, const char *format, va_list args);
    void (*panic)(const char *condition, const char *file, int line);
    const struct ds_clock *clock;
};

struct ds_plugin {
    size_t device_bytes, kernel_bytes, comm_bytes; /* sizeof the tables, as the plugin knows them */
    const struct ds_device_ops
        *device; /* with its kernels and, if it brings one, its communicator */
};

typedef const struct ds_plugin *(*ds_plugin_get_fn)(uint32_t abi, const struct ds_host *host);

/* local: load the shared object at `path`; it stays loaded. DS_ERR_UNSUPPORTED with the reason. */
DS_CHECKED ds_status ds_plugin_load(const char *path, const struct ds_plugin **out);

/* local: the checks of ds_plugin_load on an entry that is already here; `path` is for the message. */
DS_CHECKED ds_status ds_plugin_accept(const char *path, ds_plugin_get_fn get,
                                      const struct ds_plugin **out);

#endif
