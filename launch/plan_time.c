/* plan_time.c - see plan_time.h. */
#include "plan_time.h"

/* What was measured on H100s (tests/bench/RESULTS.md): of the data sheet 7B models reach 0.58 in a step, of 16 cores
 * `bench host` reports 128 GB/s; links 44 to 50 GB/s both ways at once. Updates of what is near are bound by the GPU's
 * memory, of which kernels reach 2.4 TB/s. A drive: one of Gen4. */
#define ASSUMED_SHARE_OF_PEAK 0.58
/* What a byte that travels takes of the host's memory, in bytes that updates name: a fifth of the updates of a 7B in 40 GB,
 * 36 GB beside 100 GB that travelled, took 1.36 s where 128 GB/s were measured. */
#define TRAVEL_COST 1.4
static const struct ds_speeds assumed = {.to_device_per_s = 47e9,
                                         .to_host_per_s = 47e9,
                                         .file_read_per_s = 2.5e9,
                                         .file_write_per_s = 1.3e9,
                                         .updated_per_s = 2.4e12,
                                         .host_updated_per_s = 128e9};

struct ds_speeds ds_speeds_assumed(double peak_flops)
{
    struct ds_speeds speeds = assumed;

    speeds.flops_per_s = ASSUMED_SHARE_OF_PEAK * peak_flops;
    return speeds;
}

static double seconds(double amount, double per_s)
{
    return per_s > 0 ? amount / per_s : 0;
}

static double longer(double a, double b)
{
    return a > b ? a : b;
}

static double part_s(const struct ds_step_work *work, const struct ds_speeds *speeds)
{
    const double on_device = seconds(work->flops, speeds->flops_per_s) +
                             seconds((double)work->updated, speeds->updated_per_s);
    const double in_files = seconds((double)work->file_read, speeds->file_read_per_s) +
                            seconds((double)work->file_write, speeds->file_write_per_s);
    const double link = longer(seconds((double)work->to_device, speeds->to_device_per_s),
                               seconds((double)work->to_host, speeds->to_host_per_s));
    const double travels = TRAVEL_COST * (double)(work->to_device + work->to_host);
    const double on_host = work->host_updated > 0 ? seconds((double)work->host_updated + travels,
                                                            speeds->host_updated_per_s)
                                                  : 0;

    return longer(longer(on_device, link), longer(in_files, on_host));
}

double ds_plan_step_s(const struct ds_step_work work[DS_STEP_PARTS], const struct ds_speeds *speeds)
{
    double sum = 0;

    for (int part = 0; part < DS_STEP_PARTS; part++)
        sum += part_s(&work[part], speeds);
    return sum;
}
