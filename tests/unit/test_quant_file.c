// link: storage base
/* Quantised matrices in safetensors: what bitsandbytes wrote is read to the bit, what is written has its form, and a
 * file that is damaged or not understood gets one line. */
#include "capture.h"
#include "kernel_compare.h"
#include "test.h"

#include "dstrain/quant_file.h"

#include <math.h>

#define GOLDEN DS_SOURCE_DIR "/tests/golden/quantised/bitsandbytes.safetensors"

static struct ds_fs *disk;

static int make_disk(void **state)
{
    (void)state;
    assert_ok(ds_fs_sim_open(&disk));
    return 0;
}

static int drop_disk(void **state)
{
    (void)state;
    ds_fs_sim_close(disk);
    return 0;
}

static struct ds_quant_matrix *open_matrix(struct ds_safetensors *file, const char *name)
{
    const struct ds_quant_files files = ds_quant_one_file(file);
    struct ds_quant_matrix *matrix;

    assert_ok(ds_quant_open(&files, name, &matrix));
    return matrix;
}

/* ---- what bitsandbytes wrote, with what it made of it */

static const struct golden {
    const char *name, *want;
    struct ds_quant_form form;
} golden[] = {
    {"nested.weight", "want.nested", {DS_QUANT_NF4, DS_BF16, 171, 100, 1}},
    {"flat.weight", "want.flat", {DS_QUANT_NF4, DS_F16, 3, 100, 0}},
    {"whole.weight", "want.whole", {DS_QUANT_NF4, DS_F32, 16, 64, 0}},
    {"int8.weight", "want.int8", {DS_QUANT_INT8, DS_F32, 5, 36, 0}},
};
#define FOR_GOLDEN(g) \
    for (const struct golden *g = golden; g < golden + sizeof golden / sizeof golden[0]; g++)

static float *wanted(struct ds_safetensors *file, const char *name, uint64_t *count)
{
    const struct ds_safetensors_entry *entry = ds_safetensors_find(file, name);
    float *x;

    assert_non_null(entry);
    *count = entry->elems;
    x = malloc(entry->elems * sizeof *x);
    assert_ok(ds_safetensors_read_f32(file, entry, 0, entry->elems, x));
    return x;
}

static void what_bitsandbytes_wrote_is_read_to_the_bit(void **state)
{
    struct ds_safetensors *file;
    uint64_t seed = test_seed(__func__), count;

    (void)state;
    assert_ok(ds_safetensors_open(ds_fs_posix(), GOLDEN, &file));
    FOR_GOLDEN(g)
    {
        struct ds_quant_matrix *matrix = open_matrix(file, g->name);
        const struct ds_quant_form form = ds_quant_form_of(matrix);
        float *want = wanted(file, g->want, &count), *got = malloc(count * sizeof *got);

        assert_true(form.kind == g->form.kind && form.dtype == g->form.dtype);
        assert_true(form.rows == g->form.rows && form.columns == g->form.columns);
        assert_true(form.is_nested == g->form.is_nested && form.rows * form.columns == count);
        assert_ok(ds_quant_read(matrix, 0, count, got));
        assert_memory_equal(got, want, count * sizeof *got);
        for (int trial = 0; trial < 50; trial++) {
            const uint64_t start = random_next(&seed) % count;
            const uint64_t some = random_next(&seed) % (count - start) + 1;

            assert_ok(ds_quant_read(matrix, start, some, got));
            assert_memory_equal(got, want + start, some * sizeof *got);
        }
        ds_quant_close(matrix);
        free(want);
        free(got);
    }
    assert_null(open_matrix(file, "plain.weight"));
    assert_null(open_matrix(file, "nothing.weight"));
    assert_null(open_matrix(file, "nested.weight.absmax"));
    ds_safetensors_close(file);
}

