/* config.h - everything a person can set: one struct, filled from config.ini and `section.key=value`
 * by the one table in launch/config/config_table.c. Const once it is loaded. A knob exists if it has a row. */
#ifndef DSTRAIN_CONFIG_H
#define DSTRAIN_CONFIG_H

#include "dstrain/comm.h"
#include "dstrain/data.h"
#include "dstrain/device.h"
#include "dstrain/model.h"
#include "dstrain/optim.h"
#include "dstrain/rows.h"

#include <stdint.h>

#define DS_TEXT_MAX 4096
#define DS_CHAT_MAX 1024
#define DS_AUTO     0 /* of a count written as "auto" */

enum ds_export_when { DS_EXPORT_NONE, DS_EXPORT_LAST };
enum ds_tuning_how { DS_TUNING_QUICK, DS_TUNING_LOAD };
enum ds_recompute { DS_RECOMPUTE_NONE, DS_RECOMPUTE_SELECTIVE, DS_RECOMPUTE_FULL };
enum ds_resume { DS_RESUME_AUTO, DS_RESUME_NONE };
enum ds_rollback { DS_ROLLBACK_AUTO, DS_ROLLBACK_OFF };
enum ds_decay_on { DS_DECAY_MATRICES, DS_DECAY_ALL };
/* The dtypes a person may ask for; a key allows some of them. */
enum ds_precision { DS_PRECISION_FP32, DS_PRECISION_BF16, DS_PRECISION_FP16 };
enum ds_master_choice { DS_MASTER_KEY_FP32, DS_MASTER_KEY_REMAINDER16, DS_MASTER_KEY_NONE };
enum ds_pipeline_kind {
    DS_PIPELINE_GPIPE,
    DS_PIPELINE_1F1B,
    DS_PIPELINE_INTERLEAVED,
    DS_PIPELINE_ZERO_BUBBLE
};
enum ds_gather { DS_GATHER_KERNEL, DS_GATHER_SYMMETRIC, DS_GATHER_COPY_ENGINE };
enum ds_updates_when { DS_UPDATES_KEY_END, DS_UPDATES_KEY_LATE };
enum ds_base { DS_BASE_COMPUTE, DS_BASE_NF4, DS_BASE_INT8 };
enum ds_reshard_when { DS_RESHARD_KEY_AUTO, DS_RESHARD_KEY_ALWAYS, DS_RESHARD_KEY_NEVER };

/* offload.storage: levels of storage.h */
enum ds_offload_storage {
    DS_OFFLOAD_STORAGE_AUTO,
    DS_OFFLOAD_STORAGE_FIXED,
    DS_OFFLOAD_STORAGE_PLAIN,
    DS_OFFLOAD_STORAGE_THREADS
};

enum ds_references { DS_REFERENCES_AUTO, DS_REFERENCES_ON, DS_REFERENCES_OFF };

/* Where a kind of state lives, and which share of it: the rest stays on the device. */
#define DS_HOME_AUTO (-1) /* the plan decides; until then on the device */
struct ds_home_key {
    int64_t home; /* enum ds_home, or DS_HOME_AUTO */
    double share; /* of DS_HOME_DEVICE and DS_HOME_AUTO 0, else more */
};
/* Who updates: a key of the same form, of DS_OPTIMIZER_CPU with the share of all elements that it updates at most. */
enum ds_optimizer_compute { DS_OPTIMIZER_GPU, DS_OPTIMIZER_CPU, DS_OPTIMIZER_AUTO = DS_HOME_AUTO };
static inline int ds_home_is_away(const struct ds_home_key *key)
{
    return key->home == DS_HOME_HOST || key->home == DS_HOME_NVME;
}

/* Where each key was written: a line, DS_PLACE_OVERRIDE, or 0: nowhere, the preset holds; and whether it was
 * left to others: what they have decided, they decide again when they change. For messages and remedies; two
 * configurations may be equal and differ in it. */
#define DS_PLACE_OVERRIDE UINT32_MAX
#define DS_FIELDS_MAX     160
struct ds_places {
    char name[DS_TEXT_MAX]; /* of the file; "": there is none */
    uint32_t line[DS_FIELDS_MAX];
    uint8_t was_auto[DS_FIELDS_MAX];
};

