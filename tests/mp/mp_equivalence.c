// link: launch
// ranks: 2 4 8
/* mp_equivalence.c - the data plane never changes the result: the same run over shared memory, over
 * messages and on threads of one process, at every ZeRO stage, is the same to the bit. */
#include "mp_tiny.h"

#include "dstrain/mesh.h"

#include <math.h>

/* The more ranks, the fewer steps: a machine with few cores gives each a small part of its time. A wrong
 * bit in a gradient or a state is in the parameters after one step, and in the loss of the next. */
static uint64_t step_count(void)
{
    if (test_is_long() || world->size <= 2)
        return 30;
    return world->size <= 4 ? 12 : 6;
}

static struct tiny_case case_of(int stage, int transport, int mode)
{
    return (struct tiny_case){.ranks = world->size,
                              .stage = stage,
                              .mode = mode,
                              .transport = transport,
                              .steps = step_count(),
                              .global_batch = 8,
                              .micro_batch = 1,
                              .seed = data.seed,
                              .data = data.path};
}

static struct tiny_result run(const struct tiny_case *c)
{
    struct tiny_result result;

    tiny_run_on(world, c, &result);
    mp_assert(result.status == DS_OK);
    mp_assert(world->rank != 0 || result.steps == c->steps);
    return result;
}

/* The same in threads of rank 0; peers wait, and only rank 0 has a result. */
static struct tiny_result run_in_threads(const struct tiny_case *c)
{
    struct tiny_case threads = *c;
    struct tiny_result result = {0};

    threads.transport = DS_TRANSPORT_AUTO;
    if (world->rank == 0)
        tiny_run(&threads, &result);
    mp_assert(result.status == DS_OK);
    return result;
}

static int are_same_bits(const struct tiny_result *a, const struct tiny_result *b)
{
    return world->rank != 0 ||
           (a->steps == b->steps && a->param_elems == b->param_elems &&
            memcmp(a->loss, b->loss, sizeof a->loss) == 0 &&
            memcmp(a->norm, b->norm, sizeof a->norm) == 0 &&
            memcmp(&a->eval_loss, &b->eval_loss, sizeof a->eval_loss) == 0 &&
            memcmp(a->params, b->params, a->param_elems * sizeof *a->params) == 0);
}

/* Every stage, over shared memory and over messages, inline and deferred, against `base`. */
static void expect_all_like(const struct tiny_result *base, uint32_t shard, int is_tied)
{
    for (int stage = 0; stage <= 3; stage++)
        for (int transport = DS_TRANSPORT_SHM; transport <= DS_TRANSPORT_MPI; transport++)
            for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
                struct tiny_case c = case_of(stage, transport, mode);
                c.shard = shard;
                c.is_tied = is_tied;
                struct tiny_result other = run(&c);
                mp_assert(are_same_bits(base, &other));
                tiny_result_fini(&other);
            }
}

/* What all are compared with has to be right itself: one rank, which adds nothing up with anybody. */
static int has_losses_of_one_rank(const struct tiny_result *base, const struct tiny_case *c)
{
    struct tiny_case alone = *c;
    struct tiny_result one;
    int is_like;

    if (world->rank != 0)
        return 1;
    alone.ranks = 1;
    alone.shard = 0;
    tiny_run(&alone, &one);
    is_like = one.status == DS_OK && one.steps == c->steps;
    for (uint64_t i = 0; i < c->steps; i++)
        is_like &= fabs(base->loss[i] - one.loss[i]) <= 2e-6 * fabs(one.loss[i]);
    tiny_result_fini(&one);
    return is_like;
}

static void stages_and_transports_agree_with_threads_to_the_bit(void **state)
{
    struct tiny_case c = case_of(0, DS_TRANSPORT_AUTO, DS_DEVICE_INLINE);
    struct tiny_result base = run_in_threads(&c);

    (void)state;
    mp_assert(has_losses_of_one_rank(&base, &c));
    expect_all_like(&base, 0, 0);
    tiny_result_fini(&base);
}

/* Half of the ranks share a copy of the states: two groups, of shards and of replicas, talk at once. */
static void hybrid_sharding_agrees_with_threads_to_the_bit(void **state)
{
    struct tiny_case c = case_of(3, DS_TRANSPORT_AUTO, DS_DEVICE_INLINE);

    (void)state;
    c.shard = world->size / 2;
    c.is_tied = 1;
    struct tiny_result base = run_in_threads(&c);
    mp_assert(has_losses_of_one_rank(&base, &c));
    expect_all_like(&base, c.shard, c.is_tied);
    tiny_result_fini(&base);
}

static void expect_plane(int transport, const char *name, uint32_t shard)
{
    const struct ds_mesh_shape shape = {.size = {world->size / shard, shard, 1, 1, 1, 1}};
    const enum ds_group groups[] = {DS_GROUP_SHARD, DS_GROUP_REPLICA};
    struct ds_mesh *mesh = NULL;

    mp_assert(ds_mesh_open(world, &shape, 1u << groups[0] | 1u << groups[1], "transport", transport,
                           NULL, &mesh) == DS_OK);
    for (int i = 0; i < 2; i++) {
        const struct ds_comm *group = ds_mesh_group(mesh, groups[i]);
        mp_assert(strcmp(group->ops->name, group->size > 1 ? name : "self") == 0);
    }
    ds_mesh_close(mesh);
}

static void a_named_transport_is_obeyed(void **state)
{
    (void)state;
    for (uint32_t shard = 1; shard <= world->size; shard *= 2) {
        expect_plane(DS_TRANSPORT_AUTO, "shm", shard); /* all ranks are on this host */
        expect_plane(DS_TRANSPORT_SHM, "shm", shard);
        expect_plane(DS_TRANSPORT_MPI, "mpi", shard);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_named_transport_is_obeyed),
        ON_DATA(stages_and_transports_agree_with_threads_to_the_bit),
        ON_DATA(hybrid_sharding_agrees_with_threads_to_the_bit),
    };

    return mp_run(tests, 60000000000u);
}
