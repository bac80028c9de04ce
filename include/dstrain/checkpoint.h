/* checkpoint.h - a directory of checkpoints: who may write to it, what in it counts, how one more comes to be and
 * which go.
 *
 *   RUN.json                         whose directory this is
 *   epochs/E-<n>                     claimed by one launch (or rollback), exclusively; the highest owns the run, and stays
 *   epochs/E-<n>.base.json           what that epoch goes on from, what data it leaves out, and why
 *   data/<dir>/P-....safetensors     packs (pack.h), never changed once a rank has voted for them
 *   manifests/M-<epoch>-<step>.json  a checkpoint (manifest.h)
 *   manifests/M-....bad              one that must not be loaded
 *   latest                           a hint for people, never trusted
 *
 * A save: every rank writes its packs, makes them and their names durable and reads them back (keep); all vote; rank
 * 0 writes the manifest, makes it and its name durable, looks whether a newer epoch was claimed meanwhile, and only
 * then says that the checkpoint is there. A launch: claim an epoch, then list, then load, then write the base. Order
 * matters: whoever claims first and lists then sees what an older epoch has committed, or that one sees the claim.
 *
 * A second directory may be joined to it, its mirror, to which what was committed is copied by the same protocol. An
 * epoch is claimed in both, under one number, before either is listed, and whoever commits in one looks at the claims
 * in that one: of two launches that share either of them, the older can no more commit there, and goes. What one says
 * of rollbacks and of what is buried holds in both, so that what a launch still left in a directory that it shares with
 * nobody is overruled by the base that the next one wrote elsewhere. A launch that cannot claim the mirror does without.
 *
 * Manifests are ordered by (epoch, step). One of an epoch whose step is newer than the base of a later epoch is
 * overruled: that launch went back behind it, or never saw it. */
#ifndef DSTRAIN_CHECKPOINT_H
#define DSTRAIN_CHECKPOINT_H

#include "dstrain/comm.h"
#include "dstrain/fs.h"
#include "dstrain/manifest.h"

#define DS_CHECKPOINT_PATH_BYTES 4352
#define DS_CHECKPOINT_DIR_RANKS  64 /* ranks that share data/<dir> */

/* pure, all of them; `to` has DS_CHECKPOINT_PATH_BYTES */
void ds_checkpoint_pack_path(const char *root, uint32_t dir, const struct ds_pack_id *id, char *to);
void ds_checkpoint_manifest_path(const char *root, const struct ds_manifest_id *id, char *to);

/* "M-000001-000000000100.json"; 0: no manifest's name */
int ds_checkpoint_manifest_name_parse(const char *name, struct ds_manifest_id *out);

/* ---- the directory: rank 0 alone, one thread at a time */

struct ds_checkpoint_dir;

/* local: opens `root`, and makes it where it is not there (its parent is). A new directory gets `fresh_run` as its
 * name; one that is there must have the same `keys`, a digest of what may not change in a run, and gets folders again that
 * it has lost, with a warning. `nonce`: of this launch. DS_ERR_CONFIG: not a directory of ours, another run's, not
 * writable, full, or without the folder that says which of its packs are needed. */
DS_CHECKED ds_status ds_checkpoint_dir_open(struct ds_fs *fs, const char *root,
                                            const uint8_t fresh_run[16], const uint8_t nonce[16],
                                            const struct ds_digest *keys,
                                            struct ds_checkpoint_dir **out);
/* local: for tools: which run's directory it is. DS_ERR_CONFIG: not one of ours, or not readable; DS_ERR_DATA: of a
 * version that this program does not know. */
DS_CHECKED ds_status ds_checkpoint_read_run(struct ds_fs *fs, const char *root, uint8_t run[16]);
void ds_checkpoint_dir_close(struct ds_checkpoint_dir *dir);               /* NULL is allowed */
const uint8_t *ds_checkpoint_dir_run(const struct ds_checkpoint_dir *dir); /* 16 bytes */
uint64_t ds_checkpoint_dir_epoch(const struct ds_checkpoint_dir *dir);     /* 0: none claimed */

/* local: `mirror`, opened as the same run, is the second directory from here on, and closed with the first */
void ds_checkpoint_join(struct ds_checkpoint_dir *dir, struct ds_checkpoint_dir *mirror);
/* local: there is no second directory from here on; that one is the caller's to close */
void ds_checkpoint_leave_mirror(struct ds_checkpoint_dir *dir);
int ds_checkpoint_has_mirror(const struct ds_checkpoint_dir *dir);

