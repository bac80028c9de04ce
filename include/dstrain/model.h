/* model.h - what a model is: a list of blocks and of parameters with their logic, as this rank computes
 * them: whole, or one tensor rank's part. No sharding, no stages. A block has an explicit forward and backward that may be run again with the same result.
 * It never meets ZeRO, and ZeRO never meets it: both know units by number. */
#ifndef DSTRAIN_MODEL_H
#define DSTRAIN_MODEL_H

#include "dstrain/comm.h"
#include "dstrain/device.h"
#include "dstrain/json.h"
#include "dstrain/kernels.h"
#include "dstrain/tensor.h"

enum ds_family { DS_FAMILY_LLAMA, DS_FAMILY_QWEN2, DS_FAMILY_QWEN3, DS_FAMILY_COUNT };

enum ds_rope_kind { DS_ROPE_PLAIN, DS_ROPE_LINEAR, DS_ROPE_LLAMA3, DS_ROPE_YARN };

/* models.md 1.5; reals as in the file */
struct ds_rope {
    enum ds_rope_kind kind;
    double theta, factor;
    double low_freq_factor, high_freq_factor;        /* llama3 */
    double beta_fast, beta_slow;                     /* yarn */
    double attention_factor, mscale, mscale_all_dim; /* yarn; 0: not given */
    uint64_t original_max_position_embeddings;       /* llama3, yarn; 0: max_position_embeddings */
    int truncate;                                    /* yarn; floor and ceil of the ramp's ends */
};

/* The limits of sizes, of a folder's and of a configuration's alike: every product of a model stays within
 * 64 bits and every side of a matrix within 31, since token ids and BLAS count in 32 bits. */
#define DS_MODEL_VOCAB_MAX        2147483647u
#define DS_MODEL_HIDDEN_MAX       1048576u
#define DS_MODEL_INTERMEDIATE_MAX 16777216u
#define DS_MODEL_LAYERS_MAX       16384u
#define DS_MODEL_HEADS_MAX        65536u
#define DS_MODEL_HEAD_DIM_MIN     2u
#define DS_MODEL_HEAD_DIM_MAX     DS_HEAD_DIM_MAX /* wider ones have no attention */
#define DS_MODEL_POSITIONS_MAX    2147483647u
#define DS_MODEL_INIT_RANGE_MAX   100.0
#define DS_MODEL_ROPE_THETA_MAX   1e15

/* Numbers of a model under HF's names. Read-only once a model is made of it. */
struct ds_model_config {
    enum ds_family family;
    uint64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers;
    uint64_t num_attention_heads, num_key_value_heads, head_dim;
    uint64_t max_position_embeddings;
    double rms_norm_eps, initializer_range;
    int tie_word_embeddings;
    int has_qkv_bias, has_o_bias, has_mlp_bias, has_qk_norm;
    struct ds_rope rope;
    /* -1: none; the first where a list is given */
    int64_t bos_token_id, eos_token_id, pad_token_id;
};

/* local: the defaults of a family (models.md 1.2), sizes 0 where there is no sensible one */
void ds_model_config_default(enum ds_family family, struct ds_model_config *out);
/* local: what is 0 and follows from the rest: num_key_value_heads, head_dim. parse and ds_model_open
 * do this themselves; check and write look at the completed numbers. */
void ds_model_config_complete(struct ds_model_config *config);
/* local: from the text of an HF config.json, both spellings. DS_ERR_DATA / DS_ERR_UNSUPPORTED. */
DS_CHECKED ds_status ds_model_config_parse(const char *name, const char *text, size_t bytes,
                                           struct ds_model_config *out);
/* local: numbers that contradict each other; `name` begins the message */
DS_CHECKED ds_status ds_model_config_check(const char *name, const struct ds_model_config *config);
/* local: the text of a config.json that transformers loads (both spellings of rope), for weights in F32, BF16 or F16;
 * malloc'ed */
DS_CHECKED ds_status ds_model_config_write(const struct ds_model_config *config,
                                           enum ds_dtype dtype, char **text);
/* pure: names of families as config.json has them */
int ds_family_parse(const char *model_type, enum ds_family *out); /* 0: unknown */
const char *ds_family_name(enum ds_family family);

/* pure: fp32 inverse frequencies [head_dim / 2] and the factor on cos and sin */
void ds_rope_frequencies(const struct ds_model_config *config, float *inverse, double *factor);
/* pure: rotary table [position_count, head_dim]: D/2 cosines, then D/2 sines (angles in fp64 of the
 * fp32 product, as the references make them: fp32 angle) */
