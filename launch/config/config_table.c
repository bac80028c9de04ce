/* config_table.c - every key a person can set, in the order in which `help` and the README show them.
 * `peers` are names that other trainers use for the same thing (what people type first). */
#include "config.h"

#include <string.h>

#define COUNT_MAX 9007199254740992.0 /* 2^53: exact as a double and in JSON */
#define RANKS_MAX 65536.0

#define FIXED   DS_FIELD_FIXED
#define TRAIN   DS_FIELD_TRAIN_NEEDS
#define EVAL    DS_FIELD_EVAL_NEEDS
#define PREPARE DS_FIELD_PREPARE_NEEDS
#define MODEL   (DS_FIELD_FIXED | DS_FIELD_SHAPES_MODEL)
#define ADAPTER (DS_FIELD_FIXED | DS_FIELD_SHAPES_ADAPTER)
#define FOLLOWS DS_FIELD_FOLLOWS

static const struct ds_choice device_names[] = {{"auto", 0}, {"cpu", 0}, {"cuda", 0}, {NULL, 0}};
static const struct ds_choice stream_modes[] = {
    {"inline", DS_DEVICE_INLINE}, {"deferred", DS_DEVICE_DEFERRED}, {NULL, 0}};
static const struct ds_choice auto_bools[] = {{"auto", -1}, {"true", 1}, {"false", 0}, {NULL, 0}};
static const struct ds_choice exports[] = {
    {"last", DS_EXPORT_LAST}, {"none", DS_EXPORT_NONE}, {NULL, 0}};
static const struct ds_choice resumes[] = {
    {"auto", DS_RESUME_AUTO}, {"none", DS_RESUME_NONE}, {NULL, 0}};
static const struct ds_choice references[] = {
    {"auto", DS_REFERENCES_AUTO}, {"on", DS_REFERENCES_ON}, {"off", DS_REFERENCES_OFF}, {NULL, 0}};
static const struct ds_choice rollbacks[] = {
    {"auto", DS_ROLLBACK_AUTO}, {"off", DS_ROLLBACK_OFF}, {NULL, 0}};
static const struct ds_choice families[] = {
    {"llama", DS_FAMILY_LLAMA}, {"qwen2", DS_FAMILY_QWEN2}, {"qwen3", DS_FAMILY_QWEN3}, {NULL, 0}};
static const struct ds_choice formats[] = {{"text", DS_DATA_TEXT},
                                           {"jsonl", DS_DATA_JSONL},
                                           {"safetensors", DS_DATA_SAFETENSORS},
                                           {NULL, 0}};
static const struct ds_choice row_kinds[] = {{"auto", DS_ROW_AUTO},
                                             {"text", DS_ROW_TEXT},
                                             {"completion", DS_ROW_COMPLETION},
                                             {"messages", DS_ROW_MESSAGES},
                                             {NULL, 0}};
static const struct ds_choice chats[] = {
    {"auto", DS_CHAT_AUTO},         {"plain", DS_CHAT_PLAIN},
    {"chatml", DS_CHAT_CHATML},     {"qwen", DS_CHAT_QWEN},
    {"qwen3", DS_CHAT_QWEN3},       {"llama2", DS_CHAT_LLAMA2},
    {"llama3", DS_CHAT_LLAMA3},     {"deepseek-llm", DS_CHAT_DEEPSEEK_LLM},
    {"deepseek", DS_CHAT_DEEPSEEK}, {"deepseek-r1", DS_CHAT_DEEPSEEK_R1},
    {"custom", DS_CHAT_CUSTOM},     {"qwen2", DS_CHAT_QWEN2},
    {"llama3.1", DS_CHAT_LLAMA31},  {NULL, 0}};
static const struct ds_choice learned[] = {{"completions", DS_TRAIN_ON_COMPLETIONS},
                                           {"assistant_last", DS_TRAIN_ON_LAST},
                                           {"all", DS_TRAIN_ON_ALL},
                                           {NULL, 0}};
static const struct ds_choice overlongs[] = {
    {"auto", DS_OVERLONG_AUTO},   {"error", DS_OVERLONG_ERROR}, {"cut", DS_OVERLONG_CUT},
    {"split", DS_OVERLONG_SPLIT}, {"drop", DS_OVERLONG_DROP},   {NULL, 0}};
static const struct ds_choice malformeds[] = {{"error", 0}, {"skip", 1}, {NULL, 0}};
static const struct ds_choice invalids[] = {{"error", 0}, {"replace", 1}, {NULL, 0}};
static const struct ds_choice bases[] = {
    {"compute", DS_BASE_COMPUTE}, {"nf4", DS_BASE_NF4}, {"int8", DS_BASE_INT8}, {NULL, 0}};
static const struct ds_choice biases[] = {{"none", DS_LORA_BIAS_NONE},
                                          {"all", DS_LORA_BIAS_ALL},
                                          {"lora_only", DS_LORA_BIAS_ONLY},
                                          {NULL, 0}};
static const struct ds_choice decays[] = {
    {"matrices", DS_DECAY_MATRICES}, {"all", DS_DECAY_ALL}, {NULL, 0}};
