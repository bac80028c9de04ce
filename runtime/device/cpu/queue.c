/* queue.c - the items of one stream. Memory comes in chunks that double and is used again and again:
 * in steady state nothing is allocated. An item keeps its address until it is popped, because a work
 * that is not done may have handed out pointers into its arguments. */
#include "cpu.h"

#include <stdlib.h>

struct cpu_chunk {
    struct cpu_chunk *older;
    size_t item_count, used; /* items never used lie untouched behind `used` */
    struct cpu_item items[];
};

static ds_status add_chunk(struct cpu_queue *queue, size_t item_count)
{
    struct cpu_chunk *chunk = malloc(sizeof *chunk + item_count * sizeof chunk->items[0]);

    if (chunk == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a stream of %zu works", item_count);
    chunk->item_count = item_count;
    chunk->used = 0;
    chunk->older = queue->chunks;
    queue->chunks = chunk;
    return DS_OK;
}

static struct cpu_item *take_item(struct cpu_queue *queue)
{
    struct cpu_item *item = queue->spare;
    struct cpu_chunk *chunk = queue->chunks;

    if (item != NULL) {
        queue->spare = item->next;
        return item;
    }
    if (chunk->used == chunk->item_count) {
        if (add_chunk(queue, 2 * chunk->item_count) != DS_OK)
            return NULL;
        chunk = queue->chunks;
    }
    return &chunk->items[chunk->used++];
}

struct cpu_item *ds_cpu_queue_push(struct cpu_queue *queue)
{
    struct cpu_item *item = take_item(queue);

    if (item == NULL)
        return NULL;
    item->next = NULL;
    item->is_started = 0;
    if (queue->tail != NULL)
        queue->tail->next = item;
    else
        queue->head = item;
    queue->tail = item;
    return item;
}

void ds_cpu_queue_pop(struct cpu_queue *queue)
{
    struct cpu_item *item = queue->head;

    queue->head = item->next;
    if (queue->head == NULL)
        queue->tail = NULL;
    item->next = queue->spare;
    queue->spare = item;
}

ds_status ds_cpu_queue_init(struct cpu_queue *queue, size_t item_count)
{
    *queue = (struct cpu_queue){0};
    return add_chunk(queue, item_count);
}

void ds_cpu_queue_fini(struct cpu_queue *queue)
{
    while (queue->chunks != NULL) {
        struct cpu_chunk *chunk = queue->chunks;
        queue->chunks = chunk->older;
        free(chunk);
    }
    *queue = (struct cpu_queue){0};
}