/* local: the next epoch, behind all that were claimed or have a manifest in either, is ours, in the mirror, too; one that
 * cannot be claimed is left, with a warning. Who has an epoch already gets the one behind it, or DS_ERR_FENCED: another has
 * it, or a newer one. DS_ERR_CONFIG: there is no room, or no right, to claim; the mirror is the same directory by another
 * name, or cannot be claimed when a program starts, and has what is newest. */
DS_CHECKED ds_status ds_checkpoint_claim(struct ds_checkpoint_dir *dir);
/* local: of a launch that has claimed, but goes no further, before it has written anything: every claim of it goes again, and
 * what it has made where there was no directory of ours but for the root, in the mirror, too. What cannot be removed stays, as what a killed launch leaves. */
void ds_checkpoint_withdraw(const struct ds_checkpoint_dir *dir);
/* local: DS_ERR_FENCED: a newer epoch was claimed, or ours by another, in a directory that was made anew */
DS_CHECKED ds_status ds_checkpoint_check_fence(const struct ds_checkpoint_dir *dir);

struct ds_checkpoint_skip { /* batches [begin, end) are left out, counted from 1 (data.h) */
    uint64_t begin, end;
};
#define DS_CHECKPOINT_SKIPS_MAX  1024
#define DS_CHECKPOINT_PAST_BYTES 256
/* local: our epoch goes on from `base`; NULL: from the beginning. Once an epoch, after base has been loaded. `past`: what
 * going back was tried, as its owner writes it; "": nothing. */
DS_CHECKED ds_status ds_checkpoint_write_base(struct ds_checkpoint_dir *dir,
                                              const struct ds_manifest_id *base,
                                              const struct ds_checkpoint_skip *skips,
                                              uint32_t skip_count, const char *past);

/* local: behind that: claims, bases and unfinished files of earlier epochs go that nothing rests on. Not where a mirror
 * that belongs to the run is missing: what is there may rest on them. DS_ERR_FENCED; what cannot be removed stays. */
DS_CHECKED ds_status ds_checkpoint_tidy(const struct ds_checkpoint_dir *dir);

/* local: what the newest epoch that has a base, in either directory, leaves out, and what was tried; *count 0 and ""
 * where there is no base. `mirror` may be NULL; `skips` has DS_CHECKPOINT_SKIPS_MAX. */
DS_CHECKED ds_status ds_checkpoint_read_rollbacks(struct ds_fs *fs, const char *root,
                                                  const char *mirror,
                                                  struct ds_checkpoint_skip *skips, uint32_t *count,
                                                  char past[DS_CHECKPOINT_PAST_BYTES]);

enum ds_checkpoint_standing {
    DS_CHECKPOINT_GOOD, /* may be loaded, if it verifies */
    DS_CHECKPOINT_BURIED,
    DS_CHECKPOINT_OVERRULED,
};
struct ds_checkpoint_entry {
    struct ds_manifest_id id;
    uint32_t root; /* which of those that were listed it lies in */
    enum ds_checkpoint_standing standing;
};
struct ds_checkpoint_list {
    struct ds_checkpoint_entry *entries; /* newest first; owned by the list */
    size_t count;
};
/* local: no rank 0 needed, nor a claim: for tools, too. Contents of manifests are not looked at. */
DS_CHECKED ds_status ds_checkpoint_list_make(struct ds_fs *fs, const char *root,
                                             struct ds_checkpoint_list *out);
/* local: the same of two directories of one run: of a checkpoint that is in both the first one's comes first. The second
 * may be NULL, and one that cannot be listed is left out, with a warning. */
DS_CHECKED ds_status ds_checkpoint_list_both(struct ds_fs *fs, const char *root, const char *mirror,
                                             struct ds_checkpoint_list *out);
void ds_checkpoint_list_fini(struct ds_checkpoint_list *list);
/* local: reads and checks one; *out is the caller's to fini */
DS_CHECKED ds_status ds_checkpoint_read_manifest(struct ds_fs *fs, const char *root,
                                                 const struct ds_manifest_id *id,
                                                 struct ds_manifest *out);
/* local: it must not be loaded any more; `why` stands in the file. That it is so already is fine. */
DS_CHECKED ds_status ds_checkpoint_bury(struct ds_checkpoint_dir *dir,
                                        const struct ds_manifest_id *id, const char *why);