static const struct ds_choice schedules[] = {{"constant", DS_LR_CONSTANT},
                                             {"linear", DS_LR_LINEAR},
                                             {"cosine", DS_LR_COSINE},
                                             {"wsd", DS_LR_WSD},
                                             {NULL, 0}};

static const struct ds_choice recomputes[] = {{"none", DS_RECOMPUTE_NONE},
                                              {"selective", DS_RECOMPUTE_SELECTIVE},
                                              {"full", DS_RECOMPUTE_FULL},
                                              {NULL, 0}};
static const struct ds_choice tunings[] = {
    {"quick", DS_TUNING_QUICK}, {"load", DS_TUNING_LOAD}, {NULL, 0}};
static const struct ds_choice computes[] = {{"fp32", DS_PRECISION_FP32},
                                            {"bf16", DS_PRECISION_BF16},
                                            {"fp16", DS_PRECISION_FP16},
                                            {NULL, 0}};
static const struct ds_choice states[] = {
    {"fp32", DS_PRECISION_FP32}, {"bf16", DS_PRECISION_BF16}, {NULL, 0}};
static const struct ds_choice masters[] = {{"fp32", DS_MASTER_KEY_FP32},
                                           {"remainder16", DS_MASTER_KEY_REMAINDER16},
                                           {"none", DS_MASTER_KEY_NONE},
                                           {NULL, 0}};
static const struct ds_choice pipelines[] = {{"gpipe", DS_PIPELINE_GPIPE},
                                             {"1f1b", DS_PIPELINE_1F1B},
                                             {"interleaved", DS_PIPELINE_INTERLEAVED},
                                             {"zero_bubble", DS_PIPELINE_ZERO_BUBBLE},
                                             {NULL, 0}};
static const struct ds_choice reshards[] = {{"auto", DS_RESHARD_KEY_AUTO},
                                            {"always", DS_RESHARD_KEY_ALWAYS},
                                            {"never", DS_RESHARD_KEY_NEVER},
                                            {NULL, 0}};
static const struct ds_choice transports[] = {{"auto", DS_TRANSPORT_AUTO},
                                              {"shm", DS_TRANSPORT_SHM},
                                              {"mpi", DS_TRANSPORT_MPI},
                                              {"nccl", DS_TRANSPORT_NCCL},
                                              {NULL, 0}};

static const struct ds_choice gathers[] = {{"kernel", DS_GATHER_KERNEL},
                                           {"symmetric", DS_GATHER_SYMMETRIC},
                                           {"copy_engine", DS_GATHER_COPY_ENGINE},
                                           {NULL, 0}};

static const struct ds_choice homes[] = {{"device", DS_HOME_DEVICE},
                                         {"host", DS_HOME_HOST},
                                         {"nvme", DS_HOME_NVME},
                                         {"auto", DS_HOME_AUTO},
                                         {NULL, 0}};

static const struct ds_choice storages[] = {{"auto", DS_OFFLOAD_STORAGE_AUTO},
                                            {"fixed", DS_OFFLOAD_STORAGE_FIXED},
                                            {"plain", DS_OFFLOAD_STORAGE_PLAIN},
                                            {"threads", DS_OFFLOAD_STORAGE_THREADS},
                                            {NULL, 0}};

static const struct ds_choice update_times[] = {
    {"end", DS_UPDATES_KEY_END}, {"late", DS_UPDATES_KEY_LATE}, {NULL, 0}};

static const struct ds_choice optimizer_places[] = {
    {"gpu", DS_OPTIMIZER_GPU}, {"cpu", DS_OPTIMIZER_CPU}, {"auto", DS_OPTIMIZER_AUTO}, {NULL, 0}};

#define PLACE(section, key) \
    offsetof(struct ds_config, section.key), sizeof(((struct ds_config *)0)->section.key)
#define COUNT(section, key, preset, flags, min, max, help, peers)                                 \
    {                                                                                             \
#section, #key, preset, DS_FIELD_COUNT, flags, PLACE(section, key), min, max, NULL, help, \
            peers                                                                                 \
    }
#define AUTO(section, key, flags, min, max, help, peers)                                         \
    {                                                                                            \
#section, #key, "auto", DS_FIELD_AUTO, flags, PLACE(section, key), min, max, NULL, help, \
            peers                                                                                \
    }
#define REAL(section, key, preset, flags, min, max, help, peers)                                 \
    {                                                                                            \
#section, #key, preset, DS_FIELD_REAL, flags, PLACE(section, key), min, max, NULL, help, \
            peers                                                                                \
    }
#define BOOL(section, key, preset, flags, help, peers)                                             \
    {                                                                                              \
#section, #key, preset, DS_FIELD_BOOL, flags, PLACE(section, key), 0, 0, NULL, help, peers \
    }
#define CHOICE(section, key, preset, flags, choices, help, peers)                                 \
    {                                                                                             \
#section, #key, preset, DS_FIELD_CHOICE, flags, PLACE(section, key), 0, 0, choices, help, \
            peers                                                                                 \
    }
#define NAME(section, key, preset, flags, choices, help, peers)                                 \
    {                                                                                           \
#section, #key, preset, DS_FIELD_NAME, flags, PLACE(section, key), 0, 0, choices, help, \
            peers                                                                               \
    }
