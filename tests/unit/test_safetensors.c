// link: storage base
/* The format, read: vectors of the reference library, many tensors, and what a hostile or damaged file gets: DS_ERR_DATA,
 * one line, nothing half-made. */
#include "safetensors_case.h"
#include "test.h"

#include "dstrain/safetensors.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static void write_bytes(const char *path, const void *bytes, size_t count)
{
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, bytes, count));
}

/* ---- vectors */

static void an_empty_file_has_no_tensors(void **state)
{
    static const uint8_t bytes[] = {8, 0, 0, 0, 0, 0, 0, 0, '{', '}', ' ', ' ', ' ', ' ', ' ', ' '};
    struct ds_safetensors *file;

    (void)state;
    write_bytes(in_folder("empty"), bytes, sizeof bytes);
    assert_ok(ds_safetensors_open(ds_fs_posix(), in_folder("empty"), &file));
    assert_int_equal(ds_safetensors_count(file), 0);
    assert_int_equal(ds_safetensors_metadata_count(file), 0);
    assert_null(ds_safetensors_find(file, ""));
    assert_null(ds_safetensors_metadata(file, "format"));
    ds_safetensors_close(file);
    assert_int_equal(symlink("empty", in_folder("link")),
                     0); /* as the caches of models are made of */
    assert_ok(ds_safetensors_open(ds_fs_posix(), in_folder("link"), &file));
    ds_safetensors_close(file);
}

static void one_tensor(const char *header, size_t header_bytes, uint32_t dim_count)
{
    struct ds_safetensors *file;
    uint8_t bytes[128] = {(uint8_t)header_bytes};
    float values[6] = {1, -2, 3.5f, 0, 1e-30f, INFINITY}, got[6];

    assert_int_equal(strlen(header), header_bytes);
    memcpy(bytes + 8, header, header_bytes);
    memcpy(bytes + 8 + header_bytes, values, sizeof values);
    write_bytes(in_folder("one"), bytes, 8 + header_bytes + sizeof values);
    assert_ok(ds_safetensors_open(ds_fs_posix(), in_folder("one"), &file));
    const struct ds_safetensors_entry *entry = ds_safetensors_at(file, 0);
    assert_int_equal(ds_safetensors_count(file), 1);
    assert_int_equal(entry->dtype, DS_F32);
    assert_int_equal(entry->dim_count, dim_count);
    assert_int_equal(entry->shape[dim_count - 1], 3);
    assert_int_equal(entry->shape[dim_count - 2], 2);
    assert_int_equal(entry->elems, 6);
    assert_int_equal(entry->bytes, 24);
    assert_int_equal(entry->offset, 8 + header_bytes);
    assert_ptr_equal(ds_safetensors_find(file, entry->name), entry);
    assert_ok(ds_safetensors_read_f32(file, entry, 0, 6, got));
    assert_memory_equal(got, values, sizeof values);
    assert_ok(ds_safetensors_read(file, entry, 2, 3, got));
    assert_memory_equal(got, values + 2, 12);
    ds_safetensors_close(file);
}

static void the_reference_vectors_are_read(void **state)
{
    (void)state;
    one_tensor("{\"attn.0\":{\"dtype\":\"F32\",\"shape\":[1,2,3],\"data_offsets\":[0,24]}}", 64, 3);
    one_tensor("{\"attn0\":{\"dtype\":\"F32\",\"shape\":[1,1,2,3],\"data_offsets\":[0,24]}}       ",
               72, 4);
}

