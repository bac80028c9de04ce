/* commit_alone.h - one process that has written the packs of all ranks votes for them alone and commits: the vote and
 * the second phase of a trainer, on one thread. */
#ifndef DSTRAIN_TEST_COMMIT_ALONE_H
#define DSTRAIN_TEST_COMMIT_ALONE_H

#include "test.h"

#include "dstrain/checkpoint.h"

/* `manifest`: everything but packs, which are put there. */
static inline ds_status commit_alone(struct ds_comm *self, struct ds_checkpoint_dir *dir,
                                     struct ds_manifest *manifest,
                                     const struct ds_manifest_pack *packs, uint32_t count)
{
    struct ds_votes all = {0};
    ds_status verdict = DS_OK;

    assert_ok(ds_checkpoint_vote(self, DS_OK, packs, count, &verdict, &all));
    assert_int_equal(verdict, DS_OK);
    manifest->packs = all.packs;
    manifest->pack_count = all.count;
    return ds_checkpoint_commit_manifest(dir, manifest);
}

#endif
