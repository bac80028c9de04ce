// link: zero comm device kernels base
// ranks: 2 4
/* mp_overlap.c - prefetch really overlaps, at the level of ZeRO: the gather of a unit that was posted
 * before 50 ms of arithmetic is through when the arithmetic is, and acquire finds nothing to wait for.
 * The proof against: a gather that one rank has not posted by then is not. */
#include "mp.h"

#include "dstrain/memory.h"
#include "dstrain/zero.h"

#define DEADLINE_NS 60000000000u
#define STAGGER_NS  UINT64_C(5000000)

enum { UNITS = 2, ELEMS = 1 << 21, TRIES = 8 };

/* Two units of stage 3 over shared memory, each with a slot of its own, collectives on a worker. */
struct rig {
    struct ds_comm *shard, *replica;
    struct ds_device *device;
    struct ds_stream *compute, *beside;
    struct ds_event *posted;
    struct ds_memory memory;
    struct ds_zero *zero;
};

static const struct ds_span whole_unit = {0, ELEMS};
static const struct ds_zero_unit_spec specs[UNITS] = {
    {.elems = ELEMS, .params = &whole_unit, .param_count = 1},
    {.elems = ELEMS, .params = &whole_unit, .param_count = 1}};

static float value_of(uint32_t unit, uint64_t i)
{
    return (float)(unit * 1000003 + i % 65521);
}

static void fill_shards(struct rig *rig)
{
    const struct ds_zero_layout *layout = ds_zero_unit_layout(rig->zero, 0);
    float *values = malloc(layout->shard_elems * sizeof *values);

    for (uint32_t unit = 0; unit < UNITS; unit++) {
        const struct ds_span mine = ds_zero_layout_shard(layout, world->rank);
        for (uint64_t i = 0; i < mine.count; i++)
            values[i] = value_of(unit, mine.start + i);
        mp_assert(ds_zero_write_shard(rig->zero, unit, 0, mine.count, values) == DS_OK);
    }
    mp_assert(ds_zero_publish(rig->zero) == DS_OK);
    free(values);
}

static void rig_open(struct rig *rig)
{
    const struct ds_device_options options = {.thread_count = 1, .clock = ds_clock_system()};
    struct ds_zero_options zero = {.stage = 3, .units = specs, .unit_count = UNITS};

    mp_assert(ds_comm_open_data(world, "shard", &rig->shard) == DS_OK);
    mp_assert(strcmp(rig->shard->ops->name, "shm") == 0);
    mp_assert(ds_comm_self_open(ds_clock_system(), &rig->replica) == DS_OK);
    mp_assert(ds_device_cpu_ops.open(0, &options, &rig->device) == DS_OK);
    mp_assert(rig->device->ops->stream_open(rig->device, 0, &rig->compute) == DS_OK);
    mp_assert(rig->device->ops->stream_open(rig->device, DS_STREAM_WORKER, &rig->beside) == DS_OK);
    mp_assert(rig->device->ops->event_open(rig->device, &rig->posted) == DS_OK);
    ds_memory_init(&rig->memory, rig->device);
    zero.dtypes = ds_zero_dtypes_fp32();
    zero.slots.weight_count[0] = UNITS;
    zero.shard = rig->shard;
    zero.replica = rig->replica;
    zero.device = rig->device;
    zero.compute = rig->compute;
    zero.comm = rig->beside;
    zero.memory = &rig->memory;
    mp_assert(ds_zero_open(&zero, &rig->zero) == DS_OK);
    fill_shards(rig);
}

static void rig_close(struct rig *rig)
{
    rig->device->ops->stream_close(rig->beside);
    rig->device->ops->stream_close(rig->compute);
    rig->device->ops->event_close(rig->posted);
    ds_zero_close(rig->zero);
    ds_memory_fini(&rig->memory);
    rig->device->ops->close(rig->device);
    ds_comm_close(rig->replica);
    ds_comm_close(rig->shard);
}