static void order_in_the_header_and_spaces_mean_nothing(void **state)
{
    static const char header[] =
        "{ \"z\" :\t{\"data_offsets\" : [ 3 , 5 ],\n\"shape\":[2],\"dtype\":\"U8\"},\r"
        "\"none\":{\"dtype\":\"F64\",\"shape\":[4,0],\"data_offsets\":[3,3]},"
        "\"__metadata__\":{\"k\":\"v\",\"\":\"\\u00e9\"},"
        "\"\\u0061\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[0,1]},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[1,3]}}   ";
    static const char *const names[] = {"a", "b", "none", "z"};
    struct ds_safetensors *file;
    const char *key, *value;

    (void)state;
    assert_ok(ds_safetensors_parse("x", header, strlen(header), 8 + strlen(header) + 5, &file));
    assert_int_equal(ds_safetensors_count(file), 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(ds_safetensors_at(file, i)->name, names[i]);
    assert_int_equal(ds_safetensors_find(file, "none")->elems, 0);
    assert_int_equal(ds_safetensors_find(file, "a")->elems, 1);
    assert_null(ds_safetensors_find(file, "c"));
    assert_int_equal(ds_safetensors_metadata_count(file), 2);
    assert_string_equal(ds_safetensors_metadata(file, "k"), "v");
    ds_safetensors_metadata_at(file, 1, &key, &value);
    assert_string_equal(key, "");
    assert_string_equal(value, "\xc3\xa9");
    ds_safetensors_close(file);
}

/* ---- hostile headers */

#define U8(name, begin, end) \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #end "],\"data_offsets\":[" #begin "," #end "]}"
#define T(fields) "{\"t\":{" fields "}}"

static const struct {
    const char *header;
    uint64_t data_bytes;
    const char *wanted;
} hostile[] = {
    {"", 0, "'{'"},
    {" {}", 0, "byte 0 of the header: not JSON: '{'"},
    {"\xef\xbb\xbf{}", 0, "'{'"},
    {"[]", 0, "'{'"},
    {"{", 0, "double quotes"},
    {"{} x", 0, "only spaces"},
    {"{}\n", 0, "only spaces"},
    {"{}{}", 0, "only spaces"},
    {"{}", 1, "(something behind them)"},
    {"{,}", 0, "double quotes"},
    {"{\"t\"}", 0, "':'"},
    {"{\"t\":}", 0, "tensor 't': must be an object"},
    {"{\"t\":1}", 0, "must be an object"},
    {"{\"t\":[]}", 0, "must be an object"},
    {"{t:{}}", 0, "double quotes"},
    {"{" U8("t", 0, 1) ",}", 1, "double quotes"},
    {"{" U8("t", 0, 1), 1, "it ends"},
    {"{" U8("t", 0, 1) " " U8("u", 1, 2) "}", 2, "','"},
    {T(""), 0, "needs dtype, shape and data_offsets"},
    {T("\"dtype\":\"U8\",\"shape\":[1]"), 1, "needs dtype"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"offsets\":[0,1]"), 1, "needs dtype"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"strides\":[1]"), 1, "nothing else"},
    {T("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "duplicate"},
    {T("\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]"), 1, "dtype must be a text"},
    {T("\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "dtype 'u8' is not known"},
    {T("\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]"), 1, "dtype 'F4' is not known"},
    {T("\"dtype\":\"U8\\n\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "dtype 'U8?'"},
    {T("\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]"), 1, "shape must be a list"},
    {T("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1, "at most 8"},
    {T("\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]"), 1, "whole numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]"), 1, "whole numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]"), 1, "whole numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[null],\"data_offsets\":[0,1]"), 1, "whole numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]"), 1, "too big"},
    {T("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, "64 bits"},
    {T("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]"), 0,
     "64 bits"},
    {T("\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]"), 0,
     "more bytes"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]"), 1, "two numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]"), 1, "two numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}"), 1, "two numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]"), 1, "whole numbers"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]"), 1, "before they begin"},
    {T("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]"), 1, "take 2 bytes"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]"), 2, "a hole"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 0, "truncated"},
    {T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 2, "something behind"},
    {T("\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":[0,9223372036854775807]"),
     1, "truncated"},
    {"{" U8("a", 0, 4) ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}", 5,
     "tensor 'b': begins at byte 3 of the data where 4 is due (an overlap)"},
    {"{" U8("a", 0, 4) "," U8("a", 0, 4) "}", 4, "tensor 'a': is there twice"},
    {"{" U8("a", 0, 4) ",\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}", 4,
     "twice"},
    {"{" U8("\xff", 0, 1) "}", 1, "unable to decode"},
    {"{" U8("\xed\xa0\x80", 0, 1) "}", 1, "unable to decode"},
    {"{" U8("a\\u0000b", 0, 1) "}", 1, "name of a tensor"},
    {"{" U8("a\nb", 0, 1) "}", 1, "name of a tensor"},
    {"{\"a\\n\\u001b[2Jb\":{}}", 0, "tensor 'a??[2Jb'"},
    {"{\"__metadata__\":null}", 0, "object of texts"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "value of __metadata__"},
    {"{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, "value of __metadata__"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "key 'a' twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "second __metadata__"},
};

