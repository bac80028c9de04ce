/* swap.h - blocks of state that live in files, on their way between there and pinned memory that the streams of a
 * device copy from and to.
 *
 *   file  --thread-->  slot of LOAD  --stream-->  device  --stream-->  slot of STORE  --thread-->  file
 *
 * The rank's main thread queues jobs, a lane's in the order in which its streams come to them, and never waits; one
 * thread a drive does them. A slot is handed to and fro by two words (device.h): `full`, its bytes are a block's;
 * `empty`, whoever had to read them has. So a block is read ahead as far as there are slots, whatever the stream
 * still has to do; of one block, reads come behind the writes queued before them, and writes behind everything. Every block's CRC32C is kept when it
 * is written and compared when it comes back; blocks begin as zeros.
 *
 * The first failure is told with the file's name, and stays. Nothing is read or written after it, but slots go on
 * changing hands, so that no stream waits for ever; what should have been read is bytes of 0xff, which are no
 * numbers in any format. Who queues asks ds_swap_status before anything made of them leaves the rank.
 * local: everything here. */
#ifndef DSTRAIN_SWAP_H
#define DSTRAIN_SWAP_H

#include "dstrain/clock.h"
#include "dstrain/fs.h"
#include "dstrain/status.h"
#include "dstrain/storage.h"

#include <stddef.h>
#include <stdint.h>

/* COPY reads as LOAD does, for somebody who must not wait behind it. */
enum ds_swap_lane { DS_SWAP_LOAD, DS_SWAP_STORE, DS_SWAP_COPY };
#define DS_SWAP_LANE_COUNT 3

/* How large it is; enough for a plan. */
struct ds_swap_shape {
    uint32_t drive_count;                    /* blocks are dealt out to them in turn */
    size_t slot_bytes;                       /* of the largest block; a multiple of 4096 */
    uint32_t slot_count[DS_SWAP_LANE_COUNT]; /* each at least 1 */
    uint32_t block_count;
};
/* pure: pinned memory for slots and words */
size_t ds_swap_slots_bytes(const struct ds_swap_shape *shape);

struct ds_swap;
/* `slots` is borrowed until close; before start nobody touches it. */
DS_CHECKED ds_status ds_swap_open(const struct ds_swap_shape *shape, void *slots,
                                  struct ds_swap **out);
/* before start: `count` blocks of `bytes`, a multiple of 4096; returns the number of the first */
uint32_t ds_swap_reserve(struct ds_swap *swap, size_t bytes, uint32_t count);
/* of what was reserved, on one of the drives */
uint64_t ds_swap_file_bytes(const struct ds_swap *swap, uint32_t drive);

struct ds_swap_drive {
    int file;         /* of fs, to read and write; of zeros, ds_swap_file_bytes from `offset` on */
    uint64_t offset;  /* a multiple of 4096 */
    const char *path; /* for words; borrowed until close, as the file is */
};
struct ds_swap_files {
    struct ds_fs *fs;
    const struct ds_swap_drive *drives; /* [shape.drive_count] */
    const char *level;                  /* see storage.h */
    const struct ds_clock *clock;
    struct ds_storage_faults *faults; /* or NULL */
};
DS_CHECKED ds_status ds_swap_start(struct ds_swap *swap, const struct ds_swap_files *files);
/* No stream waits for it any more, and what is queued is not done: before streams are closed that may not have come to the
 * end of what was queued on them. */
void ds_swap_abandon(struct ds_swap *swap);
void ds_swap_close(struct ds_swap *swap); /* NULL is allowed */

/* DS_OK, or the first failure, which has been told */
ds_status ds_swap_status(const struct ds_swap *swap);

/* What the stream is to do. LOAD, COPY: await full, copy from it, signal empty. STORE: await empty, copy to it,
 * signal full. */
struct ds_swap_slot {
    uint8_t *at;
    uint32_t *full, *empty;
};
DS_CHECKED ds_status ds_swap_queue(struct ds_swap *swap, enum ds_swap_lane lane, uint32_t block,
                                   struct ds_swap_slot *slot);
/* how many writes of a block have been queued: by it one knows whether what one has of it is old */
uint32_t ds_swap_version(const struct ds_swap *swap, uint32_t block);
size_t ds_swap_block_bytes(const struct ds_swap *swap, uint32_t block);

/* The host itself, while no stream has anything to do on LOAD and STORE; waits. */
DS_CHECKED ds_status ds_swap_read(struct ds_swap *swap, uint32_t block, void *to);
DS_CHECKED ds_status ds_swap_write(struct ds_swap *swap, uint32_t block, const void *from);

/* ---- As it was at one moment: blocks that are `kept` become, without being copied, blocks of other files as well (fs.h,
 * clone), which nobody writes; then each has two places in its file, and is written to the one that no other file has. All writes of them that were queued before come first, those queued later behind it,
 * so that a stream which has somewhere to write is held up for as long as the file system needs for its tables. */

/* before start: so many blocks from `first` on are kept */
void ds_swap_keep(struct ds_swap *swap, uint32_t first, uint32_t count);
/* of blocks that are kept, on one of the drives */
uint64_t ds_swap_kept_bytes(const struct ds_swap *swap, uint32_t drive);
/* `files`: one for each drive, of its file system, to read and write; borrowed until it is over. The drive's own file has
 * ds_swap_kept_bytes of zeros more from the first one on, behind ds_swap_file_bytes. None is on its way. */
DS_CHECKED ds_status ds_swap_freeze(struct ds_swap *swap, const int *files);
/* Is it over? Then *st says what became of it; told. */
int ds_swap_frozen(const struct ds_swap *swap, ds_status *st);

struct ds_swap_still {
    uint64_t offset; /* in the file of its drive, where blocks are laid out as in the drive's own */
    uint32_t bytes, drive;
    uint32_t sum; /* CRC32C of what was written there */
    uint8_t
        is_fresh; /* written since the last freeze that came to be; else that one's file refers to it, too */
};
/* when it is over with DS_OK: of every block; those that are not kept have nothing there. `to`: one a block. */
void ds_swap_stills(const struct ds_swap *swap, struct ds_swap_still *to);
uint32_t ds_swap_block_count(const struct ds_swap *swap);

/* Graphs: what is queued between begin and end is kept as `tape`, what that had before is dropped, and is queued by each
 * launch, before or behind that of the graph. */
#define DS_SWAP_TAPES 2
void ds_swap_record_begin(struct ds_swap *swap, uint32_t tape);
void ds_swap_record_end(struct ds_swap *swap);
DS_CHECKED ds_status ds_swap_launch(struct ds_swap *swap, uint32_t tape);

#endif
