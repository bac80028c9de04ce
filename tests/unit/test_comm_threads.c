// link: comm device kernels base
// private: runtime/comm
// tsan
// cost: 70
/* test_comm_threads.c - communicators whose ranks are threads of this process: the cases that every
 * backend passes, and what only ranks in one process can show without losing a job: ranks that do not
 * come, that break, that call something else. */
#include "capture.h"
#include "comm_cases.h"
#include "comm_cuts.h"
#include "test.h"

#include <fcntl.h>
#include <pthread.h>

#define SIZE_MAX_HERE  8
#define DEADLINE_NS    60000000000u
#define SHORT_DEADLINE 2000000000u

struct seat {
    struct ds_comm *comm;
    void (*body)(struct seat *seat);
    enum comm_drive drive;
    uint64_t seed;
    ds_status status; /* of what the body tries */
    int fault_count;
};

static void *sit(void *seat)
{
    ((struct seat *)seat)->body(seat);
    return NULL;
}

/* A thread a rank; cmocka's asserts stay here, on the main thread. */
static void run_ranks(struct seat *seats, uint32_t size, const struct seat *model,
                      uint64_t deadline_ns)
{
    struct ds_comm *world[SIZE_MAX_HERE];
    pthread_t threads[SIZE_MAX_HERE];

    assert_ok(ds_comm_threads_open(size, ds_clock_system(), deadline_ns, world));
    for (uint32_t rank = 0; rank < size; rank++) {
        seats[rank] = *model;
        seats[rank].comm = world[rank];
        assert_int_equal(pthread_create(&threads[rank], NULL, sit, &seats[rank]), 0);
    }
    for (uint32_t rank = 0; rank < size; rank++)
        pthread_join(threads[rank], NULL);
    ds_comm_threads_close(world, size);
}

/* Lines of several threads: one must not land on another. */
static void capture_threads(struct capture *capture)
{
    capture_begin(capture);
    assert_int_equal(fcntl(capture->file, F_SETFL, O_APPEND), 0);
}

static const uint32_t sizes[] = {1, 2, 3, 4, 8}; /* streams: without the last one */

static void world_body(struct seat *seat)
{
    seat->fault_count = comm_cases_run(seat->comm, seat->drive, seat->seed);
}

static void data_body(struct seat *seat)
{
    struct ds_comm *data = NULL;

    seat->status = ds_comm_open_data(seat->comm, "data", &data);
    seat->fault_count = data == NULL || strcmp(data->group, "data") != 0;
    if (data != NULL)
        seat->fault_count += comm_cases_run(data, seat->drive, seat->seed);
    ds_comm_close(data);
}

static void expect_no_fault(const struct seat *model)
{
    const size_t count = sizeof sizes / sizeof sizes[0] - (model->drive != COMM_BLOCKING);

    for (size_t i = 0; i < count; i++) {
        struct seat seats[SIZE_MAX_HERE];

        run_ranks(seats, sizes[i], model, DEADLINE_NS);
        for (uint32_t rank = 0; rank < sizes[i]; rank++) {
            assert_int_equal(seats[rank].status, DS_OK);
            assert_int_equal(seats[rank].fault_count, 0);
        }
    }
}

static void blocking_calls_give_the_rank_order_result(void **state)
{
    (void)state;
    expect_no_fault(
        &(struct seat){.body = world_body, .drive = COMM_BLOCKING, .seed = test_seed("blocking")});
}

static void calls_on_a_worker_stream_give_the_same(void **state)
{
    (void)state;
    expect_no_fault(
        &(struct seat){.body = data_body, .drive = COMM_WORKER, .seed = test_seed("worker")});
}

static void calls_on_a_main_stream_give_the_same(void **state)
{
    (void)state;
    expect_no_fault(
        &(struct seat){.body = data_body, .drive = COMM_MAIN, .seed = test_seed("main")});
}

static void calls_on_a_deferred_device_give_the_same(void **state)
{
    (void)state;
    expect_no_fault(
        &(struct seat){.body = data_body, .drive = COMM_DEFERRED, .seed = test_seed("deferred")});
}

/* Has this rank timed both ways to write its slots? */
static int has_tried(const struct ds_comm *comm)
{
    struct shared_line *line = &((const struct shared_comm *)comm)->segment->lines[comm->rank];

    return atomic_load(&line->tried_ns[0]) > 0 && atomic_load(&line->tried_ns[1]) > 0;
}

static void large_body(struct seat *seat)
{
    struct comm_case c = {.comm = seat->comm, .seed = seat->seed};

    seat->fault_count = has_tried(seat->comm);
    case_large(&c);
    seat->fault_count += c.fault_count + !has_tried(seat->comm);
}