void ds_rope_table(const struct ds_model_config *config, uint64_t position_count, float *table);

/* The linear layers of a decoder layer, in the order in which they lie. */
enum ds_linear {
    DS_LINEAR_Q,
    DS_LINEAR_K,
    DS_LINEAR_V,
    DS_LINEAR_O,
    DS_LINEAR_GATE,
    DS_LINEAR_UP,
    DS_LINEAR_DOWN,
    DS_LINEAR_COUNT
};
/* pure: its name inside a layer, as HF has it: "self_attn.q_proj" */
const char *ds_linear_name(enum ds_linear linear);

/* Two factors beside one matrix (Hu et al. 2021): y = x W^T + scale * (x A^T) B^T, A [rank, in], B [out, rank]. */
struct ds_lora_module {
    uint32_t rank; /* 0: there are none */
    float scale;
};
#define DS_LORA_RANK_MAX    65536u
#define DS_LORA_ALPHA_MAX   1e6
#define DS_LORA_DROPOUT_MAX 0.99
struct ds_model;

/* Which biases of the model an adapter trains: none; all; those of matrices with factors. As PEFT calls them. */
enum ds_lora_bias { DS_LORA_BIAS_NONE, DS_LORA_BIAS_ALL, DS_LORA_BIAS_ONLY, DS_LORA_BIAS_COUNT };
const char *ds_lora_bias_name(enum ds_lora_bias bias); /* pure */

#define DS_LORA_WHOLE_BYTES 512

/* An adapter's own numbers, as PEFT's adapter_config.json has them. */
struct ds_lora_settings {
    uint64_t r;
    double alpha;
    int is_rslora;  /* alpha / sqrt(r), else alpha / r */
    int is_dora;    /* rows of W + scale * B A have a trained length each (Liu et al. 2024) */
    double dropout; /* of what the factors see, while training; < 1 */
    int bias;       /* enum ds_lora_bias */
    /* modules_to_save: ends of names of modules that are trained as they are, apart by commas: "embed_tokens,lm_head,norm" */
    char whole[DS_LORA_WHOLE_BYTES];
};
/* An adapter: factors are trained, and what of the model its settings name; all else is frozen. */
struct ds_lora {
    struct ds_lora_settings settings;
    struct ds_lora_module
        *modules; /* owned: [num_hidden_layers * DS_LINEAR_COUNT], layer by layer */
};

/* What keys say of an adapter's matrices: a text, and where it stands, for messages. */
struct ds_lora_text {
    const char *text, *place;
};
struct ds_lora_wish {
    /* which: names, separated by commas or spaces, each a whole one or the end of one behind a dot; "all-linear", or ""; or
     * /a regular expression/ that matches whole names */
    struct ds_lora_text targets;
    /* which of these not: names or /a regular expression/; and of which layers only: numbers and runs of them, "0, 4-7"; or "" */
    struct ds_lora_text excluded, layers;
    /* settings.whole, with the same separators as names; "" */
    struct ds_lora_text whole;
    /* "KEY: NUMBER, ..": another rank or alpha than the settings' for those that a key means, a regular expression that
     * matches a whole name or the end of one behind a dot; of several keys the first; or "" */
    struct ds_lora_text ranks, alphas;
};
/* local: DS_ERR_DATA: a name or key that matches nothing, with all that there are, no regular expression, no number. */
DS_CHECKED ds_status ds_lora_choose(const struct ds_model_config *config,
                                    const struct ds_lora_settings *settings,
                                    const struct ds_lora_wish *wish, struct ds_lora *out);
/* local: from the text of an adapter_config.json. DS_ERR_DATA / DS_ERR_UNSUPPORTED. */
DS_CHECKED ds_status ds_lora_parse(const char *name, const char *text, size_t bytes,
                                   const struct ds_model_config *config, struct ds_lora *out);
void ds_lora_fini(struct ds_lora *lora);
/* local: a model's own, or with no modules where it has none; the caller's to fini */
DS_CHECKED ds_status ds_lora_of(const struct ds_model *model, struct ds_lora *out);

enum ds_tp_split { DS_TP_WHOLE, DS_TP_ROWS, DS_TP_COLUMNS, DS_TP_VOCABULARY };

/* Over which ranks the parts of one gradient must be added before it is whole: nobody; all tensor ranks
 * (a gain that each applies to its own tokens or heads); the tensor ranks with a copy of the same kv head. */
enum ds_param_sum { DS_PARAM_SUM_NONE, DS_PARAM_SUM_TP, DS_PARAM_SUM_COPIES };

