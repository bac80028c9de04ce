/* trainer.h - a run, assembled from the parts below and driven step by step. Several can live in one
 * process (ranks as threads, in tests). What becomes of a step's numbers is the caller's business. */
#ifndef DSTRAIN_TRAINER_H
#define DSTRAIN_TRAINER_H

#include "dstrain/comm.h"
#include "dstrain/config.h"
#include "dstrain/fs.h"
#include "dstrain/memory.h"
#include "dstrain/mesh.h"
#include "dstrain/model.h"
#include "dstrain/recorder.h"
#include "dstrain/schedule.h"
#include "dstrain/timeline.h"

/* PLAN: training, or an evaluation, assembled up to the weights and data, which are left out. */
enum ds_trainer_mode {
    DS_TRAINER_TRAIN,
    DS_TRAINER_EVALUATE,
    DS_TRAINER_GENERATE,
    DS_TRAINER_PLAN,
    DS_TRAINER_PLAN_EVALUATE
};

/* One finished step, on every rank. */
struct ds_step_report {
    uint64_t step, trained_tokens, tokens; /* tokens: positions read so far, all ranks */
    double loss;                           /* mean over trained tokens of the global batch */
    double grad_norm, learning_rate;
    double step_s, tokens_per_s;
    double arithmetic_s; /* of blocks on this rank, in a step whose actions are marked; else 0 */
    double wait_data_s, wait_comm_s, bubble_s; /* in every step; the last two of one rank: 0 */
    double
        wait_offload_s; /* for states that come from their homes, for activations that come or go */
    double wait_checkpoint_s; /* of the host, and of updates for copies of what they change */
    uint64_t skipped;         /* steps skipped so far */
    int is_skipped, has_eval, has_loss_scale;
    double loss_scale; /* of this step; where compute is fp16 */
    double eval_loss;
    uint64_t device_peak_bytes, host_peak_bytes;
    /* valid during the call: what happened when, all of it where actions are marked, else waits for other ranks
     * alone; and the list whose actions the spans name */
    const struct ds_timeline_span *spans;
    const struct ds_action *actions;
    uint32_t span_count;
};

/* Three parts of a step: up to the first loss or way back; up to the verdict; behind it. In a part states travel beside
 * arithmetic, and both directions of a link at once. */
enum ds_step_part { DS_STEP_FORWARD, DS_STEP_REST, DS_STEP_UPDATES };
#define DS_STEP_PARTS 3
struct ds_step_work {
    double flops;                   /* of products and attention */
    uint64_t to_device, to_host;    /* bytes of states, gradients and parameters that are away */
    uint64_t file_read, file_write; /* of those, what is in files */
    uint64_t updated, host_updated; /* bytes that updates name, on the device and on the host */
};

struct ds_trainer_options {
    const struct ds_config *config; /* validated and resolved for world->size ranks */
    /* rank 0: the same with the names by which its checkpoints know what the run reads, which may lie elsewhere now; or
     * NULL */
    const struct ds_config *named;
    enum ds_trainer_mode mode;
    int uses_checkpoints; /* training goes on from those of config->checkpoint.dir, and adds to them */
    struct ds_comm *world; /* control */
    struct ds_fs *fs;
    const struct ds_clock *clock;
    const struct ds_device_ops *device; /* NULL: what config->run.device names */
    uint32_t local_rank;                /* among those of this host: it takes its devices in turn */
    int thread_count; /* of a cpu rank; 0: config->run.threads, which is not auto then */
    struct ds_recorder *recorder;                                            /* or NULL */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* of preparing data */
    /* called after every finished step, in order */
    ds_status (*on_step)(void *user, const struct ds_step_report *report);
    /* local: has somebody asked this rank to leave, since it was last asked? Looked at in every step; or NULL */
    int (*leave)(void *user);
    void *user;
    /* no rank begins the step after this one before on_step has returned on it, so that on_step may talk to
     * the other ranks there; 0: none */
    uint64_t settle_step;
    /* of the steps between these two and of both every action is marked (timeline.h); 0, 0: of none */
    uint64_t marked_first, marked_last;
};

struct ds_trainer;

