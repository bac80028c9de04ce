/* test_quantise.c - a model's folder with its matrices quantised: the bytes that bitsandbytes' form of each whole matrix
 * has, however it came, all else as it was, in as many files as asked for, and readable again. */
// link: checkpoint model comm device kernels storage base
// private: checkpoint/hf
#include "kernel_compare.h"
#include "test.h"

#include "hf_quantise.h"

#include "dstrain/json.h"
#include "dstrain/random.h"

#include <stdio.h>
#include <string.h>

enum { PATH = 600 };

static char folder[] = "/tmp/dstrain-quantise-XXXXXX";
static struct ds_fs *fs;

static char whole[PATH], pieces[PATH], wanted[PATH]; /* files in there */

/* ---- one matrix, in one piece, and in any */

static void write_whole(const char *path, const struct ds_quant_items *matrix, const float *x)
{
    const uint64_t count = matrix->form.rows * matrix->form.columns;
    struct ds_safetensors_writer *file;
    struct ds_quant_writer *writer;

    assert_ok(ds_safetensors_create(fs, path, matrix->items, matrix->count, NULL, &file));
    assert_ok(ds_quant_write_begin(matrix, file, 0, &writer));
    assert_ok(ds_quant_write(writer, x, count));
    assert_ok(ds_quant_write_end(writer));
    assert_ok(ds_safetensors_commit(file));
}

static void write_pieces(const char *path, const struct ds_quant_items *matrix, const float *x,
                         uint64_t *seed)
{
    const uint64_t count = matrix->form.rows * matrix->form.columns;
    const uint64_t most = 1 + random_next(seed) % 300;
    struct hf_quantiser quantiser = {0};
    struct ds_safetensors_writer *file;

    assert_ok(ds_safetensors_create(fs, path, matrix->items, matrix->count, NULL, &file));
    for (uint64_t at = 0, some; at < count; at += some) {
        some = 1 + random_next(seed) % most;
        some = some < count - at ? some : count - at;
        assert_ok(hf_quantise(&quantiser, matrix, file, 0, at, some, x + at));
    }
    hf_quantiser_fini(&quantiser);
    assert_ok(ds_safetensors_commit(file));
}

static void assert_same_files(const char *a, const char *b)
{
    char *here = NULL, *there = NULL;
    size_t here_bytes = 0, there_bytes = 0;

    assert_ok(ds_fs_read_file(fs, a, 1 << 24, &here, &here_bytes));
    assert_ok(ds_fs_read_file(fs, b, 1 << 24, &there, &there_bytes));
    assert_int_equal(here_bytes, there_bytes);
    assert_memory_equal(here, there, here_bytes);
    free(here);
    free(there);
}

static void pieces_of_any_length_make_the_same_matrix(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (int trial = 0; trial < 60; trial++) {
        const struct ds_quant_form form = {trial % 2 ? DS_QUANT_INT8 : DS_QUANT_NF4, DS_BF16,
                                           1 + random_next(&seed) % 30,
                                           1 + random_next(&seed) % 150, 1};
        const uint64_t count = form.rows * form.columns;
        float *x = malloc(count * sizeof *x);
        struct ds_quant_items matrix;

        ds_random_normal(ds_random_of(seed, DS_RANDOM_TEST, 0), 0, count, 1, x);
        assert_ok(ds_quant_describe(&form, "a.weight", &matrix));
        write_whole(whole, &matrix, x);
        write_pieces(pieces, &matrix, x, &seed);
        assert_same_files(whole, pieces);
        free(x);
    }
}

/* ---- a folder */

static ds_status quantise(const char *from, enum ds_quant_kind kind, enum ds_dtype dtype,
                          uint64_t file_bytes, const char *to)
{
    const struct ds_hf_write_options options = {.fs = fs,
                                                .folder = to,
                                                .is_quantised = 1,
                                                .quant = kind,
                                                .dtype = dtype,
                                                .file_bytes_max = file_bytes};
    enum ds_dtype written;

    return ds_hf_merge(from, NULL, NULL, &options, &written);
}

/* The file of a folder in which the index says that a tensor is. */
static struct ds_safetensors *file_of(const char *in, const char *tensor)
{
    char path[2 * PATH], *text = NULL;
    struct ds_safetensors *file = NULL;
    const char *name = "model.safetensors";
    size_t bytes = 0;
    json_t *index = NULL;
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/model.safetensors.index.json", in);
    if (ds_fs_stat(fs, path, &stat) == 0) {
        assert_ok(ds_fs_read_file(fs, path, 1 << 24, &text, &bytes));
        assert_ok(ds_json_parse(path, text, bytes, &index));
        name = json_string_value(json_object_get(json_object_get(index, "weight_map"), tensor));
        if (!name)
            fail_msg("the index does not name %s", tensor);
    }
    snprintf(path, sizeof path, "%s/%s", in, name);
    assert_ok(ds_safetensors_open(fs, path, &file));
    json_decref(index);
    free(text);
    return file;
}

static void assert_tensor(const char *in, const struct ds_safetensors *want_file,
                          const struct ds_safetensors_entry *want)
{
    struct ds_safetensors *file = file_of(in, want->name);
    const struct ds_safetensors_entry *entry = ds_safetensors_find(file, want->name);
    char *here = malloc(want->bytes), *there = malloc(want->bytes);

    assert_non_null(entry);
    assert_int_equal(entry->dtype, want->dtype);
    assert_int_equal(entry->bytes, want->bytes);
    assert_ok(ds_safetensors_read(file, entry, 0, entry->elems, here));
    assert_ok(ds_safetensors_read(want_file, want, 0, want->elems, there));
    assert_memory_equal(here, there, want->bytes);
    free(here);
    free(there);
    ds_safetensors_close(file);
}

