/* swap.c - where blocks lie, and what the main thread does: it queues jobs, keeps them for graphs, and, outside of a step,
 * reads and writes blocks itself. */
#include "swap_private.h"

#include "dstrain/device.h"
#include "dstrain/digest.h"

#include <stdlib.h>
#include <string.h>

#define WORD_BYTES    64u /* two of them in one line of a cache would be handed to and fro with it */
#define JOBS_AT_FIRST 4096u
#define NAP_NS        20000u

/* ---- jobs */

static ds_status jobs_grow(struct swap_jobs *jobs)
{
    const size_t room = jobs->room ? 2 * jobs->room : JOBS_AT_FIRST;
    struct swap_job *at = malloc(room * sizeof *at);

    if (!at)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for %zu blocks on their way", room);
    for (size_t i = 0; i < jobs->count; i++)
        at[i] = jobs->at[(jobs->first + i) & (jobs->room - 1)];
    free(jobs->at);
    *jobs = (struct swap_jobs){.at = at, .room = room, .count = jobs->count};
    return DS_OK;
}

ds_status swap_jobs_push(struct swap_jobs *jobs, const struct swap_job *job)
{
    if (jobs->count == jobs->room)
        DS_TRY(jobs_grow(jobs));
    jobs->at[(jobs->first + jobs->count++) & (jobs->room - 1)] = *job;
    return DS_OK;
}

/* ---- sizes */

static size_t all_slots(const struct ds_swap_shape *shape)
{
    size_t count = 0;

    for (int lane = 0; lane < DS_SWAP_LANE_COUNT; lane++)
        count += shape->slot_count[lane];
    return count;
}

size_t ds_swap_slots_bytes(const struct ds_swap_shape *shape)
{
    return all_slots(shape) * (shape->slot_bytes + (size_t)2 * WORD_BYTES);
}

/* ---- open */

/* The slots one behind the other, as large pages as there are; behind them their words. */
static ds_status open_lanes(struct ds_swap *swap)
{
    const struct ds_swap_shape *shape = &swap->shape;
    uint8_t *at = swap->slots, *word = at + all_slots(shape) * shape->slot_bytes;

    for (int l = 0; l < DS_SWAP_LANE_COUNT; l++) {
        struct swap_lane *lane = &swap->lanes[l];

        lane->slot_count = shape->slot_count[l];
        lane->slots = calloc(lane->slot_count, sizeof *lane->slots);
        if (!lane->slots)
            return ds_fail(DS_ERR_NO_MEMORY, "%u slots of blocks", lane->slot_count);
        for (uint32_t i = 0; i < lane->slot_count; i++) {
            lane->slots[i].place = (struct ds_swap_slot){
                .at = at, .full = (void *)word, .empty = (void *)(word + WORD_BYTES)};
            at += shape->slot_bytes;
            word += (size_t)2 * WORD_BYTES;
        }
    }
    return DS_OK;
}

ds_status ds_swap_open(const struct ds_swap_shape *shape, void *slots, struct ds_swap **out)
{
    struct ds_swap *swap = calloc(1, sizeof *swap);
    ds_status st;

    DS_ASSERT(shape->drive_count > 0 && shape->slot_bytes % DS_FS_DIRECT_ALIGN == 0);
    if (!swap)
        return ds_fail(DS_ERR_NO_MEMORY, "blocks in files");
    swap->shape = *shape;
    swap->slots = slots;
    swap->blocks = calloc(shape->block_count + (size_t)1, sizeof *swap->blocks);
    swap->drive_bytes = calloc(shape->drive_count, sizeof *swap->drive_bytes);
    swap->drives = calloc(shape->drive_count, sizeof *swap->drives);
    swap->places = calloc(shape->drive_count, sizeof *swap->places);
    st = swap->blocks && swap->drive_bytes && swap->drives && swap->places
             ? open_lanes(swap)
             : ds_fail(DS_ERR_NO_MEMORY, "%u blocks on %u drives", shape->block_count,
                       shape->drive_count);
    if (st != DS_OK) {
        ds_swap_close(swap);
        return st;
    }
    *out = swap;
    return DS_OK;
}

uint32_t ds_swap_reserve(struct ds_swap *swap, size_t bytes, uint32_t count)
{
    const uint32_t first = swap->reserved;

    DS_ASSERT(bytes % DS_FS_DIRECT_ALIGN == 0 && bytes <= swap->shape.slot_bytes);
    DS_ASSERT(count <= swap->shape.block_count - first);
    for (uint32_t i = first; i < first + count; i++) {
        const uint32_t drive = i % swap->shape.drive_count;

        swap->blocks[i] = (struct swap_block){
            .offset = swap->drive_bytes[drive], .bytes = (uint32_t)bytes, .drive = drive};
        swap->drive_bytes[drive] += bytes;
    }
    swap->reserved += count;
    return first;
}

uint32_t ds_swap_block_count(const struct ds_swap *swap)
{
    return swap->reserved;
}

uint64_t ds_swap_file_bytes(const struct ds_swap *swap, uint32_t drive)
{
    DS_ASSERT(drive < swap->shape.drive_count);
    return swap->drive_bytes[drive];
}

/* ---- start and end */

/* Sums of zeros: few lengths, and those of neighbours are equal. */
static void sum_zeros(struct ds_swap *swap)
{
    static const uint8_t zeros[DS_FS_DIRECT_ALIGN];
    uint32_t bytes = 0, sum = 0;

    for (uint32_t i = 0; i < swap->reserved; i++) {
        struct swap_block *block = &swap->blocks[i];

        if (block->bytes != bytes) {
            sum = 0;
            bytes = block->bytes;
            for (uint32_t at = 0; at < bytes; at += sizeof zeros)
                sum = ds_crc32c(sum, zeros, sizeof zeros);
        }
        block->sum = sum;
    }
}