/* Codes, and what lies beside them, as they are stored: what they stand for is what is read. */
static void codes_are_read_as_they_are_stored(void **state)
{
    struct ds_safetensors *file;
    uint64_t count;

    (void)state;
    assert_ok(ds_safetensors_open(ds_fs_posix(), GOLDEN, &file));
    FOR_GOLDEN(g)
    {
        struct ds_quant_matrix *matrix = open_matrix(file, g->name);
        const struct ds_quantised beside = ds_quant_beside(matrix);
        const uint64_t start = g->form.kind == DS_QUANT_NF4 ? DS_NF4_BLOCK : 7;
        float *want = wanted(file, g->want, &count), *got = malloc(count * sizeof *got);
        uint8_t *codes = malloc(count);

        assert_ok(ds_quant_read_codes(matrix, start, count - start, codes));
        ds_dequantise(&beside, codes, start, count - start, got);
        for (uint64_t i = 0; i < count - start; i++) {
            uint32_t bits;

            assert_true(ds_dtype_from_f32(&bits, g->form.dtype, &got[i], 1));
            assert_true(ds_dtype_to_f32(&got[i], &bits, g->form.dtype, 1));
        }
        assert_memory_equal(got, want + start, (count - start) * sizeof *got);
        ds_quant_close(matrix);
        free(want);
        free(got);
        free(codes);
    }
    ds_safetensors_close(file);
}

/* ---- writing */

static void write_matrix(const char *path, const char *name, const struct ds_quant_form *form,
                         const float *x, uint64_t piece)
{
    const uint64_t count = form->rows * form->columns;
    struct ds_quant_items items;
    struct ds_safetensors_writer *file;
    struct ds_quant_writer *writer;

    assert_ok(ds_quant_describe(form, name, &items));
    assert_ok(ds_safetensors_create(disk, path, items.items, items.count, NULL, &file));
    assert_ok(ds_quant_write_begin(&items, file, 0, &writer));
    for (uint64_t at = 0; at < count; at += piece)
        assert_ok(ds_quant_write(writer, x + at, count - at < piece ? count - at : piece));
    assert_ok(ds_quant_write_end(writer));
    assert_ok(ds_safetensors_commit(file));
}

static void *all_of(struct ds_safetensors *file, const struct ds_safetensors_entry *entry)
{
    void *at = malloc(entry->bytes);

    assert_ok(ds_safetensors_read(file, entry, 0, entry->elems, at));
    return at;
}

/* Entry by entry: name, dtype and shape; and bytes where they are to be the same. */
static void compare_entries(struct ds_safetensors *ours, struct ds_safetensors *theirs,
                            const char *name, int same_bytes)
{
    for (size_t i = 0; i < ds_safetensors_count(ours); i++) {
        const struct ds_safetensors_entry *a = ds_safetensors_at(ours, i);
        const struct ds_safetensors_entry *b = ds_safetensors_find(theirs, a->name);
        void *x, *y;

        assert_non_null(b);
        assert_int_equal(strncmp(a->name, name, strcspn(name, ".")), 0);
        assert_int_equal(a->dtype, b->dtype);
        if (!same_bytes && strstr(a->name, "quant_state"))
            continue; /* a mean is written in another way */
        assert_int_equal(a->dim_count, b->dim_count);
        assert_memory_equal(a->shape, b->shape, a->dim_count * sizeof a->shape[0]);
        if (!same_bytes)
            continue;
        x = all_of(ours, a);
        y = all_of(theirs, b);
        assert_memory_equal(x, y, a->bytes);
        free(x);
        free(y);
    }
}

/* What was brought back from it becomes the same tensors again: all of their bytes where absmax are not nested and
 * nothing was rounded. */
static void what_is_written_has_the_form_of_bitsandbytes(void **state)
{
    struct ds_safetensors *file, *ours;
    uint64_t count, bytes;

    (void)state;
    assert_ok(ds_safetensors_open(ds_fs_posix(), GOLDEN, &file));
    FOR_GOLDEN(g)
    {
        float *want = wanted(file, g->want, &count);

        write_matrix("/ours.safetensors", g->name, &g->form, want, count);
        assert_ok(ds_safetensors_open(disk, "/ours.safetensors", &ours));
        assert_int_equal(ds_safetensors_count(ours), g->form.kind == DS_QUANT_INT8 ? 3
                                                     : g->form.is_nested           ? 6
                                                                                   : 4);
        compare_entries(ours, file, g->name,
                        g->form.dtype == DS_F32 && g->form.kind == DS_QUANT_NF4);
        bytes = 0;
        for (size_t i = 0; i < ds_safetensors_count(ours); i++)
            bytes += ds_safetensors_at(ours, i)->bytes;
        assert_int_equal(bytes, ds_quant_bytes(&g->form));
        ds_safetensors_close(ours);
        free(want);
    }
    ds_safetensors_close(file);
}

