/* spikes.h (private) - does training go wrong? Judged by the losses and the gradient norms of its last steps, with numbers
 * that single bad ones do not move. pure: no time, no files, no ranks. */
#ifndef DSTRAIN_SPIKES_H
#define DSTRAIN_SPIKES_H

#include <stddef.h>
#include <stdint.h>

#define SPIKES_WINDOW     128 /* steps that say what is usual */
#define SPIKES_LEAST      32  /* with fewer, nothing is unusual */
#define SPIKES_ROW        3   /* unusual steps in a row */
#define SPIKES_NOT_FINITE 9   /* steps in a row that had to be skipped */
/* steps at most from where a row begins to where it is sure: others may be skipped in between */
#define SPIKES_LATE (SPIKES_ROW * SPIKES_NOT_FINITE)

struct spikes {                                        /* all zero: nothing has been seen yet */
    float losses[SPIKES_WINDOW], norms[SPIKES_WINDOW]; /* of usual steps, oldest first */
    uint32_t count;
    uint32_t unusual, not_finite; /* in a row */
    uint64_t first;               /* that row's */
};

struct spikes_step {
    uint64_t step;
    double loss, norm;
    double norm_limit; /* what clipping leaves as it is, is not too large; 0: nothing is clipped */
    int is_finite, is_skip_counted; /* one that is not finite may be the search for a loss scale */
};

enum spike_kind { SPIKE_NONE, SPIKE_LOSS, SPIKE_NORM, SPIKE_NOT_FINITE, SPIKE_KIND_COUNT };

struct spike {
    enum spike_kind kind;
    uint64_t first, step; /* where it began; where it was sure */
    double value, usual;  /* there: what was too large, and its median before */
};

/* The next step. SPIKE_NONE: all is well, as far as can be seen. */
struct spike spikes_look(struct spikes *spikes, const struct spikes_step *step);

/* The window as text, 8 digits of hex a number, and back; what row there is begins anew. 0: no such texts */
#define SPIKES_TEXT_BYTES (SPIKES_WINDOW * 8 + 1)
void spikes_print(const struct spikes *spikes, char losses[SPIKES_TEXT_BYTES],
                  char norms[SPIKES_TEXT_BYTES]);
int spikes_parse(const char *losses, const char *norms, struct spikes *out);

#endif
