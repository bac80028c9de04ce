// link: storage base
/* Checksums: known values, and the quick way against the definition at every length and start. */
#include "test.h"

#include "dstrain/digest.h"
#include "dstrain/random.h"

/* bit by bit, as it is defined */
static uint32_t defined_crc32c(const uint8_t *at, size_t bytes)
{
    uint32_t sum = ~0u;

    for (size_t i = 0; i < bytes; i++) {
        sum ^= at[i];
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0x82f63b78u : 0);
    }
    return ~sum;
}

static void known_texts_have_their_sums(void **state)
{
    uint8_t ascending[32], zeros[32] = {0};

    (void)state;
    for (uint8_t i = 0; i < 32; i++)
        ascending[i] = i;
    assert_int_equal(ds_crc32c(0, "123456789", 9), 0xe3069283u);
    assert_int_equal(ds_crc32c(0, zeros, 32), 0x8a9136aau); /* RFC 3720, B.4 */
    assert_int_equal(ds_crc32c(0, ascending, 32), 0x46dd794eu);
    assert_int_equal(ds_crc32c(0, "", 0), 0);
}

static void every_length_and_start_agrees_with_the_definition(void **state)
{
    enum { BYTES = 3 * 8192 * 2 + 100 };
    struct ds_random random = ds_random_of(test_seed("test_digest"), DS_RANDOM_TEST, 0);
    uint8_t *bytes = malloc(BYTES);

    (void)state;
    for (uint32_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)ds_random_u32(random, i);
    for (size_t length = 0; length < 70; length++)
        for (size_t start = 0; start < 9; start++)
            assert_int_equal(ds_crc32c(0, bytes + start, length),
                             defined_crc32c(bytes + start, length));
    for (size_t around = 3 * 8192 - 9; around < 3 * 8192 + 9; around++)
        assert_int_equal(ds_crc32c(0, bytes + 1, around), defined_crc32c(bytes + 1, around));
    assert_int_equal(ds_crc32c(0, bytes, BYTES), defined_crc32c(bytes, BYTES));
    for (size_t cut = 0; cut < BYTES; cut += 1021) /* in two pieces */
        assert_int_equal(ds_crc32c(ds_crc32c(0, bytes, cut), bytes + cut, BYTES - cut),
                         defined_crc32c(bytes, BYTES));
    free(bytes);
}

static void a_digest_is_what_other_programs_print(void **state)
{
    char text[DS_DIGEST_TEXT_BYTES];
    struct ds_digest digest = ds_digest_of("", 0), again;

    (void)state;
    ds_digest_text(&digest, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f"); /* xxhsum -H2 of nothing */
    assert_true(ds_digest_parse(text, &again));
    assert_true(ds_digest_equal(&digest, &again));
    again.bytes[15] ^= 1;
    assert_false(ds_digest_equal(&digest, &again));
}

static void a_digest_has_one_spelling(void **state)
{
    struct ds_digest digest;

    (void)state;
    assert_true(ds_digest_parse("0123456789abcdef0123456789abcdef", &digest));
    assert_int_equal(digest.bytes[0], 0x01);
    assert_int_equal(digest.bytes[7], 0xef);
    assert_false(ds_digest_parse("0123456789ABCDEF0123456789abcdef", &digest));
    assert_false(ds_digest_parse("0123456789abcdef0123456789abcde", &digest));
    assert_false(ds_digest_parse("0123456789abcdef0123456789abcdef0", &digest));
    assert_false(ds_digest_parse("0123456789abcdeg0123456789abcdef", &digest));
    assert_false(ds_digest_parse("", &digest));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(known_texts_have_their_sums),
    cmocka_unit_test(every_length_and_start_agrees_with_the_definition),
    cmocka_unit_test(a_digest_is_what_other_programs_print),
    cmocka_unit_test(a_digest_has_one_spelling),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