static float *read_back(const char *path, const char *name, uint64_t count)
{
    struct ds_safetensors *file;
    struct ds_quant_matrix *matrix;
    float *x = malloc(count * sizeof *x);

    assert_ok(ds_safetensors_open(disk, path, &file));
    matrix = open_matrix(file, name);
    assert_non_null(matrix);
    assert_ok(ds_quant_read(matrix, 0, count, x));
    ds_quant_close(matrix);
    ds_safetensors_close(file);
    return x;
}

/* In pieces or at once, the file is the same; and what is read is what arithmetic says. */
static void written_is_read_again(void **state)
{
    static const struct ds_quant_form forms[] = {{DS_QUANT_NF4, DS_F32, 131, 640, 1},
                                                 {DS_QUANT_NF4, DS_BF16, 131, 640, 0},
                                                 {DS_QUANT_NF4, DS_F16, 1, 1, 1},
                                                 {DS_QUANT_INT8, DS_F32, 131, 640, 0}};
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++) {
        const uint64_t count = forms[f].rows * forms[f].columns;
        float *x = random_floats(count, random_next(&seed)), *once, *pieces;

        write_matrix("/once", "a.weight", &forms[f], x, count);
        write_matrix("/pieces", "a.weight", &forms[f], x, 640);
        once = read_back("/once", "a.weight", count);
        pieces = read_back("/pieces", "a.weight", count);
        assert_memory_equal(once, pieces, count * sizeof *once);
        for (uint64_t i = 0; i < count; i++) /* the widest gap of NF4 is that from -1 on */
            assert_true(fabsf(once[i] - x[i]) <= 0.165f);
        free(x);
        free(once);
        free(pieces);
    }
}

static void numbers_that_are_not_finite_are_refused(void **state)
{
    const struct ds_quant_form form = {DS_QUANT_NF4, DS_F32, 2, 64, 1};
    struct ds_quant_items items;
    struct ds_safetensors_writer *file;
    struct ds_quant_writer *writer;
    struct capture capture;
    float x[128] = {0};

    (void)state;
    x[77] = INFINITY;
    assert_ok(ds_quant_describe(&form, "a.weight", &items));
    assert_ok(ds_safetensors_create(disk, "/bad", items.items, items.count, NULL, &file));
    assert_ok(ds_quant_write_begin(&items, file, 0, &writer));
    capture_begin(&capture);
    assert_int_equal(ds_quant_write(writer, x, 128), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "a.weight: element 77 is not finite"));
    ds_quant_write_abandon(writer);
    ds_safetensors_abandon(file);
}

static void names_that_are_no_weights_are_refused(void **state)
{
    static const char *const names[] = {"weight", ".weigh", "a.bias", ""};
    const struct ds_quant_form form = {DS_QUANT_INT8, DS_F32, 2, 64, 0};
    struct ds_quant_items items;
    struct capture capture;
    char longest[DS_QUANT_NAME_BYTES + 1];

    (void)state;
    capture_begin(&capture);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(ds_quant_describe(&form, names[i], &items), DS_ERR_DATA);
    memset(longest, 'a', sizeof longest);
    strcpy(longest + sizeof longest - 8, ".weight");
    assert_int_equal(ds_quant_describe(&form, longest, &items), DS_ERR_DATA);
    capture_end(&capture);
}

/* ---- damage: a matrix of 2 x 64, with one tensor changed, left out or brought */

struct piece {
    const char *name;
    enum ds_dtype dtype;
    uint64_t elems;
    const void *data;
};

static const float levels[16] = DS_NF4_LEVELS;
static const float other_levels[16] = {1};
static const uint8_t zeros[300];
static const float numbers[256];
static const float not_finite[2] = {1, INFINITY};

#define STATE(type, block, dtype, shape, rest)                                     \
    "{\"quant_type\": \"" type "\", \"blocksize\": " block ", \"dtype\": \"" dtype \
    "\", \"shape\": " shape rest "}"
