/* test_gemm_table.c - the table of GEMM algorithms: what is put in is found, up to its capacity, and bytes
 * bring it back, but no others. */
// link: base
// private: runtime/kernels/cuda
#include "test.h"

#include "gemm_table.c"

#define HERE "GPU of a test, 3 multiprocessors, library 1"

static struct gemm_key key_of(uint64_t i)
{
    return (struct gemm_key){.m = i % 7 + 1,
                             .n = i / 7 % 5 + 1,
                             .k = i / 35 + 1,
                             .in = (uint8_t)(i % 3),
                             .align_c = (uint8_t)(i % 2 + 1)};
}

static struct gemm_entry *put(struct gemm_table *t, uint64_t i, uint64_t algo,
                              enum gemm_known known)
{
    const uint64_t words[GEMM_ALGO_WORDS] = {algo, i, 0, algo + 1};
    const struct gemm_key key = key_of(i);

    return gemm_table_set(t, &key, words, known);
}

static uint64_t algo_of(struct gemm_table *t, uint64_t i)
{
    const struct gemm_key key = key_of(i);
    const struct gemm_entry *entry = gemm_table_find(t, &key);

    return entry ? entry->algo[0] : 0;
}

struct tables {
    struct gemm_table a, b;
    unsigned char bytes[1 << 16];
};

static struct tables *tables_make(void)
{
    struct tables *t = calloc(1, sizeof *t);

    assert_non_null(t);
    assert_true(gemm_table_bytes_max() <= sizeof t->bytes);
    return t;
}

static void what_is_put_in_is_found_until_the_table_is_full(void **state)
{
    struct tables *t = tables_make();

    (void)state;
    assert_int_equal(algo_of(&t->a, 0), 0);
    for (uint64_t i = 0; i < GEMM_ENTRIES_MAX; i++) {
        assert_true(gemm_table_has_room(&t->a));
        put(&t->a, i, 100 + i, 1)->is_ready = 1;
    }
    assert_false(gemm_table_has_room(&t->a));
    assert_null(put(&t->a, GEMM_ENTRIES_MAX, 5, 1));
    assert_int_equal(algo_of(&t->a, GEMM_ENTRIES_MAX), 0);
    put(&t->a, 17, 5, 1)->is_ready = 1; /* one that is there is replaced */
    for (uint64_t i = 0; i < GEMM_ENTRIES_MAX; i++)
        assert_int_equal(algo_of(&t->a, i), i == 17 ? 5 : 100 + i);
    assert_int_equal(t->a.count, GEMM_ENTRIES_MAX);
    free(t);
}

static void a_full_table_gives_up_what_nobody_has_asked_for(void **state)
{
    struct tables *t = tables_make();

    (void)state;
    for (uint64_t i = 0; i < GEMM_ENTRIES_MAX; i++)
        put(&t->a, i, 100 + i, 1)->is_ready = i != 30 && i != 200;
    for (uint64_t i = 0; i < 2; i++) {
        assert_true(gemm_table_has_room(&t->a));
        put(&t->a, 1000 + i, 1000 + i, 1)->is_ready = 1;
    }
    assert_null(put(&t->a, 1002, 5, 1));
    for (uint64_t i = 0; i < GEMM_ENTRIES_MAX; i++)
        assert_int_equal(algo_of(&t->a, i), i == 30 || i == 200 ? 0 : 100 + i);
    assert_int_equal(algo_of(&t->a, 1000), 1000);
    assert_int_equal(algo_of(&t->a, 1001), 1001);
    free(t);
}

static void every_field_of_a_key_tells_shapes_apart(void **state)
{
    struct tables *t = tables_make();
    const uint64_t words[GEMM_ALGO_WORDS] = {1};
    const struct gemm_key key = {.m = 1, .n = 2, .k = 3};

    (void)state;
    assert_non_null(gemm_table_set(&t->a, &key, words, 1));
    for (size_t i = 0; i < offsetof(struct gemm_key, pad); i++) {
        struct gemm_key other = key;

        ((unsigned char *)&other)[i] ^= 4;
        assert_null(gemm_table_find(&t->a, &other));
    }
    free(t);
}

static void bytes_bring_timed_entries_back_and_replace_what_is_there(void **state)
{
    struct tables *t = tables_make();
    size_t bytes;

    (void)state;
    for (uint64_t i = 0; i < 20; i++)
        put(&t->a, i, 100 + i, i == 4 ? GEMM_GUESSED : GEMM_TIMED); /* a guess is not handed on */
    put(&t->b, 30, 7, 1)->is_ready = 1;
    put(&t->b, 2, 8, 1)->is_ready = 1;
    bytes = gemm_table_save(&t->a, HERE, t->bytes);
    assert_true(gemm_table_load(&t->b, HERE, t->bytes, bytes));
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(algo_of(&t->b, i), i == 4 ? 0 : 100 + i);
    assert_int_equal(algo_of(&t->b, 30), 7);
    assert_int_equal(t->b.entries[0].is_ready, 1);
    assert_int_equal(t->b.entries[1].is_ready, 0); /* has another algorithm now */
    assert_int_equal(t->a.timed_count, 19);
    assert_int_equal(t->b.timed_count, 2); /* loading is not timing */
    assert_int_equal(gemm_table_save(&t->b, HERE, t->bytes), bytes + sizeof(struct stored_entry));
    free(t);
}