/* Which part of a model a rank computes: plain values. Zeroed: all of it, in fp32.
 *
 * Tensor parallelism (Shoeybi et al. 2019): rows of q, k, v, gate and up, columns of o and down, rows of
 * the vocabulary. Heads are whole: tp_size divides the query heads; it divides the kv heads, or they
 * divide it and tp_size / kv heads consecutive ranks hold a copy of one. Other sizes are cut into
 * tp_size runs as even as they can be (ds_tp_cut), never padded. sequence_parallel (Korthikanti et al.
 * 2022): between the matrices tokens are shared out too, the residual stream holds T / tp_size of them. */
struct ds_model_share {
    uint32_t tp_rank, tp_size; /* size 0 or 1: alone */
    int sequence_parallel;
    /* F32, BF16 or F16; BOOL (0): F32. Of weights, activations and their gradients; of weights' gradients. What
     * a norm and a softmax keep, and losses, are F32 always. */
    enum ds_dtype compute, grad;
};

/* The one description of a weight. Initialisation, sharding, checkpoints and the HF importer all read
 * this; none of them matches on the name. */
struct ds_param {
    char name[96]; /* logical, HF spelling; q,k,v and gate, up stay separate */
    uint32_t dim_count;
    uint64_t shape[DS_DIMS_MAX]; /* of the whole model, before any split */
    enum ds_tp_split tp_split;   /* how tensor parallelism may cut it */
    /* what lies here: a box of the whole, [start, start + local) of each dim; all of it when alone */
    uint64_t start[DS_DIMS_MAX], local[DS_DIMS_MAX];
    uint64_t elems;   /* of the box */
    uint32_t copies;  /* how many tensor ranks hold this same box */
    uint8_t is_owner; /* of the ranks with a copy, the one that counts it: in the norm, in files */
    enum ds_param_sum sum; /* of its gradient */
    uint32_t fuse_group;   /* within the unit: members follow one another without a gap */
    uint8_t is_trainable, is_matrix;
    uint8_t is_factor; /* an adapter's own: no model without one has it */
    uint8_t role;      /* the model's own business */
    uint32_t
        number; /* of its place without an adapter, a factor's behind all those: what it begins with is keyed by it */
    float init_std;   /* N(0, std^2); with std 0 every element is init_value */
    float init_bound; /* with one uniform in [-bound, bound) */
    float init_value;
    uint32_t unit;   /* which unit it lies in */
    uint64_t offset; /* in elements from the unit's start, set by ds_model_open */
};

/* A flat buffer: part of the parameters with one dtype, one state and one shard group. */
struct ds_unit {
    uint32_t param_start, param_count; /* consecutive in model->params */
    uint64_t elems;                    /* up to the end of the last parameter, gaps included */
    int is_frozen; /* none of them is trained: no gradient, no state but themselves */
};

#define DS_BLOCK_UNITS_MAX 4

enum ds_block_kind { DS_BLOCK_EMBEDDING, DS_BLOCK_DECODER, DS_BLOCK_HEAD };

/* What a micro-batch brings, in device memory; capacity fixed for the run. */
struct ds_batch {
    struct ds_tensor id_T, target_T;         /* I32; targets are shifted already, -100: ignored */
    struct ds_tensor position_T, document_T; /* I32; see ds_attention_args */
    uint64_t seq_length;
    int one_document;        /* every sequence is one, in every step: kernels are chosen by it */
    uint64_t document_count; /* about how many there are, on average; 0: not known */
    uint64_t first_token;    /* of all that the step's micro-batches have, on all ranks */
};

/* One micro-batch going through one block: its stream, where its weights, saved activations and
 * scratch lie now. Filled by the executor for each action. weights[i], grads[i] belong to the block's
 * unit i, grads[i] where it is trained; grads_add[i]: the buffer already holds part of this micro-batch's gradient (tied weights). */
/* Beside the compute stream: where collectives of tensor ranks run while a block computes what does not wait for
 * them. All of a communicator's collectives go through it, in the order of the calls. */
#define DS_TENSOR_CALLS_MAX 4 /* that the compute stream has not waited for yet */
struct ds_tensor_stream {
    struct ds_stream *stream;
    struct ds_event *handover;                  /* from the compute stream */
    struct ds_event *done[DS_TENSOR_CALLS_MAX]; /* of calls, in turn */
    uint32_t call_count;
};

/* local. close takes what an open that failed has left */
DS_CHECKED ds_status ds_tensor_stream_open(struct ds_device *device, struct ds_tensor_stream *out);
void ds_tensor_stream_close(struct ds_tensor_stream *tensor);