#define NEST(block, offset) \
    ", \"nested_blocksize\": " block ", \"nested_dtype\": \"float32\", \"nested_offset\": " offset
#define QUANT_STATE "a.weight.quant_state.bitsandbytes__nf4"
#define TEXT(text)                                 \
    {                                              \
        QUANT_STATE, DS_U8, sizeof(text) - 1, text \
    }

static const struct piece nested_pieces[] = {
    {"a.weight", DS_U8, 64, zeros},
    {"a.weight.absmax", DS_U8, 2, zeros},
    {"a.weight.quant_map", DS_F32, 16, levels},
    {"a.weight.nested_absmax", DS_F32, 1, numbers},
    {"a.weight.nested_quant_map", DS_F32, 256, numbers},
    TEXT(STATE("nf4", "64", "bfloat16", "[2, 64]", NEST("256", "0.5"))),
};
static const struct piece int8_pieces[] = {{"a.weight", DS_I8, 128, zeros},
                                           {"a.SCB", DS_F32, 2, numbers},
                                           {"a.weight_format", DS_U8, 1, zeros}};

static const struct damage {
    int is_int8;
    struct piece
        piece; /* instead of the one with its name, or beside the others; elems 0: it is left out */
    ds_status status;
    const char *said;
} damages[] = {
    {0, {"a.weight", DS_U8, 63, zeros}, DS_ERR_DATA, "63 bytes of U8, not those of [2, 64]"},
    {0, {"a.weight", DS_I8, 64, zeros}, DS_ERR_DATA, "64 bytes of I8"},
    {0, {"a.weight.absmax", DS_U8, 3, zeros}, DS_ERR_DATA, "3 elements of U8, must be 2 of U8"},
    {0, {"a.weight.absmax", DS_F32, 2, numbers}, DS_ERR_DATA, "2 elements of F32"},
    {0, {"a.weight.absmax", DS_U8, 0, zeros}, DS_ERR_DATA, "a.weight.absmax is missing"},
    {0, {"a.weight.quant_map", DS_F32, 16, other_levels}, DS_ERR_UNSUPPORTED, "16 values of nf4"},
    {0, {"a.weight.quant_map", DS_F32, 0, levels}, DS_ERR_DATA, "quant_map is missing"},
    {0, {"a.weight.nested_absmax", DS_F32, 1, not_finite + 1}, DS_ERR_DATA, "is not finite"},
    {0, {"a.weight.nested_quant_map", DS_F32, 255, numbers}, DS_ERR_DATA, "must be 256 of F32"},
    {0, TEXT("{\"quant_type\": \"nf4\""), DS_ERR_DATA, QUANT_STATE},
    {0, TEXT("[]"), DS_ERR_DATA, QUANT_STATE},
    {0, TEXT(STATE("fp4", "64", "bfloat16", "[2, 64]", "")), DS_ERR_DATA, "quant_type"},
    {0, TEXT(STATE("nf4", "128", "bfloat16", "[2, 64]", "")), DS_ERR_UNSUPPORTED,
     "is 128, only 64"},
    {0, TEXT(STATE("nf4", "64", "float64", "[2, 64]", "")), DS_ERR_DATA, "'dtype' must be"},
    {0, TEXT(STATE("nf4", "64", "float16", "[128]", "")), DS_ERR_DATA, "'shape' must be"},
    {0, TEXT(STATE("nf4", "64", "float16", "[2, \"64\"]", "")), DS_ERR_DATA, "'shape' must be"},
    {0, TEXT(STATE("nf4", "64", "float16", "[-2, -64]", "")), DS_ERR_DATA, "'shape' must be"},
    {0, TEXT(STATE("nf4", "64", "float16", "null", "")), DS_ERR_DATA, "'shape' must be"},
    {0, TEXT(STATE("nf4", "64", "float16", "[4294967298, 4294967296]", "")), DS_ERR_DATA,
     "not those of [4294967298, 4294967296]"},
    {0, TEXT(STATE("nf4", "64", "float16", "[2, 64]", NEST("64", "0.5"))), DS_ERR_UNSUPPORTED,
     "is 64, only 256"},
    {0, TEXT(STATE("nf4", "64", "float16", "[2, 64]", NEST("256", "1e300"))), DS_ERR_DATA,
     "nested_offset"},
    {0, TEXT(STATE("nf4", "64", "float16", "[2, 64]", NEST("256", "\"1\""))), DS_ERR_DATA,
     "nested_offset"},
    {1, {"a.SCB", DS_F32, 3, numbers}, DS_ERR_DATA, "3 elements of F32, must be 2"},
    {1, {"a.SCB", DS_F32, 2, not_finite}, DS_ERR_DATA, "element 1 is not finite"},
    {1, {"a.weight", DS_U8, 128, zeros}, DS_ERR_DATA, "must be I8"},
    {1, {"a.weight_format", DS_U8, 1, "\1"}, DS_ERR_UNSUPPORTED, "only 0 (row-major)"},
    {1, {"a.weight_format", DS_F32, 1, numbers}, DS_ERR_DATA, "must be one U8"},
    {1, {"a.weight.quant_state.bitsandbytes__fp4", DS_U8, 2, "{}"}, DS_ERR_UNSUPPORTED, "fp4"},
};

