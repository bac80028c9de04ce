/* swap_drive.c - the thread of one drive: it takes the first job of each lane as soon as its slot and its block are ready,
 * keeps as many operations on their way as there are slots, and hands slots over when they are done. It sees
 * files and pinned memory only. */
#include "swap_private.h"

#include "dstrain/device.h"
#include "dstrain/digest.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define NAP_NS       20000u
#define NAP_NS_MAX   200000u
#define NAPS_A_WHILE 16 /* short ones, before they grow */

/* ---- failures */

static int has_failed(const struct ds_swap *swap)
{
    return swap->status != DS_OK;
}

static void fail(struct ds_swap *swap, ds_status st)
{
    int expected = DS_OK; /* the first stays */

    (void)atomic_compare_exchange_strong(&swap->status, &expected, (int)st);
}

/* ---- the end of a job */

static void end_read(struct swap_drive *drive, struct swap_slot *slot)
{
    struct ds_swap *swap = drive->swap;
    struct swap_block *block = &swap->blocks[slot->block];
    const struct ds_storage_request *request = &slot->request;

    if (request->status != DS_OK)
        fail(swap, request->status); /* told */
    else if (!has_failed(swap) && ds_crc32c(0, slot->place.at, block->bytes) != block->sum)
        fail(swap, ds_fail(DS_ERR_CORRUPT,
                           "%s: %" PRIu32 " bytes at %" PRIu64
                           " came back with another checksum than they were written with",
                           request->name, block->bytes, request->offset));
    if (has_failed(swap))
        memset(slot->place.at, 0xff, block->bytes);
    block->read++;
    ds_word_store(slot->place.full, 1);
}

static void end_write(struct swap_drive *drive, struct swap_slot *slot)
{
    if (slot->request.status != DS_OK)
        fail(drive->swap, slot->request.status);
    drive->swap->blocks[slot->block].written++;
    drive->writes--;
    ds_word_store(slot->place.empty, 1);
}

static void end_job(struct swap_drive *drive, struct swap_slot *slot)
{
    if (slot->request.is_write)
        end_write(drive, slot);
    else
        end_read(drive, slot);
}

/* ---- its beginning */

static int peek(struct swap_drive *drive, int lane, struct swap_job *job)
{
    const struct swap_jobs *jobs = &drive->jobs[lane];
    int is_there;

    pthread_mutex_lock(&drive->lock);
    is_there = jobs->count > 0;
    if (is_there)
        *job = jobs->at[jobs->first];
    pthread_mutex_unlock(&drive->lock);
    return is_there;
}

static void pop(struct swap_drive *drive, int lane)
{
    struct swap_jobs *jobs = &drive->jobs[lane];

    pthread_mutex_lock(&drive->lock);
    jobs->first = (jobs->first + 1) & (jobs->room - 1);
    jobs->count--;
    pthread_mutex_unlock(&drive->lock);
}

static void start_job(struct swap_drive *drive, const struct swap_job *job)
{
    struct ds_swap *swap = drive->swap;
    const struct ds_swap_drive *place = &swap->places[drive - swap->drives];
    struct swap_slot *slot = &swap->lanes[job->lane].slots[job->slot];
    struct swap_block *block = &swap->blocks[job->block];

    if (job->lane == DS_SWAP_STORE && block->is_shared) { /* what others have stays as it is */
        DS_ASSERT(!block->is_other_shared);
        block->is_second = !block->is_second;
        block->is_shared = 0;
        block->is_other_shared = 1;
    }
    slot->block = job->block;
    slot->request = (struct ds_storage_request){.is_write = job->lane == DS_SWAP_STORE,
                                                .file = place->file,
                                                .data = slot->place.at,
                                                .bytes = block->bytes,
                                                .offset = place->offset + swap_block_at(block),
                                                .user = slot,
                                                .name = place->path};
    drive->writes += slot->request.is_write;
    if (has_failed(swap)) {
        end_job(drive, slot);
        return;
    }
    if (slot->request.is_write)
        block->sum = ds_crc32c(0, slot->place.at, block->bytes);
    const ds_status st = ds_storage_submit(drive->storage, &slot->request);
    if (st != DS_OK) {
        slot->request.status = st;
        end_job(drive, slot);
    }
}

/* Reads of a block come behind the writes that were queued before, writes behind everything; and the slot is nobody's
 * who was queued before. */
static int is_its_turn(const struct swap_block *block, const struct swap_slot *slot,
                       const struct swap_job *job)
{
    return slot->started == job->after_jobs && (int32_t)(block->written - job->after_writes) >= 0 &&
           (job->lane != DS_SWAP_STORE || (int32_t)(block->read - job->after_reads) >= 0);
}

/* What was queued before it is on the disk. */
static int try_freeze(struct swap_drive *drive)
{
    if (drive->writes > 0)
        return 0;
    pop(drive, DS_SWAP_STORE);
    swap_drive_freeze(drive);
    return 1;
}

