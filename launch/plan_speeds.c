/* plan_speeds.c - what times of a step are predicted with: what was measured of this host and kept, the link of a GPU measured
 * now where nobody has, and what is assumed of the rest. */
#include "link.h"
#include "plan.h"

/* Enough to be at speed, little to wait for: three milliseconds. */
#define PROBE_BYTES ((size_t)64 << 20)

/* Of the GPU that a plan is made for where there is none: by its data sheet, an H100. */
#define GPU_PEAK_FLOPS 989.4e12

static double least(double a, double b)
{
    return a < b ? a : b;
}

static uint32_t drive_count(const struct ds_config *config)
{
    char path[DS_TEXT_MAX];
    uint32_t count = 0;

    while (ds_config_directory(config, count, path))
        count++;
    return count > 0 ? count : 1;
}

static void take(struct ds_speeds *speeds, double *to, const struct ds_speeds_kept *kept,
                 enum ds_speed which)
{
    if (!(kept->per_s[which] > 0))
        return;
    *to = kept->per_s[which];
    speeds->measured |= 1u << which;
}

struct ds_speeds ds_plan_speeds_of(const struct ds_config *config, double peak_flops,
                                   const struct ds_speeds_kept *kept, int local_count, int threads)
{
    const int is_16_bits = config->precision.compute != DS_PRECISION_FP32;
    struct ds_speeds speeds = ds_speeds_assumed(is_16_bits ? peak_flops : 0);
    const double ranks = local_count > 0 ? local_count : 1;
    const double drives = drive_count(config) / ranks;
    double whole = ASSUMED_THREADS, part = 1;

    take(&speeds, &speeds.to_device_per_s, kept, DS_SPEED_LINK);
    take(&speeds, &speeds.to_host_per_s, kept, DS_SPEED_LINK);
    take(&speeds, &speeds.file_read_per_s, kept, DS_SPEED_FILE_READ);
    take(&speeds, &speeds.file_write_per_s, kept, DS_SPEED_FILE_WRITE);
    take(&speeds, &speeds.host_updated_per_s, kept, DS_SPEED_HOST_UPDATE);
    if (speeds.measured >> DS_SPEED_HOST_UPDATE & 1) {
        whole = kept->host_threads;
        part = 1 / ranks;
    }
    if (threads > 0 && whole > 0)
        part = least(part, threads / whole);
    speeds.file_read_per_s *= drives;
    speeds.file_write_per_s *= drives;
    speeds.host_updated_per_s *= part;
    return speeds;
}

/* ---- of this rank */

static ds_status probe(struct ds_device *device, const struct ds_clock *clock,
                       struct ds_speeds_kept *kept)
{
    struct ds_link link;
    ds_status st;

    DS_TRY(ds_link_open(&link, device, PROBE_BYTES));
    st = ds_link_measure(&link, clock, &kept->per_s[DS_SPEED_LINK]);
    ds_link_close(&link);
    return st;
}

/* A GPU: what it can do by its data sheet, and the way to it, where nobody has kept that. */
static ds_status look_at_gpu(const struct ds_plan_ranks *ranks, const struct ds_device_ops *ops,
                             struct ds_speeds_kept *kept, double *peak_flops)
{
    const struct ds_device_options options = {
        .thread_count = 1, .nvlink_multicast = 1, .clock = ranks->clock};
    const uint32_t count = ops->count() > 0 ? (uint32_t)ops->count() : 1;
    const int is_kept = kept->per_s[DS_SPEED_LINK] > 0;
    struct ds_device *device;
    ds_status st = DS_OK;

    DS_TRY(ops->open((int)(ranks->local_rank % count), &options, &device));
    if (ops->peak_flops && ops->peak_flops(device) > 0)
        *peak_flops = ops->peak_flops(device);
    if (!is_kept)
        st = probe(device, ranks->clock, kept);
    ops->close(device);
    if (st == DS_OK && !is_kept && ranks->local_rank == 0)
        ds_speeds_keep(ranks->fs, &(struct ds_speeds_kept){
                                      .per_s = {[DS_SPEED_LINK] = kept->per_s[DS_SPEED_LINK]}});
    return st;
}

ds_status ds_plan_find_speeds(const struct ds_plan_ranks *ranks, const struct ds_config *config,
                              struct ds_speeds *out)
{
    const struct ds_device_ops *ops = ds_device_look(config->run.device);
    double peak_flops = ds_plan_is_gpu(config) ? GPU_PEAK_FLOPS : 0;
    struct ds_speeds_kept kept = {0};

    if (ops) /* else it is for another host */
        ds_speeds_read(ranks->fs, &kept);
    if (ops && !(ops->caps & DS_DEVICE_CAP_HOST_MEMORY) && ds_plan_leaves_homes(config))
        DS_TRY(look_at_gpu(ranks, ops, &kept, &peak_flops));
    *out = ds_plan_speeds_of(config, peak_flops, &kept, ranks->local_count, ranks->thread_count);
    return DS_OK;
}

/* ---- of all */

static ds_status take_least(struct ds_comm *world, struct ds_speeds *speeds)
{
    double *const values[] = {&speeds->flops_per_s,       &speeds->to_device_per_s,
                              &speeds->to_host_per_s,     &speeds->file_read_per_s,
                              &speeds->file_write_per_s,  &speeds->updated_per_s,
                              &speeds->host_updated_per_s};
    enum { COUNT = sizeof values / sizeof *values };
    double least_of[COUNT + DS_SPEED_COUNT];

    for (int i = 0; i < COUNT; i++)
        least_of[i] = *values[i];
    for (int i = 0; i < DS_SPEED_COUNT; i++)
        least_of[COUNT + i] = speeds->measured >> i & 1;
    DS_TRY(
        ds_comm_all_reduce(world, least_of, COUNT + DS_SPEED_COUNT, DS_F64, DS_REDUCE_MIN, NULL));
    for (int i = 0; i < COUNT; i++)
        *values[i] = least_of[i];
    speeds->measured = 0;
    for (int i = 0; i < DS_SPEED_COUNT; i++)
        speeds->measured |= (uint32_t)(least_of[COUNT + i] > 0) << i;
    return DS_OK;
}

/* Links of a host are measured at once, as they are used. */
ds_status ds_plan_agree_on_speeds(const struct ds_plan_ranks *ranks, const struct ds_config *config,
                                  struct ds_speeds *out)
{
    *out = (struct ds_speeds){0};
    if (!ds_plan_leaves_homes(config))
        return DS_OK;
    DS_TRY(ds_comm_barrier(ranks->world));
    DS_TRY(ds_comm_agreed(ranks->world, ds_plan_find_speeds(ranks, config, out)));
    return take_least(ranks->world, out);
}

/* ---- what is said of them */

void ds_plan_show_speeds(const struct ds_plan_question *question, const struct ds_speeds *speeds)
{
    const char *how[DS_SPEED_COUNT];

    for (int i = 0; i < DS_SPEED_COUNT; i++)
        how[i] = speeds->measured >> i & 1 ? "measured" : "assumed";
    ds_plan_say(
        question,
        "times go by, for a rank: %.0f TFLOP/s (assumed), link %.1f GB/s each way (%s), files "
        "%.1f read and %.1f written (%s), updates by the host %.0f (%s)",
        speeds->flops_per_s * 1e-12, speeds->to_device_per_s * 1e-9, how[DS_SPEED_LINK],
        speeds->file_read_per_s * 1e-9, speeds->file_write_per_s * 1e-9, how[DS_SPEED_FILE_READ],
        speeds->host_updated_per_s * 1e-9, how[DS_SPEED_HOST_UPDATE]);
}
