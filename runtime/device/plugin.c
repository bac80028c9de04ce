/* plugin.c - the host's side of a plugin: load it, check that both sides mean the same tables, and
 * give it our log. A plugin that does not fit is refused with one sentence. */
#include "dstrain/plugin.h"
#include "loader.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_MAX 4096

static ds_status host_fail(ds_status st, const char *file, int line, const char *format,
                           va_list args)
{
    char message[MESSAGE_MAX];

    vsnprintf(message, sizeof message, format, args);
    return ds_fail_at(st, file, line, "%s", message);
}

static void host_log(enum ds_log_level level, const char *format, va_list args)
{
    char message[MESSAGE_MAX];

    vsnprintf(message, sizeof message, format, args);
    ds_log_write(level, "%s", message);
}

static uint64_t host_mono_ns(void *self)
{
    (void)self;
    return ds_clock_mono_ns(ds_clock_system());
}

static uint64_t host_real_ns(void *self)
{
    (void)self;
    return ds_clock_real_ns(ds_clock_system());
}

static void host_sleep_ns(void *self, uint64_t ns)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), ns);
}

static const struct ds_clock host_clock = {host_mono_ns, host_real_ns, host_sleep_ns, NULL};

static const struct ds_host plugin_host_table = {
    .fail = host_fail,
    .log = host_log,
    .panic = ds_panic,
    .clock = &host_clock,
};

/* The entries that nobody checks again before calling them. */
static int has_required_entries(const struct ds_device_ops *device)
{
    return device->name && device->kernels && device->count && device->open && device->close &&
           device->alloc && device->release && device->stream_open && device->stream_close &&
           device->event_open && device->event_close && device->copy && device->stream_wait &&
           device->event_record && device->event_query && device->event_sync &&
           device->stream_sync && device->stream_stamp;
}

static int has_our_size(const char *path, const char *table, size_t theirs, size_t ours, char *why)
{
    if (theirs == ours)
        return 1;
    snprintf(why, DS_WHY_MAX,
             "%s was built for another dstrain: its %s table has %zu bytes, ours %zu", path, table,
             theirs, ours);
    return 0;
}

static int accept(const char *path, ds_plugin_get_fn get, char *why, const struct ds_plugin **out)
{
    const struct ds_plugin *plugin = get(DS_PLUGIN_ABI, &plugin_host_table);

    if (plugin == NULL) {
        snprintf(why, DS_WHY_MAX, "%s does not know plugin ABI %u, which this dstrain speaks", path,
                 DS_PLUGIN_ABI);
        return 0;
    }
    if (!has_our_size(path, "device", plugin->device_bytes, sizeof(struct ds_device_ops), why) ||
        !has_our_size(path, "kernel", plugin->kernel_bytes, sizeof(struct ds_kernel_ops), why) ||
        !has_our_size(path, "communicator", plugin->comm_bytes, sizeof(struct ds_comm_ops), why))
        return 0;
    if (plugin->device == NULL || !has_required_entries(plugin->device)) {
        snprintf(why, DS_WHY_MAX, "%s leaves out an entry that every device must have", path);
        return 0;
    }
    *out = plugin;
    return 1;
}

/* A plugin that was refused may be unloaded: nobody has kept anything of it. */
int ds_plugin_try(const char *path, char *why, const struct ds_plugin **out)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbol;
    ds_plugin_get_fn get;

    if (object == NULL) {
        snprintf(why, DS_WHY_MAX, "cannot load plugin: %s", dlerror());
        return 0;
    }
    symbol = dlsym(object, "ds_plugin_get");
    memcpy(&get, &symbol, sizeof get); /* ISO C has no cast from void * to a function */
    if (symbol == NULL)
        snprintf(why, DS_WHY_MAX, "%s is not a dstrain plugin: it has no ds_plugin_get", path);
    else if (accept(path, get, why, out))
        return 1;
    dlclose(object);
    return 0;
}

ds_status ds_plugin_accept(const char *path, ds_plugin_get_fn get, const struct ds_plugin **out)
{
    char why[DS_WHY_MAX];

    return accept(path, get, why, out) ? DS_OK : ds_fail(DS_ERR_UNSUPPORTED, "%s", why);
}

ds_status ds_plugin_load(const char *path, const struct ds_plugin **out)
{
    char why[DS_WHY_MAX];

    return ds_plugin_try(path, why, out) ? DS_OK : ds_fail(DS_ERR_UNSUPPORTED, "%s", why);
}
