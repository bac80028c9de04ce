/* kernel_device.h - kernel tests on any device: CASE_RUN(op, args) calls an entry of the kernel table on
 * memory of the test, wherever that lies, and has finished when it returns.
 *
 * It is the cpu table, at once and on this thread, unless DSTRAIN_TEST_DEVICE names another device: "cuda",
 * or the path of a plugin. Then what the arguments point to is copied to the device's memory, at the same
 * alignment, with bytes of a known value around each piece that must still be there afterwards, and back
 * again when the kernel has run. Pieces that overlap stay one. Without such a device the program ends with
 * 77, skipped. DSTRAIN_TEST_DETERMINISTIC: the device is opened so. */
#ifndef DSTRAIN_KERNEL_DEVICE_H
#define DSTRAIN_KERNEL_DEVICE_H

#include "fake_device.h"
#include "test.h"

#include "dstrain/kernels.h"
#include "dstrain/plugin.h"

#define CASE_ARENA_BYTES ((size_t)64 << 20)
#define CASE_GUARD_BYTES \
    ((size_t)256) /* around each piece; and what its address keeps of the test's */
#ifndef CASE_GUARD
#define CASE_GUARD 0xa5
#endif
#define CASE_FIELDS_MAX   24
#define CASE_RUN(op, ...) case_run_##op(__VA_ARGS__)

/* ---- the device */

static struct {
    int is_chosen;
    const struct ds_kernel_ops *kernels; /* NULL: the cpu's */
    const struct ds_device_ops *ops;
    struct ds_stream *stream;
    unsigned char *arena; /* of the device */
    unsigned char *image; /* what it holds, on the host */
} case_device;

static inline void case_open_device(const char *name)
{
    const struct ds_device_options options = {.thread_count = 1,
                                              .deterministic =
                                                  getenv("DSTRAIN_TEST_DETERMINISTIC") != NULL,
                                              .clock = ds_clock_system()};
    const char *path = strchr(name, '/') ? name : DS_BINARY_DIR "/libdstrain_cuda.so";
    const struct ds_plugin *plugin;
    struct ds_device *device;

    assert_ok(ds_plugin_load(path, &plugin));
    if (plugin->device->count() == 0) {
        printf("skipped: there is no device for %s\n", path);
        exit(77);
    }
    case_device.ops = plugin->device;
    assert_ok(case_device.ops->open(0, &options, &device));
    assert_ok(case_device.ops->stream_open(device, 0, &case_device.stream));
    assert_ok(case_device.ops->alloc(device, DS_MEMORY_DEVICE, CASE_ARENA_BYTES, 0,
                                     (void **)&case_device.arena));
    assert_ok(case_device.ops->alloc(device, DS_MEMORY_PINNED, CASE_ARENA_BYTES, 0,
                                     (void **)&case_device.image));
    case_device.kernels = case_device.ops->kernels;
}

static inline int case_on_cpu(void)
{
    const char *name = getenv("DSTRAIN_TEST_DEVICE");

    if (!case_device.is_chosen && name && strcmp(name, "cpu") != 0)
        case_open_device(name);
    case_device.is_chosen = 1;
    return case_device.kernels == NULL;
}

/* Are bits promised to repeat where libraries could do without? */
static inline int case_repeats(void)
{
    return case_on_cpu() || getenv("DSTRAIN_TEST_DETERMINISTIC") != NULL;
}

/* For tests of what only the cpu table promises: the order of its sums, its threads, its calls. */
#define CASE_CPU_ONLY()     \
    do {                    \
        if (!case_on_cpu()) \
            skip();         \
    } while (0)

/* ---- arguments and what they point to */

enum case_field_kind { CASE_TENSOR, CASE_WRITTEN, CASE_READ };

struct case_field {
    size_t offset;
    enum case_field_kind kind;
    /* element_bytes but of tensors; count_offset 0: one element, or a tensor whose rows have no stride */
    size_t element_bytes, count_offset;
};

struct case_range {
    unsigned char *begin, *end;
    int is_written;
    unsigned char **fields[CASE_FIELDS_MAX]; /* pointers into it, among the arguments */
    size_t field_count;
    size_t place; /* in the arena */
};

struct case_move {
    struct case_range ranges[CASE_FIELDS_MAX];
    size_t count, bytes;
};

