// link: storage base
/* What is written comes back: every dtype, converted floats, in the layout of the reference library. A list that cannot be a
 * file makes none; a disk that fails leaves the old file or the new one, and a failed open gives nothing. */
#include "safetensors_case.h"
#include "test.h"

#include "dstrain/safetensors.h"

static void fill_random(uint8_t *bytes, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

static void every_dtype_comes_back(void **state)
{
    struct ds_safetensors_item items[DS_DTYPE_COUNT + 2];
    char names[DS_DTYPE_COUNT][16];
    uint8_t sent[DS_DTYPE_COUNT][15 * 8], got[15 * 8];
    const char *metadata[] = {"made by", "a \"test\"\n", NULL};
    struct ds_safetensors_writer *writer;
    struct ds_safetensors *file;
    uint64_t seed = test_seed("every_dtype_comes_back");

    (void)state;
    fill_random(sent[0], sizeof sent, seed);
    for (int i = 0; i < DS_DTYPE_COUNT; i++) {
        snprintf(names[i], sizeof names[i], "t.%c", 'z' - i);
        items[i] = (struct ds_safetensors_item){names[i], (enum ds_dtype)i, 3, {3, 1, 5}};
    }
    items[DS_DTYPE_COUNT] = (struct ds_safetensors_item){"scalar \\ \xc3\xa9", DS_I16, 0, {0}};
    items[DS_DTYPE_COUNT + 1] = (struct ds_safetensors_item){"none", DS_F32, 2, {7, 0}};
    assert_ok(ds_safetensors_create(ds_fs_posix(), in_folder("all"), items, DS_DTYPE_COUNT + 2,
                                    metadata, &writer));
    for (size_t i = DS_DTYPE_COUNT; i-- > 0;) { /* in two parts, last tensor first */
        size_t size = ds_dtype_bytes(items[i].dtype);

        assert_ok(ds_safetensors_write(writer, i, 4, 11, sent[i] + 4 * size));
        assert_ok(ds_safetensors_write(writer, i, 0, 4, sent[i]));
    }
    assert_ok(ds_safetensors_write(writer, DS_DTYPE_COUNT, 0, 1, "\x12\x34"));
    assert_ok(ds_safetensors_commit(writer));

    assert_ok(ds_safetensors_open(ds_fs_posix(), in_folder("all"), &file));
    assert_int_equal(ds_safetensors_count(file), DS_DTYPE_COUNT + 2);
    assert_string_equal(ds_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(ds_safetensors_metadata(file, "made by"), metadata[1]);
    for (int i = 0; i < DS_DTYPE_COUNT; i++) {
        const struct ds_safetensors_entry *entry = ds_safetensors_find(file, names[i]);

        assert_non_null(entry);
        assert_int_equal(entry->dtype, i);
        assert_int_equal(entry->offset % ds_dtype_bytes(entry->dtype), 0);
        assert_ok(ds_safetensors_read(file, entry, 0, 15, got));
        assert_memory_equal(got, sent[i], entry->bytes);
    }
    assert_ok(ds_safetensors_read(file, ds_safetensors_find(file, items[DS_DTYPE_COUNT].name), 0, 1,
                                  got));
    assert_memory_equal(got, "\x12\x34", 2);
    ds_safetensors_close(file);
}

static void the_layout_is_that_of_the_reference_library(void **state)
{
    static const char wanted[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"},"
        "\"c\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[12,20]},"
        "\"0\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[20,23]}}";
    const struct ds_safetensors_item items[] = {{"0", DS_U8, 1, {3}},
                                                {"b", DS_F32, 2, {1, 2}},
                                                {"a", DS_F32, 0, {0}},
                                                {"c", DS_I64, 1, {1}}};
    const char *metadata[] = {"format", "np", "k", "v", NULL};
    const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct ds_safetensors_writer *writer;
    char *text;
    size_t size;

    (void)state;
    assert_ok(ds_safetensors_create(ds_fs_posix(), in_folder("x"), items, 4, metadata, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 3, bytes));
    assert_ok(ds_safetensors_write(writer, 1, 0, 2, bytes));
    assert_ok(ds_safetensors_write(writer, 2, 0, 1, bytes));
    assert_ok(ds_safetensors_write(writer, 3, 0, 1, bytes));
    assert_ok(ds_safetensors_commit(writer));
    assert_ok(ds_fs_read_file(ds_fs_posix(), in_folder("x"), 4096, &text, &size));
    size_t header = (strlen(wanted) + 7) / 8 * 8;
    assert_int_equal(size, 8 + header + 23);
    assert_int_equal((uint8_t)text[0] + 256 * (uint8_t)text[1], header);
    assert_memory_equal(text + 8, wanted, strlen(wanted));
    assert_memory_equal(text + 8 + strlen(wanted), "       ", header - strlen(wanted));
    assert_memory_equal(text + 8 + header + 8, bytes, 4);
    assert_memory_equal(text + 8 + header + 12, bytes, 8);
    free(text);
}

static void floats_are_converted_on_the_way(void **state)
{
    enum { COUNT = 70001 };
    static const enum ds_dtype dtypes[] = {DS_F64, DS_F32, DS_F16, DS_BF16};
    float *sent = malloc(COUNT * sizeof *sent), *got = malloc(COUNT * sizeof *got);
    struct ds_safetensors_item item = {"w", DS_F64, 1, {COUNT}};
    struct ds_safetensors_writer *writer;
    struct ds_safetensors *file;

    (void)state;
    for (int i = 0; i < COUNT; i++)
        sent[i] = (float)(i % 255 - 127) * 0.5f; /* 8 bits: exact in every dtype */
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        item.dtype = dtypes[i];
        assert_ok(ds_safetensors_create(ds_fs_posix(), in_folder("w"), &item, 1, NULL, &writer));
        assert_ok(ds_safetensors_write_f32(writer, 0, 0, 3, sent));
        assert_ok(ds_safetensors_write_f32(writer, 0, 3, COUNT - 3, sent + 3));
        assert_ok(ds_safetensors_commit(writer));
        assert_ok(ds_safetensors_open(ds_fs_posix(), in_folder("w"), &file));
        const struct ds_safetensors_entry *entry = ds_safetensors_at(file, 0);
        assert_int_equal(entry->bytes, COUNT * ds_dtype_bytes(dtypes[i]));
        assert_ok(ds_safetensors_read_f32(file, entry, 0, COUNT, got));
        assert_memory_equal(got, sent, COUNT * sizeof *got);
        assert_ok(ds_safetensors_read_f32(file, entry, 1001, COUNT - 1001, got));
        assert_memory_equal(got, sent + 1001, (COUNT - 1001) * sizeof *got);
        ds_safetensors_close(file);
    }
    free(sent);
    free(got);
}

static void integers_are_not_read_as_floats(void **state)
{
    const struct ds_safetensors_item item = {"ids", DS_I64, 1, {1}};
    struct ds_safetensors_writer *writer;
    struct ds_safetensors *file;
    int64_t one = 1;
    float got;

    (void)state;
    assert_ok(ds_safetensors_create(ds_fs_posix(), in_folder("i"), &item, 1, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 1, &one));
    assert_ok(ds_safetensors_commit(writer));
    assert_ok(ds_safetensors_open(ds_fs_posix(), in_folder("i"), &file));
    assert_refused("tensor 'ids' is I64",
                   ds_safetensors_read_f32(file, ds_safetensors_at(file, 0), 0, 1, &got));
    ds_safetensors_close(file);
}

static void the_map_holds_the_bytes_of_the_file(void **state)
{
    const struct ds_safetensors_item item = {"t", DS_U16, 1, {1000}};
    uint16_t sent[1000];
    struct ds_safetensors_writer *writer;
    struct ds_safetensors *file;
    const uint8_t *data, *again;

    (void)state;
    fill_random((uint8_t *)sent, sizeof sent, 7);
    assert_ok(ds_safetensors_create(ds_fs_posix(), in_folder("m"), &item, 1, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 1000, sent));
    assert_ok(ds_safetensors_commit(writer));
    assert_ok(ds_safetensors_open(ds_fs_posix(), in_folder("m"), &file));
    assert_ok(ds_safetensors_map(file, &data));
    assert_ok(ds_safetensors_map(file, &again));
    assert_ptr_equal(data, again);
    assert_int_equal(ds_safetensors_at(file, 0)->offset % 8, 0);
    assert_memory_equal(data + ds_safetensors_at(file, 0)->offset, sent, sizeof sent);
    ds_safetensors_close(file);
}

static void a_list_that_cannot_be_a_file_is_refused_and_makes_none(void **state)
{
    const struct ds_safetensors_item twice[] = {{"t", DS_U8, 1, {1}}, {"t", DS_I8, 1, {1}}};
    const struct ds_safetensors_item huge[] = {{"t", DS_F64, 2, {1ull << 32, 1ull << 31}}};
    const struct ds_safetensors_item bytes[] = {{"\xff", DS_F64, 0, {0}}};
    struct ds_safetensors_writer *writer;
    char **names;
    size_t count;

    (void)state;
    assert_refused("twice",
                   ds_safetensors_create(ds_fs_posix(), in_folder("t"), twice, 2, NULL, &writer));
    assert_refused("larger than a file can be",
                   ds_safetensors_create(ds_fs_posix(), in_folder("t"), huge, 1, NULL, &writer));
    assert_refused("UTF-8",
                   ds_safetensors_create(ds_fs_posix(), in_folder("t"), bytes, 1, NULL, &writer));
    assert_int_equal(ds_fs_readdir(ds_fs_posix(), folder, &names, &count), 0);
    assert_int_equal(count, 0);
    free(names);
}

static void an_abandoned_file_leaves_nothing(void **state)
{
    const struct ds_safetensors_item item = {"t", DS_U8, 1, {1}};
    struct ds_safetensors_writer *writer;
    char **names;
    size_t count;

    (void)state;
    assert_ok(ds_safetensors_create(ds_fs_posix(), in_folder("t"), &item, 1, NULL, &writer));
    assert_int_equal(ds_fs_readdir(ds_fs_posix(), folder, &names, &count), 0);
    assert_int_equal(count, 1);
    assert_string_equal(names[0], "t.tmp");
    free(names);
    ds_safetensors_abandon(writer);
    ds_safetensors_abandon(NULL);
    assert_int_equal(ds_fs_readdir(ds_fs_posix(), folder, &names, &count), 0);
    assert_int_equal(count, 0);
    free(names);
}

/* ---- a disk that fails */

/* A model file is saved over an older one; reports how it went. */
static ds_status save(struct ds_fs *fs, const char *path, uint8_t value)
{
    const struct ds_safetensors_item items[] = {{"a", DS_F16, 1, {40000}}, {"b", DS_U8, 1, {1}}};
    struct ds_safetensors_writer *writer = NULL;
    float *values = malloc(40000 * sizeof *values);
    ds_status st;

    for (int i = 0; i < 40000; i++)
        values[i] = value;
    DS_TRY_GOTO(st, ds_safetensors_create(fs, path, items, 2, NULL, &writer), done);
    DS_TRY_GOTO(st, ds_safetensors_write_f32(writer, 0, 0, 40000, values), done);
    DS_TRY_GOTO(st, ds_safetensors_write(writer, 1, 0, 1, &value), done);
    st = ds_safetensors_commit(writer);
    writer = NULL;
done:
    ds_safetensors_abandon(writer);
    free(values);
    return st;
}

/* The file is whole, and all of one save; returns which. */
static uint8_t saved_value(struct ds_fs *fs, const char *path)
{
    struct ds_safetensors *file;
    float *values = malloc(40000 * sizeof *values);
    uint8_t value;

    assert_ok(ds_safetensors_open(fs, path, &file));
    assert_ok(ds_safetensors_read(file, ds_safetensors_find(file, "b"), 0, 1, &value));
    assert_ok(ds_safetensors_read_f32(file, ds_safetensors_find(file, "a"), 0, 40000, values));
    for (int i = 0; i < 40000; i++)
        assert_true(values[i] == value);
    ds_safetensors_close(file);
    free(values);
    return value;
}

/* Fail the 1st, 2nd, 3rd ... call, and take the power away after it. */
static void a_failed_save_leaves_the_old_file_or_the_new_one(void **state)
{
    uint64_t seed = test_seed("a_failed_save_leaves_the_old_file_or_the_new_one");
    ds_status st = DS_ERR_IO;
    uint64_t fail_at;
    struct ds_fs *disk;

    (void)state;
    assert_ok(ds_fs_sim_open(&disk));
    ds_log.terminal = -1;
    for (fail_at = 1; st != DS_OK; fail_at++) {
        struct ds_fs *faulty;
        char **names;
        size_t count;

        assert_true(fail_at < 100);
        assert_ok(save(disk, "/m", 1));
        assert_ok(ds_fs_fault_open(disk, fail_at, &faulty));
        st = save(faulty, "/m", 2);
        assert_int_equal(ds_fs_fault_hit(faulty), st != DS_OK);
        ds_fs_fault_close(faulty);
        assert_int_equal(ds_fs_sim_open_files(disk), 0);
        assert_int_equal(ds_fs_readdir(disk, "/", &names, &count), 0);
        assert_int_equal(count, 1); /* no .tmp */
        free(names);
        uint8_t value = saved_value(disk, "/m");
        assert_true(value == 2 || (value == 1 && st != DS_OK));
        ds_fs_sim_crash(disk, seed + fail_at);
        value = saved_value(disk, "/m");
        assert_true(value == 2 || (value == 1 && st != DS_OK));
    }
    ds_log.terminal = 2;
    assert_true(fail_at > 8);
    ds_fs_sim_close(disk);
}

/* Nothing is given out and no file stays open when reading fails at any call. */
static void a_failed_open_gives_nothing(void **state)
{
    struct ds_fs *disk, *faulty;
    ds_status st = DS_ERR_IO;

    (void)state;
    assert_ok(ds_fs_sim_open(&disk));
    assert_ok(save(disk, "/m", 3));
    ds_log.terminal = -1;
    for (uint64_t fail_at = 1; st != DS_OK; fail_at++) {
        struct ds_safetensors *file = NULL;

        assert_true(fail_at < 100);
        assert_ok(ds_fs_fault_open(disk, fail_at, &faulty));
        st = ds_safetensors_open(faulty, "/m", &file);
        assert_true(st == DS_OK || st == DS_ERR_IO);
        assert_true((st == DS_OK) == (file != NULL));
        ds_safetensors_close(file);
        ds_fs_fault_close(faulty);
        assert_int_equal(ds_fs_sim_open_files(disk), 0);
    }
    ds_log.terminal = 2;
    ds_fs_sim_close(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(every_dtype_comes_back),
        IN_FOLDER(the_layout_is_that_of_the_reference_library),
        IN_FOLDER(floats_are_converted_on_the_way),
        IN_FOLDER(integers_are_not_read_as_floats),
        IN_FOLDER(the_map_holds_the_bytes_of_the_file),
        IN_FOLDER(a_list_that_cannot_be_a_file_is_refused_and_makes_none),
        IN_FOLDER(an_abandoned_file_leaves_nothing),
        cmocka_unit_test(a_failed_save_leaves_the_old_file_or_the_new_one),
        cmocka_unit_test(a_failed_open_gives_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
