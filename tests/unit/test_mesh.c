// link: parallel
/* The arithmetic of the mesh, over every shape of up to 24 ranks with axes of size 1 to 4, and which
 * data plane its groups get. */
#include "capture.h"
#include "ranks.h"
#include "test.h"

#include "dstrain/mesh.h"

typedef void shape_check(const struct ds_mesh_shape *shape, uint32_t count);

static void for_every_shape(shape_check *check)
{
    struct ds_mesh_shape shape = {0};
    uint32_t seen = 0;

    for (uint32_t code = 0; code < 4096; code++) {
        for (int axis = 0; axis < DS_AXIS_COUNT; axis++)
            shape.size[axis] = 1 + (code >> (2 * axis) & 3u);
        uint32_t count = ds_mesh_rank_count(&shape);
        if (count > 24)
            continue;
        check(&shape, count);
        seen++;
    }
    assert_true(seen > 500);
}

static void check_round_trip(const struct ds_mesh_shape *shape, uint32_t count)
{
    for (uint32_t rank = 0; rank < count; rank++) {
        struct ds_mesh_place place = ds_mesh_place_of(shape, rank);
        assert_int_equal(ds_mesh_rank_of(shape, &place), rank);
    }
}

static void rank_and_place_are_one_to_one(void **state)
{
    (void)state;
    for_every_shape(check_round_trip);
}

/* A group of this colour has each index once, and its size is the product of its axes. */
static void check_groups(const struct ds_mesh_shape *shape, uint32_t count)
{
    for (int g = 0; g < DS_GROUP_COUNT; g++) {
        enum ds_group group = (enum ds_group)g;
        for (uint32_t rank = 0; rank < count; rank++) {
            uint32_t size = ds_mesh_group_size(shape, group, rank);
            uint32_t color = ds_mesh_color(shape, group, rank), members = 0, before = 0;
            for (uint32_t other = 0; other < count; other++)
                if (ds_mesh_color(shape, group, other) == color) {
                    before += other < rank;
                    members++;
                }
            assert_int_equal(members, size);
            assert_int_equal(ds_mesh_index(shape, group, rank), before);
        }
    }
}

static void groups_partition_the_ranks_in_rank_order(void **state)
{
    (void)state;
    for_every_shape(check_groups);
}

/* Two ranks share samples exactly when they differ along cp, pp or tp only. */
static void check_shares(const struct ds_mesh_shape *shape, uint32_t count)
{
    uint32_t share_a, share_b, shares_a, shares_b;

    for (uint32_t a = 0; a < count; a++) {
        ds_mesh_data_share(shape, a, &share_a, &shares_a);
        assert_true(share_a < shares_a);
        for (uint32_t b = 0; b < count; b++) {
            struct ds_mesh_place pa = ds_mesh_place_of(shape, a), pb = ds_mesh_place_of(shape, b);
            int is_same = pa.at[DS_AXIS_REPLICA] == pb.at[DS_AXIS_REPLICA] &&
                          pa.at[DS_AXIS_SHARD] == pb.at[DS_AXIS_SHARD] &&
                          pa.at[DS_AXIS_EP] == pb.at[DS_AXIS_EP];
            ds_mesh_data_share(shape, b, &share_b, &shares_b);
            assert_int_equal(share_a == share_b, is_same);
        }
    }
}

static void ranks_that_split_a_model_read_the_same_samples(void **state)
{
    (void)state;
    for_every_shape(check_shares);
}

/* `embed` is the two ends of a pipeline, `copies` runs of neighbours along tp. */
static void groups_that_are_parts_of_an_axis(void **state)
{
    const struct ds_mesh_shape shape = {.size = {2, 1, 1, 4, 1, 6}, .tp_copies = 3};

    (void)state;
    for (uint32_t a = 0; a < 48; a++)
        for (uint32_t b = 0; b < 48; b++) {
            struct ds_mesh_place pa = ds_mesh_place_of(&shape, a), pb = ds_mesh_place_of(&shape, b);
            int same_tp = pa.at[DS_AXIS_TP] == pb.at[DS_AXIS_TP];
            int same_pp = pa.at[DS_AXIS_PP] == pb.at[DS_AXIS_PP];
            int same_data = pa.at[DS_AXIS_REPLICA] == pb.at[DS_AXIS_REPLICA];
            int both_ends = pa.at[DS_AXIS_PP] % 3 == 0 && pb.at[DS_AXIS_PP] % 3 == 0;
            int same_copy = pa.at[DS_AXIS_TP] / 3 == pb.at[DS_AXIS_TP] / 3;
            assert_int_equal(ds_mesh_color(&shape, DS_GROUP_EMBED, a) ==
                                 ds_mesh_color(&shape, DS_GROUP_EMBED, b),
                             same_data && same_tp && (same_pp || both_ends));
            assert_int_equal(ds_mesh_color(&shape, DS_GROUP_COPIES, a) ==
                                 ds_mesh_color(&shape, DS_GROUP_COPIES, b),
                             same_data && same_pp && same_copy);
        }
}