static inline size_t case_field_bytes(const char *args, const struct case_field *field)
{
    size_t count = 1;

    if (field->kind == CASE_TENSOR) {
        const struct ds_tensor *tensor = (const void *)(args + field->offset);

        uint64_t stride = 0;

        if (field->count_offset > 0)
            memcpy(&stride, args + field->count_offset, sizeof stride);
        for (uint32_t i = 0; i < tensor->dim_count; i++)
            count *= tensor->shape[i];
        if (stride > 0)
            count = (tensor->shape[0] - 1) * stride + tensor->shape[1];
        return count * ds_dtype_bytes(tensor->dtype);
    }
    if (field->count_offset > 0)
        memcpy(&count, args + field->count_offset, sizeof count);
    return count * field->element_bytes;
}

/* One more piece; those that it overlaps become part of it. */
static inline void case_add_range(struct case_move *move, struct case_range range)
{
    for (size_t i = 0; i < move->count;) {
        const struct case_range *other = &move->ranges[i];

        if (range.end <= other->begin || other->end <= range.begin) {
            i++;
            continue;
        }
        range.begin = range.begin < other->begin ? range.begin : other->begin;
        range.end = range.end > other->end ? range.end : other->end;
        range.is_written |= other->is_written;
        for (size_t f = 0; f < other->field_count; f++)
            range.fields[range.field_count++] = other->fields[f];
        move->ranges[i] = move->ranges[--move->count];
        i = 0;
    }
    assert_true(move->count < CASE_FIELDS_MAX);
    move->ranges[move->count++] = range;
}

static inline void case_find_ranges(struct case_move *move, char *args,
                                    const struct case_field *fields, size_t count)
{
    move->count = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned char **at = (void *)(args + fields[i].offset); /* a tensor's first member */
        const size_t bytes = case_field_bytes(args, &fields[i]);

        if (*at == NULL)
            continue;
        case_add_range(move, (struct case_range){.begin = *at,
                                                 .end = *at + bytes,
                                                 .is_written = fields[i].kind != CASE_READ,
                                                 .fields = {at},
                                                 .field_count = 1});
    }
}

static inline size_t case_round_up(size_t x)
{
    return (x + CASE_GUARD_BYTES - 1) / CASE_GUARD_BYTES * CASE_GUARD_BYTES;
}

/* The pieces to the device; the arguments point there from then on. (Inlined, gcc takes a record's arguments
 * for a tensor that does not fit.) */
static __attribute__((noinline, unused)) void
case_move_in(struct case_move *move, void *args, const struct case_field *fields, size_t count)
{
    size_t at = 0;

    case_find_ranges(move, args, fields, count);
    for (size_t i = 0; i < move->count; i++) {
        struct case_range *r = &move->ranges[i];

        r->place = case_round_up(at + CASE_GUARD_BYTES) + (uintptr_t)r->begin % CASE_GUARD_BYTES;
        at = r->place + (size_t)(r->end - r->begin) + CASE_GUARD_BYTES;
        assert_true(at <= CASE_ARENA_BYTES);
        for (size_t f = 0; f < r->field_count; f++)
            *r->fields[f] = case_device.arena + r->place + (*r->fields[f] - r->begin);
    }
    move->bytes = at;
    memset(case_device.image, CASE_GUARD, at);
    for (size_t i = 0; i < move->count; i++)
        memcpy(case_device.image + move->ranges[i].place, move->ranges[i].begin,
               (size_t)(move->ranges[i].end - move->ranges[i].begin));
    assert_ok(case_device.ops->copy(case_device.stream, case_device.arena, case_device.image, at));
}

/* Nothing outside the pieces was written. */
static inline void case_check_guards(const struct case_move *move)
{
    for (size_t i = 0; i < move->count; i++) {
        const struct case_range *r = &move->ranges[i];
        const unsigned char *begin = case_device.image + r->place;
        const unsigned char *end = begin + (r->end - r->begin);

        for (size_t at = 1; at <= CASE_GUARD_BYTES; at++)
            if (begin[-(ptrdiff_t)at] != CASE_GUARD || end[at - 1] != CASE_GUARD)
                fail_msg("a kernel wrote %zu bytes %s a piece of %zu bytes", at,
                         end[at - 1] != CASE_GUARD ? "behind" : "before",
                         (size_t)(r->end - r->begin));
    }
}

