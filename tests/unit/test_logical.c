// link: checkpoint zero base
/* Logical coordinates. Overlaps of every pair of pieces of small tensors against counting element by element;
 * proofs of tilings against every way to break one; every layout of up to eight ranks read by every other one. */
#include "test.h"

#include "dstrain/logical.h"
#include "dstrain/random.h"
#include "dstrain/zero.h"

#define ELEMS_MAX 4096

/* ---- overlaps */

/* The tensor's own number of each element of a piece. */
static uint64_t numbers_of(const struct ds_piece *piece, const uint64_t *shape, uint32_t *numbers)
{
    const struct ds_box *box = &piece->box;

    for (uint64_t flat = piece->begin; flat < piece->end; flat++) {
        uint64_t rest = flat, number = 0, stride = 1;

        for (uint32_t dim = box->dim_count; dim-- > 0;) {
            uint64_t extent = box->end[dim] - box->begin[dim];

            number += (box->begin[dim] + rest % extent) * stride;
            rest /= extent;
            stride *= shape[dim];
        }
        numbers[flat - piece->begin] = (uint32_t)number;
    }
    return piece->end - piece->begin;
}

static void assert_overlap(const struct ds_piece *from, const struct ds_piece *to,
                           const uint64_t *shape)
{
    uint32_t a[64], b[64];
    const uint64_t from_count = numbers_of(from, shape, a), to_count = numbers_of(to, shape, b);
    struct ds_overlap_cursor cursor;
    struct ds_overlap run, last = {0};
    uint64_t common = 0, found = 0;

    for (uint64_t i = 0; i < from_count; i++)
        for (uint64_t j = 0; j < to_count; j++)
            common += a[i] == b[j];
    ds_overlap_begin(&cursor, from, to);
    while (ds_overlap_next(&cursor, &run)) {
        if (run.count == 0 || run.from + run.count > from_count || run.to + run.count > to_count)
            fail_msg("a run outside of its pieces");
        for (uint64_t i = 0; i < run.count; i++)
            if (a[run.from + i] != b[run.to + i])
                fail_msg("a run joins different elements");
        if (found > 0 && run.from < last.from + last.count)
            fail_msg("runs are not in order");
        if (found > 0 && run.from == last.from + last.count && run.to == last.to + last.count)
            fail_msg("two runs could be one");
        found += run.count;
        last = run;
    }
    if (found != common)
        fail_msg("%llu common elements, %llu found", (unsigned long long)common,
                 (unsigned long long)found);
}

/* Every box of `shape`, in turn with every range that begins or ends where `step` allows. */
static size_t all_pieces(const uint64_t *shape, uint32_t dim_count, uint64_t step,
                         struct ds_piece *pieces)
{
    struct ds_box box = {.dim_count = dim_count};
    size_t count = 0;

    for (uint32_t dim = 0; dim < dim_count; dim++)
        box.end[dim] = 1;
    for (;;) {
        const uint64_t elems = ds_box_elems(&box);
        uint32_t dim = 0;

        for (uint64_t begin = 0; begin < elems; begin += step)
            for (uint64_t end = begin + 1; end <= elems; end += step) {
                assert_true(count < ELEMS_MAX);
                pieces[count++] = (struct ds_piece){0, box, begin, end};
            }
        for (; dim < dim_count; dim++) { /* the next box */
            if (++box.end[dim] <= shape[dim])
                break;
            if (++box.begin[dim] < shape[dim]) {
                box.end[dim] = box.begin[dim] + 1;
                break;
            }
            box.begin[dim] = 0;
            box.end[dim] = 1;
        }
        if (dim == dim_count)
            return count;
    }
}

static void overlaps_are_what_counting_finds(void **state)
{
    static const struct {
        uint64_t shape[3], step;
        uint32_t dim_count;
    } cases[] = {{{3, 4}, 1, 2}, {{7}, 1, 1}, {{2, 2, 3}, 2, 3}, {{3, 2, 2}, 2, 3}, {{0}, 1, 0}};
    struct ds_piece *pieces = calloc(ELEMS_MAX, sizeof *pieces);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t count = all_pieces(cases[i].shape, cases[i].dim_count, cases[i].step, pieces);

        for (size_t a = 0; a < count; a++)
            for (size_t b = 0; b < count; b++)
                assert_overlap(&pieces[a], &pieces[b], cases[i].shape);
    }
    free(pieces);
}

/* ---- tilings */

static struct ds_logical_tensor tensor_of(const char *name, enum ds_state_kind kind, uint64_t rows,
                                          uint64_t columns)
{
    struct ds_logical_tensor tensor = {
        .kind = kind, .dtype = DS_F32, .dim_count = columns ? 2 : 1, .shape = {rows, columns}};

    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    return tensor;
}