#define HOME(section, key, preset, choices, help, peers)                                          \
    {                                                                                             \
#section, #key, preset, DS_FIELD_HOME, 0, PLACE(section, key), 0, 1, choices, help, peers \
    }
#define TEXT(section, key, flags, help, peers)                                                 \
    {                                                                                          \
#section, #key, "", DS_FIELD_TEXT, flags, PLACE(section, key), 0, 0, NULL, help, peers \
    }

/* clang-format off */
const struct ds_field ds_config_fields[] = {
    TEXT(run, dir, TRAIN, "directory of the run: its configuration, metrics, logs and the model at the end",
         "output_dir save_dir out_dir log_dir logging_dir"),
    NAME(run, device, "auto", 0, device_names, "where arithmetic happens; auto: the fastest that is here", "accelerator backend device_type"),
    CHOICE(run, cpu_streams, "inline", 0, stream_modes,
           "cpu device: work inside the call, or queued and run in a random allowed order, to find missing waits", ""),
    AUTO(run, threads, 0, 1, 4096, "threads of a cpu rank; auto: cores of the host / ranks on it", "num_threads omp_num_threads nproc"),
    COUNT(run, seed, "1", FIXED, 0, COUNT_MAX, "of the first weights and of the order of samples", "random_seed rng_seed"),
    CHOICE(run, deterministic, "auto", 0, auto_bools, "equal bits on equal layouts; the cpu always gives them: auto is true there, and false with device = cpu an error; on cuda auto is false, and true costs speed", "deterministic_mode deterministic_algorithms full_determinism"),
    BOOL(run, graphs, "false", 0, "capture a step as a graph of the device and launch it as one: the same bits, no gaps between small kernels", "cuda_graphs use_cuda_graph enable_cuda_graph cuda_graph"),
    CHOICE(run, tuning, "quick", 0, tunings, "how a GPU's algorithms for matrix products are chosen; quick: each shape is timed in a moment when it is met; load: under the load of seconds, at the clock that power leaves, 3 to 5 seconds a shape and once for a kind of GPU: the choices are kept", "autotune gemm_autotune max_autotune tune_gemm"),
    BOOL(run, share_device, "false", 0, "let several ranks compute on one GPU, for tests of layouts: it is slow; false: that is refused", "oversubscribe gpu_sharing"),
    CHOICE(run, export, "last", 0, exports, "write the model as a Hugging Face folder at the end of the run", "save_final export_model save_only_model"),
    REAL(run, deadline, "300", 0, 0.1, 86400, "seconds any wait for another rank may take; then the run ends with 71", "timeout ddp_timeout nccl_timeout distributed_timeout_minutes init_timeout_seconds"),

    TEXT(model, path, FIXED, "Hugging Face folder to start from; empty: random weights in the shape of the keys below",
         "model_name_or_path base_model model_path hf_path model_name pretrained_model_name_or_path"),
    CHOICE(model, family, "llama", MODEL, families, "architecture of a new model", "model_type architecture arch"),
    AUTO(model, vocab_size, MODEL | FOLLOWS, 1, DS_MODEL_VOCAB_MAX, "rows of the embedding; auto: the tokenizer's", "padded_vocab_size n_vocab num_embeddings"),
    COUNT(model, hidden_size, NULL, MODEL | TRAIN, 1, DS_MODEL_HIDDEN_MAX, "width of the model", "n_embd d_model dim embedding_size model_dim"),
    COUNT(model, intermediate_size, NULL, MODEL | TRAIN, 1, DS_MODEL_INTERMEDIATE_MAX, "width inside the MLP; any number that parallel.tensor does not exceed", "ffn_hidden_size ffn_dim hidden_dim mlp_dim n_inner"),
    COUNT(model, num_hidden_layers, NULL, MODEL | TRAIN, 1, DS_MODEL_LAYERS_MAX, "decoder layers", "num_layers n_layer n_layers depth layers"),
    COUNT(model, num_attention_heads, NULL, MODEL | TRAIN, 1, DS_MODEL_HEADS_MAX, "query heads", "n_head n_heads num_heads heads"),
    AUTO(model, num_key_value_heads, MODEL | FOLLOWS, 1, DS_MODEL_HEADS_MAX, "key and value heads; auto: as many as query heads", "num_query_groups n_kv_heads num_kv_heads n_kv_head kv_heads"),
    AUTO(model, head_dim, MODEL | FOLLOWS, DS_MODEL_HEAD_DIM_MIN, DS_MODEL_HEAD_DIM_MAX, "width of a head; auto: 128 for qwen3, else hidden_size / num_attention_heads", "kv_channels head_size d_head"),
    AUTO(model, max_position_embeddings, MODEL | FOLLOWS, 1, DS_MODEL_POSITIONS_MAX, "longest context the model is made for; auto: train.seq_length", "n_positions n_ctx block_size context_length max_seq_len"),
    REAL(model, rms_norm_eps, "1e-06", MODEL, 0, 1, "added under the root in RMSNorm", "norm_eps layernorm_epsilon norm_epsilon layer_norm_epsilon"),
    REAL(model, initializer_range, "0.02", MODEL, 0, DS_MODEL_INIT_RANGE_MAX, "standard deviation of new weights", "init_method_std init_std"),
    REAL(model, rope_theta, "10000", MODEL, 1, DS_MODEL_ROPE_THETA_MAX, "base of the rotary frequencies", "rotary_base rope_base"),
    BOOL(model, tie_word_embeddings, "false", MODEL, "the head shares the embedding's weights", "tie_embeddings weight_tying tied_embeddings"),

    TEXT(data, train, FIXED | TRAIN, "files or folders, comma separated, each with a weight if wanted: a.txt, b.txt:0.5 (half of its samples an epoch)",
         "train_data dataset data_path train_file dataset_path train_data_path datasets input"),
    TEXT(data, eval, FIXED | EVAL, "what it is evaluated on, written as train is; empty: nothing", "eval_data val_data validation valid validation_file eval_dataset eval_file"),
    CHOICE(data, format, "text", FIXED, formats, "plain text; jsonl: a sample a line, with text, with prompt and completion, or with messages; or pre-tokenised input_ids (and labels) in safetensors", "dataset_type data_format"),
    TEXT(data, tokenizer, FIXED, "of text and jsonl: a tokenizer.json, a folder that has one, or bytes: 256 bytes, then bos, eos, pad; empty: that of model.path, without one bytes", "tokenizer_type tokenizer_name tokenizer_path tokenizer_model tokenizer_name_or_path"),
    CHOICE(data, invalid_utf8, "error", FIXED, invalids, "what a tokenizer other than bytes does with text that is not UTF-8: end the run with its place, or replace it by U+FFFD", "errors encoding_errors"),
    TEXT(data, cache, 0, "directory of prepared token shards; empty: data in run.dir", "cache_dir dataset_prepared_path data_cache_path preprocessed_path"),
    BOOL(data, shuffle, "true", FIXED, "draw samples in random order; false: the order of the files, every epoch", "shuffle_data"),
    CHOICE(data, rows, "auto", FIXED, row_kinds, "of jsonl: what every row is; auto: each says it by the fields that it has", "row_type conversation_type"),
    CHOICE(data, chat_template, "auto", FIXED, chats, "of jsonl: how messages become text; auto: as the folder of the tokenizer says, where that is one of these; llama3.1: of 3.1 to 3.3, of whose two dates the second is 26 Jul 2024, as their templates have it, also where they ask for the day's; custom: as the keys chat_* say. Rows of prompt and completion are texts as they are", "template prompt_format conversation_template chat_format"),
    TEXT(data, chat_start, FIXED, "custom: in front of every conversation, as {bos} (the tokenizer's). In all of these texts \\n, \\t, \\s, \\#, \\; and \\\\ are a line feed, a tab, a space, #, ; and a backslash", "chat_prefix"),
    TEXT(data, chat_system, FIXED, "custom: a message of the system, with {content} in it; empty: there are none", "system_format system_template format_system"),
    TEXT(data, chat_user, FIXED, "custom: a message of the user, with {content} in it", "user_format user_template format_user instruction_template"),
    TEXT(data, chat_assistant, FIXED, "custom: a message of the assistant, with {content} in it, behind which chat_end comes", "assistant_format assistant_template format_assistant response_template"),
    TEXT(data, chat_tool, FIXED, "custom: what a tool says, with {content} in it; empty: there is none", "tool_format format_tools format_observation"),
    TEXT(data, chat_end, FIXED, "custom: what ends an answer, and is learned with it; empty: {eos}, the tokenizer's", "eot_token eot_tokens end_of_turn stop_token"),
    CHOICE(data, train_on, "completions", FIXED, learned, "of jsonl: which tokens are learned: completions and all answers, of conversations the last answer alone, or all; what ends an answer belongs to it; of rows of text all are", "train_on_inputs train_on_prompt mask_history completion_only_loss assistant_only_loss roles_to_train train_on_eos"),
    BOOL(data, packing, "true", FIXED, "of jsonl: several rows a sequence, none of which sees another; false: each has one of its own", "sample_packing packed neat_packing pack_sequences eval_sample_packing"),
    CHOICE(data, overlong, "auto", FIXED, overlongs, "of jsonl: a row that is longer than train.seq_length is an error, is cut at its end, goes on in the next sequences, or is left out; auto: one that is learned from end to end, as text is, goes on, others are an error", "truncation truncate truncation_side excess_length_strategy"),
    CHOICE(data, malformed, "error", FIXED, malformeds, "of jsonl: a line that cannot be read ends the run, or is left out and counted", "on_bad_lines skip_invalid"),
    COUNT(data, line_limit, "67108864", FIXED, 2, 2147483648.0, "of jsonl: bytes of a line at most; a longer one is malformed", "max_line_bytes"),
    REAL(data, eval_share, "0", FIXED, 0, 0.9, "of jsonl: the share of data.train's rows that is set aside and evaluated on, by what they say and run.seed; equal rows are on one side", "val_size val_set_size test_size validation_split eval_split split"),

    COUNT(train, steps, NULL, TRAIN, 1, COUNT_MAX, "updates of the model", "max_steps train_iters train_steps num_steps total_steps iterations num_train_epochs num_epochs epochs"),
    COUNT(train, global_batch_size, NULL, FIXED | TRAIN, 1, 1073741824, "sequences in an update, over all ranks",
          "train_batch_size gradient_accumulation_steps batch_accumulation_per_replica total_batch_size"),
    COUNT(train, micro_batch_size, "1", 0, 1, 1048576, "sequences a rank takes through the model at once",
          "train_micro_batch_size_per_gpu per_device_train_batch_size batch_size local_batch_size micro_batch"),
    COUNT(train, seq_length, NULL, FIXED | TRAIN | EVAL, 1, 16777216, "tokens in a sequence",
          "sequence_len sequence_length seq_len cutoff_len max_seq_length max_context_length block_size max_length"),
    CHOICE(train, activation_checkpointing, "none", 0, recomputes, "what backward makes again to save memory: nothing, what memory-bound operations make, or all but a layer's input", "gradient_checkpointing recompute_granularity recompute activation_checkpoint recompute_method"),
    REAL(train, grad_clip, "1", FIXED, 0, 1e30, "largest gradient norm; 0: off", "max_grad_norm gradient_clipping clip_grad max_norm gradient_clip_val grad_norm"),
    COUNT(train, eval_interval, "0", 0, 0, COUNT_MAX, "steps between evaluations; 0: only at the end", "eval_steps eval_every validation_interval val_interval eval_freq eval_strategy"),
    COUNT(train, eval_samples, "0", 0, 0, COUNT_MAX, "sequences in an evaluation at most; 0: all", "eval_iters max_eval_samples val_set_size limit_val_batches"),

    COUNT(lora, r, "0", ADAPTER, 0, DS_LORA_RANK_MAX, "rank of the factors that are trained beside frozen matrices; 0: the model itself is trained", "lora_r lora_rank rank lora_dim"),
    REAL(lora, alpha, "16", ADAPTER, 1e-6, DS_LORA_ALPHA_MAX, "what they add is multiplied by alpha / r", "lora_alpha"),
    REAL(lora, dropout, "0", ADAPTER, 0, DS_LORA_DROPOUT_MAX, "share of their input that factors do not see while training, drawn anew in each step", "lora_dropout"),
    TEXT(lora, target_modules, ADAPTER, "matrices that get factors: names (q_proj, v_proj), all-linear, or /a regular expression/ of whole names (model.layers.0.self_attn.q_proj); empty: all-linear", "lora_target_modules lora_target_linear lora_target lora_attn_modules"),
    TEXT(lora, exclude_modules, ADAPTER, "matrices that get none all the same: names, or /a regular expression/; empty: none", "lora_exclude_modules"),
    TEXT(lora, layers_to_transform, ADAPTER, "layers whose matrices get factors: numbers and runs of them (0, 4-7); empty: all", "lora_layers_to_transform peft_layers_to_transform"),
    TEXT(lora, rank_pattern, ADAPTER, "matrices that have another rank, KEY: R, ..; a key is a regular expression of a whole name, or of the end of one behind a dot (down_proj: 32, layers.0.*: 4); empty: none", ""),
    TEXT(lora, alpha_pattern, ADAPTER, "the same for alpha", ""),
    BOOL(lora, rslora, "false", ADAPTER, "multiply by alpha / sqrt(r) instead", "use_rslora rs_lora"),
    BOOL(lora, dora, "false", ADAPTER, "train a length for each row of a matrix with factors, beside the row's direction (DoRA); takes the product of each such layer in memory once more", "use_dora"),
    CHOICE(lora, bias, "none", ADAPTER, biases, "biases of the model that are trained, too: none; all; lora_only: of matrices that get factors", "lora_bias"),
    TEXT(lora, modules_to_save, ADAPTER, "modules of the model that are trained as they are, and come with the adapter: embed_tokens, lm_head, norms (norm, input_layernorm; the end of a name means all that have it); empty: none", "lora_modules_to_save additional_target additional_target_modules"),
    TEXT(lora, adapter, FIXED, "folder of an adapter, as peft and exports write it, to go on from; its settings hold, in place of the keys above; empty: none", "adapter_name_or_path peft_model_id lora_model_dir lora_weights"),
    CHOICE(lora, base, "compute", FIXED, bases, "how the frozen matrices of the layers are stored: compute: as they are computed with; nf4: 4 bits, absmax of blocks of 64 in 8, as QLoRA has it; int8: 8 bits, absmax of rows; brought back into one reused buffer before each use; of a folder that has them so already the codes are kept", "load_in_4bit load_in_8bit quantization quantization_bit bnb_4bit_quant_type qlora"),

    REAL(optimizer, learning_rate, "0.0003", FIXED, 0, 10, "peak, after warm-up", "lr max_lr peak_lr base_lr"),
    REAL(optimizer, beta1, "0.9", FIXED, 0, 0.999999, "AdamW: memory of the gradient", "adam_beta1 betas"),
    REAL(optimizer, beta2, "0.95", FIXED, 0, 0.999999, "AdamW: memory of its square", "adam_beta2"),
    REAL(optimizer, eps, "1e-08", FIXED, 0, 1, "AdamW: added to the root of the square", "adam_eps adam_epsilon epsilon"),
    REAL(optimizer, weight_decay, "0.1", FIXED, 0, 100, "AdamW: decoupled, times the learning rate", "wd decay l2"),
    CHOICE(optimizer, weight_decay_on, "matrices", FIXED, decays, "which parameters decay: matrices (no norms, no biases) or all", "no_weight_decay decay_on"),

    CHOICE(schedule, kind, "cosine", FIXED, schedules, "shape of the learning rate after warm-up", "lr_scheduler_type lr_scheduler lr_decay_style lr_schedule scheduler decay_type"),
    COUNT(schedule, warmup_steps, "0", FIXED, 0, COUNT_MAX, "steps of linear rise to the peak", "warmup_num_steps lr_warmup_iters warmup_ratio warmup warmup_iters num_warmup_steps"),
    COUNT(schedule, decay_steps, "0", FIXED, 0, COUNT_MAX, "steps of decay; 0: all after warm-up (wsd needs a number: the last of the run)", "lr_decay_iters lr_decay_steps cooldown_steps wsd_decay_steps"),
    REAL(schedule, min_learning_rate, "0", FIXED, 0, 10, "what decay ends at", "min_lr lr_min cosine_min_lr_ratio end_lr final_lr min_lr_ratio"),

    CHOICE(precision, compute, "fp32", FIXED, computes, "of weights in use, activations and their gradients; sums are fp32", "dtype torch_dtype mixed_precision bf16 fp16 precision mixed_precision_param param_dtype"),
    CHOICE(precision, master, "fp32", 0, masters, "copy of the weights that is updated: fp32; remainder16: the 16 bits that bf16 weights lack, the same values in less; none: bf16 weights alone, rounded at random", "master_weights fp32_master master_dtype use_precision_aware_optimizer main_params_dtype"),
    CHOICE(precision, exp_avg, "fp32", 0, states, "storage of AdamW's memory of the gradient", "exp_avg_dtype optimizer_dtype"),
    CHOICE(precision, exp_avg_sq, "fp32", 0, states, "storage of AdamW's memory of its square", "exp_avg_sq_dtype"),
    CHOICE(precision, gradients, "fp32", 0, states, "storage of the gradient that micro-batches add up", "grad_accum_dtype main_grads_dtype accumulate_allreduce_grads_in_fp32 data_types"),
    CHOICE(precision, reduce, "fp32", FIXED, states, "of a micro-batch's gradient on its way between ranks; added in fp32; bf16 not with compute = fp16; one GPU alone sends none and makes 16-bit gradients in the dtype of precision.gradients", "reduce_dtype mixed_precision_reduce communication_data_type grad_reduce_in_fp32 grad_reduce_in_bf16"),

    AUTO(parallel, data, FOLLOWS, 1, RANKS_MAX, "ranks that see other samples; auto: all ranks left", "dp data_parallel_size data_parallel dp_size data_parallel_degree"),
    AUTO(parallel, shard, FOLLOWS, 1, RANKS_MAX, "of these, ranks that share out one copy of the states; auto: all", "shard_size fsdp_size data_parallel_shard_degree dp_shard hybrid_shard zero_hpz_partition_size"),
    COUNT(parallel, tensor, "1", 0, 1, RANKS_MAX, "ranks that share every matrix: they divide the heads", "tp tensor_parallel tensor_model_parallel_size tensor_parallel_degree tp_size autotp_size"),
    COUNT(parallel, pipeline, "1", 0, 1, RANKS_MAX, "stages: ranks that each hold some of the layers", "pp pipeline_parallel pipeline_model_parallel_size pipeline_parallel_degree pp_size num_stages"),
    COUNT(parallel, chunks, "1", 0, 1, RANKS_MAX, "runs of layers a stage holds; more than 1 with schedule = interleaved", "virtual_pipeline_model_parallel_size num_layers_per_virtual_pipeline_stage model_chunks pipeline_parallel_layers_per_stage"),
    CHOICE(parallel, schedule, "1f1b", 0, pipelines, "order of micro-batches in a pipeline: memory of all of them, of as many as stages, less waiting with chunks, or with weight gradients in the gaps; with pipeline = 1 all are the same", "pipeline_schedule pipeline_parallel_schedule pp_schedule pipeline_engine"),
    BOOL(parallel, sequence_parallel, "false", 0, "tensor ranks share out tokens, too, where a matrix does not need them all: less memory; with tensor = 1 there is nothing to share", "sp enable_sequence_parallel use_sequence_parallel"),
    CHOICE(parallel, transport, "auto", 0, transports, "how ranks exchange data: on the cpu shared memory inside one host, MPI anywhere; between GPUs NCCL; auto: the fastest that works", "ddp_backend dist_backend distributed_backend"),
    CHOICE(parallel, gather, "kernel", 0, gathers, "how GPUs gather parameters and, tensor ranks, activations, the bytes are the same: NCCL's usual kernels; symmetric: kernels on memory that the ranks of a host have mapped; copy_engine: by copies, which leave the multiprocessors to arithmetic (not in graphs)", "nccl_ub use_nccl_ub symm_mem"),
    BOOL(parallel, nvlink_multicast, "false", 0, "let NCCL add up in the NVLink switch (NVLS), where host and driver can; not on all it works", "use_nvls nccl_nvls_enable nvls"),

    COUNT(zero, stage, "3", 0, 0, 3, "what shard ranks share out: 1 optimizer states, 2 and gradients, 3 and parameters", "zero_stage zero_optimization sharding_strategy"),
    CHOICE(zero, reshard_after_forward, "auto", 0, reshards, "stage 3, others gather none: give gathered parameters back after every use, or keep them until the step ends; auto: keep them where memory.device_limit shows that there is room", "fsdp_reshard_after_forward stage3_param_persistence_threshold stage3_max_live_parameters reshard fully_shard_reshard"),
    AUTO(zero, window, FOLLOWS, 1, 1048576, "stage 3: micro-batches that go through a layer while it is gathered: fewer gathers, more activations; auto: 1, or, with pipeline = 1, all that fit memory.device_limit", ""),

    AUTO(memory, device_limit, 0, 1, COUNT_MAX, "bytes of device memory a rank may take, in training and in an evaluation alone, on a GPU with what its driver and libraries take; auto: no limit but the device's", "max_device_memory gpu_memory_limit"),
    AUTO(memory, host_limit, 0, 1, COUNT_MAX, "bytes that a rank may take of its host's memory for what the plan counts (pinned host: states, staging, checkpoints), in training and in an evaluation alone; what a process takes besides, for libraries and for data, is not in it, but is in host_peak_bytes of the metrics; auto: no limit", "max_host_memory cpu_memory_limit"),
    AUTO(memory, logits, FOLLOWS, 1, COUNT_MAX, "bytes of the logits that exist at a time: the head works through a micro-batch in chunks; auto: 1 GiB on a GPU, on the cpu what stays near its caches", "lm_head_chunks chunked_cross_entropy ce_chunk_size logits_chunk_size"),

    HOME(offload, params, "device", homes, "stage 3: where the parameters that a rank owns live, in the dtype of arithmetic or as lora.base stores them, between gathers; host: pinned host memory; nvme: files in offload.directories; host:0.6: so much of them there, the rest stays on the device; auto: what memory.device_limit, or else what the device has free, has no room for, on the host, or in files where directories are given and the host has none either; `dstrain plan` shows what is chosen and why", "offload_param offload_params cpu_offload_params param_offload"),
    HOME(offload, master, "device", homes, "the same for master weights, between updates, in every stage in which ranks share them, or on a rank alone", "offload_optimizer cpu_offload optimizer_cpu_offload offload_optimizer_device offload_master"),
    HOME(offload, exp_avg, "device", homes, "the same for first moments", "offload_optimizer_states offload_opt_m optimizer_offload_fraction offload_moments"),
    HOME(offload, exp_avg_sq, "device", homes, "the same for second moments", "offload_opt_v"),
    HOME(offload, grads, "device", homes, "the same for accumulated gradients; an embedding that the first and the last stage share keeps its own on the device. On a GPU alone, unless run.deterministic = true, sums of several micro-batches are rounded otherwise than near", "offload_gradients offload_grads grad_offload"),
    HOME(offload, activations, "device", homes, "where what a layer keeps from its forward to its backward is in between: its input, and what train.activation_checkpointing leaves it beside that; host: it goes to pinned host memory behind the forward and comes back ahead of the backward, beside arithmetic, and the device keeps a few layers at a time, not all; the last layers, wanted again at once, stay; nvme: from there on to files in offload.directories, and back by way of it; host:0.6: so much of the layers, the first ones; auto: as for params", "activation_offloading offload_activations cpu_offloading_activations enable_activation_offload activations_offload activation_offload fine_grained_activation_offloading cpu_checkpointing"),
    CHOICE(offload, updates, "end", 0, update_times, "when a step's gradients become weights; end: behind its verdict; late: in the next step, each layer's just before its weights are used, so that its states travel beside arithmetic; the result is the same", "delay_optimizer_step overlap_optimizer optimizer_overlap dpu delayed_param_update"),
    HOME(offload, optimizer_compute, "gpu", optimizer_places, "where states at home on the host are updated; gpu: on the device, which they travel to and from; cpu: on the host, where they stay, by run.threads threads near the device: only gradients come and weights go, as far as they live on the device; cpu:0.3: so much of all at most, the rest of what is away as with gpu, beside that; auto: what the plan takes to be the fastest; the result is the same", "cpu_adam use_cpu_adam offload_optimizer_compute twin_flow"),
    COUNT(offload, depth, "3", 0, 1, 64, "strips of states that are on their way or being updated at once, each with memory of the device; 3: one comes, one is worked on, one goes; with updates = late all of them are filled during the way back, so that more, 24 say, keep the link busy all through a step", "buffer_count prefetch_count offload_num_in_group"),
    COUNT(offload, block_size, "16777216", 0, 8192, 1073741824, "bytes of a strip, were it fp32: so much of a kind of state travels at once", "buffer_size bucket_size sub_group_size"),
    TEXT(offload, directories, 0, "where lies what is at home on nvme, by commas: each is one drive with a thread of its own, and they are shared out block by block; every rank makes files of their whole size there, which are gone with it", "nvme_path offload_dir swap_dir offload_directory offload_folder"),
    CHOICE(offload, storage, "auto", 0, storages, "how those files are read and written: fixed: io_uring with memory and files registered; plain: io_uring; threads: pread and pwrite; auto: the first of these that can be had, which the log names", "aio single_submit overlap_events use_gds"),

    TEXT(checkpoint, dir, 0, "directory of the run's checkpoints; empty: checkpoints in run.dir", "checkpoint_dir save_path load checkpoints_path default_local_dir"),
    TEXT(checkpoint, mirror, 0, "a second, slower directory, on a disk that outlives the first one's: every checkpoint is copied there in the background, the newest first, and a launch goes on from the newest one in either; empty: none", "remote_checkpoint_dir remote_save_path save_folder_remote upload_dir non_persistent_local_ckpt_dir s3_checkpoint_dir"),
    COUNT(checkpoint, interval, "0", 0, 0, COUNT_MAX, "steps between checkpoints, which are written while training goes on; one more is written behind the last step; 0: none, but a launch goes on from those that are there", "save_steps save_interval checkpoint_interval save_freq save_every checkpoint_every save_every_n_steps"),
    COUNT(checkpoint, keep, "3", 0, 1, 1000000, "the newest that stay; two that are known to be good always do, and with rollback some from before what that would leave out; beside the newest no more than 7, however often the run is launched", "save_total_limit keep_latest_k keep_last max_to_keep checkpoints_total_limit"),
    COUNT(checkpoint, keep_every, "0", 0, 0, COUNT_MAX, "of older ones those stay whose step this divides; 0: none", "keep_every_n_steps keep_period"),
    COUNT(checkpoint, export, "0", 0, 0, COUNT_MAX, "checkpoints whose step this divides become Hugging Face folders, export-STEP in run.dir, while training goes on; a multiple of interval; 0: none", "export_every export_interval hf_export_interval export_hf"),
    CHOICE(checkpoint, resume, "auto", 0, resumes, "auto: a launch goes on from the newest checkpoint that verifies; none: from the beginning, and what is there is not gone on from any more", "resume_from_checkpoint auto_resume load_checkpoint resume_training"),
    AUTO(checkpoint, buffer, 0, 1, COUNT_MAX, "bytes of pinned host memory to which a rank copies what it saves; auto: all of it; less makes training wait for the disk", "checkpoint_buffer_size"),
    CHOICE(checkpoint, references, "auto", 0, references, "states at home on nvme are saved as they lie there: the file system (XFS, btrfs) has packs share their blocks, nothing passes the device or is written again, and the files of states are larger by as much, so that no update writes over what a checkpoint has; on: where that cannot be, the run is refused; auto: there they are copied and written; off: always", "reflink incremental_checkpoint"),
    CHOICE(checkpoint, rollback, "auto", 0, rollbacks, "auto: where checkpoints are written, a run whose loss or gradient norm leaps, or is not finite for 9 steps, goes back to an older one and on without the data around that; twice for one place and 5 times in 1,000 steps, then it ends with 67; off: it goes on as it is", "loss_spike_detection skip_bad_batches rerun_mode spike_recovery"),
    COUNT(checkpoint, rollback_skip, "200", 0, 1, 1000000, "batches that a rollback leaves out, half of them before the first bad one; it goes back to the newest checkpoint from before those, or to the oldest that is left", "skip_batches num_batches_to_skip"),

    COUNT(log, interval, "10", 0, 1, COUNT_MAX, "steps between lines on the console", "logging_steps log_interval log_freq log_every log_every_n_steps steps_per_print"),

    TEXT(log, trace, 0, "steps to write as a Chrome trace, first..last; empty: none", "profile profiler profile_step_start enable_profiling torch_profiler"),

    TEXT(debug, inject, 0, "a fault, for tests: hang, fail, kill or nan, as KIND:RANK:STEP; labels or rate, as KIND:all:FIRST-LAST", ""),
};
/* clang-format on */
const size_t ds_config_field_count = sizeof ds_config_fields / sizeof ds_config_fields[0];
_Static_assert(sizeof ds_config_fields / sizeof ds_config_fields[0] <= DS_FIELDS_MAX,
               "struct ds_places has a line for every row");

