/* plan_room.c - how much memory a rank finds where no limit says how much it may take: what its device reports free, and
 * its part of what its host has. */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the host */

/* A line "key value" of a group's statistics; 0: there is none. */
static uint64_t stat_value(const char *text, const char *key)
{
    const size_t length = strlen(key);

    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (strncmp(line, key, length) == 0 && line[length] == ' ')
            return strtoull(line + length, NULL, 10);
    return 0;
}

uint64_t ds_plan_group_left(const char *max, const char *current, const char *stat)
{
    char *end;
    const uint64_t limit = strtoull(max, &end, 10); /* "max": no digits, no limit */
    const uint64_t taken = strtoull(current, NULL, 10), cache = stat_value(stat, "inactive_file");
    const uint64_t held = taken > cache ? taken - cache : 0;

    if (end == max)
        return UINT64_MAX;
    return limit > held ? limit - held : 0;
}

static void read_start(struct ds_fs *fs, const char *path, char *to, size_t bytes)
{
    const int file = ds_fs_open(fs, path, DS_FS_READ, 0);
    int64_t count = 0;

    if (file >= 0) {
        count = ds_fs_pread(fs, file, to, bytes - 1, 0);
        (void)ds_fs_close(fs, file);
    }
    to[count > 0 ? count : 0] = '\0';
}

/* A container may have less than its host. */
static uint64_t group_left(struct ds_fs *fs)
{
    char max[64], current[64], stat[4096];

    read_start(fs, "/sys/fs/cgroup/memory.max", max, sizeof max);
    read_start(fs, "/sys/fs/cgroup/memory.current", current, sizeof current);
    read_start(fs, "/sys/fs/cgroup/memory.stat", stat, sizeof stat);
    return ds_plan_group_left(max, current, stat);
}

static ds_status left_of(const struct ds_device_ops *ops, int index, const struct ds_clock *clock,
                         uint64_t *bytes)
{
    /* nothing that another process or library is told by: the run opens it once more */
    const struct ds_device_options options = {
        .thread_count = 1, .nvlink_multicast = 1, .clock = clock};
    struct ds_device *device;
    size_t left = 0;
    ds_status st;

    *bytes = 0;
    if (!ops->memory_left)
        return DS_OK;
    DS_TRY(ops->open(index, &options, &device));
    st = ops->memory_left(device, &left);
    ops->close(device);
    *bytes = left;
    return st;
}

/* ---- a rank */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

ds_status ds_plan_look_for_room(const struct ds_plan_ranks *ranks, const struct ds_config *config,
                                struct ds_plan_room *out)
{
    const struct ds_device_ops *ops = ds_device_look(config->run.device);
    const uint64_t local_count = ranks->local_count > 0 ? (uint64_t)ranks->local_count : 1;
    uint64_t host;

    *out = (struct ds_plan_room){0};
    if (!ops)
        return DS_OK;
    const uint64_t count = ops->count() > 0 ? (uint64_t)ops->count() : 1;
    DS_TRY(left_of(ops, (int)(ranks->local_rank % count), ranks->clock, &out->device_bytes));
    DS_TRY(left_of(&ds_device_cpu_ops, 0, ranks->clock, &host));
    host = least(host, group_left(ranks->fs)) / local_count;
    out->host_bytes = host - host / 8; /* libraries, data and the system want some */
    out->device_bytes /= (local_count + count - 1) / count;
    if (!(ops->caps & DS_DEVICE_CAP_HOST_MEMORY))
        return DS_OK;
    out->device_bytes = out->host_bytes;
    out->is_one = config->memory.device_limit == DS_AUTO; /* a limit makes two of it */
    return DS_OK;
}

ds_status ds_plan_agree_on_room(const struct ds_plan_ranks *ranks, const struct ds_config *config,
                                struct ds_plan_room *out)
{
    const uint64_t device_limit = config->memory.device_limit,
                   host_limit = config->memory.host_limit;
    uint64_t least_of[3];

    *out = (struct ds_plan_room){0};
    if (!ds_plan_leaves_homes(config) || (device_limit != DS_AUTO && host_limit != DS_AUTO))
        return DS_OK;
    DS_TRY(ds_comm_agreed(ranks->world, ds_plan_look_for_room(ranks, config, out)));
    least_of[0] = out->device_bytes;
    least_of[1] = out->host_bytes;
    least_of[2] = !out->is_one;
    DS_TRY(ds_comm_all_reduce(ranks->world, least_of, 3, DS_U64, DS_REDUCE_MIN, NULL));
    *out = (struct ds_plan_room){least_of[0], least_of[1], !least_of[2]};
    return DS_OK;
}