/* Both boxes of a matrix cut by columns, each in two ranges, and a vector in three. */
static size_t example_pieces(struct ds_piece *pieces)
{
    const struct ds_box left = {2, {0, 0}, {4, 3}}, right = {2, {0, 3}, {4, 5}};
    const struct ds_box vector = {1, {0}, {7}};
    const struct ds_piece example[] = {
        {0, right, 0, 5}, {1, vector, 2, 3}, {0, left, 0, 6},   {1, vector, 0, 2},
        {0, left, 6, 12}, {0, right, 5, 8},  {1, vector, 3, 7},
    };

    memcpy(pieces, example, sizeof example);
    return sizeof example / sizeof example[0];
}

static ds_status prove_example(struct ds_piece *pieces, size_t count)
{
    struct ds_logical_tensor tensors[] = {tensor_of("m", DS_STATE_KIND_MASTER, 4, 5),
                                          tensor_of("v", DS_STATE_KIND_MASTER, 7, 0)};
    const struct ds_catalogue catalogue = {tensors, 2};
    ds_status by_halves[2];

    for (uint32_t half = 0; half < 2; half++)
        by_halves[half] = ds_tiling_prove(&catalogue, pieces, count, half, 2);
    ds_status st = ds_tiling_prove(&catalogue, pieces, count, 0, 1);
    assert_int_equal(st == DS_OK, by_halves[0] == DS_OK && by_halves[1] == DS_OK);
    return st;
}

static void a_tiling_is_proven_and_every_break_is_seen(void **state)
{
    struct ds_piece pieces[16];
    size_t count = example_pieces(pieces);

    (void)state;
    assert_ok(prove_example(pieces, count));
    ds_log.terminal = -1;
    for (size_t broken = 0; broken < count; broken++) {
        for (int how = 0; how < 6; how++) {
            example_pieces(pieces);
            struct ds_piece *piece = &pieces[broken];
            size_t now = count;

            if (how == 0) /* nobody has it */
                *piece = pieces[--now];
            else if (how == 1) /* two have it */
                pieces[now++] = *piece;
            else if (how == 2) /* an element less */
                piece->begin++;
            else if (how == 3)
                piece->end--;
            else if (how == 4) /* more than there is, or one that another has */
                piece->end++;
            else /* another tensor's */
                piece->tensor ^= 1;
            assert_int_equal(prove_example(pieces, now), DS_ERR_DATA);
        }
    }
    count = example_pieces(pieces);
    for (size_t i = 0; i < count; i++) /* boxes that overlap, each whole */
        if (pieces[i].tensor == 0 && pieces[i].box.begin[1] == 3)
            pieces[i].box.begin[1] = 2;
    assert_int_equal(prove_example(pieces, count), DS_ERR_DATA);
    count = example_pieces(pieces);
    for (size_t i = 0; i < count; i++) /* the same, with as many elements together as there are */
        if (pieces[i].tensor == 0 && pieces[i].box.begin[1] == 3) {
            pieces[i].box.begin[1] = 1;
            pieces[i].box.end[1] = 3;
        }
    assert_int_equal(prove_example(pieces, count), DS_ERR_DATA);
    ds_log.terminal = 2;
}

static void a_catalogue_holds_each_state_once_under_a_name_that_can_be_one(void **state)
{
    struct ds_logical_tensor tensors[3];
    const struct ds_catalogue catalogue = {tensors, 3};

    (void)state;
    for (int how = 0; how < 9; how++) {
        tensors[0] = tensor_of("a.weight", DS_STATE_KIND_MASTER, 4, 5);
        tensors[1] = tensor_of("b.weight", DS_STATE_KIND_MASTER, 4, 5);
        tensors[2] = tensor_of("a.weight", DS_STATE_KIND_EXP_AVG, 4, 5);
        if (how == 1)
            tensors[2].kind = DS_STATE_KIND_MASTER; /* twice */
        else if (how == 2)
            strcpy(tensors[1].name, "b weight");
        else if (how == 3)
            strcpy(tensors[1].name, "");
        else if (how == 4)
            memset(tensors[1].name, 'x', sizeof tensors[1].name); /* no end */
        else if (how == 5)
            tensors[1].shape[0] = 0;
        else if (how == 6)
            tensors[1].shape[0] = tensors[1].shape[1] = 1ull << 33; /* too many */
        else if (how == 7)
            tensors[1].kind = (enum ds_state_kind)9;
        else if (how == 8)
            tensors[1].dim_count = 9;
        ds_log.terminal = -1;
        ds_status st = ds_catalogue_check("test", &catalogue);
        ds_log.terminal = 2;
        assert_int_equal(st, how == 0 ? DS_OK : DS_ERR_DATA);
    }
    for (int kind = 1; kind <= 4; kind++) {
        enum ds_state_kind parsed;

        assert_true(ds_state_kind_parse(ds_state_kind_name((enum ds_state_kind)kind), &parsed));
        assert_int_equal(parsed, kind);
    }
}

/* ---- every layout reads every layout: a unit of three parameters as ZeRO shards it, split over tensor ranks */

struct layout {
    uint32_t shard, tensor;
};