/* Was there a first job whose slot and block are ready? */
static int try_lane(struct swap_drive *drive, int lane)
{
    struct ds_swap *swap = drive->swap;
    struct swap_job job;

    if (!peek(drive, lane, &job))
        return 0;
    if (job.block == NO_BLOCK)
        return try_freeze(drive);
    struct swap_slot *slot = &swap->lanes[lane].slots[job.slot];
    uint32_t *word = lane == DS_SWAP_STORE ? slot->place.full : slot->place.empty;
    if (!is_its_turn(&swap->blocks[job.block], slot, &job) || ds_word_load(word) == 0)
        return 0;
    ds_word_store(word, 0);
    slot->started++;
    pop(drive, lane);
    start_job(drive, &job);
    return 1;
}

/* ---- the thread */

static int try_ends(struct swap_drive *drive)
{
    struct ds_storage_request *done = NULL;
    int has_moved = 0;

    do {
        const ds_status st = ds_storage_poll(drive->storage, &done);

        if (st != DS_OK)
            fail(drive->swap, st);
        if (done)
            end_job(drive, done->user);
        has_moved |= done != NULL;
    } while (done);
    return has_moved;
}

/* Streams that will never come to what they wait for go on. */
static void open_all_words(const struct ds_swap *swap)
{
    for (int lane = 0; lane < DS_SWAP_LANE_COUNT; lane++)
        for (uint32_t i = 0; i < swap->lanes[lane].slot_count; i++) {
            ds_word_store(swap->lanes[lane].slots[i].place.full, 1);
            ds_word_store(swap->lanes[lane].slots[i].place.empty, 1);
        }
}

static int is_idle(const struct swap_drive *drive)
{
    int count = (int)ds_storage_in_flight(drive->storage) + drive->swap->is_abandoned;

    for (int lane = 0; lane < DS_SWAP_LANE_COUNT; lane++)
        count += drive->jobs[lane].count > 0;
    return count == 0;
}

/* Returns 0 when it is time to leave. */
static int wait_for_work(struct swap_drive *drive)
{
    int stays;

    pthread_mutex_lock(&drive->lock);
    while (is_idle(drive) && !drive->is_leaving)
        pthread_cond_wait(&drive->filled, &drive->lock);
    stays = !drive->is_leaving;
    pthread_mutex_unlock(&drive->lock);
    return stays;
}

static void nap(const struct swap_drive *drive, uint32_t turn)
{
    const uint64_t ns = (uint64_t)NAP_NS * (1 + turn / NAPS_A_WHILE);

    ds_clock_sleep_ns(drive->swap->files.clock, ns < NAP_NS_MAX ? ns : NAP_NS_MAX);
}

static void *drive_main(void *self)
{
    struct swap_drive *drive = self;
    uint32_t naps = 0;

    while (wait_for_work(drive)) {
        int has_moved = try_ends(drive);

        if (drive->swap->is_abandoned)
            open_all_words(drive->swap);
        for (int lane = 0; lane < DS_SWAP_LANE_COUNT && !drive->swap->is_abandoned; lane++)
            has_moved |= try_lane(drive, lane);
        naps = has_moved ? 0 : naps + 1;
        if (naps > 0)
            nap(drive, naps);
    }
    return NULL;
}

/* ---- start and end */

static ds_status open_storage(struct swap_drive *drive, const struct ds_swap_drive *place)
{
    const struct ds_swap *swap = drive->swap;
    const struct ds_storage_memory memory = {swap->slots, ds_swap_slots_bytes(&swap->shape)};
    struct ds_storage_options options = {.level = swap->files.level,
                                         .memory = &memory,
                                         .memory_count = 1,
                                         .files = &place->file,
                                         .file_count = 1,
                                         .faults = swap->files.faults};

    for (int lane = 0; lane < DS_SWAP_LANE_COUNT; lane++)
        options.depth += swap->shape.slot_count[lane];
    return ds_storage_open_with(swap->files.fs, &options, &drive->storage);
}

/* Signals are for the main thread: this one is born with all of them blocked. */
static ds_status start_thread(struct swap_drive *drive)
{
    sigset_t all, before;
    int code;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&drive->thread, NULL, drive_main, drive);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0)
        return ds_fail(DS_ERR_NO_MEMORY, "start the thread of a drive: %s", strerror(code));
    drive->is_open = 1;
    return DS_OK;
}

ds_status swap_drive_start(struct swap_drive *drive, const struct ds_swap_drive *place)
{
    DS_TRY(open_storage(drive, place));
    pthread_mutex_init(&drive->lock, NULL);
    pthread_cond_init(&drive->filled, NULL);
    const ds_status st = start_thread(drive);
    if (st != DS_OK) {
        pthread_cond_destroy(&drive->filled);
        pthread_mutex_destroy(&drive->lock);
    }
    return st;
}

void swap_drive_leave(struct swap_drive *drive)
{
    if (drive->is_open) {
        pthread_mutex_lock(&drive->lock);
        drive->is_leaving = 1;
        pthread_cond_signal(&drive->filled);
        pthread_mutex_unlock(&drive->lock);
        pthread_join(drive->thread, NULL);
        pthread_cond_destroy(&drive->filled);
        pthread_mutex_destroy(&drive->lock);
        drive->is_open = 0;
    }
    ds_storage_close(drive->storage);
    drive->storage = NULL;
}