static uint32_t known_of(struct gemm_table *t, uint64_t i)
{
    const struct gemm_key key = key_of(i);

    return gemm_table_find(t, &key)->known;
}

/* Ranks and runs that time in a moment do not take away what others have timed under load. */
static void bytes_replace_only_what_is_not_better_known(void **state)
{
    struct tables *t = tables_make();
    size_t bytes;

    (void)state;
    for (uint64_t i = 0; i < 9; i++) { /* each of three in a, of three in b */
        put(&t->a, i, 100 + i, (enum gemm_known)(i / 3));
        put(&t->b, i, 200 + i, (enum gemm_known)(i % 3))->is_ready = 1;
    }
    bytes = gemm_table_save(&t->a, HERE, t->bytes);
    assert_true(gemm_table_load(&t->b, HERE, t->bytes, bytes));
    for (uint64_t i = 0; i < 9; i++) {
        const int is_taken = i / 3 != GEMM_GUESSED && i / 3 >= i % 3;

        assert_int_equal(algo_of(&t->b, i), (is_taken ? 100 : 200) + i);
        assert_int_equal(known_of(&t->b, i), is_taken ? i / 3 : i % 3);
    }
    free(t);
}

static void a_full_table_takes_what_it_knows(void **state)
{
    struct tables *t = tables_make();
    size_t bytes;

    (void)state;
    put(&t->a, 900, 1, 1);
    put(&t->a, 3, 2, 1);
    for (uint64_t i = 0; i < GEMM_ENTRIES_MAX; i++)
        put(&t->b, i, 9, 1);
    bytes = gemm_table_save(&t->a, HERE, t->bytes);
    assert_true(gemm_table_load(&t->b, HERE, t->bytes, bytes));
    assert_int_equal(algo_of(&t->b, 3), 2);
    assert_int_equal(algo_of(&t->b, 900), 0);
    bytes = gemm_table_save(&t->b, HERE, t->bytes);
    assert_int_equal(bytes, gemm_table_bytes_max());
    free(t);
}

static void bytes_of_others_and_broken_ones_change_nothing(void **state)
{
    struct tables *t = tables_make();
    size_t bytes;

    (void)state;
    for (uint64_t i = 0; i < 3; i++)
        put(&t->a, i, 100 + i, 1);
    bytes = gemm_table_save(&t->a, HERE, t->bytes);
    assert_false(gemm_table_load(&t->b, HERE "2", t->bytes, bytes));
    assert_false(gemm_table_load(&t->b, "GPU", t->bytes, bytes));
    for (size_t cut = 0; cut < bytes; cut++)
        assert_false(gemm_table_load(&t->b, HERE, t->bytes, cut));
    assert_false(gemm_table_load(&t->b, HERE, t->bytes, bytes + 1));
    for (size_t at = 0; at < bytes; at++) {
        t->bytes[at] ^= 0x10;
        assert_false(gemm_table_load(&t->b, HERE, t->bytes, bytes));
        t->bytes[at] ^= 0x10;
    }
    assert_int_equal(t->b.count, 0);
    assert_true(gemm_table_load(&t->b, HERE, t->bytes, bytes));
    free(t);
}

static void an_alignment_is_a_power_of_two_up_to_16(void **state)
{
    (void)state;
    for (uintptr_t at = 4096; at < 4096 + 64; at++) {
        const uint8_t alignment = gemm_alignment((const void *)at);

        assert_int_equal(at % alignment, 0);
        assert_true(alignment == 16 || at % (2u * alignment) != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_put_in_is_found_until_the_table_is_full),
        cmocka_unit_test(a_full_table_gives_up_what_nobody_has_asked_for),
        cmocka_unit_test(every_field_of_a_key_tells_shapes_apart),
        cmocka_unit_test(bytes_bring_timed_entries_back_and_replace_what_is_there),
        cmocka_unit_test(bytes_replace_only_what_is_not_better_known),
        cmocka_unit_test(a_full_table_takes_what_it_knows),
        cmocka_unit_test(bytes_of_others_and_broken_ones_change_nothing),
        cmocka_unit_test(an_alignment_is_a_power_of_two_up_to_16),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