struct ds_config {
    struct {
        char dir[DS_TEXT_MAX]; /* "" only where a subcommand needs none */
        char device[16];       /* auto, cpu, cuda */
        int cpu_streams;       /* enum ds_device_mode */
        uint64_t threads;      /* of a cpu rank; DS_AUTO: cores / local ranks */
        uint64_t seed;
        int deterministic; /* 0, 1, -1 auto */
        int graphs;        /* steps as captured graphs */
        int tuning;        /* enum ds_tuning_how */
        int share_device;  /* several ranks on one GPU, for tests */
        int export;        /* enum ds_export_when */
        double deadline;   /* seconds any wait for another rank may take */
    } run;
    struct {
        char path[DS_TEXT_MAX]; /* HF folder; "" : from the keys below, random weights */
        int family;             /* enum ds_family */
        uint64_t vocab_size;    /* DS_AUTO: the tokenizer's */
        uint64_t hidden_size, intermediate_size, num_hidden_layers;
        uint64_t num_attention_heads, num_key_value_heads, head_dim; /* DS_AUTO: as HF */
        uint64_t max_position_embeddings;                            /* DS_AUTO: train.seq_length */
        double rms_norm_eps, initializer_range, rope_theta;
        int tie_word_embeddings;
    } model;
    struct {
        char train[DS_TEXT_MAX], eval[DS_TEXT_MAX];
        int format;                  /* enum ds_data_format: text, jsonl or safetensors */
        char tokenizer[DS_TEXT_MAX]; /* "": that of model.path, without one bytes */
        int invalid_utf8;            /* 1: replaced; 0: an error */
        char cache[DS_TEXT_MAX];     /* of prepared token shards; "": run.dir/data */
        int shuffle;
        /* of jsonl */
        int rows;          /* enum ds_row_kind */
        int chat_template; /* enum ds_chat_kind */
        char chat_start[DS_CHAT_MAX], chat_system[DS_CHAT_MAX], chat_user[DS_CHAT_MAX];
        char chat_assistant[DS_CHAT_MAX], chat_tool[DS_CHAT_MAX], chat_end[DS_CHAT_MAX];
        int train_on;  /* enum ds_train_on */
        int packing;   /* several rows a sequence */
        int overlong;  /* enum ds_overlong */
        int malformed; /* 1: left out and counted; 0: an error */
        uint64_t line_limit;
        double eval_share; /* of data.train, set aside to evaluate on */
    } data;
    struct {
        uint64_t steps, global_batch_size, micro_batch_size, seq_length;
        double grad_clip;
        int activation_checkpointing; /* enum ds_recompute */
        uint64_t eval_interval;       /* steps; 0: only at the end, where there is data.eval */
        uint64_t eval_samples;        /* at most; 0: all */
    } train;
    struct {
        uint64_t r; /* 0: all is trained, there is no adapter */
        double alpha, dropout;
        char target_modules[DS_TEXT_MAX]; /* these three: struct ds_lora_wish */
        char exclude_modules[DS_TEXT_MAX], layers_to_transform[DS_TEXT_MAX];
        char rank_pattern[DS_TEXT_MAX], alpha_pattern[DS_TEXT_MAX];
        int rslora, dora;
        int bias; /* enum ds_lora_bias */
        char modules_to_save[DS_TEXT_MAX];
        char adapter[DS_TEXT_MAX]; /* PEFT folder; "": none */
        int base;                  /* enum ds_base */
    } lora;
    struct {
        double learning_rate, beta1, beta2, eps, weight_decay;
        int weight_decay_on; /* enum ds_decay_on */
    } optimizer;
    struct {
        int kind; /* enum ds_lr_kind */
        uint64_t warmup_steps, decay_steps;
        double min_learning_rate;
    } schedule;
    struct {
        int compute;             /* enum ds_precision */
        int master;              /* enum ds_master_choice */
        int exp_avg, exp_avg_sq; /* enum ds_precision: fp32 or bf16 */
        int gradients, reduce;   /* the same */
    } precision;
    struct {
        uint64_t data, shard;      /* DS_AUTO; data = shard * replicas */
        uint64_t tensor, pipeline; /* ranks = data * pipeline * tensor */
        uint64_t chunks;           /* of layers a stage holds */
        int schedule;              /* enum ds_pipeline_kind */
        int sequence_parallel;
        int transport; /* enum ds_transport */
        int gather;    /* enum ds_gather */
        int nvlink_multicast;
    } parallel;
    struct {
        uint64_t stage;
        int reshard_after_forward; /* enum ds_reshard_when */
        uint64_t window;           /* micro-batches a gathered layer serves at once; DS_AUTO */
        int reshard_is_auto; /* no key: the plan has decided, and decides again for other sizes */
    } zero;
    struct {
        uint64_t device_limit, host_limit; /* bytes a rank may take; DS_AUTO: no limit */
        uint64_t logits;                   /* bytes of a chunk; DS_AUTO: what suits the device */
    } memory;
    struct {
        struct ds_home_key params, master, exp_avg, exp_avg_sq, grads;
        struct ds_home_key activations;       /* of layers, between forward and backward */
        int updates;                          /* enum ds_updates_when */
        struct ds_home_key optimizer_compute; /* enum ds_optimizer_compute for a home */
        uint64_t depth;                       /* strips on their way or being updated */
        uint64_t block_size;                  /* bytes of a strip in fp32 */
        char directories[DS_TEXT_MAX];        /* of DS_HOME_NVME, by commas */
        int storage;                          /* enum ds_offload_storage */
    } offload;
    struct {
        char dir[DS_TEXT_MAX];     /* "": run.dir/checkpoints */
        char mirror[DS_TEXT_MAX];  /* "": none */
        uint64_t interval;         /* steps; 0: none are written */
        uint64_t keep, keep_every; /* the last so many; steps that this divides, 0: none */
        uint64_t export;           /* steps that this divides become folders; 0: none */
        int resume;                /* enum ds_resume */
        uint64_t buffer;        /* bytes of pinned memory a rank copies states to; DS_AUTO: all */
        int references;         /* enum ds_references */
        int rollback;           /* enum ds_rollback */
        uint64_t rollback_skip; /* batches */
    } checkpoint;
    struct {
        uint64_t interval;
        char trace[64]; /* "first..last" steps; "": none */
    } log;
    struct {
        char inject[64]; /* a fault for tests: launch/config/inject_text.h */
    } debug;
    struct ds_places places; /* beside the keys */
};

#endif
