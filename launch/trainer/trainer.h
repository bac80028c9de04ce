/* trainer.h (private) - the one struct that knows all parts of a run. Its header stays in this folder, so
 * nothing below can take it. */
#ifndef DSTRAIN_TRAINER_PRIVATE_H
#define DSTRAIN_TRAINER_PRIVATE_H

#include "rollback.h"
#include "text_tokenizer.h"

#include "dstrain/data.h"
#include "dstrain/executor.h"
#include "dstrain/export.h"
#include "dstrain/hf.h"
#include "dstrain/mesh.h"
#include "dstrain/restore.h"
#include "dstrain/saver.h"
#include "dstrain/swap_file.h"
#include "dstrain/trainer.h"

/* What crosses between host and device each step; two of each, used in turn, because the host runs one
 * step ahead of what it has read back. */
struct trainer_exchange {
    struct ds_step_record *record; /* pinned: sent in its host part, read back whole */
    struct ds_step_record *result; /* pinned */
    uint64_t *ended_ns;            /* pinned: when the device had come to the end of the step */
    int32_t *batch;                /* pinned: ids, targets, positions, documents */
    struct ds_event *done;         /* the result is there */
    uint64_t step;                 /* whose numbers; 0: none outstanding */
    uint64_t waited_data_ns;
    double asked; /* by all ranks in the last step that was read back here */
};

/* directories.c, resume.c: what a launch is to a directory of checkpoints; the same on all ranks */
struct trainer_launch {
    uint8_t run[16], nonce[16];
    uint64_t epoch;                     /* 0: there is no directory */
    int32_t has_mirror, is_from_mirror; /* a second one; the base was loaded from there */
    struct ds_manifest_id base;
    int32_t has_base, is_used;
    int32_t is_adopted; /* the first directory is new, and the run is what the mirror holds */
};

struct ds_trainer {
    struct ds_trainer_options options;
    const struct ds_config *config;
    /* owns */
    struct ds_device *device;
    struct ds_stream *compute, *comm;
    struct ds_stream *updates;      /* of late ones; NULL: they go on on compute */
    struct ds_stream *load, *store; /* NULL: no state is away */
    struct ds_stream *grads;        /* NULL: no gradient lives on the host */
    struct ds_stream *kept_out,
        *kept_in; /* NULL: what layers keep for their backward stays on the device */
    struct ds_event *event;
    struct ds_memory memory;
    struct ds_mesh *mesh;
    struct ds_model *model;
    struct ds_hf *weights;    /* of model.path, until they are loaded */
    struct ds_hf *factors;    /* of lora.adapter, until they are loaded */
    struct ds_lora adapter;   /* without modules: there is none */
    char base[DS_TEXT_MAX];   /* model.path, from wherever it is read */
    struct ds_hf_base beside; /* with an adapter: all that is frozen */
    struct ds_schedule train_list, eval_list;
    struct ds_zero_unit_spec *unit_specs;
    struct ds_zero_pack *packs; /* [unit_count]; without parts: stored as it is used */
    struct ds_span *param_spans;
    struct ds_optim_range *ranges;
    struct ds_timeline *timeline; /* NULL: nothing is trained */
    struct ds_zero_sum *sums; /* these three: [param_count], a unit's from its first parameter on */
    struct ds_span *foreign;
    struct ds_zero_strips *strips; /* [unit_count] of what this rank updates */
    uint32_t *chunk_first;         /* [pipeline * chunks + 1] blocks; see dstrain/schedule.h */
    uint8_t *has_unit;             /* [unit_count] is it on this stage? */
    uint32_t *stage_of_unit;       /* [unit_count] whose it is; of two stages the first */
    struct ds_zero *zero;
    struct ds_swap_file *files; /* [homes.drive_count]; NULL: nothing is in files */
    struct ds_optim *optim;
    struct ds_executor *executor;
    struct ds_dataset *train_data, *eval_data;
    struct ds_loader *train_loader, *eval_loader;
    struct ds_batch *batches; /* [micro_count], device tensors */
    int32_t *batch_memory;    /* device: what they are cut from */
    struct ds_step_record *record;
    float *rotary;
    struct trainer_exchange exchanges[2];
    struct ds_catalogue catalogue; /* these five: of what checkpoints hold; empty: nobody asks */
    struct ds_state_piece *state_pieces; /* this rank's */
    uint32_t state_piece_count;
    uint32_t *unit_param_counts;              /* [unit_count] */
    uint8_t *saves_unit;                      /* [unit_count]: see struct ds_saver_options */
    struct ds_saver *saver;                   /* NULL: none is written */
    struct ds_exporter *exporter;             /* rank 0's; NULL: none is exported on the way */
    struct ds_checkpoint_dir *checkpoint_dir; /* rank 0's, until the saver has it */
    struct ds_manifest loaded;                /* what it goes on from, until the saver has begun */
    const struct ds_device_ops *device_ops;   /* borrowed */
    /* plain values */
    int device_index;                       /* of this host's */
    uint32_t sharer_count;                  /* ranks on this device */
    uint64_t micro_count, eval_micro_count; /* at once: of a step, of an evaluation */
    uint64_t tokens_per_micro, batch_ints;  /* ints of one of the four arrays */
    struct ds_mesh_shape mesh_shape;
    struct ds_mesh_place place;
    uint32_t share, share_count, shard_rank;
    struct ds_lr_schedule lr;
    struct ds_zero_dtypes dtypes;
    struct ds_zero_homes homes;
    struct trainer_launch launch;
    int has_begun_epoch; /* trainer_begin_epoch: other launches go by it */
    char made_dir[DS_TEXT_MAX], made_mirror[DS_TEXT_MAX]; /* directories.c */
    struct ds_text_tokenizer text;                        /* where the data is text */
    uint64_t first_step; /* of this launch; behind the last one: there is nothing left to do */
    uint64_t next_step;
    int is_settled;              /* the first step is over, and memory is taken */
    int wants_to_leave;          /* this rank was asked */
    struct ds_progress progress; /* behind the last step that was read back */
    struct rollback rollback;
    uint64_t waited_checkpoint_ns; /* the host, since the last report */
    uint64_t last_end_ns, tokens;
    uint64_t started_ns; /* the last part of the start that was told */
    float spoilt;        /* inject.c */
    /* assemble_data.c, rank 0: when the others were last told that it goes on, and how that ended */
    uint64_t told_ns;
    ds_status told;
};