static void tensor_ranks_are_neighbours(void **state)
{
    const struct ds_mesh_shape shape = {.size = {2, 2, 1, 2, 1, 4}};

    (void)state;
    for (uint32_t rank = 0; rank < 32; rank++)
        assert_int_equal(ds_mesh_index(&shape, DS_GROUP_TP, rank), rank % 4);
}

/* ---- with communicators: ranks are threads */

struct opening {
    enum ds_transport transport;
    const struct ds_comm_ops *device_comm;
    uint32_t shard;
    ds_status status[4];
};

static void open_mesh(struct ds_comm *world, void *user)
{
    struct opening *opening = user;
    const struct ds_mesh_shape shape = {
        .size = {world->size / opening->shard, opening->shard, 1, 1, 1, 1}};
    const uint32_t groups = 1u << DS_GROUP_SHARD | 1u << DS_GROUP_REPLICA;
    struct ds_mesh *mesh = NULL;

    opening->status[world->rank] = ds_mesh_open(world, &shape, groups, "[parallel] transport",
                                                opening->transport, opening->device_comm, &mesh);
    if (opening->status[world->rank] == DS_OK)
        ds_mesh_close(mesh);
}

static void expect_opening(struct opening opening, uint32_t ranks, ds_status want)
{
    assert_true(run_ranks(ranks, 20000000000u, open_mesh, &opening));
    for (uint32_t rank = 0; rank < ranks; rank++)
        assert_int_equal(opening.status[rank], want);
}

static void expect_opened(uint32_t ranks, uint32_t shard, enum ds_transport transport,
                          ds_status want)
{
    expect_opening((struct opening){.transport = transport, .shard = shard}, ranks, want);
}

/* A communicator of devices as the mesh sees it: it is opened over the control group, and counted. */
static _Atomic int device_opens;

static ds_status open_device_data(struct ds_comm *control, const char *group, struct ds_comm **out)
{
    device_opens++;
    return ds_comm_open_data(control, group, out);
}

static const struct ds_comm_ops device_comm = {.name = "device", .open_data = open_device_data};

static void groups_of_devices_are_opened_by_their_own_communicator(void **state)
{
    struct opening opening = {.device_comm = &device_comm, .shard = 2};
    struct capture capture;

    (void)state;
    device_opens = 0;
    expect_opening(opening, 4, DS_OK);
    assert_int_equal(device_opens, 8); /* shard and replica, of 4 ranks */
    opening.transport = DS_TRANSPORT_NCCL;
    expect_opening(opening, 4, DS_OK);
    assert_int_equal(device_opens, 16);
    expect_opening(opening, 2, DS_OK);
    assert_int_equal(device_opens, 18); /* alone in replica: nothing to open */
    capture_begin(&capture);
    opening.transport = DS_TRANSPORT_SHM;
    expect_opening(opening, 4, DS_ERR_UNSUPPORTED);
    opening.device_comm = NULL;
    opening.transport = DS_TRANSPORT_NCCL;
    expect_opening(opening, 4, DS_ERR_UNSUPPORTED);
    const char *text = capture_end(&capture);
    assert_int_equal(device_opens, 18);
    assert_non_null(strstr(text, "transport = shm, but the shard group is between GPUs"));
    assert_non_null(strstr(text, "transport = nccl, but the shard group is between hosts"));
}

/* Threads have neither shared memory between processes nor MPI. */
static void a_named_transport_is_obeyed_or_refused_by_all(void **state)
{
    struct capture capture;

    (void)state;
    expect_opened(4, 2, DS_TRANSPORT_AUTO, DS_OK);
    expect_opened(1, 1, DS_TRANSPORT_MPI, DS_OK); /* nobody to talk to */
    capture_begin(&capture);
    expect_opened(4, 2, DS_TRANSPORT_SHM, DS_ERR_UNSUPPORTED);
    expect_opened(4, 4, DS_TRANSPORT_MPI, DS_ERR_UNSUPPORTED);
    const char *text = capture_end(&capture);
    assert_non_null(strstr(text, "[parallel] transport = shm, but the shard group cannot have it"));
    assert_non_null(
        strstr(text, "[parallel] transport = mpi, but the shard group was not started"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(rank_and_place_are_one_to_one),
        cmocka_unit_test(groups_partition_the_ranks_in_rank_order),
        cmocka_unit_test(ranks_that_split_a_model_read_the_same_samples),
        cmocka_unit_test(tensor_ranks_are_neighbours),
        cmocka_unit_test(groups_that_are_parts_of_an_axis),
        cmocka_unit_test(a_named_transport_is_obeyed_or_refused_by_all),
        cmocka_unit_test(groups_of_devices_are_opened_by_their_own_communicator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
