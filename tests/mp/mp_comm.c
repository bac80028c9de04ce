// link: comm device kernels base
// ranks: 2 3 4 8
/* mp_comm.c - communicators of processes: control over MPI, data over shared memory and over MPI. The
 * cases are those that ranks as threads pass, with the same expected bits. */
#include "capture.h"
#include "comm_cases.h"
#include "mp.h"

#include <glob.h>
#include <unistd.h>

#define DEADLINE_NS    60000000000u
#define SHORT_DEADLINE 2000000000u
#define DIRECT         64u /* ranks: messages from each to each */
#define TREES          0u  /* MPI's own trees where they will do */

enum { TRIES = 8 };

static void the_world_is_mpiruns(void **state)
{
    (void)state;
    mp_assert(world->size == strtoul(getenv("OMPI_COMM_WORLD_SIZE"), NULL, 10));
    mp_assert(world->rank == strtoul(getenv("OMPI_COMM_WORLD_RANK"), NULL, 10));
    mp_assert(strcmp(world->ops->name, "mpi") == 0 && strcmp(world->group, "world") == 0);
    mp_assert(getenv("OMPI_MCA_mpi_yield_when_idle") != NULL);
}

static void one_failing_rank_is_known_to_all(void **state)
{
    ds_status local = world->rank == world->size - 1 ? DS_ERR_IO : DS_OK;
    ds_status verdict = DS_OK;

    (void)state;
    mp_assert(ds_comm_agree(world, local, &verdict) == DS_OK && verdict == DS_ERR_IO);
    mp_assert(ds_comm_agree(world, DS_OK, &verdict) == DS_OK && verdict == DS_OK); /* still works */
}

static void control_gives_the_rank_order_result(void **state)
{
    (void)state;
    mp_assert(comm_cases_run(world, COMM_BLOCKING, mp_seed("control")) == 0);
}

static void expect_cases(struct ds_comm *data, const enum comm_drive *drives, int drive_count)
{
    uint64_t seed = mp_seed("data");

    for (int i = 0; i < drive_count; i++)
        mp_assert(comm_cases_run(data, drives[i], seed) == 0);
    ds_comm_close(data);
}

static void shared_memory_gives_the_rank_order_result(void **state)
{
    static const enum comm_drive drives[] = {COMM_BLOCKING, COMM_WORKER, COMM_MAIN, COMM_DEFERRED};
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_open_data(world, "data", &data) == DS_OK);
    mp_assert(strcmp(data->ops->name, "shm") == 0 && data->ops->caps & DS_COMM_CAP_WORKER);
    expect_cases(data, drives, 4);
}

static void messages_give_the_rank_order_result(void **state)
{
    static const enum comm_drive drives[] = {COMM_BLOCKING, COMM_MAIN, COMM_DEFERRED};
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_mpi_open_data(world, "data", DIRECT, &data) == DS_OK);
    mp_assert(strcmp(data->ops->name, "mpi") == 0 && !(data->ops->caps & DS_COMM_CAP_WORKER));
    expect_cases(data, drives, 3);
}

static void trees_give_the_rank_order_result(void **state)
{
    static const enum comm_drive drives[] = {COMM_BLOCKING};
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_mpi_open_data(world, "data", TREES, &data) == DS_OK);
    expect_cases(data, drives, 1);
}

/* Any values at all, not those of the cases: shm and mpi give the same bits. */
static void shared_memory_and_messages_give_equal_bits(void **state)
{
    enum { COUNT = 70001 };
    const uint64_t seed = mp_seed("equal bits");
    struct ds_comm *shm = NULL, *mpi = NULL;
    float *by_shm = malloc(COUNT * sizeof *by_shm), *by_mpi = malloc(COUNT * sizeof *by_mpi);

    (void)state;
    mp_assert(ds_comm_open_data(world, "shm", &shm) == DS_OK);
    mp_assert(ds_comm_mpi_open_data(world, "mpi", DIRECT, &mpi) == DS_OK);
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t hash = case_hash(seed + i * 64 + world->rank);
        by_shm[i] = by_mpi[i] = ldexpf((float)(int32_t)hash, (int)(hash >> 58) - 32);
    }
    mp_assert(ds_comm_all_reduce(shm, by_shm, COUNT, DS_F32, DS_REDUCE_SUM, NULL) == DS_OK);
    mp_assert(ds_comm_all_reduce(mpi, by_mpi, COUNT, DS_F32, DS_REDUCE_SUM, NULL) == DS_OK);
    mp_assert(memcmp(by_shm, by_mpi, COUNT * sizeof *by_shm) == 0);
    ds_comm_close(shm);
    ds_comm_close(mpi);
    free(by_shm);
    free(by_mpi);
}

