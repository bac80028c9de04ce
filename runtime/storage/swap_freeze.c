/* swap_freeze.c - blocks as they were at one moment, in files that share them with a drive's own. Each drive comes to it in
 * the order of its writes; what it says of blocks is its thread's until all have.
 *
 * A block that is kept has two places in its file, both of which have room. What others share stays where it is, and the
 * next write goes to the other place: were it written over, the file system would look for room, and a disk that is full
 * by then would end the run. Before the next freeze the place that was left gets room of its own again; where there is
 * none that freeze fails, and no more. */
#include "swap_private.h"

#include <inttypes.h>
#include <string.h>

/* ---- queueing: the main thread */

void ds_swap_keep(struct ds_swap *swap, uint32_t first, uint32_t count)
{
    DS_ASSERT(first + count <= swap->reserved && !swap->drives[0].is_open);
    for (uint32_t i = first; i < first + count; i++)
        swap->blocks[i].is_kept = 1;
}

void swap_place_seconds(struct ds_swap *swap)
{
    for (uint32_t drive = 0; drive < swap->shape.drive_count; drive++) {
        uint64_t at = swap->drive_bytes[drive];

        for (uint32_t i = drive; i < swap->reserved; i += swap->shape.drive_count) {
            swap->blocks[i].second = at;
            at += swap->blocks[i].is_kept ? swap->blocks[i].bytes : 0;
        }
    }
}

uint64_t ds_swap_kept_bytes(const struct ds_swap *swap, uint32_t drive)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < swap->reserved; i++)
        if (swap->blocks[i].drive == drive && swap->blocks[i].is_kept)
            bytes += swap->blocks[i].bytes;
    return bytes;
}

static ds_status queue_freeze(struct swap_drive *drive)
{
    const struct swap_job job = {.lane = DS_SWAP_STORE, .block = NO_BLOCK};
    ds_status st;

    pthread_mutex_lock(&drive->lock);
    st = swap_jobs_push(&drive->jobs[DS_SWAP_STORE], &job);
    pthread_cond_signal(&drive->filled);
    pthread_mutex_unlock(&drive->lock);
    return st;
}

ds_status ds_swap_freeze(struct ds_swap *swap, const int *files)
{
    DS_ASSERT(swap->freezing == 0 && !swap->recording);
    swap->still_files = files;
    swap->freeze_status = DS_OK;
    swap->freezing = swap->shape.drive_count;
    for (uint32_t i = 0; i < swap->shape.drive_count; i++)
        DS_TRY(queue_freeze(&swap->drives[i]));
    return DS_OK;
}

int ds_swap_frozen(const struct ds_swap *swap, ds_status *st)
{
    *st = swap->status != DS_OK ? (ds_status)swap->status
          : swap->is_abandoned  ? DS_ERR_IO
                                : (ds_status)swap->freeze_status;
    return swap->freezing == 0 || swap->is_abandoned;
}

void ds_swap_stills(const struct ds_swap *swap, struct ds_swap_still *to)
{
    for (uint32_t i = 0; i < swap->reserved; i++) {
        const struct swap_block *block = &swap->blocks[i];

        to[i] = (struct ds_swap_still){.offset = block->offset,
                                       .bytes = block->bytes,
                                       .drive = block->drive,
                                       .sum = block->sum_still,
                                       .is_fresh = block->is_fresh};
    }
}

/* ---- the thread of a drive */

/* One behind the last of the blocks that lie one behind the other from `first` on, where they lie now (`is_other` 0) or at
 * their other places, and are all to be; `bytes`: theirs. */
static uint32_t run_end(const struct ds_swap *swap, uint32_t first, int is_other, uint64_t *bytes)
{
    const uint32_t step = swap->shape.drive_count;
    const int is_second = swap->blocks[first].is_second;
    uint32_t at = first;

    *bytes = 0;
    for (; at < swap->reserved; at += step) {
        const struct swap_block *block = &swap->blocks[at];

        if (!block->is_kept || block->is_second != is_second ||
            (is_other && !block->is_other_shared))
            break;
        *bytes += block->bytes;
    }
    return *bytes > 0 ? at : first + step;
}

/* What is written behind the freeze goes to other places: they must have room of their own before. */
static int renew(struct swap_drive *drive)
{
    struct ds_swap *swap = drive->swap;
    const uint32_t number = (uint32_t)(drive - swap->drives), step = swap->shape.drive_count;
    const struct ds_swap_drive *place = &swap->places[number];
    int code = 0;

    for (uint32_t at = number, end; at < swap->reserved && code == 0; at = end) {
        const struct swap_block *first = &swap->blocks[at];
        uint64_t bytes;

        end = run_end(swap, at, 1, &bytes);
        if (bytes == 0)
            continue;
        code =
            ds_fs_renew(swap->files.fs, place->file,
                        place->offset + (first->is_second ? first->offset : first->second), bytes);
        for (uint32_t i = at; i < end && code == 0; i += step)
            swap->blocks[i].is_other_shared = 0;
    }
    return code;
}

static int share(struct swap_drive *drive)
{
    struct ds_swap *swap = drive->swap;
    const uint32_t number = (uint32_t)(drive - swap->drives), step = swap->shape.drive_count;
    const struct ds_swap_drive *place = &swap->places[number];
    int code = 0;

    for (uint32_t at = number, end; at < swap->reserved && code == 0; at = end) {
        const struct swap_block *first = &swap->blocks[at];
        uint64_t bytes;

        end = run_end(swap, at, 0, &bytes);
        for (uint32_t i = at; i < end && bytes > 0; i += step)
            swap->blocks[i].is_shared = 1; /* even if it is but a part of them */
        if (bytes > 0)
            code = ds_fs_clone(swap->files.fs, place->file, place->offset + swap_block_at(first),
                               swap->still_files[number], first->offset, bytes);
    }
    return code;
}

static void note(struct swap_drive *drive)
{
    struct ds_swap *swap = drive->swap;
    const uint32_t number = (uint32_t)(drive - swap->drives);

    for (uint32_t i = number; i < swap->reserved; i += swap->shape.drive_count) {
        struct swap_block *block = &swap->blocks[i];

        block->sum_still = block->sum;
        block->is_fresh = block->written != block->written_still;
        block->written_still = block->written;
    }
}

void swap_drive_freeze(struct swap_drive *drive)
{
    struct ds_swap *swap = drive->swap;
    int code = swap->status == DS_OK ? renew(drive) : 0;

    if (code == 0 && swap->status == DS_OK)
        code = share(drive);
    if (code == 0)
        note(drive);
    else
        swap->freeze_status =
            ds_fail(DS_ERR_IO, "%s: what lies there cannot be shared with a checkpoint: %s",
                    swap->places[drive - swap->drives].path, strerror(-code));
    swap->freezing--;
}