struct ds_pass {
    struct ds_stream *stream;
    const struct ds_kernel_ops *kernels;
    const struct ds_batch *batch;
    struct ds_step_record *record;
    const float *rotary; /* [seq capacity, head_dim], device */
    void *weights[DS_BLOCK_UNITS_MAX];
    void *grads[DS_BLOCK_UNITS_MAX];
    uint8_t grads_add[DS_BLOCK_UNITS_MAX];
    struct ds_comm *tp; /* the tensor ranks, in the order of share.tp_rank; NULL: alone */
    struct ds_tensor_stream *tensor_stream; /* NULL: collectives run on the compute stream itself */
    struct ds_timeline *timeline;           /* where waits for them are marked; NULL: nowhere */
    void *saved;                            /* saved_bytes of the block, from forward to backward */
    void *held; /* held_bytes, from the input part of a backward in two calls to its weight part */
    void *workspace; /* workspace_bytes, this action only */
    void *derived;   /* derived_bytes of the block, of its weights alone: until the list ends */
    int derives;     /* makes them: the first forward of a list */
    int is_training; /* 0: evaluation: no gradient, `saved` is scratch */
};

enum ds_backward_part { DS_BACKWARD_INPUT = 1u << 0, DS_BACKWARD_WEIGHT = 1u << 1 };

struct ds_block;

struct ds_block_ops {
    const char *name;
    size_t (*saved_bytes)(const struct ds_block *block, uint64_t token_count);
    size_t (*workspace_bytes)(const struct ds_block *block, uint64_t token_count);
    /* what a backward in two calls keeps between them; NULL: nothing */
    size_t (*held_bytes)(const struct ds_block *block, uint64_t token_count);
    /* what the first forward of a list makes of weights alone, for all that comes after it; NULL: nothing */
    size_t (*derived_bytes)(const struct ds_block *block);
    /* collectives of tensor ranks in one forward, loss or backward, at most; where there are some */
    uint32_t (*collective_count)(const struct ds_block *block, uint64_t token_count);
    /* token_count is always that of the micro-batch. x, y: [T, C], of the compute dtype; under sequence
     * parallelism [T / tp_size, C], this rank's run of tokens. The embedding has no x. y NULL: only what backward reads is made, in `saved`. */
    ds_status (*forward)(const struct ds_block *block, struct ds_pass *pass, const void *x,
                         void *y);
    /* dy, dx: as x and y. Both parts in one call, then dy and dx may be the same memory; or the input part,
     * then the weight part, with the same x, saved, held and dy, which is not dx then: the same bits. The
     * embedding has no dx and no input part. */
    ds_status (*backward)(const struct ds_block *block, struct ds_pass *pass, uint32_t parts,
                          const void *x, const void *dy, void *dx);
    /* the head: loss of the micro-batch into the record and, when training, dx and the gradients */
    ds_status (*loss)(const struct ds_block *block, struct ds_pass *pass, const void *x, void *dx);
    /* the head, for generation: logits [rows, vocabulary], F32, of `row_count` tokens starting at `row`; whole
     * on every tensor rank */
    ds_status (*logits)(const struct ds_block *block, struct ds_pass *pass, const void *x,
                        uint64_t row, uint64_t row_count, void *logits);
};

struct ds_block {
    const struct ds_block_ops *ops;
    enum ds_block_kind kind;
    const struct ds_model *model;
    uint32_t unit_count;
    /* model units; a tied head has its own and the embedding's; a block of which an adapter trains a part, or has factors,
     * a second one for these */
    uint32_t units[DS_BLOCK_UNITS_MAX];
};

/* Where the factors of a linear layer are, in the model's list. */
struct ds_lora_factors {
    struct ds_lora_module module;
    uint32_t a, b; /* with a rank */
    uint32_t m;    /* the lengths; with DoRA */
};

/* What a layer keeps between forward and backward: all that backward reads; without silu(gate) * up, which the way back
 * through it makes again beside its own work; or only what matrix products and attention make. */
enum ds_keeps { DS_KEEPS_ALL, DS_KEEPS_NORMS, DS_KEEPS_PRODUCTS };

