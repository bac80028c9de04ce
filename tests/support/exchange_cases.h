/* exchange_cases.h - what must hold of grouped messages, whatever the backend; rows of comm_cases.h, which
 * includes this. All ranks draw the same plan, so each knows what the others send and when. */
#ifndef DSTRAIN_EXCHANGE_CASES_H
#define DSTRAIN_EXCHANGE_CASES_H

/* More than a box of any backend holds. The thread sanitizer is slow, see CASE_COUNT_MAX. */
#if defined(__SANITIZE_THREAD__)
#define EXCHANGE_BYTES_LARGE 600007u
#define EXCHANGE_ROUNDS      6
#else
#define EXCHANGE_BYTES_LARGE 1500007u
#define EXCHANGE_ROUNDS      12
#endif

struct exchange_plan_row {
    uint32_t from, to;
    size_t bytes;
    uint64_t content;
};

static inline uint64_t exchange_draw(uint64_t *state, uint64_t below)
{
    *state += 0x9e3779b97f4a7c15u;
    return case_hash(*state) % below;
}

/* Nothing, one byte, odd, whole pages, and now and then more than fits the buffers. */
static inline size_t exchange_draw_bytes(uint64_t *state)
{
    static const size_t bytes[] = {0, 1, 2, 7, 63, 64, 65, 4095, 4096, 4097, 70001, 262144, 262145};
    const size_t kinds = sizeof bytes / sizeof bytes[0];
    uint64_t kind = exchange_draw(state, kinds + 3);

    if (kind < kinds)
        return bytes[kind];
    return kind == kinds ? EXCHANGE_BYTES_LARGE - exchange_draw(state, 3)
                         : exchange_draw(state, 20000);
}

static inline uint32_t exchange_draw_plan(uint64_t *state, uint32_t size,
                                          struct exchange_plan_row *rows)
{
    uint32_t count = (uint32_t)exchange_draw(state, DS_MESSAGES_MAX + 1);

    for (uint32_t i = 0; i < count; i++) {
        rows[i].from = (uint32_t)exchange_draw(state, size);
        rows[i].to = (rows[i].from + 1 + (uint32_t)exchange_draw(state, size - 1)) % size;
        rows[i].bytes = exchange_draw_bytes(state);
        rows[i].content = exchange_draw(state, UINT64_MAX);
    }
    return count;
}

