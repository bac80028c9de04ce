// link: optim zero comm device kernels base
/* test_zero_register.c - with `registers`, whatever a shard group gathers weights from and into has been registered
 * with it, each piece once and in whole, on every stage; without, nothing is. */
#include "zero_rig.h"

enum { PIECES_MAX = 32, ELEMS = 5000 };

/* A shard group that keeps what is registered, and looks where gathers lie. */
struct watched {
    struct ds_comm base; /* what the rank is given */
    struct ds_comm_ops ops;
    struct ds_comm *inner;
    struct zero_rank *rank;
    const uint8_t *at[PIECES_MAX];
    size_t bytes[PIECES_MAX];
    uint32_t count, gathers;
};

static struct watched *watched_of(struct ds_comm *comm)
{
    return (struct watched *)comm;
}

static ds_status keep(struct ds_comm *comm, void *at, size_t bytes)
{
    struct watched *w = watched_of(comm);

    RIG_HOLDS(w->rank, w->count < PIECES_MAX);
    for (uint32_t i = 0; i < w->count; i++)
        RIG_HOLDS(w->rank, (const uint8_t *)at >= w->at[i] + w->bytes[i] ||
                               (const uint8_t *)at + bytes <= w->at[i]);
    w->at[w->count] = at;
    w->bytes[w->count++] = bytes;
    return DS_OK;
}

static int is_kept(const struct watched *w, const void *at, size_t bytes)
{
    const uint8_t *begin = at;

    for (uint32_t i = 0; i < w->count; i++)
        if (begin >= w->at[i] && begin + bytes <= w->at[i] + w->bytes[i])
            return 1;
    return 0;
}

static ds_status gather(struct ds_comm *comm, const void *send, void *recv, size_t count,
                        enum ds_dtype dtype, struct ds_stream *stream)
{
    struct watched *w = watched_of(comm);
    const size_t bytes = count * ds_dtype_bytes(dtype);

    w->gathers++;
    RIG_HOLDS(w->rank, is_kept(w, send, bytes) == w->rank->options.registers);
    RIG_HOLDS(w->rank, is_kept(w, recv, bytes * comm->size) == w->rank->options.registers);
    return w->inner->ops->all_gather(w->inner, send, recv, count, dtype, stream);
}

static void watch(struct zero_rank *r, struct watched *w)
{
    *w =
        (struct watched){.base = *r->shards, .ops = *r->shards->ops, .inner = r->shards, .rank = r};
    w->ops.all_gather = gather;
    w->ops.register_memory = keep;
    w->base.ops = &w->ops;
    r->options.shard = &w->base;
}

static void gather_all(struct zero_rank *r)
{
    RIG_OK(r, ds_zero_publish(r->zero));
    for (uint32_t unit = 0; unit < 2; unit++) {
        RIG_OK(r, ds_zero_acquire(r->zero, unit, unit));
        RIG_OK(r, ds_zero_release(r->zero, unit));
    }
    RIG_OK(r, r->device->ops->stream_sync(r->comm));
}

static void body(struct ds_comm *world, void *user)
{
    static const struct ds_span all = {0, ELEMS};
    struct zero_case *test = user;
    struct watched w;
    struct zero_rank r;

    rig_open(&r, test, world);
    watch(&r, &w);
    r.options.is_training = 0; /* gradients and masters are not weights */
    r.options.registers = *(const int *)test->user;
    for (int unit = 0; unit < 2; unit++)
        r.units[unit] =
            (struct ds_zero_unit_spec){.elems = ELEMS, .params = &all, .param_count = 1};
    rig_zero(&r, 2);
    RIG_OK(&r, ds_zero_register(r.zero));
    gather_all(&r);
    RIG_HOLDS(&r, w.gathers == 2);
    RIG_HOLDS(&r, w.count == (r.options.registers ? (test->zero_stage == 3 ? 4u : 2u) : 0u));
    rig_close(&r);
}

static void run_stages(int registers)
{
    for (uint32_t stage = 0; stage <= 3; stage++) {
        struct zero_case test = {.stages = 1,
                                 .tensor = 1,
                                 .replica = 1,
                                 .shard = 3,
                                 .zero_stage = stage,
                                 .dtypes = ds_zero_dtypes_fp32(),
                                 .user = &registers};
        rig_run(&test, body);
    }
}

static void what_is_gathered_is_registered(void **state)
{
    (void)state;
    run_stages(1);
}

static void without_it_nothing_is(void **state)
{
    (void)state;
    run_stages(0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_gathered_is_registered),
        cmocka_unit_test(without_it_nothing_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