const struct ds_section ds_config_sections[] = {
    {"run", "the process: where it writes, on what it computes"},
    {"model", "what is trained: a folder, or a shape under Hugging Face's names"},
    {"data", "what it learns from"},
    {"train", "how long, in what portions"},
    {"lora", "small factors trained in place of the model"},
    {"optimizer", "AdamW, as PyTorch defines it"},
    {"schedule", "the learning rate over time"},
    {"precision", "how numbers are stored; arithmetic on the cpu is fp32"},
    {"parallel", "how ranks divide the work; it never changes the result"},
    {"zero", "how ranks divide the memory; it never changes the result"},
    {"memory", "how much a rank may take"},
    {"offload", "where states live between their uses; it never changes the result"},
    {"checkpoint", "what a run goes on from when it was ended"},
    {"log", "what the console shows"},
    {"debug", "for tests of the program itself"},
};
const size_t ds_config_section_count = sizeof ds_config_sections / sizeof ds_config_sections[0];

const struct ds_field *ds_field_find(const char *section, const char *key)
{
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (strcmp(field->section, section) == 0 && strcmp(field->key, key) == 0)
            return field;
    }
    return NULL;
}

const struct ds_section *ds_section_find(const char *name)
{
    for (size_t i = 0; i < ds_config_section_count; i++)
        if (strcmp(ds_config_sections[i].name, name) == 0)
            return &ds_config_sections[i];
    return NULL;
}
