/* rollback.h (private) - back to an older checkpoint, where training goes wrong, and on without the data that it went
 * wrong with. Rank 0 watches and decides; all go back together. */
#ifndef DSTRAIN_ROLLBACK_H
#define DSTRAIN_ROLLBACK_H

#include "spikes.h"

#include "dstrain/data.h"
#include "dstrain/manifest.h"

#define ROLLBACK_ATTEMPTS   2 /* for one place */
#define ROLLBACKS_AT_ONCE   5 /* in ROLLBACK_STEPS steps */
#define ROLLBACK_STEPS      1000
#define ROLLBACK_TEXT_BYTES (ROLLBACKS_AT_ONCE * 32)

struct rollback_past {
    uint64_t step; /* where it went wrong */
    uint64_t attempt;
};

struct rollback {
    struct ds_skips skips; /* the same on all ranks */
    /* rank 0 */
    struct spikes spikes;
    struct spike found;                           /* what all are to go back for */
    struct rollback_past past[ROLLBACKS_AT_ONCE]; /* the newest last */
    uint32_t past_count;
};

struct ds_trainer;
struct ds_step_record;
struct ds_config;

/* pure: as many steps older than the newest checkpoint is one that no rollback finds too new; 0: there are none */
uint64_t rollback_margin(const struct ds_config *config);

/* pure: the attempt that this is, 1 or more; 0: one too many */
uint64_t rollback_attempt(const struct rollback *rollback, uint64_t step, uint64_t reach);
/* local: the numbers of a step have come */
void rollback_watch(struct ds_trainer *t, const struct ds_step_record *record);
/* local: what a manifest says of all this, and back. DS_ERR_DATA */
DS_CHECKED ds_status rollback_write(const struct rollback *rollback, struct ds_values *values);
DS_CHECKED ds_status rollback_read(const struct ds_values *values, struct rollback *out);
/* local: what was tried, for the base of an epoch, and back: manifests of the launches that tried may never have come to
 * be. 0: it is no such text */
void rollback_print_past(const struct rollback *rollback, char to[ROLLBACK_TEXT_BYTES]);
int rollback_recall_past(struct rollback *rollback, const char *past);
/* collective, between two steps: DS_ERR_DIVERGED, on all ranks: it has not helped, or cannot */
DS_CHECKED ds_status trainer_roll_back(struct ds_trainer *t);

#endif