static void large_calls_try_both_ways_and_give_the_same(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    const struct seat model = {.body = large_body, .seed = test_seed("large")};

    (void)state;
    run_ranks(seats, 3, &model, DEADLINE_NS);
    for (uint32_t rank = 0; rank < 3; rank++)
        assert_int_equal(seats[rank].fault_count, 0);
}

static void pieces_body(struct seat *seat)
{
    seat->status = cut_shared(seat->comm);
    seat->fault_count = comm_cases_run(seat->comm, seat->drive, seat->seed);
}

static void many_small_pieces_give_the_same(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    const struct seat model = {
        .body = pieces_body, .drive = COMM_BLOCKING, .seed = test_seed("pieces")};

    (void)state;
    for (uint32_t size = 2; size <= 3; size++) {
        run_ranks(seats, size, &model, DEADLINE_NS);
        for (uint32_t rank = 0; rank < size; rank++) {
            assert_int_equal(seats[rank].status, DS_OK);
            assert_int_equal(seats[rank].fault_count, 0);
        }
    }
}

/* Rows and columns of a 2 x 4 mesh, used in turns: groups do not disturb each other. */
static void mesh_body(struct seat *seat)
{
    const uint32_t rank = seat->comm->rank;
    struct ds_comm *row = NULL, *column = NULL;

    seat->status = ds_comm_split(seat->comm, (int)(rank / 4), (int)rank, "row", &row);
    if (seat->status == DS_OK)
        seat->status = ds_comm_split(seat->comm, (int)(rank % 4), (int)rank, "column", &column);
    if (seat->status != DS_OK)
        return;
    for (int32_t i = 0; i < 500; i++) {
        int32_t in_row = (int32_t)rank + i, in_column = in_row;

        seat->fault_count +=
            ds_comm_all_reduce(row, &in_row, 1, DS_I32, DS_REDUCE_SUM, NULL) != DS_OK;
        seat->fault_count +=
            ds_comm_all_reduce(column, &in_column, 1, DS_I32, DS_REDUCE_SUM, NULL) != DS_OK;
        seat->fault_count += in_row != (int32_t)(rank / 4 * 16 + 6) + 4 * i;
        seat->fault_count += in_column != (int32_t)(rank % 4 * 2 + 4) + 2 * i;
    }
    seat->fault_count += comm_cases_run(row, COMM_BLOCKING, 0);
    ds_comm_close(row);
    ds_comm_close(column);
}

static void groups_of_a_mesh_work_side_by_side(void **state)
{
    struct seat seats[SIZE_MAX_HERE];

    (void)state;
    run_ranks(seats, 8, &(struct seat){.body = mesh_body}, DEADLINE_NS);
    for (int rank = 0; rank < 8; rank++) {
        assert_int_equal(seats[rank].status, DS_OK);
        assert_int_equal(seats[rank].fault_count, 0);
    }
}

/* ---- ranks that do not do their part */

static void absent_body(struct seat *seat)
{
    float data[2000] = {0};

    seat->status = ds_comm_barrier(seat->comm); /* all threads are up */
    if (seat->comm->rank == 1 || seat->comm->rank == 3)
        return;
    seat->comm->deadline_ns = SHORT_DEADLINE;
    seat->status = ds_comm_all_reduce(seat->comm, data, 2000, DS_F32, DS_REDUCE_SUM, NULL);
    seat->fault_count = ds_comm_barrier(seat->comm) != DS_ERR_COMM; /* over, without another wait */
}

static void missing_ranks_are_named_when_the_deadline_passes(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    struct capture capture;
    uint64_t begin_ns = ds_clock_mono_ns(ds_clock_system());
    const char *text;

    (void)state;
    capture_threads(&capture);
    run_ranks(seats, 5, &(struct seat){.body = absent_body}, DEADLINE_NS);
    text = capture_end(&capture);
    assert_true(ds_clock_mono_ns(ds_clock_system()) - begin_ns < 20u * (uint64_t)SHORT_DEADLINE);
    for (int rank = 0; rank < 5; rank++) {
        assert_int_equal(seats[rank].status, rank == 1 || rank == 3 ? DS_OK : DS_ERR_DEADLINE);
        assert_int_equal(seats[rank].fault_count, 0);
    }
    assert_non_null(strstr(text, "world group: all_reduce: waited "));
    assert_non_null(strstr(text, "s for ranks 1, 3 (of 5)"));
}