struct ds_checkpoint_retention {
    uint32_t keep_last;  /* >= 1 */
    uint64_t keep_every; /* steps that it divides; 0: none */
    const struct ds_manifest_id *pinned;
    uint32_t pinned_count;
    uint64_t margin; /* steps; some that are as much older than the newest stay, too; 0: none */
};
/* local: it was loaded or committed by this launch, so its bytes have been seen to be there */
void ds_checkpoint_trust(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id);
/* local: the same of the mirror, where there is one */
void ds_checkpoint_trust_mirror(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id);
/* local: removes checkpoints that need not be kept, and packs that none of the others needs. The two newest that
 * are trusted stay. Where one alone is, the two newest of the others do, too, and before this launch has committed one
 * all do. With a margin the newest that are as old stay, back to one that is trusted, but no more than two that are not;
 * and of those that are newer the oldest, which will be the next to be as old, and the oldest that is trusted. So no more
 * than 7 stay beside those that `keep` asks for, once a launch has committed, however many there were before it. Files
 * of a newer epoch, and of saves of ours that are newer than `committed_step`, are not touched. */
DS_CHECKED ds_status ds_checkpoint_retain(struct ds_checkpoint_dir *dir,
                                          const struct ds_checkpoint_retention *keep,
                                          uint64_t committed_step);

/* ---- saving */

/* local, every rank, once before its first pack: data/<dir>, made durable */
DS_CHECKED ds_status ds_checkpoint_make_data(struct ds_fs *fs, const char *root, uint32_t dir);
/* local, every rank, any thread, behind ds_pack_finish: makes the pack's name durable and reads it back: header,
 * footers, boxes, table, and every `sample`-th chunk (1: all) to `buffer`, which has DS_PACK_CHUNK_BYTES. */
DS_CHECKED ds_status ds_checkpoint_keep_pack(struct ds_fs *fs, const char *root,
                                             const struct ds_manifest_pack *pack, uint32_t sample,
                                             void *buffer);
/* local, rank 0, any thread: the second phase. All ranks have voted for manifest->packs, or copied them. DS_OK: the checkpoint is
 * there and survives a loss of power. DS_ERR_FENCED: another launch owns the run; it must not be relied on. */
DS_CHECKED ds_status ds_checkpoint_commit_manifest(struct ds_checkpoint_dir *dir,
                                                   const struct ds_manifest *manifest);
/* local, rank 0: the hint */
DS_CHECKED ds_status ds_checkpoint_write_latest(struct ds_checkpoint_dir *dir,
                                                const struct ds_manifest_id *id);

/* collective over a control group, at the start of a run: do all ranks have the same catalogue, and do the pieces
 * that they will write make up each tensor once? DS_ERR_DATA on all ranks. */
DS_CHECKED ds_status ds_checkpoint_prove(struct ds_comm *control,
                                         const struct ds_catalogue *catalogue,
                                         const struct ds_piece *pieces, size_t count);
/* collective: the vote. `prepared`: did all of this rank's packs come to be; `packs`: they, and those that they
 * refer to. `*verdict`, the same on all ranks: DS_OK, or what failed on one. On rank 0 with a verdict of DS_OK `all`
 * has every rank's packs, each once, in order; else it has none. Its memory stays for the next vote, so that saves
 * that are like the last one take none; free(all->packs). */
struct ds_votes {
    struct ds_manifest_pack *packs;
    uint32_t count;
    size_t room; /* packs, with this rank's own behind them */
};
DS_CHECKED ds_status ds_checkpoint_vote(struct ds_comm *control, ds_status prepared,
                                        const struct ds_manifest_pack *packs, uint32_t count,
                                        ds_status *verdict, struct ds_votes *all);

/* ---- loading: the newest that verifies */

struct ds_recovery;

/* collective: lists what may be loaded, in the mirror of `dir`, too. `dir`, on rank 0 alone: only what is listed behind its
 * claim is the newest for certain. Steps above `step_max` are
 * passed over: a rollback goes behind them. Every rank gives its own `fs` and the same `root`. */
DS_CHECKED ds_status ds_recovery_open(struct ds_comm *control, struct ds_fs *fs, const char *root,
                                      const struct ds_checkpoint_dir *dir, uint64_t step_max,
                                      struct ds_recovery **out);
/* collective: the next one whose manifest reads and whose packs are all there, with the footers and tables that they
 * were committed with; ranks look at packs in shares. `*found` 0: there has never been one, begin at the beginning.
 * DS_ERR_NO_CHECKPOINT: there were some, none verifies. DS_ERR_DATA: one that this program does not understand. Nothing
 * on the disk is changed. If loading fails, call it again. */
