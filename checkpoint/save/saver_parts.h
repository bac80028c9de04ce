/* saver_parts.h (private) - what a saver is made of: saver_open.c makes and ends it, saver.c takes it through saves. */
#ifndef CHECKPOINT_SAVER_PARTS_H
#define CHECKPOINT_SAVER_PARTS_H

#include "mirror.h"
#include "writer.h"

/* TIDYING: a save has failed, and what is left of it goes. */
enum phase { IDLE, WRITING, COMMITTING, TIDYING };

struct ds_saver {
    /* owns */
    struct ds_saver_options options;
    struct ds_saver_start start;
    struct snapshot snapshot;
    struct writer *writer;
    struct mirror *mirror; /* NULL: nothing is copied */
    struct ds_catalogue
        catalogue;            /* a copy: a thread that is left behind may look at it at any time */
    char *root, *mirror_root; /* so are these */
    struct ds_votes votes;
    struct ds_manifest manifest; /* of the save that goes on; catalogue and packs are borrowed */
    /* plain values */
    enum phase phase;
    uint64_t step;     /* that is being saved */
    uint64_t begun_ns; /* it, and what those took that came to be, on the average */
    uint64_t mean_ns;
    int is_last;       /* training waits for what becomes of it: no later save makes up for it */
    int is_still;      /* states in files are shared with packs, not copied */
    int has_progress;  /* rank 0: the manifest says where training stood */
    int must_give_up;  /* training has waited for this rank's disk for too long */
    int is_given_up;   /* on all ranks: nobody waits for the phase to end, nothing begins before */
    uint32_t failures; /* in a row */
    ds_status failure; /* the last one's */
    uint32_t left_out; /* saves that are still not tried because of them */
    uint32_t untold;   /* saves that were left out since the last one that came to be */
    const char *told_why; /* the last reason that was told; NULL: none yet */
    int has_left_mirror;  /* a thread of its is left behind, on this rank or another */
    const char *stuck_at; /* the directory whose thread has not ended when it should; NULL: none */
};

/* how long a save may take before it is given up */
uint64_t saver_limit_ns(const struct ds_saver *saver);

#endif