/* where an export takes the files of the tokenizer from, or NULL */
static inline const char *trainer_companions(const struct ds_trainer *t)
{
    const char *model = t->config->model.path;

    return t->text.folder[0] ? t->text.folder : model[0] ? model : NULL;
}

static inline int is_training(const struct ds_trainer *t)
{
    return t->options.mode == DS_TRAINER_TRAIN || t->options.mode == DS_TRAINER_PLAN;
}

static inline int is_plan(const struct ds_trainer *t)
{
    return t->options.mode == DS_TRAINER_PLAN || t->options.mode == DS_TRAINER_PLAN_EVALUATE;
}

/* the list with the most of everything: memory is taken for it */
static inline const struct ds_schedule *trainer_plan(const struct ds_trainer *t)
{
    return is_training(t) ? &t->train_list : &t->eval_list;
}

/* assemble.c */
DS_CHECKED ds_status trainer_assemble(struct ds_trainer *t);
void trainer_tell_start(struct ds_trainer *t, const char *part); /* at DEBUG: it ends here */
void trainer_dismantle(struct ds_trainer *t);
/* collective: assemble_device.c */
DS_CHECKED ds_status trainer_open_device(struct ds_trainer *t);
/* pure: of the host, for this rank */
int trainer_threads(const struct ds_trainer *t);
/* local: its parts. assemble_model.c, assemble_lists.c, assemble_units.c, assemble_batch.c */
DS_CHECKED ds_status trainer_open_model(struct ds_trainer *t);
enum ds_dtype trainer_dtype(int precision); /* pure: of enum ds_precision */
/* assemble_adapter.c. local, all three: the adapter that the keys ask for, the caller's to fini; the folder of one,
 * opened and checked; factors from there, or new ones */
DS_CHECKED ds_status trainer_choose_adapter(const struct ds_config *config, struct ds_fs *fs,
                                            const struct ds_model_config *model,
                                            struct ds_lora *out, int *is_there);
DS_CHECKED ds_status trainer_open_adapter(struct ds_trainer *t);
DS_CHECKED ds_status trainer_fill_factors(struct ds_trainer *t, const struct ds_hf_target *target);
/* assemble_lengths.c. collective: what DoRA begins with, of weights that are there */
DS_CHECKED ds_status trainer_begin_lengths(struct ds_trainer *t);
DS_CHECKED ds_status trainer_make_lists(struct ds_trainer *t);
/* local: assemble_homes.c, before the lists and behind them */
DS_CHECKED ds_status trainer_place_states(struct ds_trainer *t);
DS_CHECKED ds_status trainer_open_travel(struct ds_trainer *t);
/* collective: assemble_files.c, when the memory is taken; files is what dismantling ends with */
DS_CHECKED ds_status trainer_open_files(struct ds_trainer *t);
/* local: where states begin in one of the files */
uint64_t trainer_states_at(const struct ds_trainer *t, uint32_t drive);
void trainer_close_files(struct ds_trainer *t);
/* local: still_files.c, when there are files and the directory of checkpoints: how states in files are saved */
DS_CHECKED ds_status trainer_open_still(const struct ds_trainer *t, struct ds_saver_still *out);
/* pure: parameter `index` for the optimizer; where rounding is random, its elements go by their places in the whole */
struct ds_optim_range trainer_range(const struct ds_model *model, uint32_t index,
                                    float weight_decay);