static float *values_of(const struct ds_safetensors *file, const struct ds_safetensors_entry *entry)
{
    float *x = malloc(entry->elems * sizeof *x);

    assert_ok(ds_safetensors_read_f32(file, entry, 0, entry->elems, x));
    return x;
}

/* What a tensor of the model is to be: several where it is a matrix of a layer. */
static size_t check_tensor(const char *in, const struct ds_safetensors *base,
                           const struct ds_safetensors_entry *entry, enum ds_quant_kind kind,
                           enum ds_dtype dtype)
{
    const int is_matrix = entry->dim_count == 2 && strncmp(entry->name, "model.layers.", 13) == 0;
    const struct ds_quant_form form = {kind, dtype, entry->shape[0], entry->shape[1], 1};
    struct ds_safetensors_item item = {entry->name, dtype, entry->dim_count, {0}};
    struct ds_safetensors *want;
    struct ds_safetensors_writer *writer;
    struct ds_quant_items matrix;
    float *x = values_of(base, entry);

    if (is_matrix) {
        assert_ok(ds_quant_describe(&form, entry->name, &matrix));
        write_whole(wanted, &matrix, x);
    } else {
        memcpy(item.shape, entry->shape, sizeof entry->shape);
        assert_ok(ds_safetensors_create(fs, wanted, &item, 1, NULL, &writer));
        assert_ok(ds_safetensors_write_f32(writer, 0, 0, entry->elems, x));
        assert_ok(ds_safetensors_commit(writer));
    }
    free(x);
    assert_ok(ds_safetensors_open(fs, wanted, &want));
    const size_t count = ds_safetensors_count(want);
    for (size_t i = 0; i < count; i++)
        assert_tensor(in, want, ds_safetensors_at(want, i));
    ds_safetensors_close(want);
    return count;
}

static void check_config(const char *in, enum ds_quant_kind kind)
{
    char path[2 * PATH], *text = NULL;
    size_t bytes = 0;
    json_t *root = NULL;

    snprintf(path, sizeof path, "%s/config.json", in);
    assert_ok(ds_fs_read_file(fs, path, 1 << 20, &text, &bytes));
    assert_ok(ds_json_parse(path, text, bytes, &root));
    const json_t *said = json_object_get(root, "quantization_config");
    assert_string_equal(json_string_value(json_object_get(said, "quant_method")), "bitsandbytes");
    assert_int_equal(json_is_true(json_object_get(said, "load_in_4bit")), kind == DS_QUANT_NF4);
    assert_int_equal(json_is_true(json_object_get(said, "load_in_8bit")), kind == DS_QUANT_INT8);
    assert_int_equal(json_is_true(json_object_get(said, "bnb_4bit_use_double_quant")),
                     kind == DS_QUANT_NF4);
    json_decref(root);
    free(text);
}

/* It is a model of the same shape to who reads it. */
static void check_reading(const char *in)
{
    struct ds_model_config config;
    struct ds_model *model;
    struct ds_hf *hf;

    assert_ok(ds_hf_read_config(fs, in, &config));
    assert_ok(ds_model_open(&config, NULL, &model));
    assert_ok(ds_hf_open(fs, in, &hf));
    assert_ok(ds_hf_check(hf, model));
    ds_hf_close(hf);
    ds_model_close(model);
}

static void check_folder(const char *base, enum ds_quant_kind kind, enum ds_dtype dtype,
                         uint64_t file_bytes)
{
    char to[PATH], path[2 * PATH];
    struct ds_safetensors *file;
    size_t matrices = 0;

    snprintf(to, sizeof to, "%s/quantised", folder);
    assert_ok(quantise(base, kind, dtype, file_bytes, to));
    snprintf(path, sizeof path, "%s/model.safetensors", base);
    assert_ok(ds_safetensors_open(fs, path, &file));
    for (size_t i = 0; i < ds_safetensors_count(file); i++)
        matrices += check_tensor(to, file, ds_safetensors_at(file, i), kind, dtype) > 1;
    assert_true(matrices == 14);
    ds_safetensors_close(file);
    check_config(to, kind);
    check_reading(to);
}

static void matrices_are_quantised_and_all_else_is_as_it_was(void **state)
{
    static const char *const cases[] = {"llama_mha", "qwen2_bias", "qwen3_qknorm"};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char base[PATH];

        snprintf(base, sizeof base, "%s/tests/golden/%s", DS_SOURCE_DIR, cases[i]);
        check_folder(base, DS_QUANT_NF4, DS_BF16, 0);
        check_folder(base, DS_QUANT_NF4, DS_F32, 40000);
        check_folder(base, DS_QUANT_INT8, DS_F16, 30000);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_any_length_make_the_same_matrix),
        cmocka_unit_test(matrices_are_quantised_and_all_else_is_as_it_was),
    };

    fs = ds_fs_posix();
    if (!mkdtemp(folder))
        return 1;
    snprintf(whole, sizeof whole, "%s/whole", folder);
    snprintf(pieces, sizeof pieces, "%s/pieces", folder);
    snprintf(wanted, sizeof wanted, "%s/wanted", folder);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)ds_fs_remove_tree(fs, folder);
    return failed;
}