ds_status ds_swap_start(struct ds_swap *swap, const struct ds_swap_files *files)
{
    swap->files = *files;
    for (uint32_t i = 0; i < swap->shape.drive_count; i++)
        swap->places[i] = files->drives[i];
    swap->files.drives = swap->places;
    swap_place_seconds(swap);
    sum_zeros(swap);
    for (int lane = 0; lane < DS_SWAP_LANE_COUNT; lane++)
        for (uint32_t i = 0; i < swap->lanes[lane].slot_count; i++)
            ds_word_store(swap->lanes[lane].slots[i].place.empty, 1);
    for (uint32_t i = 0; i < swap->shape.drive_count; i++) {
        swap->drives[i].swap = swap;
        DS_TRY(swap_drive_start(&swap->drives[i], &swap->places[i]));
    }
    return DS_OK;
}

void ds_swap_abandon(struct ds_swap *swap)
{
    if (!swap)
        return;
    swap->is_abandoned = 1;
    for (uint32_t i = 0; i < swap->shape.drive_count; i++) {
        struct swap_drive *drive = &swap->drives[i];
        if (!drive->is_open)
            continue;
        pthread_mutex_lock(&drive->lock);
        pthread_cond_signal(&drive->filled);
        pthread_mutex_unlock(&drive->lock);
    }
}

void ds_swap_close(struct ds_swap *swap)
{
    if (!swap)
        return;
    for (uint32_t i = 0; swap->drives && i < swap->shape.drive_count; i++) {
        swap_drive_leave(&swap->drives[i]);
        for (int lane = 0; lane < DS_SWAP_LANE_COUNT; lane++)
            free(swap->drives[i].jobs[lane].at);
    }
    for (int lane = 0; lane < DS_SWAP_LANE_COUNT; lane++)
        free(swap->lanes[lane].slots);
    for (int tape = 0; tape < DS_SWAP_TAPES; tape++)
        free(swap->tapes[tape].at);
    free(swap->drives);
    free(swap->places);
    free(swap->blocks);
    free(swap->drive_bytes);
    free(swap);
}

ds_status ds_swap_status(const struct ds_swap *swap)
{
    return (ds_status)swap->status;
}

/* ---- queueing */

static ds_status hand_over(struct ds_swap *swap, struct swap_job job)
{
    struct swap_block *block = &swap->blocks[job.block];
    struct swap_drive *drive = &swap->drives[block->drive];
    ds_status st;

    job.after_jobs = swap->lanes[job.lane].slots[job.slot].jobs++;
    job.after_writes = block->writes;
    job.after_reads = job.lane == DS_SWAP_STORE ? block->reads : 0;
    if (job.lane == DS_SWAP_STORE)
        block->writes++;
    else
        block->reads++;
    pthread_mutex_lock(&drive->lock);
    st = swap_jobs_push(&drive->jobs[job.lane], &job);
    pthread_cond_signal(&drive->filled);
    pthread_mutex_unlock(&drive->lock);
    return st;
}

ds_status ds_swap_queue(struct ds_swap *swap, enum ds_swap_lane lane, uint32_t block,
                        struct ds_swap_slot *slot)
{
    struct swap_lane *l = &swap->lanes[lane];
    const struct swap_job job = {.lane = lane, .block = block, .slot = l->turn};

    DS_ASSERT(block < swap->reserved && swap->drives[0].is_open);
    l->turn = (l->turn + 1) % l->slot_count;
    *slot = l->slots[job.slot].place;
    return swap->recording ? swap_jobs_push(swap->recording, &job) : hand_over(swap, job);
}

uint32_t ds_swap_version(const struct ds_swap *swap, uint32_t block)
{
    return swap->blocks[block].writes;
}

size_t ds_swap_block_bytes(const struct ds_swap *swap, uint32_t block)
{
    return swap->blocks[block].bytes;
}

void ds_swap_record_begin(struct ds_swap *swap, uint32_t tape)
{
    DS_ASSERT(tape < DS_SWAP_TAPES && !swap->recording);
    swap->recording = &swap->tapes[tape];
    swap->recording->count = 0;
}

void ds_swap_record_end(struct ds_swap *swap)
{
    swap->recording = NULL;
}

ds_status ds_swap_launch(struct ds_swap *swap, uint32_t tape)
{
    const struct swap_jobs *jobs = &swap->tapes[tape];

    DS_ASSERT(tape < DS_SWAP_TAPES && !swap->recording);
    for (size_t i = 0; i < jobs->count; i++)
        DS_TRY(hand_over(swap, jobs->at[i]));
    return DS_OK;
}

/* ---- the host in a stream's place */

static void await_word(const struct ds_swap *swap, uint32_t *word)
{
    while (ds_word_load(word) == 0)
        ds_clock_sleep_ns(swap->files.clock, NAP_NS);
    ds_word_store(word, 0);
}

ds_status ds_swap_read(struct ds_swap *swap, uint32_t block, void *to)
{
    struct ds_swap_slot slot;

    DS_TRY(ds_swap_queue(swap, DS_SWAP_LOAD, block, &slot));
    await_word(swap, slot.full);
    memcpy(to, slot.at, swap->blocks[block].bytes);
    ds_word_store(slot.empty, 1);
    return ds_swap_status(swap);
}

ds_status ds_swap_write(struct ds_swap *swap, uint32_t block, const void *from)
{
    struct ds_swap_slot slot;

    DS_TRY(ds_swap_queue(swap, DS_SWAP_STORE, block, &slot));
    await_word(swap, slot.empty);
    memcpy(slot.at, from, swap->blocks[block].bytes);
    ds_word_store(slot.full, 1);
    return ds_swap_status(swap);
}