struct ds_model {
    struct ds_model_config config;
    struct ds_model_share share;
    /* set before anything asks for sizes */
    enum ds_keeps keeps;
    uint64_t seed;         /* of dropout */
    uint64_t logits_bytes; /* of a chunk of logits; ds_model_open sets what suits a cpu's caches */
    /* at least so many tokens has a piece of a tensor rank's, where tokens are shared out and its collectives of the
     * way forward go in two; ds_model_open sets what keeps products of them worth their while */
    uint64_t piece_tokens;
    /* owns */
    struct ds_param *params;
    struct ds_unit *units;
    struct ds_block *blocks;         /* embedding, decoder layers, head */
    struct ds_lora_settings lora;    /* of an adapter */
    struct ds_lora_factors *factors; /* [num_hidden_layers * DS_LINEAR_COUNT]; NULL: no adapter */
    uint32_t param_count, unit_count, block_count, factor_count;
    uint64_t
        elems_total; /* parameters of the whole model, tied ones once, an adapter's with them */
    uint64_t elems_trained;
};

/* local: blocks, units and parameters, placed (dstrain/zero.h layout: groups start at 128 elements).
 * `share` NULL: the whole model in fp32. A share that heads forbid: DS_ERR_CONFIG with the numbers. */
DS_CHECKED ds_status ds_model_open(const struct ds_model_config *config,
                                   const struct ds_model_share *share, struct ds_model **out);
/* local: the same, with an adapter: units of factors come behind all others, a layer's first unit stays what it is */
DS_CHECKED ds_status ds_model_open_adapted(const struct ds_model_config *config,
                                           const struct ds_model_share *share,
                                           const struct ds_lora *lora, struct ds_model **out);
/* local: the same model, adapter included, as another rank computes it */
DS_CHECKED ds_status ds_model_open_like(const struct ds_model *model,
                                        const struct ds_model_share *share, struct ds_model **out);
/* pure: has this model an adapter? */
static inline int ds_model_is_adapted(const struct ds_model *model)
{
    return model->factors != NULL;
}
/* collective over the tensor ranks, queued: what the lengths of DoRA begin with, squared, of the rows that lie here: F32, in
 * pass->workspace; NULL where there are none. The pass needs the layer's weights, and a workspace for a token. */
DS_CHECKED ds_status ds_lora_lengths(const struct ds_block *layer, struct ds_pass *pass,
                                     const float *squares[DS_LINEAR_COUNT]);
/* pure: is this the bias of a matrix that has factors? */
int ds_lora_wraps(const struct ds_model *model, const struct ds_param *param);
/* local: the text of an adapter_config.json that peft loads; `base`: the folder of the model, or "". malloc'ed */
DS_CHECKED ds_status ds_lora_write(const struct ds_model *model, const char *base, char **text);
/* pure: may `tp_size` ranks share this model? else the reason with its numbers, in `why` */
int ds_model_may_share(const struct ds_model_config *config, uint32_t tp_size, char *why,
                       size_t bytes);
/* pure: run `rank` of `count` of `size` rows that any cut may part: multiples of 8 where each gets some */
struct ds_span ds_tp_cut(uint64_t size, uint32_t rank, uint32_t count);
/* pure: tokens of the residual stream that lie here: token_count, or this rank's share of it */
uint64_t ds_model_stream_tokens(const struct ds_model *model, uint64_t token_count);
/* pure: elements of the whole parameter */
uint64_t ds_param_whole_elems(const struct ds_param *param);
/* pure: elements start.. of the box are one run of the whole, as far as they are consecutive there: its start
 * in the whole and its length, at most `count` */
struct ds_span ds_param_run(const struct ds_param *param, uint64_t start, uint64_t count);
/* local, both */
void ds_model_close(struct ds_model *model);
const struct ds_param *ds_model_find(const struct ds_model *model, const char *name); /* or NULL */
/* pure: elements start.. of the whole parameter's initial value for `seed`, whatever the layout */
void ds_model_init_values(const struct ds_model *model, const struct ds_param *param, uint64_t seed,
                          uint64_t start, uint64_t count, float *to);
/* pure: what one training token costs in one block of the whole model, to cut stages by: matrix FLOPs; the
 * embedding has none and costs those that would fit into the time of its traffic, so it is never free */
double ds_model_block_cost(const struct ds_model *model, uint32_t block, uint64_t seq_length);
/* the same, apart: forward, and of the backward the gradient of the input and that of the weights */
struct ds_block_cost {
    double forward, input, weight;
};
struct ds_block_cost ds_model_block_cost_parts(const struct ds_model *model, uint32_t block,
                                               uint64_t seq_length);
/* pure: matrix FLOPs of one training token, 6N + causal attention (performance.md section 0): no embedding; 4N where all
 * but factors is frozen */
double ds_model_flops_per_token(const struct ds_model *model, uint64_t seq_length);

#endif