/* 50 ms of this thread, however many share the core. */
static ds_status busy(void *args, int *done)
{
    struct timespec now;
    uint64_t begin_ns = 0, now_ns;

    (void)args;
    do {
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        begin_ns = begin_ns ? begin_ns : now_ns;
    } while (now_ns - begin_ns < 50000000);
    *done = 1;
    return DS_OK;
}

/* Post the gather of unit 1 (or not), queue 50 ms of arithmetic, wait for that alone, and ask at once:
 * are all collectives posted until then through? Ranks do not meet in between. */
static int are_through_after_arithmetic(struct rig *rig, int is_posted)
{
    const struct ds_device_ops *ops = rig->device->ops;
    ds_status st = is_posted ? ds_zero_prefetch(rig->zero, 1, 1) : DS_OK;
    int done = 0;

    if (st == DS_OK)
        st = ops->event_record(rig->posted, rig->beside);
    if (st == DS_OK)
        st = ops->call(rig->compute, busy, NULL, 0);
    if (st == DS_OK)
        st = ops->stream_sync(rig->compute);
    if (st == DS_OK)
        st = ops->event_query(rig->posted, &done);
    mp_assert(st == DS_OK);
    return done;
}

static int has_weights(struct rig *rig, uint32_t unit)
{
    const float *weights = ds_zero_weights(rig->zero, unit);
    int are_right = 1;

    for (uint64_t i = 0; i < ELEMS; i++)
        are_right &= weights[i] == value_of(unit, i);
    return are_right;
}

static void close_after_use(struct rig *rig)
{
    for (uint32_t unit = 0; unit < UNITS; unit++)
        mp_assert(ds_zero_release(rig->zero, unit) == DS_OK);
    rig_close(rig);
}

/* On all ranks, that come one after the other, so that the first ones compute when the last one posts: a
 * gather that goes on only inside calls stands still then, at every try. More than one, since a host
 * with much else to do may not let the workers run in time. */
static int are_through_everywhere(struct rig *rig)
{
    for (int i = 0; i < TRIES; i++) {
        int here, everywhere = 0;

        MPI_Barrier(MPI_COMM_WORLD);
        ds_clock_sleep_ns(ds_clock_system(), world->rank * STAGGER_NS);
        here = are_through_after_arithmetic(rig, 1);
        MPI_Allreduce(&here, &everywhere, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
        if (everywhere)
            return 1;
        mp_assert(ds_zero_acquire(rig->zero, 1, 1) == DS_OK);
        mp_assert(ds_zero_release(rig->zero, 1) == DS_OK);
    }
    return 0;
}

/* Ranks acquire one after the other, the rest stands in MPI meanwhile: nothing is exchanged there. */
static void a_unit_prefetched_before_arithmetic_is_there_after_it(void **state)
{
    struct rig rig = {0};

    (void)state;
    rig_open(&rig);
    mp_assert(ds_zero_acquire(rig.zero, 0, 0) == DS_OK); /* what the arithmetic works with */
    mp_assert(are_through_everywhere(&rig));
    for (uint32_t rank = 0; rank < world->size; rank++) {
        ds_status st = DS_OK;
        if (rank == world->rank)
            st = ds_zero_acquire(rig.zero, 1, 1);
        mp_assert(st == DS_OK);
    }
    mp_assert(has_weights(&rig, 0) && has_weights(&rig, 1));
    close_after_use(&rig);
}

/* The same question has the other answer where one rank has not posted, however long they compute. */
static void a_unit_not_prefetched_is_not_there_after_arithmetic(void **state)
{
    const uint32_t last = world->size - 1;
    struct rig rig = {0};

    (void)state;
    rig_open(&rig);
    mp_assert(ds_zero_acquire(rig.zero, 0, 0) == DS_OK);
    int are_through = are_through_after_arithmetic(&rig, world->rank != last);
    mp_assert(world->rank == last || !are_through);
    mp_assert(ds_zero_acquire(rig.zero, 1, 1) == DS_OK);
    mp_assert(has_weights(&rig, 1));
    close_after_use(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_unit_prefetched_before_arithmetic_is_there_after_it),
        cmocka_unit_test(a_unit_not_prefetched_is_not_there_after_arithmetic),
    };

    return mp_run(tests, DEADLINE_NS);
}