#define UNIT_PARAMS 3
/* rows split, columns split, whole; large enough for several cuts of a shard */
static const uint64_t unit_shapes[UNIT_PARAMS][2] = {{96, 70}, {70, 96}, {333, 1}};

static struct ds_box box_of(uint32_t param, uint32_t rank, uint32_t size)
{
    struct ds_box box = {2, {0, 0}, {unit_shapes[param][0], unit_shapes[param][1]}};

    if (param < 2) { /* as even as can be */
        box.begin[param] = unit_shapes[param][param] * rank / size;
        box.end[param] = unit_shapes[param][param] * (rank + 1) / size;
    }
    return box;
}

/* What the rank at (shard, tensor) holds of the unit, in the order in which it lies. */
static size_t pieces_of(struct layout layout, uint32_t shard, uint32_t tensor,
                        struct ds_piece *pieces)
{
    struct ds_span spans[UNIT_PARAMS];
    uint64_t end = 0;
    size_t count = 0;

    for (uint32_t param = 0; param < UNIT_PARAMS; param++) {
        struct ds_box box = box_of(param, tensor, layout.tensor);

        spans[param] = (struct ds_span){ds_zero_layout_place(end, param != 1), ds_box_elems(&box)};
        end = spans[param].start + spans[param].count;
    }
    const struct ds_zero_layout unit = ds_zero_layout_of(end, layout.shard);
    for (uint32_t param = 0; param < UNIT_PARAMS; param++) {
        struct ds_span owned = ds_zero_layout_owned(&unit, shard, spans[param]);
        uint64_t begin = owned.start - spans[param].start;

        if (owned.count > 0)
            pieces[count++] = (struct ds_piece){param, box_of(param, tensor, layout.tensor), begin,
                                                begin + owned.count};
    }
    return count;
}

/* All pieces of a layout; of what every tensor rank has, the first writes. */
static size_t all_of(struct layout layout, int as_writer, struct ds_piece *pieces)
{
    size_t count = 0;

    for (uint32_t tensor = 0; tensor < layout.tensor; tensor++)
        for (uint32_t shard = 0; shard < layout.shard; shard++) {
            struct ds_piece here[UNIT_PARAMS];
            size_t here_count = pieces_of(layout, shard, tensor, here);

            for (size_t i = 0; i < here_count; i++)
                if (!as_writer || tensor == 0 || here[i].tensor < 2)
                    pieces[count++] = here[i];
        }
    return count;
}

/* Fills one piece from the writers' and checks that each element is the tensor's own. */
static void assert_reads(const struct ds_piece *to, const struct ds_piece *written, size_t count)
{
    static uint32_t wanted[8192], got[8192], held[8192];
    const uint64_t elems = numbers_of(to, unit_shapes[to->tensor], wanted);
    uint64_t filled = 0;

    memset(got, 0xff, sizeof got);
    for (size_t i = 0; i < count; i++) {
        struct ds_overlap_cursor cursor;
        struct ds_overlap run;

        if (written[i].tensor != to->tensor)
            continue;
        numbers_of(&written[i], unit_shapes[to->tensor], held);
        ds_overlap_begin(&cursor, &written[i], to);
        while (ds_overlap_next(&cursor, &run)) {
            memcpy(got + run.to, held + run.from, run.count * sizeof *got);
            filled += run.count;
        }
    }
    assert_int_equal(filled, elems); /* each once */
    assert_memory_equal(got, wanted, elems * sizeof *got);
}

static void every_layout_reads_every_layout(void **state)
{
    struct ds_logical_tensor tensors[UNIT_PARAMS];
    const struct ds_catalogue catalogue = {tensors, UNIT_PARAMS};
    static struct ds_piece written[256], wanted[256];
    struct layout layouts[64];
    size_t layout_count = 0;

    (void)state;
    for (uint32_t i = 0; i < UNIT_PARAMS; i++) {
        char name[] = {(char)('a' + i), '\0'};

        tensors[i] = tensor_of(name, DS_STATE_KIND_MASTER, unit_shapes[i][0], unit_shapes[i][1]);
    }
    for (uint32_t shard = 1; shard <= 8; shard++)
        for (uint32_t tensor = 1; shard * tensor <= 8; tensor++)
            layouts[layout_count++] = (struct layout){shard, tensor};
    for (size_t from = 0; from < layout_count; from++) {
        size_t written_count = all_of(layouts[from], 1, written);

        assert_ok(ds_tiling_prove(&catalogue, written, written_count, 0, 1));
        for (size_t to = 0; to < layout_count; to++) {
            size_t wanted_count = all_of(layouts[to], 0, wanted);

            for (size_t i = 0; i < wanted_count; i++)
                assert_reads(&wanted[i], written, written_count);
        }
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(overlaps_are_what_counting_finds),
    cmocka_unit_test(a_tiling_is_proven_and_every_break_is_seen),
    cmocka_unit_test(a_catalogue_holds_each_state_once_under_a_name_that_can_be_one),
    cmocka_unit_test(every_layout_reads_every_layout),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