/* Back, when the kernel has done what it was asked; *st: what it said. */
static inline ds_status case_move_out(const struct case_move *move, ds_status st)
{
    const ds_status end = case_device.ops->stream_sync(case_device.stream);

    if (st != DS_OK || end != DS_OK)
        return st != DS_OK ? st : end;
    assert_ok(case_device.ops->copy(case_device.stream, case_device.image, case_device.arena,
                                    move->bytes));
    assert_ok(case_device.ops->stream_sync(case_device.stream));
    case_check_guards(move);
    for (size_t i = 0; i < move->count; i++)
        if (move->ranges[i].is_written)
            memcpy(move->ranges[i].begin, case_device.image + move->ranges[i].place,
                   (size_t)(move->ranges[i].end - move->ranges[i].begin));
    return DS_OK;
}

/* ---- the rows of the table, and where their arguments point */

/* clang-format off */
#define CASE_KERNEL(op, type, ...)                                                            \
    static inline ds_status case_run_##op(const struct type *given)                           \
    {                                                                                         \
        typedef struct type args;                                                             \
        static const struct case_field fields[] = {__VA_ARGS__};                              \
        struct type moved = *given;                                                           \
        struct case_move move;                                                                \
                                                                                              \
        if (case_on_cpu())                                                                    \
            return ds_kernels_cpu.op(&fake_stream, given);                                    \
        case_move_in(&move, &moved, fields, sizeof fields / sizeof fields[0]);                \
        return case_move_out(&move, case_device.kernels->op(case_device.stream, &moved));     \
    }
#define TENSOR(name)          {offsetof(args, name), CASE_TENSOR, 0, 0}
#define STRIDED(name, stride) {offsetof(args, name), CASE_TENSOR, 0, offsetof(args, stride)}
#define RECORD(kind)          {offsetof(args, record), kind, sizeof(struct ds_step_record), 0}
#define SPANS(name, of, type) {offsetof(args, name), CASE_READ, sizeof(struct type), offsetof(args, of)}

CASE_KERNEL(matmul, ds_matmul_args, STRIDED(a, a_stride), STRIDED(b, b_stride), STRIDED(c, c_stride),
            TENSOR(addend))
CASE_KERNEL(bias_forward, ds_bias_args, STRIDED(y_TN, y_stride), TENSOR(bias_N))
CASE_KERNEL(bias_backward, ds_bias_args, STRIDED(y_TN, y_stride), TENSOR(bias_N), STRIDED(x_TN, y_stride))
CASE_KERNEL(row_squares, ds_row_squares_args, TENSOR(w_OI), TENSOR(a_RI), TENSOR(b_OR), TENSOR(squares_O))
CASE_KERNEL(magnitude, ds_magnitude_args, TENSOR(squares_O), TENSOR(magnitude_O), TENSOR(inverse_O),
            TENSOR(factor_O))
CASE_KERNEL(scale_columns, ds_scale_columns_args, TENSOR(y_TN), TENSOR(x_TN), TENSOR(addend_TN),
            TENSOR(scale_N))
CASE_KERNEL(rmsnorm_forward, ds_rmsnorm_args, TENSOR(x_TC), TENSOR(residual_TC), TENSOR(gain_C),
            TENSOR(sum_TC), TENSOR(y_TC), TENSOR(rstd_T))
CASE_KERNEL(rmsnorm_backward, ds_rmsnorm_backward_args, TENSOR(x_TC), TENSOR(gain_C), TENSOR(rstd_T),
            TENSOR(dy_TC), TENSOR(residual_TC), TENSOR(dx_TC), TENSOR(dgain_C))
CASE_KERNEL(qkv_split, ds_qkv_split_args, TENSOR(qkv_TN), TENSOR(position_T), TENSOR(rotary_PD),
            TENSOR(q_gain_D), TENSOR(k_gain_D), TENSOR(q_THD), TENSOR(k_TGD), TENSOR(v_TGD),
            TENSOR(q_rstd_TH), TENSOR(k_rstd_TG), TENSOR(x_TC), TENSOR(weight_NC))
CASE_KERNEL(qkv_join, ds_qkv_join_args, TENSOR(dq_THD), TENSOR(dk_TGD), TENSOR(dv_TGD),
            TENSOR(position_T), TENSOR(rotary_PD), TENSOR(qkv_TN), TENSOR(q_gain_D), TENSOR(k_gain_D),
            TENSOR(q_rstd_TH), TENSOR(k_rstd_TG), TENSOR(dqkv_TN), TENSOR(dq_gain_D),
            TENSOR(dk_gain_D))