static ds_status parse_bytes(const char *header, size_t header_bytes, uint64_t data_bytes)
{
    struct ds_safetensors *file = NULL;
    ds_status st =
        ds_safetensors_parse("hostile", header, header_bytes, 8 + header_bytes + data_bytes, &file);

    assert_true((st == DS_OK) == (file != NULL)); /* the result is set on success only */
    ds_safetensors_close(file);
    return st;
}

static ds_status parse_text(const char *header, uint64_t data_bytes)
{
    return parse_bytes(header, strlen(header), data_bytes);
}

static void every_hostile_header_gets_one_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++)
        assert_refused(hostile[i].wanted, parse_text(hostile[i].header, hostile[i].data_bytes));
}

static void a_nul_byte_in_the_header_is_refused(void **state)
{
    (void)state;
    assert_refused("only spaces", parse_bytes("{}\0\0", 4, 0));
    assert_refused("double quotes", parse_bytes("{\0}", 3, 0));
}

/* A header with one tensor whose description is `middle` repeated between two texts. */
static ds_status parse_repeated(const char *before, const char *middle, size_t times,
                                const char *after)
{
    size_t length = strlen(middle), used = strlen(before);
    char *header = malloc(used + times * length + strlen(after) + 1);

    assert_non_null(header);
    memcpy(header, before, used);
    for (size_t i = 0; i < times; i++, used += length)
        memcpy(header + used, middle, length);
    strcpy(header + used, after);
    ds_status st = parse_text(header, 0);
    free(header);
    return st;
}

static void deep_or_long_json_is_refused_before_memory_is_taken(void **state)
{
    (void)state;
    assert_refused("maximum parsing depth", parse_repeated("{\"t\":{\"shape\":", "[", 1000000, ""));
    assert_refused("longer than the 4096 bytes",
                   parse_repeated("{\"t\":{\"shape\":[0", ",0", 1000000, "]}}"));
    assert_refused("longer than", parse_repeated("{\"", "n", 4000, "\":{}}"));
    assert_refused("longer than 512", parse_repeated("{\"", "n", 513, "\":{}}"));
    assert_refused("must be an object", parse_repeated("{\"", "n", 512, "\":1}"));
    assert_refused("object", parse_repeated("{\"__metadata__\":", "[", 1000000, ""));
}

static void metadata_may_be_long(void **state)
{
    (void)state;
    assert_ok(parse_repeated("{\"__metadata__\":{\"a\":\"", "xyz ", 250000, "\"}}"));
}

static void a_length_field_that_lies_is_refused(void **state)
{
    static const uint64_t lengths[] = {3,         9,          100000000,     100000001,
                                       1u << 31u, UINT64_MAX, UINT64_MAX - 7};

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct ds_safetensors *file;
        uint8_t bytes[10] = "        {}";

        for (int b = 0; b < 8; b++)
            bytes[b] = (uint8_t)(lengths[i] >> 8 * b);
        write_bytes(in_folder("lie"), bytes, sizeof bytes);
        assert_refused("says its header has",
                       ds_safetensors_open(ds_fs_posix(), in_folder("lie"), &file));
    }
    assert_refused("larger than the 100000000", parse_bytes("", 100000001, 0));
}

