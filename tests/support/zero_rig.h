/* zero_rig.h - ZeRO on ranks that are threads: its groups cut out of a world of stage x tensor x replica x
 * shard, a cpu device, one record. Ranks count what does not hold; the test's thread asserts the count. */
#ifndef DSTRAIN_ZERO_RIG_H
#define DSTRAIN_ZERO_RIG_H

#include "kernel_compare.h"
#include "ranks.h"
#include "test.h"

#include "dstrain/optim.h"

#include <stdatomic.h>

enum { RIG_UNITS_MAX = 4 };

/* What all ranks of a run share. */
struct zero_case {
    uint32_t stages, tensor, replica, shard; /* ranks along each axis */
    uint32_t zero_stage;
    struct ds_zero_dtypes dtypes;
    int adds_in_place;
    enum ds_device_mode mode;
    uint64_t seed;
    void *user;
    atomic_uint fault_count;
};

struct zero_rank {
    struct zero_case *test;
    uint32_t stage, tensor, replica, shard; /* where it is */
    /* one for each thing that is summed, as the trainer has them */
    struct ds_comm *shards, *replicas, *tensors, *stages, *tie;
    struct ds_device *device;
    struct ds_stream *compute, *comm;
    struct ds_memory memory;
    struct ds_zero_unit_spec units[RIG_UNITS_MAX];
    struct ds_zero_options options; /* a test may change them before rig_zero */
    struct ds_zero *zero;
    struct ds_step_record *record; /* device */
};

#define RIG_HOLDS(rank, condition) rig_holds((rank), (condition), #condition, __LINE__)
#define RIG_OK(rank, call)         RIG_HOLDS((rank), (call) == DS_OK)

static inline void rig_holds(struct zero_rank *r, int holds, const char *text, int line)
{
    if (holds)
        return;
    if (atomic_fetch_add(&r->test->fault_count, 1) < 10)
        fprintf(stderr,
                "line %d: %s does not hold (stage %u tensor %u replica %u shard %u, zero %u)\n",
                line, text, r->stage, r->tensor, r->replica, r->shard, r->test->zero_stage);
}

static inline void rig_group(struct zero_rank *r, struct ds_comm *world, uint32_t color,
                             uint32_t key, const char *name, struct ds_comm **out)
{
    struct ds_comm *control = NULL;

    RIG_OK(r, ds_comm_split(world, (int)color, (int)key, name, &control));
    RIG_OK(r, ds_comm_open_data(control, name, out));
    ds_comm_close(control);
}

static inline void rig_groups(struct zero_rank *r, struct ds_comm *world)
{
    const struct zero_case *t = r->test;
    const uint32_t data = t->replica * t->shard, column = world->rank % (data * t->tensor);

    r->shard = world->rank % t->shard;
    r->replica = world->rank / t->shard % t->replica;
    r->tensor = world->rank / data % t->tensor;
    r->stage = world->rank / data / t->tensor;
    const int is_end = r->stage == 0 || r->stage == t->stages - 1;
    rig_group(r, world, world->rank / t->shard, r->shard, "shard", &r->shards);
    rig_group(r, world, world->rank / data * t->shard + r->shard, r->replica, "replica",
              &r->replicas);
    rig_group(r, world, r->stage * data + world->rank % data, r->tensor, "tp", &r->tensors);
    rig_group(r, world, column, r->stage, "pp", &r->stages);
    rig_group(r, world, is_end ? column : (r->stage + 1) * world->size + column, r->stage, "embed",
              &r->tie);
}

static inline void rig_open(struct zero_rank *r, struct zero_case *test, struct ds_comm *world)
{
    const struct ds_device_options device = {.mode = test->mode,
                                             .seed = test->seed + world->rank,
                                             .thread_count = 1,
                                             .clock = ds_clock_system()};
    void *record = NULL;

    *r = (struct zero_rank){.test = test};
    rig_groups(r, world);
    RIG_OK(r, ds_device_cpu_ops.open(0, &device, &r->device));
    RIG_OK(r, r->device->ops->stream_open(r->device, 0, &r->compute));
    RIG_OK(r, r->device->ops->stream_open(r->device, DS_STREAM_WORKER, &r->comm));
    ds_memory_init(&r->memory, r->device);
    RIG_OK(r, ds_memory_take(&r->memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_BATCH, sizeof *r->record,
                             &record));
    r->record = record;
    r->options = (struct ds_zero_options){
        .stage = test->zero_stage,
        .dtypes = test->dtypes,
        .units = r->units,
        .slots = {{2, 2}, {2, 2}},
        .is_training = 1,
        .adds_in_place = test->adds_in_place,
        .shard = r->shards,
        .replica = r->replicas,
        .norm = {r->tensors, r->stages},
        .tie = r->tie,
        .device = r->device,
        .compute = r->compute,
        .comm = r->comm,
        .memory = &r->memory,
    };
}

static inline void rig_zero(struct zero_rank *r, uint32_t unit_count)
{
    r->options.unit_count = unit_count;
    RIG_OK(r, ds_zero_open(&r->options, &r->zero));
}

static inline void rig_close(struct zero_rank *r)
{
    r->device->ops->stream_close(r->comm);
    r->device->ops->stream_close(r->compute);
    ds_zero_close(r->zero);
    ds_memory_fini(&r->memory);
    r->device->ops->close(r->device);
    ds_comm_close(r->tie);
    ds_comm_close(r->stages);
    ds_comm_close(r->tensors);
    ds_comm_close(r->replicas);
    ds_comm_close(r->shards);
}

/* Host memory and device memory, in the compute stream's order; waits. */
static inline void rig_copy(struct zero_rank *r, void *to, const void *from, size_t bytes)
{
    RIG_OK(r, r->device->ops->copy(r->compute, to, from, bytes));
    RIG_OK(r, r->device->ops->stream_sync(r->compute));
}

static inline struct ds_step_record rig_record(struct zero_rank *r)
{
    struct ds_step_record record;

    rig_copy(r, &record, r->record, sizeof record);
    return record;
}

static inline void rig_run(struct zero_case *test, ranks_body *body)
{
    const uint32_t ranks = test->stages * test->tensor * test->replica * test->shard;

    atomic_store(&test->fault_count, 0);
    assert_true(run_ranks(ranks, 60000000000u, body, test));
    assert_int_equal(atomic_load(&test->fault_count), 0);
}

#endif