/* Rank 0 needs ranks 1 and 3; what comes from rank 2 is there. */
static void absent_peers_body(struct seat *seat)
{
    uint8_t data[4][100] = {{0}};
    const struct ds_message messages[] = {
        {data[0], 100, 1, 0}, {data[1], 100, 2, 0}, {data[2], 100, 3, 0}, {data[3], 100, 3, 1}};
    const struct ds_message send = {data[0], 100, 0, 1};

    seat->status = ds_comm_barrier(seat->comm); /* all threads are up */
    if (seat->comm->rank == 2)
        seat->status = ds_comm_exchange(seat->comm, &send, 1, NULL);
    if (seat->comm->rank != 0)
        return;
    seat->comm->deadline_ns = SHORT_DEADLINE;
    seat->status = ds_comm_exchange(seat->comm, messages, 4, NULL);
    seat->fault_count = ds_comm_exchange(seat->comm, messages, 4, NULL) != DS_ERR_COMM; /* over */
}

static void peers_that_never_come_to_an_exchange_are_named(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    struct capture capture;
    const char *text;

    (void)state;
    capture_threads(&capture);
    run_ranks(seats, 5, &(struct seat){.body = absent_peers_body}, DEADLINE_NS);
    text = capture_end(&capture);
    assert_int_equal(seats[0].status, DS_ERR_DEADLINE);
    assert_int_equal(seats[0].fault_count, 0);
    assert_int_equal(seats[2].status, DS_OK);
    assert_non_null(strstr(text, "world group: exchange: waited "));
    assert_non_null(strstr(text, "s for ranks 1, 3 (of 5)"));
}

/* Time is the clock's: hours pass while nobody waits for real. */
static void lonely_body(struct seat *seat)
{
    if (seat->comm->rank != 2)
        seat->status = ds_comm_barrier(seat->comm);
}

static void deadlines_follow_the_given_clock(void **state)
{
    struct ds_comm *world[3];
    struct ds_clock_manual manual;
    struct capture capture;
    struct seat seat;
    const char *text;

    (void)state;
    ds_clock_manual_init(&manual);
    assert_ok(ds_comm_threads_open(3, &manual.clock, 20000000u, world)); /* 20 ms */
    seat = (struct seat){.comm = world[0]};
    capture_threads(&capture);
    lonely_body(&seat);
    text = capture_end(&capture);
    assert_int_equal(seat.status, DS_ERR_DEADLINE);
    assert_non_null(strstr(text, "world group: barrier: waited 0.0201 s for ranks 1, 2 (of 3)"));
    ds_comm_threads_close(world, 3);
}

static void poison_body(struct seat *seat)
{
    struct ds_comm *data = NULL;
    float value = 1;

    seat->fault_count = ds_comm_open_data(seat->comm, "data", &data) != DS_OK;
    if (seat->comm->rank == 0) {
        ds_clock_sleep_ns(ds_clock_system(), 20000000);
        seat->comm->ops->poison(seat->comm);
        seat->status = DS_ERR_COMM;
    } else if (seat->comm->rank % 2) {
        seat->status = ds_comm_all_reduce(data, &value, 1, DS_F32, DS_REDUCE_SUM, NULL);
    } else {
        seat->status = ds_comm_barrier(seat->comm);
    }
    ds_comm_close(data);
}

static void poison_ends_the_waits_of_every_group_quietly(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    struct capture capture;

    (void)state;
    capture_threads(&capture);
    run_ranks(seats, 4, &(struct seat){.body = poison_body}, DEADLINE_NS);
    assert_string_equal(capture_end(&capture), "");
    for (int rank = 0; rank < 4; rank++) {
        assert_int_equal(seats[rank].status, DS_ERR_COMM);
        assert_int_equal(seats[rank].fault_count, 0);
    }
}

static void mismatch_body(struct seat *seat)
{
    float data[64] = {0};
    size_t count = seat->comm->rank == 0 ? 40 : 41;

    seat->status = ds_comm_all_reduce(seat->comm, data, count, DS_F32, DS_REDUCE_SUM, NULL);
}

static void different_calls_are_an_error_and_not_a_sum(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    struct capture capture;
    const char *text;

    (void)state;
    capture_threads(&capture);
    run_ranks(seats, 2, &(struct seat){.body = mismatch_body}, DEADLINE_NS);
    text = capture_end(&capture);
    assert_int_equal(seats[0].status, DS_ERR_COMM);
    assert_int_equal(seats[1].status, DS_ERR_COMM);
    assert_non_null(
        strstr(text, "rank 0 is in all_reduce of 40 elements, rank 1 is in another call"));
}