static inline void exchange_fill(uint8_t *to, size_t bytes, uint64_t content)
{
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = case_hash(content + at);
        memcpy(to + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
}

/* What one rank does in a call. */
struct exchange_group {
    uint32_t count;
    struct ds_message messages[DS_MESSAGES_MAX];
    void *data[DS_MESSAGES_MAX]; /* messages are overwritten behind the call */
    struct exchange_plan_row rows[DS_MESSAGES_MAX];
};

static inline void exchange_add(struct comm_case *c, struct exchange_group *group,
                                const struct exchange_plan_row *row)
{
    const int is_send = row->from == c->comm->rank;
    const uint32_t i = group->count++;
    uint8_t *content = calloc(1, row->bytes + 1);

    group->rows[i] = *row;
    group->data[i] = case_take(c, row->bytes);
    if (is_send) {
        exchange_fill(content, row->bytes, row->content);
        case_put(c, group->data[i], content, row->bytes + 1);
    }
    case_sync(c); /* before `content` goes */
    free(content);
    group->messages[i] = (struct ds_message){.data = row->bytes ? group->data[i] : NULL,
                                             .bytes = row->bytes,
                                             .peer = is_send ? row->to : row->from,
                                             .is_send = is_send};
}

static inline void exchange_call(struct comm_case *c, struct exchange_group *group)
{
    case_check(c, ds_comm_exchange(c->comm, group->messages, group->count, c->stream) == DS_OK);
    memset(group->messages, 0xff, sizeof group->messages);
}

/* What came, what was sent unchanged, and the byte behind it untouched. */
static inline void exchange_expect(struct comm_case *c, struct exchange_group *group)
{
    for (uint32_t i = 0; i < group->count; i++) {
        const struct exchange_plan_row *row = &group->rows[i];
        uint8_t *want = calloc(1, row->bytes + 9);

        exchange_fill(want, row->bytes, row->content);
        want[row->bytes] = 0;
        case_expect(c, group->data[i], want, row->bytes + 1, "a message of an exchange");
        case_give(c, group->data[i], row->bytes);
        free(want);
    }
    group->count = 0;
}

/* Sums need all ranks, in one order, however many exchanges each of them has had. */
static inline void exchange_expect_sum(struct comm_case *c)
{
    case_all_reduce_of(c, DS_I64, DS_REDUCE_SUM, 1);
}

static inline void case_random_exchanges(struct comm_case *c)
{
    const uint32_t size = c->comm->size;
    const int rounds = c->stream == NULL ? EXCHANGE_ROUNDS : EXCHANGE_ROUNDS / 3;
    struct exchange_plan_row rows[DS_MESSAGES_MAX];
    struct exchange_group *group = calloc(1, sizeof *group);
    uint64_t state = c->seed;

    for (int round = 0; round < rounds && size > 1; round++) {
        uint32_t count = exchange_draw_plan(&state, size, rows);

        for (uint32_t i = 0; i < count; i++)
            if (rows[i].from == c->comm->rank || rows[i].to == c->comm->rank)
                exchange_add(c, group, &rows[i]);
        exchange_call(c, group);
        if (round % 3 == 0)
            exchange_expect_sum(c);
        exchange_expect(c, group);
    }
    free(group);
}

/* A lot to both neighbours and from them, in one call: nobody waits for the other direction. */
static inline void case_both_directions_at_once(struct comm_case *c)
{
    const uint32_t size = c->comm->size, rank = c->comm->rank;
    const uint32_t peers[2] = {(rank + 1) % size, (rank + size - 1) % size};
    struct exchange_group *group = calloc(1, sizeof *group);

    for (int i = 0; i < 2 && size > 1; i++)
        exchange_add(c, group,
                     &(struct exchange_plan_row){rank, peers[i], EXCHANGE_BYTES_LARGE, rank});
    for (int i = 0; i < 2 && size > 1; i++)
        exchange_add(c, group,
                     &(struct exchange_plan_row){peers[i], rank, EXCHANGE_BYTES_LARGE, peers[i]});
    exchange_call(c, group);
    exchange_expect(c, group);
    free(group);
}

/* Rank 0 sends two messages in one call, rank 1 takes them in two: what counts is their order. */
static inline void case_calls_need_not_match(struct comm_case *c)
{
    const struct exchange_plan_row rows[] = {
        {0, 1, 5, 1}, {0, 1, EXCHANGE_BYTES_LARGE, 2}, {1, 0, 3, 3}};
    struct exchange_group *first = calloc(1, sizeof *first), *second = calloc(1, sizeof *second);
    const uint32_t rank = c->comm->rank;

    if (c->comm->size > 1 && rank == 0) {
        for (int i = 0; i < 3; i++)
            exchange_add(c, first, &rows[i]);
        exchange_call(c, first);
    } else if (c->comm->size > 1 && rank == 1) {
        exchange_add(c, first, &rows[0]);
        exchange_add(c, second, &rows[1]);
        exchange_add(c, second, &rows[2]);
        exchange_call(c, first);
        exchange_call(c, second);
    }
    exchange_expect(c, first);
    exchange_expect(c, second);
    exchange_expect_sum(c);
    free(first);
    free(second);
}

/* Rank 1 takes what rank 0 has for it only after rank 2 has got its message from rank 0's same call. */
static inline void case_no_message_waits_for_another(struct comm_case *c)
{
    const struct exchange_plan_row rows[] = {
        {0, 1, EXCHANGE_BYTES_LARGE, 1}, {0, 2, EXCHANGE_BYTES_LARGE, 2}, {2, 1, 100003, 3}};
    static const int calls[3][2] = {{0, 1}, {2, 0}, {1, 2}};
    struct exchange_group *groups[2] = {calloc(1, sizeof **groups), calloc(1, sizeof **groups)};
    const uint32_t rank = c->comm->rank;

    for (int i = 0; i < 2 && c->comm->size > 2 && rank < 3; i++) {
        exchange_add(c, groups[rank == 0 ? 0 : i], &rows[calls[rank][i]]);
        if (rank > 0 || i == 1)
            exchange_call(c, groups[rank == 0 ? 0 : i]);
    }
    for (int i = 0; i < 2; i++) {
        exchange_expect(c, groups[i]);
        free(groups[i]);
    }
}

/* The order of the calls counts, not the order in which streams happen to be driven. */
static inline void case_exchanges_on_two_streams(struct comm_case *c)
{
    enum { CALLS = 8 };
    const uint32_t size = c->comm->size, rank = c->comm->rank, next = (rank + 1) % size;
    const uint32_t before = (rank + size - 1) % size;
    struct exchange_group *groups = calloc(CALLS, sizeof *groups);
    struct comm_case other = *c;

    if (c->stream != NULL)
        case_check(c,
                   c->device->ops->stream_open(c->device, c->stream_flags, &other.stream) == DS_OK);
    for (uint32_t i = 0; i < CALLS && size > 1; i++) {
        const struct exchange_plan_row out = {rank, next, 30001, rank * CALLS + i};
        const struct exchange_plan_row in = {before, rank, 30001, before * CALLS + i};

        exchange_add(c, &groups[i], &out);
        exchange_add(c, &groups[i], &in);
    }
    for (uint32_t i = 0; i < CALLS; i++)
        exchange_call(i % 2 ? &other : c, &groups[i]);
    for (uint32_t i = CALLS; i-- > 0;)
        exchange_expect(i % 2 ? &other : c, &groups[i]);
    if (c->stream != NULL)
        c->device->ops->stream_close(other.stream);
    c->fault_count = other.fault_count > c->fault_count ? other.fault_count : c->fault_count;
    free(groups);
}

#endif
