/* gemm_table.c - algorithms by shape: open addressing over entries in the order they came. */
#include "gemm_table.h"

#include <stdio.h>
#include <string.h>

#define TABLE_MAGIC   0x6d6d656774736464u /* "ddstgemm" */
#define TABLE_VERSION 3u                  /* of the bytes, and of what is asked of the library */

struct stored_entry {
    struct gemm_key key;
    uint64_t algo[GEMM_ALGO_WORDS];
    uint64_t known;
};

struct stored_head {
    uint64_t magic;
    uint64_t sum; /* of all behind it */
    uint32_t version, count;
    char made_for[GEMM_MADE_FOR_BYTES];
};

_Static_assert(sizeof(struct gemm_key) == 56, "a key has no hidden bytes");

static uint64_t sum_bytes(const void *at, size_t bytes) /* FNV-1a */
{
    uint64_t sum = 0xcbf29ce484222325u;

    for (size_t i = 0; i < bytes; i++)
        sum = (sum ^ ((const unsigned char *)at)[i]) * 0x100000001b3u;
    return sum;
}

uint8_t gemm_alignment(const void *address)
{
    const uintptr_t bits = (uintptr_t)address | 16;

    return (uint8_t)(bits & (0 - bits));
}

/* The slot of `key`, or the free one where it belongs: there is always one. */
static uint16_t *slot_of(struct gemm_table *table, const struct gemm_key *key)
{
    uint64_t at = sum_bytes(key, sizeof *key);

    for (at ^= at >> 32;; at++) {
        uint16_t *slot = &table->slots[at % GEMM_SLOTS];

        if (*slot == 0 || memcmp(&table->entries[*slot - 1].key, key, sizeof *key) == 0)
            return slot;
    }
}

struct gemm_entry *gemm_table_find(struct gemm_table *table, const struct gemm_key *key)
{
    const uint16_t *slot = slot_of(table, key);

    return *slot ? &table->entries[*slot - 1] : NULL;
}

/* The first entry that is not ready; table->count: all are. */
static uint32_t first_unused(const struct gemm_table *table)
{
    uint32_t i = 0;

    while (i < table->count && table->entries[i].is_ready)
        i++;
    return i;
}

int gemm_table_has_room(const struct gemm_table *table)
{
    return table->count < GEMM_ENTRIES_MAX || first_unused(table) < table->count;
}

static struct gemm_entry *append(struct gemm_table *table, const struct gemm_key *key)
{
    if (table->count == GEMM_ENTRIES_MAX)
        return NULL;
    table->entries[table->count] = (struct gemm_entry){.key = *key};
    *slot_of(table, key) = (uint16_t)(table->count + 1);
    return &table->entries[table->count++];
}

static struct gemm_entry *take_over(struct gemm_table *table, const struct gemm_key *key)
{
    const uint32_t unused = first_unused(table);

    if (unused == table->count)
        return NULL;
    table->entries[unused].key = *key;
    memset(table->slots, 0, sizeof table->slots);
    for (uint32_t i = 0; i < table->count; i++)
        *slot_of(table, &table->entries[i].key) = (uint16_t)(i + 1);
    return &table->entries[unused];
}

static void fill_entry(struct gemm_entry *entry, const uint64_t algo[GEMM_ALGO_WORDS],
                       uint32_t known)
{
    memcpy(entry->algo, algo, sizeof entry->algo);
    entry->known = known;
    entry->is_ready = 0;
}

struct gemm_entry *gemm_table_set(struct gemm_table *table, const struct gemm_key *key,
                                  const uint64_t algo[GEMM_ALGO_WORDS], enum gemm_known known)
{
    struct gemm_entry *entry = gemm_table_find(table, key);

    if (!entry)
        entry = append(table, key);
    if (!entry)
        entry = take_over(table, key);
    if (!entry)
        return NULL;
    fill_entry(entry, algo, known);
    table->timed_count += known != GEMM_GUESSED;
    return entry;
}

size_t gemm_table_bytes_max(void)
{
    return sizeof(struct stored_head) + GEMM_ENTRIES_MAX * sizeof(struct stored_entry);
}

static uint64_t sum_of_stored(const void *stored, size_t bytes)
{
    const size_t skipped = offsetof(struct stored_head, sum) + sizeof(uint64_t);

    return sum_bytes((const char *)stored + skipped, bytes - skipped);
}

size_t gemm_table_save(const struct gemm_table *table, const char *made_for, void *to)
{
    struct stored_head head = {.magic = TABLE_MAGIC, .version = TABLE_VERSION};
    char *at = (char *)to + sizeof head;
    size_t bytes;

    snprintf(head.made_for, sizeof head.made_for, "%s", made_for);
    for (uint32_t i = 0; i < table->count; i++) {
        struct stored_entry stored = {.key = table->entries[i].key,
                                      .known = table->entries[i].known};

        if (stored.known == GEMM_GUESSED)
            continue;
        memcpy(stored.algo, table->entries[i].algo, sizeof stored.algo);
        memcpy(at, &stored, sizeof stored);
        at += sizeof stored;
        head.count++;
    }
    bytes = (size_t)(at - (char *)to);
    memcpy(to, &head, sizeof head);
    head.sum = sum_of_stored(to, bytes);
    memcpy(to, &head, sizeof head);
    return bytes;
}

static int fits(const struct stored_head *head, const char *made_for, const void *from,
                size_t bytes)
{
    return head->magic == TABLE_MAGIC && head->version == TABLE_VERSION &&
           head->count <= GEMM_ENTRIES_MAX &&
           bytes == sizeof *head + head->count * sizeof(struct stored_entry) &&
           strncmp(head->made_for, made_for, sizeof head->made_for) == 0 &&
           head->sum == sum_of_stored(from, bytes);
}

int gemm_table_load(struct gemm_table *table, const char *made_for, const void *from, size_t bytes)
{
    struct stored_head head;

    if (bytes < sizeof head)
        return 0;
    memcpy(&head, from, sizeof head);
    if (!fits(&head, made_for, from, bytes))
        return 0;
    for (uint32_t i = 0; i < head.count; i++) {
        struct stored_entry stored;
        struct gemm_entry *entry;

        memcpy(&stored, (const char *)from + sizeof head + i * sizeof stored, sizeof stored);
        entry = gemm_table_find(table, &stored.key);
        if (!entry)
            entry = append(table, &stored.key);
        if (entry && entry->known <= stored.known)
            fill_entry(entry, stored.algo, (uint32_t)stored.known);
    }
    return 1;
}
