// link: parallel optim zero model comm device kernels base
/* test_executor_register.c - with `registers`, all that tensor ranks may exchange activations from and into has been
 * registered with their group, each place once and in whole; without, or on one rank, nothing is. */
#include "test.h"

#include "dstrain/executor.h"

#include <string.h>

enum { SAVED = 2, HELD = 1, STREAMS = 3, PIECES_MAX = 16, TOKENS = 4, HIDDEN = 8 };

static struct {
    const uint8_t *at[PIECES_MAX];
    size_t bytes[PIECES_MAX];
    uint32_t count;
} kept;

static ds_status keep(struct ds_comm *comm, void *at, size_t bytes)
{
    (void)comm;
    assert_true(kept.count < PIECES_MAX);
    for (uint32_t i = 0; i < kept.count; i++)
        assert_true((const uint8_t *)at >= kept.at[i] + kept.bytes[i] ||
                    (const uint8_t *)at + bytes <= kept.at[i]);
    memset(at, 1, bytes); /* of its owner: beyond its end a sanitizer would say so */
    kept.at[kept.count] = at;
    kept.bytes[kept.count++] = bytes;
    return DS_OK;
}

static size_t saved_bytes(const struct ds_block *block, uint64_t token_count)
{
    (void)block;
    return 100 * token_count;
}

static size_t held_bytes(const struct ds_block *block, uint64_t token_count)
{
    (void)block;
    return 10 * token_count;
}

static size_t workspace_bytes(const struct ds_block *block, uint64_t token_count)
{
    return block->kind == DS_BLOCK_HEAD ? 3000 * token_count : 1000 * token_count;
}

static const struct ds_block_ops block_ops = {
    .saved_bytes = saved_bytes, .held_bytes = held_bytes, .workspace_bytes = workspace_bytes};

static uint32_t kept_of(size_t bytes)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < kept.count; i++)
        count += kept.bytes[i] == bytes;
    return count;
}

/* What has been registered of an executor of a layer and a head. */
static void open_and_register(uint32_t tensor_ranks, int registers)
{
    static const struct ds_comm_ops comm_ops = {.register_memory = keep};
    const struct ds_device_options how = {.seed = 1, .thread_count = 1, .clock = ds_clock_system()};
    struct ds_block blocks[] = {{.ops = &block_ops, .kind = DS_BLOCK_DECODER},
                                {.ops = &block_ops, .kind = DS_BLOCK_HEAD}};
    const struct ds_model model = {.config = {.hidden_size = HIDDEN},
                                   .share = {.compute = DS_F32},
                                   .blocks = blocks,
                                   .block_count = 2};
    struct ds_action actions[] = {{.kind = DS_ACTION_FORWARD, .block = 0},
                                  {.kind = DS_ACTION_LOSS, .block = 1}};
    const struct ds_schedule plan = {.is_training = 1,
                                     .actions = actions,
                                     .action_count = 2,
                                     .saved_slot_count = SAVED,
                                     .held_slot_count = HELD,
                                     .stream_slot_count = STREAMS};
    struct ds_comm comm = {.ops = &comm_ops, .size = tensor_ranks};
    struct ds_device *device = NULL;
    struct ds_executor *executor = NULL;
    struct ds_memory memory;

    kept.count = 0;
    assert_ok(ds_device_cpu_ops.open(0, &how, &device));
    ds_memory_init(&memory, device);
    assert_ok(ds_executor_open(&(struct ds_executor_options){.model = &model,
                                                             .device = device,
                                                             .memory = &memory,
                                                             .tensor = &comm,
                                                             .tokens_per_micro = TOKENS,
                                                             .seq_length = TOKENS,
                                                             .plan = &plan,
                                                             .is_training = 1,
                                                             .registers = registers},
                               &executor));
    assert_ok(ds_executor_register(executor));
    ds_executor_close(executor);
    ds_memory_fini(&memory);
    device->ops->close(device);
}

static void what_tensor_ranks_exchange_is_registered(void **state)
{
    (void)state;
    open_and_register(2, 1);
    assert_int_equal(kept.count, SAVED + HELD + STREAMS + 1);
    assert_int_equal(kept_of(100 * TOKENS), SAVED);
    assert_int_equal(kept_of(10 * TOKENS), HELD);
    assert_int_equal(kept_of(TOKENS * HIDDEN * sizeof(float)), STREAMS);
    assert_int_equal(kept_of(3000 * TOKENS), 1); /* the largest block's workspace */
}

static void without_it_or_alone_nothing_is(void **state)
{
    (void)state;
    open_and_register(2, 0);
    assert_int_equal(kept.count, 0);
    open_and_register(1, 1);
    assert_int_equal(kept.count, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_tensor_ranks_exchange_is_registered),
        cmocka_unit_test(without_it_or_alone_nothing_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