/* Much more than a box holds, so the sender still waits when the receiver has seen the size. */
static void unequal_body(struct seat *seat)
{
    const int is_send = seat->comm->rank == 0;
    const size_t bytes = 3000000u + seat->comm->rank;
    uint8_t *data = calloc(1, bytes);
    const struct ds_message message = {data, bytes, 1 - seat->comm->rank, is_send};

    seat->status = ds_comm_exchange(seat->comm, &message, 1, NULL);
    free(data);
}

static void sizes_that_differ_are_an_error_on_both_sides(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    struct capture capture;
    const char *text, *first;

    (void)state;
    capture_threads(&capture);
    run_ranks(seats, 2, &(struct seat){.body = unequal_body}, DEADLINE_NS);
    text = capture_end(&capture);
    assert_int_equal(seats[0].status, DS_ERR_COMM);
    assert_int_equal(seats[1].status, DS_ERR_COMM);
    first = strstr(text, "exchange: rank 0 sends 3000000 bytes, rank 1 expects 3000001");
    assert_non_null(first);
    assert_non_null(strstr(first + 1, "rank 0 sends 3000000 bytes, rank 1 expects 3000001"));
}

/* A failure of queued work comes back from the wait on its stream. */
static void late_stream_body(struct seat *seat)
{
    const struct ds_device_options options = {.thread_count = 1, .clock = ds_clock_system()};
    struct ds_device *device = NULL;
    struct ds_stream *stream = NULL;
    void *data = NULL;

    if (seat->comm->rank == 1)
        return;
    seat->fault_count += ds_device_cpu_ops.open(0, &options, &device) != DS_OK;
    seat->fault_count += device->ops->stream_open(device, DS_STREAM_WORKER, &stream) != DS_OK;
    seat->fault_count += device->ops->alloc(device, DS_MEMORY_DEVICE, 4096, 0, &data) != DS_OK;
    seat->fault_count +=
        ds_comm_all_reduce(seat->comm, data, 1024, DS_F32, DS_REDUCE_SUM, stream) != 0;
    seat->status = device->ops->stream_sync(stream);
    device->ops->stream_close(stream);
    device->ops->release(device, DS_MEMORY_DEVICE, data, 4096);
    device->ops->close(device);
}

static void a_deadline_on_a_stream_comes_back_from_its_wait(void **state)
{
    struct seat seats[SIZE_MAX_HERE];
    struct capture capture;

    (void)state;
    capture_threads(&capture);
    run_ranks(seats, 2, &(struct seat){.body = late_stream_body}, SHORT_DEADLINE);
    assert_non_null(strstr(capture_end(&capture), "for rank 1 (of 2)"));
    assert_int_equal(seats[0].status, DS_ERR_DEADLINE);
    assert_int_equal(seats[0].fault_count, 0);
}

static void a_world_of_one_needs_nobody(void **state)
{
    struct ds_comm *world = NULL, *data = NULL, *group = NULL;
    float from[3] = {1, 2, 3}, to[3] = {0};

    (void)state;
    assert_ok(ds_comm_self_open(ds_clock_system(), &world));
    assert_ok(ds_comm_open_data(world, "data", &data));
    assert_int_equal(comm_cases_run(data, COMM_BLOCKING, test_seed("self")), 0);
    assert_int_equal(comm_cases_run(data, COMM_DEFERRED, test_seed("self")), 0);
    assert_ok(ds_comm_reduce_scatter(data, from, to, 3, DS_F32, NULL));
    assert_memory_equal(from, to, sizeof from);
    assert_ok(ds_comm_split(world, -1, 0, "none", &group));
    assert_null(group);
    ds_comm_close(data);
    ds_comm_close(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocking_calls_give_the_rank_order_result),
        cmocka_unit_test(calls_on_a_worker_stream_give_the_same),
        cmocka_unit_test(calls_on_a_main_stream_give_the_same),
        cmocka_unit_test(calls_on_a_deferred_device_give_the_same),
        cmocka_unit_test(large_calls_try_both_ways_and_give_the_same),
        cmocka_unit_test(many_small_pieces_give_the_same),
        cmocka_unit_test(groups_of_a_mesh_work_side_by_side),
        cmocka_unit_test(missing_ranks_are_named_when_the_deadline_passes),
        cmocka_unit_test(peers_that_never_come_to_an_exchange_are_named),
        cmocka_unit_test(deadlines_follow_the_given_clock),
        cmocka_unit_test(poison_ends_the_waits_of_every_group_quietly),
        cmocka_unit_test(different_calls_are_an_error_and_not_a_sum),
        cmocka_unit_test(sizes_that_differ_are_an_error_on_both_sides),
        cmocka_unit_test(a_deadline_on_a_stream_comes_back_from_its_wait),
        cmocka_unit_test(a_world_of_one_needs_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
