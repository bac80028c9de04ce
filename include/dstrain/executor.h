/* executor.h - obeys the list; the only place where blocks, units, messages and time meet. */
#ifndef DSTRAIN_EXECUTOR_H
#define DSTRAIN_EXECUTOR_H

#include "dstrain/model.h"
#include "dstrain/optim.h"
#include "dstrain/recorder.h"
#include "dstrain/schedule.h"
#include "dstrain/timeline.h"
#include "dstrain/zero.h"

struct ds_executor_options {
    const struct ds_model *model;
    struct ds_zero *zero;
    struct ds_optim *optim;         /* NULL: evaluation only */
    const struct ds_batch *batches; /* [micro capacity], device tensors, filled before run */
    struct ds_step_record *record;  /* device */
    const float *rotary;            /* device; see ds_pass */
    struct ds_device *device;
    struct ds_stream *compute, *comm;
    struct ds_stream *updates; /* late ones, beside the forward pass; NULL: on compute */
    struct ds_stream *kept_out,
        *kept_in;            /* what layers keep, to the host and back; NULL: all of it is near */
    uint32_t kept_drives;    /* over so many files it is spread; 0: it is in pinned memory */
    size_t kept_block_bytes; /* so much of it at a time; a multiple of 4096 */
    struct ds_comm *tensor;  /* shares every matrix, on a stream of its own; size 1: nobody */
    struct ds_comm
        *pipeline; /* ranks in the order of stages, on the comm stream; size 1: one stage */
    struct ds_memory *memory;
    struct ds_recorder *recorder; /* may be NULL */
    struct ds_timeline *timeline; /* may be NULL */
    uint64_t tokens_per_micro, seq_length;
    const struct ds_schedule *plan; /* the list with the most slots of saved activations */
    int is_training;
    int registers; /* what tensor ranks exchange lies where their group may register it */
};

struct ds_executor;

/* local: take activations and workspace */
DS_CHECKED ds_status ds_executor_open(const struct ds_executor_options *options,
                                      struct ds_executor **out);
/* collective, once: with `registers`, what tensor ranks exchange is registered with their group */
DS_CHECKED ds_status ds_executor_register(struct ds_executor *executor);
/* local: the memory goes back with the ledger; NULL is allowed */
void ds_executor_close(struct ds_executor *executor);
/* collective: queue everything of a list; returns when it is queued, which on cpu inline means done but for the
 * last collectives. Leaves no span. */
DS_CHECKED ds_status ds_executor_run(struct ds_executor *executor, const struct ds_schedule *list);

/* One training step. Where its list has late updates, those of the step before are made, if that has left any. */
struct ds_executor_step {
    const struct ds_schedule *list;
    uint32_t turn;                /* 0 or 1: its spans are those of this turn of the timeline */
    enum ds_timeline_marks marks; /* what leaves a span */
};
/* collective: the same, with spans */
DS_CHECKED ds_status ds_executor_step(struct ds_executor *executor,
                                      const struct ds_executor_step *step);
/* collective: the same, as a graph: captured where there is none of this turn with these marks, then launched
 * again; a device with captures only, and the same list at every call. Its stamps are captured with it. Everything
 * that is decided at a first call (algorithms, memory) must be decided: a run or two come before. */
DS_CHECKED ds_status ds_executor_step_graph(struct ds_executor *executor,
                                            const struct ds_executor_step *step);
/* local: has a step left updates to the next one? A step that finds none cannot be launched as a graph. */
int ds_executor_has_pending(const struct ds_executor *executor);
/* collective: queue them: behind this the weights are those of the last step */
DS_CHECKED ds_status ds_executor_finish(struct ds_executor *executor);
/* ---- what layers keep, in files. local: everything here; where nothing is there, there is nothing to do */

/* of one of the files all that is to be there */
uint64_t ds_executor_file_bytes(const struct ds_executor *executor, uint32_t drive);
/* what passes between files and memory with an EVICT_KEPT or a FETCH_KEPT */
uint64_t ds_executor_filed_of(const struct ds_executor *executor, const struct ds_action *action);
/* once, before anything is run */
DS_CHECKED ds_status ds_executor_start_files(struct ds_executor *executor,
                                             const struct ds_swap_files *files);
/* before streams are closed: they no longer wait for files; NULL is allowed */
void ds_executor_abandon_files(struct ds_executor *executor);

/* local: a pass over a block outside of lists, of no micro-batch: its stream, tensor ranks and workspace */
void ds_executor_outside(struct ds_executor *executor, struct ds_pass *out);
/* collective: a list without gradients up to the head, which gives the logits of token `row` of the first
 * micro-batch instead of a loss: F32 [vocab] in device memory, valid until the next run */
DS_CHECKED ds_status ds_executor_predict(struct ds_executor *executor,
                                         const struct ds_schedule *list, uint64_t row,
                                         void **logits);

#endif
