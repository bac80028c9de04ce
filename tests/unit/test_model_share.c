/* test_model_share.c - how tensor ranks share a model out: together, the owners have every element of
 * every parameter exactly once, whatever the sizes; what cannot be shared is refused with its numbers. */
// link: model base
#include "test.h"

#include "dstrain/model.h"

#include <string.h>

static struct ds_model_config config_of(uint64_t heads, uint64_t groups, uint64_t intermediate,
                                        uint64_t vocab)
{
    struct ds_model_config c;

    ds_model_config_default(DS_FAMILY_QWEN3, &c);
    c.vocab_size = vocab;
    c.hidden_size = 10;
    c.intermediate_size = intermediate;
    c.num_hidden_layers = 1;
    c.num_attention_heads = heads;
    c.num_key_value_heads = groups;
    c.head_dim = 4;
    return c;
}

/* Counts every element of the whole that the box of `param` has, by the runs in which it lies there. */
static void count_box(const struct ds_param *param, uint8_t *owned, uint8_t *held)
{
    uint64_t done = 0;

    while (done < param->elems) {
        struct ds_span run = ds_param_run(param, done, param->elems - done);
        assert_true(run.count >= 1 && run.start + run.count <= ds_param_whole_elems(param));
        for (uint64_t i = 0; i < run.count; i++) {
            owned[run.start + i] += param->is_owner;
            held[run.start + i]++;
        }
        done += run.count;
    }
    assert_int_equal(done, param->elems);
}

static void check_param(struct ds_model *const *ranks, uint32_t tp_size, uint32_t index)
{
    const struct ds_param *first = &ranks[0]->params[index];
    const uint64_t elems = ds_param_whole_elems(first);
    uint8_t *owned = calloc(elems, 1), *held = calloc(elems, 1);

    assert_non_null(owned);
    assert_non_null(held);
    for (uint32_t r = 0; r < tp_size; r++)
        count_box(&ranks[r]->params[index], owned, held);
    for (uint64_t i = 0; i < elems; i++) {
        assert_int_equal(owned[i], 1);
        assert_int_equal(held[i], first->copies);
    }
    free(owned);
    free(held);
}

static void check_share(const struct ds_model_config *config, uint32_t tp_size)
{
    struct ds_model *ranks[16];

    for (uint32_t r = 0; r < tp_size; r++) {
        struct ds_model_share share = {.tp_rank = r, .tp_size = tp_size};
        assert_ok(ds_model_open(config, &share, &ranks[r]));
        assert_int_equal(ranks[r]->elems_total, ranks[0]->elems_total);
    }
    for (uint32_t i = 0; i < ranks[0]->param_count; i++)
        check_param(ranks, tp_size, i);
    for (uint32_t r = 0; r < tp_size; r++)
        ds_model_close(ranks[r]);
}

static void owners_have_every_element_once(void **state)
{
    static const uint64_t sizes[] = {16, 17, 37, 64, 100, 127, 509};

    (void)state;
    for (uint64_t heads = 1; heads <= 16; heads++)
        for (uint64_t groups = 1; groups <= heads; groups++)
            for (uint32_t tp_size = 1; heads % groups == 0 && tp_size <= 16; tp_size++) {
                struct ds_model_config c = config_of(heads, groups, sizes[(heads + tp_size) % 7],
                                                     sizes[(groups + tp_size) % 7]);
                char why[256];

                if (ds_model_may_share(&c, tp_size, why, sizeof why))
                    check_share(&c, tp_size);
                else /* only heads stand in the way of these sizes */
                    assert_true(heads % tp_size != 0 ||
                                (groups % tp_size != 0 && tp_size % groups != 0));
            }
}

/* A query head finds its kv head on its own rank. */
static void query_heads_lie_with_their_kv_head(void **state)
{
    (void)state;
    for (uint32_t tp_size = 1; tp_size <= 12; tp_size *= 2) {
        struct ds_model_config c = config_of(16, 4, 64, 64);
        for (uint32_t r = 0; r < tp_size; r++) {
            struct ds_model_share share = {.tp_rank = r, .tp_size = tp_size};
            struct ds_model *model;
            assert_ok(ds_model_open(&c, &share, &model));
            const struct ds_param *q =
                ds_model_find(model, "model.layers.0.self_attn.q_proj.weight");
            const struct ds_param *k =
                ds_model_find(model, "model.layers.0.self_attn.k_proj.weight");
            uint64_t local_heads = q->local[0] / 4, local_groups = k->local[0] / 4;
            for (uint64_t h = 0; h < local_heads; h++)
                assert_int_equal((q->start[0] / 4 + h) / 4,
                                 k->start[0] / 4 + h / (local_heads / local_groups));
            ds_model_close(model);
        }
    }
}

static void cuts_are_even_and_on_rows_of_eight(void **state)
{
    (void)state;
    for (uint64_t size = 1; size < 600; size++)
        for (uint32_t count = 1; count <= 16 && count <= size; count++) {
            uint64_t end = 0, least = UINT64_MAX, most = 0;
            for (uint32_t r = 0; r < count; r++) {
                struct ds_span cut = ds_tp_cut(size, r, count);
                assert_int_equal(cut.start, end);
                assert_true(cut.count >= 1);
                assert_true(size < 8ull * count || cut.start % 8 == 0);
                end = cut.start + cut.count;
                least = cut.count < least ? cut.count : least;
                most = cut.count > most ? cut.count : most;
            }
            assert_int_equal(end, size);
            assert_true(most - least <= (size < 8ull * count ? 1 : 15));
        }
}

static void what_heads_forbid_is_refused_with_numbers(void **state)
{
    struct ds_model_config c = config_of(6, 2, 64, 64);
    char why[256];

    (void)state;
    assert_false(ds_model_may_share(&c, 4, why, sizeof why));
    assert_non_null(strstr(why, "= 4 cannot share"));
    assert_non_null(strstr(why, "6 query heads"));
    c = config_of(8, 8, 5, 64);
    assert_false(ds_model_may_share(&c, 8, why, sizeof why));
    assert_non_null(strstr(why, "intermediate_size = 5"));
    c = config_of(12, 12, 64, 5);
    assert_false(
        ds_model_may_share(&c, 6, why, sizeof why)); /* divides the heads, but not 5 rows */
    assert_non_null(strstr(why, "vocab_size = 5"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owners_have_every_element_once),
        cmocka_unit_test(query_heads_lie_with_their_kv_head),
        cmocka_unit_test(cuts_are_even_and_on_rows_of_eight),
        cmocka_unit_test(what_heads_forbid_is_refused_with_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
