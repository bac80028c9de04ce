/* memory.c - the ledger: every byte a rank takes for the run is asked of the device table here,
 * booked under a label, and given back in one place. Arenas cut what was taken. */
#include "dstrain/memory.h"

#include <stdio.h>
#include <stdlib.h>

#define ALIGNMENT ((size_t)256)

static const char *const label_names[DS_MEMORY_LABEL_COUNT] = {
#define LABEL_NAME(name, text) [DS_MEMORY_LABEL_##name] = text,
    DS_MEMORY_LABEL_LIST(LABEL_NAME)};

static const char *const kind_names[DS_MEMORY_KIND_COUNT] = {
    [DS_MEMORY_DEVICE] = "device",
    [DS_MEMORY_PINNED] = "pinned host",
    [DS_MEMORY_HOST] = "host",
};

const char *ds_memory_label_name(enum ds_memory_label label)
{
    DS_ASSERT((unsigned)label < DS_MEMORY_LABEL_COUNT);
    return label_names[label];
}

void ds_memory_init(struct ds_memory *memory, struct ds_device *device)
{
    *memory = (struct ds_memory){.device = device};
}

void ds_memory_fini(struct ds_memory *memory)
{
    while (memory->pieces) {
        struct ds_memory_piece *piece = memory->pieces;

        memory->pieces = piece->next;
        memory->device->ops->release(memory->device, piece->kind, piece->at, piece->bytes);
        free(piece);
    }
    ds_memory_init(memory, memory->device);
}

void ds_memory_leave(struct ds_memory *memory, const void *at)
{
    struct ds_memory_piece **link = &memory->pieces;

    while (*link && (*link)->at != at)
        link = &(*link)->next;
    if (!at || !*link)
        return;
    struct ds_memory_piece *piece = *link;
    *link = piece->next;
    free(piece);
}

uint64_t ds_memory_total(const struct ds_memory *memory, enum ds_memory_kind kind)
{
    uint64_t total = 0;

    DS_ASSERT((unsigned)kind < DS_MEMORY_KIND_COUNT);
    for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
        total += memory->bytes[kind][label];
    return total;
}

static uint64_t rest_of(uint64_t bytes, uint64_t page_bytes)
{
    return (page_bytes - bytes % page_bytes) % page_bytes;
}

uint64_t ds_memory_page_rest(const struct ds_memory *memory, uint64_t page_bytes)
{
    uint64_t rest = 0, small = 0;

    if (page_bytes == 0)
        return 0;
    for (const struct ds_memory_piece *piece = memory->pieces; piece; piece = piece->next) {
        if (piece->kind != DS_MEMORY_DEVICE)
            continue;
        if (piece->bytes < page_bytes / 2)
            small += piece->bytes;
        else
            rest += rest_of(piece->bytes, page_bytes);
    }
    return rest + rest_of(small, page_bytes);
}

/* Is there, with the bytes that are asked for, something of these labels? */
static int has_some(const struct ds_memory *memory, enum ds_memory_kind kind,
                    enum ds_memory_label asked, int first, int last)
{
    int has = (int)asked >= first && (int)asked <= last;

    for (int i = first; i <= last; i++)
        has |= memory->bytes[kind][i] > 0;
    return has;
}

/* What a person can make smaller. */
static const char *remedy(const struct ds_memory *memory, enum ds_memory_kind kind,
                          enum ds_memory_label asked)
{
    const int of_model =
        has_some(memory, kind, asked, DS_MEMORY_LABEL_PARAMS, DS_MEMORY_LABEL_SLOTS);
    const int of_batch =
        has_some(memory, kind, asked, DS_MEMORY_LABEL_ACTIVATIONS, DS_MEMORY_LABEL_STAGING);

    if (of_model && of_batch)
        return kind == DS_MEMORY_DEVICE
                   ? ": lower train.micro_batch_size or train.seq_length, let more ranks share the "
                     "model's states (zero.stage = 3 shares all of them), or let states live on "
                     "the host (offload.exp_avg, exp_avg_sq, master = host)"
                   : ": lower train.micro_batch_size or train.seq_length, or let more ranks share "
                     "the model's states (zero.stage = 3 shares all of them)";
    if (of_model)
        return kind == DS_MEMORY_DEVICE
                   ? ": it is the model's alone: let more ranks share its states (zero.stage = 3 "
                     "shares all of them), let states live on the host (offload.exp_avg, "
                     "exp_avg_sq, master = host), or take a smaller one"
                   : ": it is the model's alone: let more ranks share its states (zero.stage = 3 "
                     "shares all of them), or take a smaller one";
    return of_batch ? ": lower train.micro_batch_size or train.seq_length" : "";
}

/* What is asked for, who has the memory, and what a person can do about it. */
static void describe(const struct ds_memory *memory, enum ds_memory_kind kind,
                     enum ds_memory_label label, size_t bytes, char *to, size_t room)
{
    char taken[1024] = "";
    size_t used = 0;