static struct ds_safetensors_item item_of(const struct piece *p)
{
    struct ds_safetensors_item item = {
        .name = p->name, .dtype = p->dtype, .dim_count = 1, .shape = {p->elems}};

    if (strcmp(p->name, "a.weight") == 0 && p->elems == 128) {
        item.dim_count = 2;
        item.shape[0] = 2;
        item.shape[1] = 64;
    }
    return item;
}

static void write_damaged(const struct damage *d)
{
    const struct piece *from = d->is_int8 ? int8_pieces : nested_pieces;
    const size_t from_count = d->is_int8 ? 3 : 6;
    struct piece pieces[8];
    struct ds_safetensors_item items[8] = {{0}};
    struct ds_safetensors_writer *writer;
    size_t count = 0;

    for (size_t i = 0; i < from_count; i++)
        if (strcmp(from[i].name, d->piece.name) != 0)
            pieces[count++] = from[i];
    if (d->piece.elems > 0)
        pieces[count++] = d->piece;
    for (size_t i = 0; i < count; i++)
        items[i] = item_of(&pieces[i]);
    assert_ok(ds_safetensors_create(disk, "/damaged", items, count, NULL, &writer));
    for (size_t i = 0; i < count; i++)
        assert_ok(ds_safetensors_write(writer, i, 0, pieces[i].elems, pieces[i].data));
    assert_ok(ds_safetensors_commit(writer));
}

static void expect(const struct damage *d)
{
    struct ds_safetensors *file;
    struct ds_quant_matrix *matrix;
    struct capture capture;
    const char *said;
    ds_status st;

    write_damaged(d);
    assert_ok(ds_safetensors_open(disk, "/damaged", &file));
    const struct ds_quant_files files = ds_quant_one_file(file);
    capture_begin(&capture);
    st = ds_quant_open(&files, "a.weight", &matrix);
    said = capture_end(&capture);
    if (st != d->status || (d->said && (!strstr(said, d->said) || strchr(said, '\n'))))
        fail_msg("%s: status %d, said: %s", d->said ? d->said : "nothing", (int)st, said);
    if (st == DS_OK)
        assert_non_null(matrix);
    else
        assert_null(matrix);
    ds_quant_close(matrix);
    ds_safetensors_close(file);
}

static void damaged_matrices_are_refused_in_one_line(void **state)
{
    (void)state;
    expect(&(struct damage){.is_int8 = 0, .piece = {.name = "none"}});
    expect(&(struct damage){.is_int8 = 1, .piece = {.name = "none"}});
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++)
        expect(&damages[i]);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_bitsandbytes_wrote_is_read_to_the_bit),
        cmocka_unit_test(codes_are_read_as_they_are_stored),
        cmocka_unit_test(what_is_written_has_the_form_of_bitsandbytes),
        cmocka_unit_test(written_is_read_again),
        cmocka_unit_test(numbers_that_are_not_finite_are_refused),
        cmocka_unit_test(names_that_are_no_weights_are_refused),
        cmocka_unit_test(damaged_matrices_are_refused_in_one_line),
    };

    return cmocka_run_group_tests(tests, make_disk, drop_disk);
}
