/* bench_link.c - `dstrain bench link`: the way between a device and its host, by which states travel that are not at home on
 * the device. Under mpirun all ranks at once, each on its device. */
#include "bench.h"
#include "link.h"
#include "speeds.h"

#include "dstrain/kernels.h"

#include <stdio.h>

struct copies {
    struct ds_link link;
    enum ds_link_way way;
};

static const char *const way_names[DS_LINK_WAYS] = {"to device", "to host", "both at once"};

static ds_status copy(void *user)
{
    struct copies *c = user;

    return ds_link_copy(&c->link, c->way);
}

static ds_status measure(const struct bench *bench, struct copies *c, double *both)
{
    for (int way = 0; way < DS_LINK_WAYS; way++) {
        const struct bench_work work = {.run = copy, .user = c, .calls = 1};
        struct bench_spread spread;
        char what[64];

        c->way = (enum ds_link_way)way;
        DS_TRY(bench_time(bench, &work, 1, &spread));
        *both = (double)c->link.bytes / spread.median;
        snprintf(what, sizeof what, "%s %s", c->link.device->ops->name, way_names[way]);
        const struct bench_figure figures[] = {{"bytes", (double)c->link.bytes},
                                               {"gb_per_s", *both * 1e-9},
                                               {"ranks", bench->world->size}};
        DS_TRY(bench_print(bench, what, "s", &spread, figures, 3));
    }
    return DS_OK;
}

static ds_status open_link(struct bench *bench, const char *name, struct ds_device **device,
                           struct copies *c)
{
    const struct ds_device_options options = {
        .thread_count = 1, .nvlink_multicast = 1, .clock = bench->command->clock};
    const struct ds_device_ops *ops;
    const size_t bytes = (size_t)(bench->is_quick ? 1 : 256) << 20;

    DS_TRY(ds_device_find("--device", name, &ops));
    DS_TRY(ops->open((int)(bench->command->local_rank % (uint32_t)ops->count()), &options, device));
    DS_TRY(ds_link_open(&c->link, *device, bytes));
    return ds_link_check(&c->link);
}

/* What is measured in earnest, plans go by from here on. */
static void keep(const struct bench *bench, double both)
{
    struct ds_speeds_kept kept = {.per_s = {[DS_SPEED_LINK] = both}};

    if (!bench->is_quick && bench->command->local_rank == 0)
        ds_speeds_keep(bench->command->fs, &kept);
}

ds_status ds_bench_link(struct bench *bench)
{
    struct ds_device *device = NULL;
    struct copies c = {.way = DS_LINK_BOTH};
    const char *name = NULL;
    double both = 0;
    ds_status st = bench_option(bench, "--device", &name);

    if (st == DS_OK)
        st = bench_arguments_end(bench, 0);
    if (st == DS_OK)
        st = open_link(bench, name ? name : "auto", &device, &c);
    st = ds_comm_agreed(bench->world, st);
    if (st == DS_OK)
        st = measure(bench, &c, &both);
    if (st == DS_OK && !(device->ops->caps & DS_DEVICE_CAP_HOST_MEMORY))
        keep(bench, both);
    ds_link_close(&c.link);
    if (device)
        device->ops->close(device);
    return st;
}