    for (int i = 0; i < DS_MEMORY_LABEL_COUNT; i++)
        if (memory->bytes[kind][i] > 0 && used < sizeof taken)
            used +=
                (size_t)snprintf(taken + used, sizeof taken - used, "%s%s %llu", used ? ", " : "",
                                 label_names[i], (unsigned long long)memory->bytes[kind][i]);
    snprintf(to, room, "%zu bytes of %s memory for %s come on top of %llu (%s)%s", bytes,
             kind_names[kind], label_names[label],
             (unsigned long long)ds_memory_total(memory, kind), used ? taken : "nothing",
             remedy(memory, kind, label));
}

/* A device whose memory is not the host's may say what it has left. */
static int says_what_is_left(const struct ds_memory *memory, enum ds_memory_kind kind)
{
    const struct ds_device_ops *ops = memory->device->ops;

    return kind == DS_MEMORY_DEVICE && ops->memory_left && !(ops->caps & DS_DEVICE_CAP_HOST_MEMORY);
}

/* Told before the device is asked, what is wanted and what there is are one line. */
static ds_status check_room(const struct ds_memory *memory, enum ds_memory_kind kind,
                            enum ds_memory_label label, size_t bytes)
{
    const uint64_t total = ds_memory_total(memory, kind), limit = memory->limit_bytes[kind];
    size_t left = SIZE_MAX;
    char text[2048];

    if (says_what_is_left(memory, kind))
        DS_TRY(memory->device->ops->memory_left(memory->device, &left));
    describe(memory, kind, label, bytes, text, sizeof text);
    if (limit > 0 && (bytes > limit || total > limit - bytes))
        return ds_fail(DS_ERR_NO_MEMORY, "the limit is %llu bytes; %s", (unsigned long long)limit,
                       text);
    if (bytes > left)
        return ds_fail(DS_ERR_NO_MEMORY,
                       "the device has %zu bytes left, other programs may have some; %s", left,
                       text);
    return DS_OK;
}

/* The device has refused what it seemed to have room for, with a line of its own. */
static void explain(const struct ds_memory *memory, enum ds_memory_kind kind,
                    enum ds_memory_label label, size_t bytes)
{
    char text[2048];

    describe(memory, kind, label, bytes, text, sizeof text);
    ds_log_write(DS_LOG_ERROR, "%s", text);
}

static ds_status take(struct ds_memory *memory, enum ds_memory_kind kind,
                      enum ds_memory_label label, size_t bytes, uint32_t flags, void **at)
{
    struct ds_memory_piece *piece;
    ds_status st;

    DS_ASSERT((unsigned)kind < DS_MEMORY_KIND_COUNT && (unsigned)label < DS_MEMORY_LABEL_COUNT);
    DS_ASSERT(!memory->is_frozen);
    if (bytes == 0) {
        *at = NULL;
        return DS_OK;
    }
    DS_TRY(check_room(memory, kind, label, bytes));
    piece = malloc(sizeof *piece);
    if (!piece)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to book %zu bytes for %s", bytes,
                       label_names[label]);
    *piece = (struct ds_memory_piece){.kind = kind, .bytes = bytes, .next = memory->pieces};
    st = memory->device->ops->alloc(memory->device, kind, bytes, flags, &piece->at);
    if (st != DS_OK) {
        if (st == DS_ERR_NO_MEMORY && kind != DS_MEMORY_HOST)
            explain(memory, kind, label, bytes);
        free(piece);
        return st;
    }
    memory->pieces = piece;
    memory->bytes[kind][label] += bytes;
    *at = piece->at;
    return DS_OK;
}

ds_status ds_memory_take(struct ds_memory *memory, enum ds_memory_kind kind,
                         enum ds_memory_label label, size_t bytes, void **at)
{
    return take(memory, kind, label, bytes, 0, at);
}

ds_status ds_memory_take_symmetric(struct ds_memory *memory, enum ds_memory_label label,
                                   size_t bytes, void **at)
{
    return take(memory, DS_MEMORY_DEVICE, label, bytes, DS_ALLOC_SYMMETRIC, at);
}

void ds_memory_freeze(struct ds_memory *memory)
{
    memory->is_frozen = 1;
}

void *ds_arena_take(struct ds_arena *arena, size_t bytes)
{
    const size_t start = (arena->used + ALIGNMENT - 1) & ~(ALIGNMENT - 1);

    DS_ASSERT(start >= arena->used && bytes <= SIZE_MAX - start);
    if (!arena->base) {
        arena->used = start + bytes;
        return NULL;
    }
    DS_ASSERT((uintptr_t)arena->base % ALIGNMENT == 0);
    DS_ASSERT(start + bytes <= arena->size);
    arena->used = start + bytes;
    return arena->base + start;
}