/* pure: the mesh of a resolved configuration, but for tp_copies, which the model decides */
struct ds_mesh_shape ds_trainer_mesh_shape(const struct ds_config *config);
/* local: the numbers of the model that a configuration names: a folder's, or its keys' */
DS_CHECKED ds_status ds_trainer_model_config(const struct ds_config *config, struct ds_fs *fs,
                                             struct ds_model_config *out);

/* collective: everything up to the first step. One line per failure, from one rank where all would say
 * the same. */
DS_CHECKED ds_status ds_trainer_open(const struct ds_trainer_options *options,
                                     struct ds_trainer **out);
/* collective: ranks of a trainer close it together, as its groups do; NULL is allowed, and local */
void ds_trainer_close(struct ds_trainer *trainer);
/* local: the first that ds_trainer_run will make: 1, or the one behind the checkpoint that was found */
uint64_t ds_trainer_first_step(const struct ds_trainer *trainer);
/* collective: run to config->train.steps; reports every step. DS_LEAVE, on all ranks: one was asked to leave, and
 * the checkpoint of the last step that was made is committed. Steps may come again, after a rollback; DS_ERR_DIVERGED,
 * on all ranks: there was one too many. DS_OK: all steps were made. */
DS_CHECKED ds_status ds_trainer_run(struct ds_trainer *trainer);
/* pure, behind that, and the same on all ranks. The last step was to have a checkpoint, but there is none: DS_ERR_IO,
 * storage has not taken it; DS_ERR_DIVERGED, states are not finite. Of that nothing was logged as the run's end. */
DS_CHECKED ds_status ds_trainer_saved(const struct ds_trainer *trainer);
/* collective: mean loss over the evaluation data, its tokens; the same on every rank */
DS_CHECKED ds_status ds_trainer_evaluate(struct ds_trainer *trainer, double *loss,
                                         uint64_t *tokens);
/* collective: write the model to an HF folder */
DS_CHECKED ds_status ds_trainer_export(struct ds_trainer *trainer, const char *folder);

/* ---- looking in. local: all thirteen */
/* of a checkpoint, on this rank: pinned memory for all of it at once, and how often training stops for that until the disk has
 * what was copied before; 0, 0: it writes none */
void ds_trainer_saves(const struct ds_trainer *trainer, uint64_t *bytes, uint64_t *stops);
const struct ds_model *ds_trainer_model(const struct ds_trainer *trainer);
const struct ds_memory *ds_trainer_memory(const struct ds_trainer *trainer);
/* bytes of a kind of state (zero.h) that live in files of this rank */
uint64_t ds_trainer_filed_bytes(const struct ds_trainer *trainer, enum ds_zero_kind kind);
uint64_t
ds_trainer_filed_kept_bytes(const struct ds_trainer *trainer); /* and of what layers keep */
/* what a step of this rank computes and moves, counted along its list; of training */
DS_CHECKED ds_status ds_trainer_step_work(const struct ds_trainer *trainer,
                                          struct ds_step_work work[DS_STEP_PARTS]);
struct ds_device *ds_trainer_device(const struct ds_trainer *trainer);
/* what this rank's process takes of a device beside that memory; NULL: nothing */
uint64_t ds_trainer_overhead(const struct ds_trainer *trainer,
                             const struct ds_device_overhead *overhead);
uint64_t ds_trainer_sample_count(const struct ds_trainer *trainer); /* of one epoch */
uint64_t ds_trainer_micro_count(const struct ds_trainer *trainer);
uint32_t ds_trainer_stage(const struct ds_trainer *trainer, uint32_t *stage_count);
/* of the training lists: accounts.h, were all pieces equal */
DS_CHECKED ds_status ds_trainer_ideal_bubble(const struct ds_trainer *trainer, double *bubble);
/* of all stages; see ds_schedule_play */
DS_CHECKED ds_status ds_trainer_play(const struct ds_trainer *trainer, const uint64_t *costs,
                                     struct ds_schedule_played *stages);
/* collective: a whole parameter in fp32, to rank 0; the others may give NULL */
DS_CHECKED ds_status ds_trainer_read_param(struct ds_trainer *trainer, const char *name, float *to);
/* local, one process, GENERATE: logits [vocab] of the token after `count` tokens (count <= seq_length) */
DS_CHECKED ds_status ds_trainer_predict(struct ds_trainer *trainer, const int32_t *tokens,
                                        uint64_t count, float *logits);

#endif
