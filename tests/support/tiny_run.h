/* tiny_run.h - a small real training run for tests: a model of a few thousand parameters on random tokens
 * in a temporary folder, on ranks that are threads or those of mpirun, with everything it gave
 * collected. */
#ifndef DSTRAIN_TEST_TINY_RUN_H
#define DSTRAIN_TEST_TINY_RUN_H

#include "dstrain/config.h"
#include "dstrain/trainer.h"

enum { TINY_STEPS_MAX = 512, TINY_RANKS_MAX = 16, TINY_SEQ = 24, TINY_VOCAB = 61 };

struct tiny_case {
    uint32_t ranks, shard; /* shard 0: all */
    int stage, mode;       /* enum ds_device_mode */
    uint64_t steps, global_batch, micro_batch, seed;
    int is_tied, recompute; /* enum ds_recompute */
    /* 0: 1 of each; ranks = data * pipeline * tensor */
    uint32_t tensor, pipeline, chunks;
    int schedule, sequence_parallel; /* enum ds_pipeline_kind */
    int reshard;                     /* enum ds_reshard_when */
    uint64_t window;                 /* 0: 1 */
    /* 0: the usual small model */
    uint32_t layers, heads, kv_heads, head_dim;
    int family;
    const char *inject;
    int evaluates;                      /* alone, as `dstrain eval` does, with new weights */
    const char *data;                   /* safetensors file */
    const struct ds_device_ops *device; /* NULL: the cpu device that is built in */
    struct ds_fs *fs;                   /* NULL: the disk */
    const struct ds_clock *clock;       /* NULL: the system's */
    int transport;                      /* enum ds_transport */
    const struct ds_config
        *config; /* or NULL: all of it, but for `ranks`, `mode` and `device` above */
    uint64_t marked_first, marked_last; /* struct ds_trainer_options */
    /* or NULL: the last word about the configuration; every finished step of every rank */
    void (*adjust)(struct ds_config *config);
    void (*step)(const struct ds_step_report *report);
    int (*leave)(uint32_t rank); /* or NULL: struct ds_trainer_options */
};

struct tiny_param {
    char name[96];
    uint64_t start, elems; /* in params */
};

struct tiny_result {
    struct tiny_case of;             /* what was run */
    ds_status status;                /* the worst of all ranks */
    ds_status saved[TINY_RANKS_MAX]; /* of each rank: ds_trainer_saved */
    uint64_t steps, skipped;
    double loss[TINY_STEPS_MAX], norm[TINY_STEPS_MAX], eval_loss;
    float *params; /* all of them, in model order; freed by tiny_result_fini */
    uint64_t param_elems;
    struct tiny_param *table; /* [param_count] */
    uint32_t param_count;
    /* what each rank has taken; under mpirun what this one has */
    uint64_t bytes[TINY_RANKS_MAX][DS_MEMORY_KIND_COUNT][DS_MEMORY_LABEL_COUNT];
    uint64_t filed[TINY_RANKS_MAX]
                  [DS_ZERO_KIND_COUNT + 1]; /* of them, in files; last, what layers keep */
    uint64_t file_reads, file_writes;       /* of them, bytes of a step that pass; rank 0's */
    uint64_t largest_unit_elems;
    struct ds_step_report last;
};

void tiny_config(const struct tiny_case *c, struct ds_config *config);
/* the same data every time for a seed; path is malloc'ed */
char *tiny_data(const char *folder, uint64_t seed, uint64_t samples);
char *tiny_folder(void);        /* under the system's temporary folder; malloc'ed */
void tiny_remove(char *folder); /* frees it, too */
void tiny_run(const struct tiny_case *c, struct tiny_result *out);
/* collective: as one rank of `world`, which has c->ranks; results are rank 0's, the status this rank's */
void tiny_run_on(struct ds_comm *world, const struct tiny_case *c, struct tiny_result *out);
void tiny_result_fini(struct tiny_result *result);

#endif
