// link: checkpoint storage base
// private: checkpoint
/* Manifests: what is written comes back to the bit, in one spelling; whatever else stands in a file is refused. */
#include "test.h"

#include "format/document.h"

#include "dstrain/manifest.h"
#include "dstrain/random.h"

#include <math.h>

#define TEXT_BYTES 65536

/* The format, as it is read for ever. The last line is added. */
static const char golden[] =
    "{\"format\":\"dstrain checkpoint\",\"version\":1,\n"
    "\"run\":\"000102030405060708090a0b0c0d0e0f\",\"nonce\":\"ffffffffffffffffffffffffffffffff\",\n"
    "\"id\":{\"epoch\":7,\"step\":100},\"parent\":{\"epoch\":6,\"step\":90},\n"
    "\"layout\":{\"replica\":1,\"shard\":2,\"cp\":1,\"pp\":1,\"ep\":1,\"tp\":3,\"cut\":2048},\n"
    "\"tensor_count\":2,\"tensors\":[\n"
    "{\"id\":0,\"name\":\"model.norm.weight\",\"kind\":\"master\",\"dtype\":\"F32\",\"shape\":[12,"
    "10]},\n"
    "{\"id\":1,\"name\":\"model.norm.weight\",\"kind\":\"exp_avg\",\"dtype\":\"BF16\",\"shape\":[]}"
    "\n"
    "],\n"
    "\"pack_count\":2,\"packs\":[\n"
    "{\"dir\":0,\"epoch\":6,\"step\":90,\"rank\":1,\"part\":0,\"try\":2,\"bytes\":9007199254740992,"
    "\"footer\":\"000102030405060708090a0b0c0d0e0f\"},\n"
    "{\"dir\":3,\"epoch\":7,\"step\":100,\"rank\":0,\"part\":0,\"try\":0,\"bytes\":20480,"
    "\"footer\":\"000102030405060708090a0b0c0d0e0f\"}\n"
    "],\n"
    "\"state_count\":3,\"state\":{\n"
    "\"data.path\":\"a \\\"b\\\" \\\\ \\u000a \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\",\n"
    "\"lr\":\"0x1.a36e2eb1c432dp-14\",\n"
    "\"step\":\"18446744073709551615\"\n"
    "}}\n";

static size_t sealed(const char *body, size_t body_bytes, char *to)
{
    struct text text = {.at = to, .capacity = TEXT_BYTES};

    text_add(&text, body, body_bytes);
    document_seal(&text);
    assert_false(text.is_full);
    return text.bytes;
}

static ds_status parse(const char *text, size_t bytes, struct ds_manifest *out)
{
    char *exact = malloc(bytes + 1); /* a block of its own: reading past its end is seen */

    memcpy(exact, text, bytes);
    exact = realloc(exact, bytes ? bytes : 1);
    ds_log.terminal = -1;
    ds_status st = ds_manifest_parse("test", exact, bytes, out);
    ds_log.terminal = 2;
    free(exact);
    return st;
}

/* Refused, or the one spelling of what was read. */
static int is_refused(const char *body, size_t body_bytes)
{
    static char text[TEXT_BYTES], again[2 * TEXT_BYTES];
    const size_t bytes = sealed(body, body_bytes, text);
    struct ds_manifest manifest;
    size_t again_bytes;

    if (parse(text, bytes, &manifest) != DS_OK)
        return 1;
    assert_true(ds_manifest_bytes(&manifest) >= bytes);
    assert_ok(ds_manifest_write(&manifest, again, sizeof again, &again_bytes));
    assert_int_equal(again_bytes, bytes);
    assert_memory_equal(again, text, bytes);
    ds_manifest_fini(&manifest);
    return 0;
}