/* Every second rank, each half with shared memory of its own, and both at work at once. */
static void groups_have_data_of_their_own(void **state)
{
    struct ds_comm *half = NULL, *data = NULL, *quarter = NULL;
    uint64_t count = 1;

    (void)state;
    mp_assert(ds_comm_split(world, (int)(world->rank % 2), (int)world->rank, "half", &half) ==
              DS_OK);
    mp_assert(half->size == (world->size + 1 - world->rank % 2) / 2);
    mp_assert(ds_comm_open_data(half, "half", &data) == DS_OK);
    mp_assert(strcmp(data->ops->name, half->size == 1 ? "self" : "shm") == 0);
    mp_assert(comm_cases_run(data, COMM_BLOCKING, 0) == 0);
    mp_assert(ds_comm_split(data, (int)(data->rank / 2), 0, "quarter", &quarter) == DS_OK);
    mp_assert(ds_comm_all_reduce(quarter, &count, 1, DS_U64, DS_REDUCE_SUM, NULL) == DS_OK);
    mp_assert(count == quarter->size);
    ds_comm_close(quarter);
    ds_comm_close(data);
    ds_comm_close(half);
}

static void nothing_is_left_in_dev_shm(void **state)
{
    struct ds_comm *data = NULL;
    char pattern[64];
    glob_t found;

    (void)state;
    mp_assert(ds_comm_open_data(world, "data", &data) == DS_OK);
    snprintf(pattern, sizeof pattern, "/dev/shm/dstrain-%ld-*", (long)getpid());
    mp_assert(glob(pattern, 0, NULL, &found) == GLOB_NOMATCH);
    ds_comm_close(data);
}

/* ---- beside arithmetic */

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

/* At one of some tries: a host with much else to do may not let the workers run in time. */
static void a_gather_is_through_after_the_arithmetic_behind_it(void **state)
{
    const struct ds_device_options options = {.thread_count = 1, .clock = ds_clock_system()};
    const size_t part = 1u << 18;
    struct ds_comm *data = NULL;
    struct ds_device *device = NULL;
    struct ds_stream *compute = NULL, *beside = NULL;
    struct ds_event *gathered = NULL;
    void *send = NULL, *recv = NULL;
    int is_through = 0;

    (void)state;
    mp_assert(ds_comm_open_data(world, "data", &data) == DS_OK);
    mp_assert(ds_device_cpu_ops.open(0, &options, &device) == DS_OK);
    mp_assert(device->ops->stream_open(device, 0, &compute) == DS_OK);
    mp_assert(device->ops->stream_open(device, DS_STREAM_WORKER, &beside) == DS_OK);
    mp_assert(device->ops->event_open(device, &gathered) == DS_OK);
    mp_assert(device->ops->alloc(device, DS_MEMORY_DEVICE, part, 0, &send) == DS_OK);
    mp_assert(device->ops->alloc(device, DS_MEMORY_DEVICE, part * world->size, 0, &recv) == DS_OK);
    for (int i = 0; i < TRIES && !is_through; i++) {
        int done = 0;

        mp_assert(ds_comm_all_gather(data, send, recv, part / 4, DS_F32, beside) == DS_OK);
        mp_assert(device->ops->event_record(gathered, beside) == DS_OK);
        mp_assert(device->ops->call(compute, busy, NULL, 0) == DS_OK);
        mp_assert(device->ops->stream_sync(compute) == DS_OK);
        ds_status st = device->ops->event_query(gathered, &done);
        mp_assert(st == DS_OK);
        MPI_Allreduce(&done, &is_through, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
        mp_assert(device->ops->stream_sync(beside) == DS_OK);
    }
    mp_assert(is_through);
    device->ops->stream_close(beside);
    device->ops->stream_close(compute);
    device->ops->event_close(gathered);
    device->ops->release(device, DS_MEMORY_DEVICE, send, part);
    device->ops->release(device, DS_MEMORY_DEVICE, recv, part * world->size);
    device->ops->close(device);
    ds_comm_close(data);
}

/* ---- ranks that do not come. The last one calls when the others have given it up, so that what MPI has
 * posted is matched. */

static float late_data[5000];

static void expect_late_rank_named(struct ds_comm *comm)
{
    const uint32_t last = comm->size - 1;
    struct capture capture;
    char want[96];
    ds_status st;

    comm->deadline_ns = SHORT_DEADLINE;
    capture_begin(&capture);
    MPI_Barrier(MPI_COMM_WORLD);
    if (comm->rank == last)
        MPI_Barrier(MPI_COMM_WORLD);
    st = ds_comm_all_reduce(comm, late_data, 5000, DS_F32, DS_REDUCE_SUM, NULL);
    if (comm->rank != last)
        MPI_Barrier(MPI_COMM_WORLD);
    const char *text = capture_end(&capture);
    snprintf(want, sizeof want, "s for rank %u (of %u)", last, comm->size);
    if (comm->rank != last && strstr(text, want) == NULL)
        fprintf(stderr, "said: %s\n", text);
    mp_assert(comm->rank == last || st == DS_ERR_DEADLINE);
    mp_assert(comm->rank == last || strstr(text, "shard group: all_reduce: waited ") != NULL);
    mp_assert(comm->rank == last || strstr(text, want) != NULL);
    mp_assert(comm->rank == last || ds_comm_barrier(comm) == DS_ERR_COMM); /* at once */
    ds_comm_close(comm);
}

static void a_late_rank_is_named_by_shared_memory(void **state)
{
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_open_data(world, "shard", &data) == DS_OK);
    expect_late_rank_named(data);
}