DS_CHECKED ds_status ds_recovery_next(struct ds_recovery *recovery, struct ds_manifest *out,
                                      int *found);
/* local: the directory that the last one lies in: `root`, or its mirror; borrowed */
const char *ds_recovery_root(const struct ds_recovery *recovery);
void ds_recovery_close(struct ds_recovery *recovery); /* local; NULL is allowed */

/* collective: a line where the newest checkpoint in the mirror of `dir`, rank 0's, is not there as it was committed, as far
 * as sizes, headers, tables and footers tell; ranks look at packs in shares. */
DS_CHECKED ds_status ds_checkpoint_look_at_mirror(struct ds_comm *control, struct ds_fs *fs,
                                                  const struct ds_checkpoint_dir *dir);

/* ---- one checkpoint, by one reader: for tools, and for what loads without haste */

/* pure: was this pack written for this checkpoint, or is it one that its packs refer to? */
int ds_checkpoint_owns(const struct ds_manifest *manifest, const struct ds_pack_id *id);
/* local: opens pack number `index` of the manifest, checked against it and, where it owns the pack, its catalogue */
DS_CHECKED ds_status ds_checkpoint_open_pack(struct ds_fs *fs, const char *root,
                                             const struct ds_manifest *manifest, uint32_t index,
                                             struct ds_pack **out);
/* local: the stored bytes of a chunk of one of its own packs, wherever they lie, checked; where they are damaged, from
 * their second place if there is one. `to` has DS_PACK_CHUNK_BYTES. `missed`, one for each pack of the manifest, counts
 * chunks that were to lie there and came from their second place, of which nothing is said; or NULL. DS_ERR_CORRUPT, for a
 * failed call DS_ERR_IO: no place has them. */
DS_CHECKED ds_status ds_checkpoint_read_chunk(struct ds_fs *fs, const char *root,
                                              const struct ds_manifest *manifest,
                                              const struct ds_pack *pack, uint32_t chunk, void *to,
                                              int32_t *missed);
/* local: a line for each pack of which `missed` counts some */
void ds_checkpoint_tell_missed(const char *root, const struct ds_manifest *manifest,
                               const int32_t *missed);
/* Where loaded elements go: `count` of piece `want` from its element `start` on; `from` is the caller's during the
 * call alone. */
struct ds_checkpoint_sink {
    ds_status (*put)(void *user, size_t want, uint64_t start, uint64_t count, const void *from,
                     enum ds_dtype dtype);
    void *user;
};
/* local: the pieces, whatever layout wrote them (`wants[].tensor`: of the manifest's catalogue), each element once, in
 * the order of packs and chunks. A chunk is read only if something of it is wanted, then once, and checked. DS_ERR_CORRUPT:
 * a chunk is damaged everywhere, or something that is wanted is nowhere. `buffer` has DS_PACK_CHUNK_BYTES. What came from
 * second places is told. */
DS_CHECKED ds_status ds_checkpoint_load(struct ds_fs *fs, const char *root,
                                        const struct ds_manifest *manifest,
                                        const struct ds_piece *wants, size_t count, void *buffer,
                                        const struct ds_checkpoint_sink *sink);
/* collective over a control group: the same on all ranks at once, each with what it wants. A chunk that several want
 * something of is read and checked by one of them, whose turn it is, and goes from rank to rank; so each is read once
 * in the group. Every rank reads every table, 96 bytes a chunk, and takes memory for eight chunks, for a bit of every
 * chunk and rank and for some 200 bytes of each chunk that it wants something of. The status is this rank's, unless
 * looking at tables has failed on one: agree. It may be DS_OK on a rank that wants nothing of what is damaged. `missed`:
 * as above, by what this rank has read. */
DS_CHECKED ds_status ds_checkpoint_load_together(struct ds_comm *control, struct ds_fs *fs,
                                                 const char *root,
                                                 const struct ds_manifest *manifest,
                                                 const struct ds_piece *wants, size_t count,
                                                 const struct ds_checkpoint_sink *sink,
                                                 int32_t *missed);
/* local: every byte of its packs, every place that they refer to, and that they make up every tensor once.
 * DS_ERR_CORRUPT. `buffer` has DS_PACK_CHUNK_BYTES. */
DS_CHECKED ds_status ds_checkpoint_verify(struct ds_fs *fs, const char *root,
                                          const struct ds_manifest *manifest, void *buffer);

#endif