/* local: assemble_pack.c; what is taken there goes before the model does */
DS_CHECKED ds_status trainer_describe_packs(struct ds_trainer *t);
void trainer_free_packs(struct ds_trainer *t);
DS_CHECKED ds_status trainer_open_zero(struct ds_trainer *t);
DS_CHECKED ds_status trainer_open_optim(struct ds_trainer *t);
DS_CHECKED ds_status trainer_take_batches(struct ds_trainer *t);
/* assemble_data.c */
DS_CHECKED ds_status trainer_open_data(struct ds_trainer *t);
/* trainer.c: tell the watchdog what begins, and how long it may take without a sign of life; 0: for ever */
void trainer_enter(struct ds_trainer *t, const char *section, uint64_t step, uint64_t deadline_ns);
uint64_t trainer_deadline_ns(const struct ds_trainer *t);
/* trainer.c: the host part of a batch to the device; `micro_count` micro-batches */
DS_CHECKED ds_status trainer_send_batch(struct ds_trainer *t, struct trainer_exchange *exchange,
                                        const struct ds_loader_batch *batch, uint64_t micro_count);

/* resume.c. collective: claims the directory, where there is one or should be, and goes on from its newest checkpoint; `*found`
 * 0: there is none, weights are still to be filled */
DS_CHECKED ds_status trainer_resume(struct ds_trainer *t, int *found);
/* collective: from here on later launches go on from what this one goes on from, or from its beginning */
DS_CHECKED ds_status trainer_begin_epoch(struct ds_trainer *t);
/* local: of a launch that was refused before that: its directories are as it has found them */
void trainer_withdraw(struct ds_trainer *t);
/* collective: of the directory that this launch has claimed, the newest one that verifies and is not of a step above
 * `step_max`: the states are its own, and next_step follows */
DS_CHECKED ds_status trainer_load_checkpoint(struct ds_trainer *t, uint64_t step_max, int *found);
/* local: rank 0: what is in the directories */
DS_CHECKED ds_status trainer_list_checkpoints(const struct ds_trainer *t,
                                              struct ds_checkpoint_list *out);
/* local: rank 0's, the others have nothing to do: what this launch's epoch goes on from */
DS_CHECKED ds_status trainer_write_base(struct ds_trainer *t);
/* checkpoints.c: does this launch write checkpoints, or may it go on from one? */
int trainer_uses_checkpoints(const struct ds_trainer *t);
/* checkpoints.c. pure: from wherever it is read */
void trainer_put_absolute(const char *path, char *to, size_t bytes);
/* checkpoints.c. local: a sign of life; `user` is the trainer */
void trainer_beat(void *user);
/* trainer.c: collective: all that is queued has been done and read back */
DS_CHECKED ds_status trainer_settle(struct ds_trainer *t);

/* requests.c. local: what this rank asks of all in the next step */
uint64_t trainer_asks(struct ds_trainer *t);
/* collective, behind `step` and before the next: does what was asked in the step before it. DS_LEAVE: the run ends
 * here, with its checkpoint. */
DS_CHECKED ds_status trainer_heed(struct ds_trainer *t, uint64_t step);

/* checkpoints.c. local: lists of states, and memory where checkpoints are written */
DS_CHECKED ds_status trainer_open_saver(struct ds_trainer *t);
/* collective, when all states are there; a launch's first begins its epoch */
DS_CHECKED ds_status trainer_start_saver(struct ds_trainer *t, int is_launch);
/* collective: a save of `step`, which is the last one that is queued; and where there is to be one; and: the host is
 * through with it */
DS_CHECKED ds_status trainer_begin_save(struct ds_trainer *t, uint64_t step, int is_last);
DS_CHECKED ds_status trainer_save_after(struct ds_trainer *t, uint64_t step);
DS_CHECKED ds_status trainer_poll_saver(struct ds_trainer *t);
/* collective, when there is no later save that would make up for it: that of `step`, which is made or waited for, is there
 * (ds_saver_has), or has failed and was tried once more */
DS_CHECKED ds_status trainer_save_last(struct ds_trainer *t, uint64_t step);
/* collective, behind the last step: its save is there, or has failed for good; and all that is made of it */
DS_CHECKED ds_status trainer_wait_saver(struct ds_trainer *t);
/* local: the record of a step has come */
DS_CHECKED ds_status trainer_note_progress(struct ds_trainer *t,
                                           const struct ds_step_record *record);
/* local: tells the saver again where training stands: the save began later than that */
DS_CHECKED ds_status trainer_tell_progress(struct ds_trainer *t);

/* trainer_eval.c */
uint64_t trainer_eval_samples(const struct ds_trainer *t);
uint64_t trainer_eval_batches(const struct ds_trainer *t);

/* collective: rank 0 goes first and alone says what is wrong; if it is well, the others follow. */
typedef ds_status trainer_step_fn(struct ds_trainer *t);
DS_CHECKED ds_status trainer_leader_first(struct ds_trainer *t, trainer_step_fn *work);
/* collective: rank-local work of all, agreed */
DS_CHECKED ds_status trainer_together(struct ds_trainer *t, trainer_step_fn *work);

#endif