static void a_late_rank_is_named_by_messages(void **state)
{
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_mpi_open_data(world, "shard", DIRECT, &data) == DS_OK);
    expect_late_rank_named(data);
}

/* Every other rank wants something from the last one, which sends when it is too late. */
static void expect_late_peer_named(struct ds_comm *comm)
{
    const uint32_t last = comm->size - 1;
    struct ds_message messages[DS_MESSAGES_MAX];
    struct capture capture;
    uint32_t count = 0;
    char want[96];
    ds_status st;

    comm->deadline_ns = SHORT_DEADLINE;
    for (uint32_t rank = 0; rank < comm->size; rank++)
        if (rank != comm->rank && (rank == last || comm->rank == last))
            messages[count++] = (struct ds_message){late_data, 100, rank, comm->rank == last};
    capture_begin(&capture);
    MPI_Barrier(MPI_COMM_WORLD);
    if (comm->rank == last)
        MPI_Barrier(MPI_COMM_WORLD);
    st = ds_comm_exchange(comm, messages, count, NULL);
    if (comm->rank != last)
        MPI_Barrier(MPI_COMM_WORLD);
    const char *text = capture_end(&capture);
    snprintf(want, sizeof want, "s for rank %u (of %u)", last, comm->size);
    mp_assert(st == (comm->rank == last ? DS_OK : DS_ERR_DEADLINE));
    mp_assert(comm->rank == last || strstr(text, "pipe group: exchange: waited ") != NULL);
    mp_assert(comm->rank == last || strstr(text, want) != NULL);
    mp_assert(comm->rank == last ||
              ds_comm_exchange(comm, messages, count, NULL) == DS_ERR_COMM); /* at once */
    ds_comm_close(comm);
}

static void expect_unequal_sizes_refused(struct ds_comm *comm)
{
    const struct ds_message message = {late_data, 5 + 2 * (size_t)comm->rank, 1 - comm->rank,
                                       comm->rank == 0};
    const char *want = "pipe group: exchange: rank 0 sends 5 bytes, rank 1 expects 7";
    struct capture capture;
    ds_status st = DS_OK;

    capture_begin(&capture);
    if (comm->rank < 2)
        st = ds_comm_exchange(comm, &message, 1, NULL);
    const char *text = capture_end(&capture);
    mp_assert(st == (comm->rank == 1 ? DS_ERR_COMM : DS_OK));
    mp_assert(comm->rank != 1 || strstr(text, want) != NULL);
    ds_comm_close(comm);
}

static void with_shared_memory_and_messages(void (*expect)(struct ds_comm *comm))
{
    struct ds_comm *data = NULL;

    mp_assert(ds_comm_open_data(world, "pipe", &data) == DS_OK);
    expect(data);
    mp_assert(ds_comm_mpi_open_data(world, "pipe", DIRECT, &data) == DS_OK);
    expect(data);
}

static void a_late_peer_of_an_exchange_is_named(void **state)
{
    (void)state;
    with_shared_memory_and_messages(expect_late_peer_named);
}

static void sizes_that_differ_are_named(void **state)
{
    (void)state;
    with_shared_memory_and_messages(expect_unequal_sizes_refused);
}

/* The job is poisoned for good: the last test. */
static void poison_ends_every_wait_quietly(void **state)
{
    struct ds_comm *data = NULL;
    struct capture capture;
    ds_status st = DS_ERR_COMM;

    (void)state;
    mp_assert(ds_comm_open_data(world, "data", &data) == DS_OK);
    capture_begin(&capture);
    if (world->rank == 0) {
        ds_clock_sleep_ns(ds_clock_system(), 50000000);
        world->ops->poison(world);
    } else {
        st = ds_comm_barrier(world->rank % 2 ? data : world);
    }
    const char *text = capture_end(&capture);
    mp_assert(st == DS_ERR_COMM);
    mp_assert(text[0] == '\0');
    ds_comm_close(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_world_is_mpiruns),
        cmocka_unit_test(one_failing_rank_is_known_to_all),
        cmocka_unit_test(control_gives_the_rank_order_result),
        cmocka_unit_test(shared_memory_gives_the_rank_order_result),
        cmocka_unit_test(messages_give_the_rank_order_result),
        cmocka_unit_test(trees_give_the_rank_order_result),
        cmocka_unit_test(shared_memory_and_messages_give_equal_bits),
        cmocka_unit_test(groups_have_data_of_their_own),
        cmocka_unit_test(nothing_is_left_in_dev_shm),
        cmocka_unit_test(a_gather_is_through_after_the_arithmetic_behind_it),
        cmocka_unit_test(a_late_rank_is_named_by_shared_memory),
        cmocka_unit_test(a_late_rank_is_named_by_messages),
        cmocka_unit_test(a_late_peer_of_an_exchange_is_named),
        cmocka_unit_test(sizes_that_differ_are_named),
        cmocka_unit_test(poison_ends_every_wait_quietly),
    };

    return mp_run(tests, DEADLINE_NS);
}
