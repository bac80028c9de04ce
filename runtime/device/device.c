/* device.c - the registry: which table a name means, and why "auto" chose the one it chose. */
#include "dstrain/device.h"
#include "loader.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH_MAX_BYTES 4096
#define CUDA_PLUGIN    "libdstrain_cuda.so"

/* The folder of the running program, without the last slash. */
static int find_program_folder(char *folder, size_t bytes, char *why)
{
    ssize_t length = readlink("/proc/self/exe", folder, bytes - 1);
    char *slash;

    if (length < 0) {
        snprintf(why, DS_WHY_MAX, "cannot tell where the program is: %s", strerror(errno));
        return 0;
    }
    folder[length] = '\0';
    slash = strrchr(folder, '/');
    if (slash != NULL)
        *slash = '\0';
    return 1;
}

static int find_cuda_plugin(char *path, size_t bytes, char *why)
{
    char folder[PATH_MAX_BYTES - sizeof CUDA_PLUGIN];

    if (!find_program_folder(folder, sizeof folder, why))
        return 0;
    snprintf(path, bytes, "%s/%s", folder, CUDA_PLUGIN);
    if (access(path, F_OK) == 0)
        return 1;
    snprintf(why, DS_WHY_MAX, "%s is not in %.512s (it is built where CUDA and NCCL are)",
             CUDA_PLUGIN, folder);
    return 0;
}

static int find_cuda(char *why, const struct ds_device_ops **out)
{
    char path[PATH_MAX_BYTES];
    const struct ds_plugin *plugin;

    if (!find_cuda_plugin(path, sizeof path, why) || !ds_plugin_try(path, why, &plugin))
        return 0;
    if (plugin->device->count() == 0) {
        snprintf(why, DS_WHY_MAX, "there is none");
        if (plugin->device->why_none)
            plugin->device->why_none(why, DS_WHY_MAX);
        return 0;
    }
    *out = plugin->device;
    return 1;
}

static int find_cpu(char *why, const struct ds_device_ops **out)
{
    (void)why;
    *out = &ds_device_cpu_ops;
    return 1;
}

struct device_row {
    const char *name;
    int (*find)(char *why, const struct ds_device_ops **out); /* 0: not here, a sentence in why */
};

static const struct device_row device_rows[] = {{"cuda", find_cuda},
                                                {"cpu", find_cpu}}; /* best first */
#define ROW_COUNT (sizeof device_rows / sizeof device_rows[0])

static ds_status find_best(const char *who, const struct ds_device_ops **out)
{
    char why[DS_WHY_MAX];

    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct ds_device_ops *ops;

        if (!device_rows[i].find(why, &ops))
            ds_info("device: not %s: %s", device_rows[i].name, why);
        else if (ops->caps & DS_DEVICE_CAP_COMPUTES) {
            *out = ops;
            return DS_OK;
        }
    }
    return ds_fail(DS_ERR_UNSUPPORTED, "%s = auto: no device here computes", who);
}

ds_status ds_device_find(const char *who, const char *name, const struct ds_device_ops **out)
{
    char why[DS_WHY_MAX];

    if (strcmp(name, "auto") == 0)
        return find_best(who, out);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strcmp(name, device_rows[i].name) != 0)
            continue;
        if (device_rows[i].find(why, out))
            return DS_OK;
        return ds_fail(DS_ERR_UNSUPPORTED, "%s = %s: %s; device = auto takes what is here", who,
                       name, why);
    }
    return ds_fail(DS_ERR_UNSUPPORTED, "%s = %s: there is cpu, cuda, and auto for the best here",
                   who, name);
}

const struct ds_device_ops *ds_device_look(const char *name)
{
    const int is_any = strcmp(name, "auto") == 0;
    char why[DS_WHY_MAX];

    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct ds_device_ops *ops;

        if ((is_any || strcmp(name, device_rows[i].name) == 0) && device_rows[i].find(why, &ops) &&
            (!is_any || ops->caps & DS_DEVICE_CAP_COMPUTES))
            return ops;
    }
    return NULL;
}

ds_status ds_stream_after(struct ds_stream *waiter, struct ds_stream *first, struct ds_event *event)
{
    DS_TRY(first->device->ops->event_record(event, first));
    return waiter->device->ops->stream_wait(waiter, event);
}