static void what_is_not_a_file_is_refused(void **state)
{
    struct ds_safetensors *file;

    (void)state;
    assert_refused("No such file", ds_safetensors_open(ds_fs_posix(), in_folder("none"), &file));
    assert_refused("not a file", ds_safetensors_open(ds_fs_posix(), folder, &file));
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0); /* nobody writes into it */
    assert_refused("not a file", ds_safetensors_open(ds_fs_posix(), in_folder("pipe"), &file));
    write_bytes(in_folder("short"), "{}", 2);
    assert_refused("too few", ds_safetensors_open(ds_fs_posix(), in_folder("short"), &file));
}

static void a_file_cut_or_longer_by_any_length_is_refused(void **state)
{
    const struct ds_safetensors_item item = {"t", DS_F32, 1, {4}};
    struct ds_safetensors_writer *writer;
    struct ds_safetensors *file;
    char path[128], *text;
    size_t size;

    (void)state;
    strcpy(path, in_folder("t"));
    assert_ok(ds_safetensors_create(ds_fs_posix(), path, &item, 1, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 4, "0123456789abcdef"));
    assert_ok(ds_safetensors_commit(writer));
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 4096, &text, &size));
    char *longer = calloc(1, size + 1);
    memcpy(longer, text, size);
    for (size_t cut = 0; cut <= size + 1; cut++) {
        if (cut == size)
            continue;
        write_bytes(path, longer, cut);
        assert_refused(path, ds_safetensors_open(ds_fs_posix(), path, &file));
    }
    free(longer);
    free(text);
}

/* ---- size */

/* Linear: a header of many tensors, in an order that is the reverse of their offsets. */
static void many_tensors_are_parsed_and_found(void **state)
{
    const size_t count = test_is_long() ? 1000000 : 100000;
    char *header = malloc(count * 90 + 16), *at = header, name[32];
    struct ds_safetensors *file;

    (void)state;
    *at++ = '{';
    for (size_t i = count; i-- > 0;)
        at += sprintf(
            at,
            "\"model.layers.%zu\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}%s", i,
            i, i + 1, i ? "," : "}");
    clock_t begin = clock();
    assert_ok(ds_safetensors_parse("many", header, (size_t)(at - header),
                                   8 + (uint64_t)(at - header) + count, &file));
    printf("%zu tensors: %.0f ms\n", count, (double)(clock() - begin) * 1e3 / CLOCKS_PER_SEC);
    assert_int_equal(ds_safetensors_count(file), count);
    for (size_t i = 0; i < count; i += 97) {
        snprintf(name, sizeof name, "model.layers.%zu", i);
        assert_string_equal(ds_safetensors_at(file, i)->name, name);
        assert_ptr_equal(ds_safetensors_find(file, name), ds_safetensors_at(file, i));
    }
    ds_safetensors_close(file);
    free(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(an_empty_file_has_no_tensors),
        IN_FOLDER(the_reference_vectors_are_read),
        cmocka_unit_test(order_in_the_header_and_spaces_mean_nothing),
        cmocka_unit_test(every_hostile_header_gets_one_line),
        cmocka_unit_test(a_nul_byte_in_the_header_is_refused),
        cmocka_unit_test(deep_or_long_json_is_refused_before_memory_is_taken),
        cmocka_unit_test(metadata_may_be_long),
        IN_FOLDER(a_length_field_that_lies_is_refused),
        IN_FOLDER(what_is_not_a_file_is_refused),
        IN_FOLDER(a_file_cut_or_longer_by_any_length_is_refused),
        cmocka_unit_test(many_tensors_are_parsed_and_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