static void the_format_is_what_it_was(void **state)
{
    static char text[TEXT_BYTES];
    const size_t bytes = sealed(golden, strlen(golden), text);
    struct ds_manifest m;
    uint64_t step;
    double lr;

    (void)state;
    assert_string_equal(
        text + bytes - DOCUMENT_SEAL_BYTES,
        "{\"bytes\":\"000000000857\",\"xxh3_128\":\"24876bca58b2abf336543daf0b5a1420\"}\n");
    assert_ok(parse(text, bytes, &m));
    assert_true(m.id.epoch == 7 && m.id.step == 100 && m.has_parent && m.parent.step == 90);
    assert_true(m.run[15] == 15 && m.nonce[0] == 0xff && m.layout.tp == 3 && m.layout.cut == 2048);
    assert_int_equal(m.catalogue.count, 2);
    assert_string_equal(m.catalogue.tensors[1].name, "model.norm.weight");
    assert_true(m.catalogue.tensors[0].dim_count == 2 && m.catalogue.tensors[0].shape[1] == 10);
    assert_true(m.catalogue.tensors[1].dim_count == 0 && m.catalogue.tensors[1].dtype == DS_BF16);
    assert_int_equal(m.pack_count, 2);
    assert_true(m.packs[0].pack.id.attempt == 2 && m.packs[1].dir == 3);
    assert_int_equal(m.packs[0].pack.file_bytes, 1ull << 53);
    assert_string_equal(ds_values_get(&m.state, "data.path"),
                        "a \"b\" \\ \n \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
    assert_ok(ds_values_u64(&m.state, "test", "step", 0, UINT64_MAX, &step));
    assert_true(step == UINT64_MAX);
    assert_ok(ds_values_real(&m.state, "test", "lr", &lr));
    assert_true(lr == 1e-4);
    ds_manifest_fini(&m);
    assert_false(is_refused(golden, strlen(golden)));
}

static void every_changed_byte_is_noticed(void **state)
{
    static char text[TEXT_BYTES];
    const size_t bytes = sealed(golden, strlen(golden), text);
    struct ds_manifest m;

    (void)state;
    for (size_t i = 0; i < bytes; i++)
        for (int bit = 0; bit < 8; bit++) {
            text[i] = (char)(text[i] ^ 1 << bit);
            assert_int_equal(parse(text, bytes, &m), DS_ERR_CORRUPT);
            text[i] = (char)(text[i] ^ 1 << bit);
        }
    for (size_t end = 0; end < bytes; end++)
        assert_int_equal(parse(text, end, &m), DS_ERR_CORRUPT);
    text[bytes] = '\n';
    assert_int_equal(parse(text, bytes + 1, &m), DS_ERR_CORRUPT);
}

/* With a good sum: every byte replaced, removed, doubled. */
static void there_is_one_spelling(void **state)
{
    static const char others[] = " 0129\"\\,:{}[].-+eE\n\t\x7f\xff\xc3n";
    const size_t bytes = strlen(golden);
    static char body[TEXT_BYTES];
    size_t taken = 0;

    (void)state;
    for (size_t i = 0; i < bytes; i++) {
        for (size_t other = 0; other < sizeof others; other++) { /* NUL, too */
            memcpy(body, golden, bytes);
            body[i] = others[other];
            taken += !is_refused(body, bytes);
            memcpy(body, golden, i);
            body[i] = others[other];
            memcpy(body + i + 1, golden + i, bytes - i);
            taken += !is_refused(body, bytes + 1);
        }
        memcpy(body, golden, i);
        memcpy(body + i, golden + i + 1, bytes - i - 1);
        taken += !is_refused(body, bytes - 1);
    }
    assert_true(taken > 100); /* other numbers and names are other manifests, not all is refused */
}

static int refuses(const char *from, const char *to)
{
    static char body[TEXT_BYTES];
    const char *at = strstr(golden, from);

    assert_non_null(at);
    snprintf(body, sizeof body, "%.*s%s%s", (int)(at - golden), golden, to, at + strlen(from));
    return is_refused(body, strlen(body));
}

static void what_json_allows_and_we_do_not_is_refused(void **state)
{
    (void)state;
    assert_false(refuses("\"step\":100", "\"step\":101"));
    assert_true(refuses("{\"format\"", "\xef\xbb\xbf{\"format\""));
    assert_true(refuses("\"version\":1", "\"version\":2"));
    assert_true(refuses("\"version\":1", "\"version\":1.0"));
    assert_true(refuses("\"step\":100", "\"step\":1e2"));
    assert_true(refuses("\"step\":100", "\"step\":0100"));
    assert_true(refuses("\"step\":100", "\"step\":-1"));
    assert_true(refuses("\"step\":100", "\"step\":9007199254740993"));
    assert_true(refuses("\"step\":100", "\"step\":99999999999999999999999"));
    assert_true(refuses("\"step\":100", "\"step\":100,\"step\":100"));
    assert_true(refuses("\"step\":100", "\"step\":100,\"other\":1"));
    assert_true(refuses("\"tp\":3", "\"tp\":4294967296"));
    assert_true(refuses("\"tensor_count\":2", "\"tensor_count\":3"));
    assert_true(refuses("\"tensor_count\":2", "\"tensor_count\":1"));
    assert_true(refuses("\"tensor_count\":2", "\"tensor_count\":262144"));
    assert_true(refuses("\"pack_count\":2", "\"pack_count\":4294967295"));
    assert_true(refuses("\"state_count\":3", "\"state_count\":65537"));
    assert_true(refuses("\"id\":1,", "\"id\":0,"));
    assert_true(refuses("\"exp_avg\"", "\"master\"")); /* twice */
    assert_true(refuses("\"BF16\"", "\"BF17\""));
    assert_true(refuses("[12,10]", "[12,0]"));
    assert_true(refuses("[12,10]", "[1,1,1,1,1,1,1,1,1]"));
    assert_true(refuses("[12,10]", "[9007199254740992,9007199254740992]"));
    assert_true(refuses("\"try\":2", "\"try\":2,\"path\":\"/etc/passwd\""));
    assert_true(refuses("\"epoch\":6,\"step\":90,\"rank\"", "\"epoch\":8,\"step\":90,\"rank\""));
    assert_true(refuses("\"lr\"", "\"aa\""));   /* out of order */
    assert_true(refuses("\"lr\"", "\"step\"")); /* twice */
    assert_true(refuses("\\u000a", "\\n"));
    assert_true(refuses("\\u000a", "\\u0000"));
    assert_true(refuses("\\u000a", "\\u000A"));
    assert_true(refuses("\\u000a", "\\u0041"));
    assert_true(refuses("\xc3\xa4", "\xc3")); /* cut */
    assert_true(refuses("\xc3\xa4", "\xc0\x80"));
    assert_true(refuses("\xc3\xa4", "\xed\xa0\x80"));
    assert_true(refuses("}}\n", "}}\n\n"));
    assert_true(refuses("}}\n", "}}"));
}

static void values_keep_their_bits_and_their_order(void **state)
{
    struct ds_random random = ds_random_of(test_seed("test_manifest"), DS_RANDOM_TEST, 0);
    struct ds_values values = {0};
    double got;

    (void)state;
    for (uint32_t i = 0; i < 2000; i++) {
        const uint64_t bits = ds_random_u64(random, i);
        char name[32];
        double value;

        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        snprintf(name, sizeof name, "v%u", ds_random_u32(random, i) % 500);
        assert_ok(ds_values_set_real(&values, name, value));
        assert_ok(ds_values_real(&values, "test", name, &got));
        assert_memory_equal(&got, &value, sizeof value);
    }
    for (uint32_t i = 1; i < values.count; i++)
        assert_true(strcmp(values.items[i - 1].name, values.items[i].name) < 0);
    const struct ds_value *items = values.items;
    const char *text = values.items[7].text;
    assert_ok(ds_values_set(&values, values.items[7].name, "short"));
    assert_true(items == values.items && text == values.items[7].text); /* no new memory */
    uint64_t number;
    ds_log.terminal = -1;
    assert_int_equal(ds_values_u64(&values, "test", "none", 0, 9, &number), DS_ERR_DATA);
    assert_ok(ds_values_set(&values, "n", "10"));
    assert_int_equal(ds_values_u64(&values, "test", "n", 0, 9, &number), DS_ERR_DATA);
    assert_int_equal(ds_values_u64(&values, "test", "n", 11, 20, &number), DS_ERR_DATA);
    static const char *const bad[] = {"", "-1", "+1", "01", "1 ", " 1", "0x1", "1.0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_ok(ds_values_set(&values, "n", bad[i]));
        assert_int_equal(ds_values_u64(&values, "test", "n", 0, 9, &number), DS_ERR_DATA);
    }
    assert_ok(ds_values_set(&values, "n", "0.5"));
    assert_int_equal(ds_values_real(&values, "test", "n", &got), DS_ERR_DATA);
    char *large = malloc(DS_VALUE_BYTES_MAX + 2);
    memset(large, 'x', DS_VALUE_BYTES_MAX + 1);
    large[DS_VALUE_BYTES_MAX + 1] = '\0';
    assert_int_equal(ds_values_set(&values, "large", large), DS_ERR_DATA);
    ds_log.terminal = 2;
    free(large);
    ds_values_fini(&values);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_format_is_what_it_was),
    cmocka_unit_test(every_changed_byte_is_noticed),
    cmocka_unit_test(there_is_one_spelling),
    cmocka_unit_test(what_json_allows_and_we_do_not_is_refused),
    cmocka_unit_test(values_keep_their_bits_and_their_order),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