CASE_KERNEL(attention_forward, ds_attention_args, TENSOR(q_THD), TENSOR(k_TGD), TENSOR(v_TGD),
            TENSOR(document_T), TENSOR(o_THD), TENSOR(lse_TH))
CASE_KERNEL(attention_backward, ds_attention_backward_args, TENSOR(forward.q_THD),
            TENSOR(forward.k_TGD), TENSOR(forward.v_TGD), TENSOR(forward.document_T),
            TENSOR(forward.o_THD), TENSOR(forward.lse_TH), TENSOR(do_THD), TENSOR(dq_THD),
            TENSOR(dk_TGD), TENSOR(dv_TGD), TENSOR(delta_TH))
CASE_KERNEL(swiglu_forward, ds_swiglu_args, TENSOR(gate_up_TN), TENSOR(y_TI), TENSOR(x_TC),
            TENSOR(weight_NC))
CASE_KERNEL(swiglu_backward, ds_swiglu_backward_args, TENSOR(gate_up_TN), TENSOR(dy_TI),
            TENSOR(dgate_up_TN), TENSOR(y_TI), TENSOR(dz_TC), TENSOR(weight_CI))
CASE_KERNEL(embedding_forward, ds_embedding_args, TENSOR(id_T), TENSOR(table_VC), TENSOR(y_TC))
CASE_KERNEL(embedding_backward, ds_embedding_args, TENSOR(id_T), TENSOR(table_VC), TENSOR(y_TC))
#define LOSS_FIELDS TENSOR(logits_NV), TENSOR(target_N), TENSOR(loss_N), RECORD(CASE_READ), \
            TENSOR(x_NC), TENSOR(weight_VC), TENSOR(factor_N), TENSOR(scaled_NC), TENSOR(max_N), TENSOR(sums_N2)
CASE_KERNEL(cross_entropy, ds_cross_entropy_args, LOSS_FIELDS)
CASE_KERNEL(cross_entropy_max, ds_cross_entropy_args, LOSS_FIELDS)
CASE_KERNEL(cross_entropy_sum, ds_cross_entropy_args, LOSS_FIELDS)
CASE_KERNEL(cross_entropy_finish, ds_cross_entropy_args, LOSS_FIELDS)
CASE_KERNEL(loss_sum, ds_loss_sum_args, TENSOR(loss_T), RECORD(CASE_WRITTEN))
CASE_KERNEL(add, ds_add_args, TENSOR(y), TENSOR(x))
CASE_KERNEL(cast, ds_cast_args, TENSOR(y), TENSOR(x))
CASE_KERNEL(scale_rows, ds_scale_rows_args, TENSOR(y_NC), TENSOR(factor_N))
CASE_KERNEL(dropout, ds_dropout_args, TENSOR(y), TENSOR(x), RECORD(CASE_READ))
CASE_KERNEL(dequantise, ds_dequantise_args, TENSOR(y), TENSOR(codes), TENSOR(absmax),
            TENSOR(nest_absmax), TENSOR(map), TENSOR(offset))
CASE_KERNEL(fill, ds_fill_args, {offsetof(args, at), CASE_WRITTEN, 1, offsetof(args, bytes)})
CASE_KERNEL(norm_pieces, ds_norm_pieces_args, TENSOR(x), TENSOR(sums),
            SPANS(skips, skip_count, ds_span))
CASE_KERNEL(norm_sum, ds_norm_sum_args, TENSOR(sums), RECORD(CASE_WRITTEN))
CASE_KERNEL(step_begin, ds_step_begin_args, RECORD(CASE_WRITTEN))
CASE_KERNEL(verdict, ds_verdict_args, RECORD(CASE_WRITTEN))
CASE_KERNEL(adamw, ds_adamw_args, TENSOR(master), TENSOR(param), TENSOR(grad), TENSOR(exp_avg),
            TENSOR(exp_avg_sq), SPANS(spans, span_count, ds_adamw_span), RECORD(CASE_READ))
/* clang-format on */

#undef TENSOR
#undef STRIDED
#undef RECORD
#undef SPANS
#undef LOSS_FIELDS

#endif
