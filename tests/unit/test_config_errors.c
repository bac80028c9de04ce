// link: launch
// private: launch
/* Every class of error has its line, to the letter, and what it advises holds. */
#include "config_case.h"

static const struct {
    const char *text; /* behind GOOD; NULL: `whole` alone */
    const char *whole;
    const char *override;
    const char *said;
    uint64_t rank_count;
    enum ds_config_use use;
} errors[] = {
    /* names */
    {"[zero]\nstge = 3\n", 0, 0,
     SAYS("c.ini:15: unknown key 'stge' in [zero]; did you mean 'stage'?"), 1, 0},
    {0, "[train]\nmicro_batchsize = 3\n", 0,
     SAYS("c.ini:2: unknown key 'micro_batchsize' in [train]; did you mean 'micro_batch_size'?"), 1,
     0},
    {0, "[train]\nlr = 3\n", 0,
     SAYS("c.ini:2: unknown key 'lr' in [train]; did you mean 'learning_rate' in [optimizer]?"), 1,
     0},
    {0, "[optimizer]\nadam_beta2 = 3\n", 0,
     SAYS("c.ini:2: unknown key 'adam_beta2' in [optimizer]; did you mean 'beta2'?"), 1, 0},
    {0, "[train]\nmax-grad-norm = 3\n", 0,
     SAYS("c.ini:2: unknown key 'max-grad-norm' in [train]; did you mean 'grad_clip'?"), 1, 0},
    {0, "[train]\nlearning_rate = 3\n", 0,
     SAYS("c.ini:2: unknown key 'learning_rate' in [train]; did you mean 'learning_rate' in "
          "[optimizer]?"),
     1, 0},
    {0, "[train]\nxyzzyquux = 3\n", 0,
     SAYS("c.ini:2: unknown key 'xyzzyquux' in [train]; 'dstrain help train' lists its keys"), 1,
     0},
    {0, "[trian]\nsteps = 3\n", 0, SAYS("c.ini:1: unknown section [trian]; did you mean [train]?"),
     1, 0},
    {0, "[xyzzy]\n", 0, SAYS("c.ini:1: unknown section [xyzzy]; 'dstrain help' lists the sections"),
     1, 0},
    {"[lora]\nbase = nf4\n", 0, 0,
     SAYS("c.ini:15: [lora] base = nf4 and int8 are of what is frozen, and nothing is without "
          "lora.r or lora.adapter; nearest: compute"),
     1, 0},
    /* twice */
    {"[train]\n", 0, 0, SAYS("c.ini:14: section [train] again; the first is on line 10"), 1, 0},
    {"steps = 11\n", 0, 0, SAYS("c.ini:14: key 'steps' in [train] again; the first is on line 11"),
     1, 0},
    /* values */
    {"micro_batch_size = two\n", 0, 0,
     SAYS("c.ini:14: [train] micro_batch_size = 'two' must be a whole number in 1..1048576 "
          "(sequences a rank takes "
          "through the model at once)"),
     1, 0},
    {"grad_clip = -1\n", 0, 0,
     SAYS("c.ini:14: [train] grad_clip = '-1' must be a number in 0..1e+30 (largest gradient norm; "
          "0: off)"),
     1, 0},
    {"[zero]\nstage = 4\n", 0, 0,
     SAYS("c.ini:15: [zero] stage = '4' must be a whole number in 0..3 (what shard ranks share "
          "out: 1 optimizer "
          "states, 2 and gradients, 3 and parameters)"),
     1, 0},
    {"[parallel]\ndata = many\n", 0, 0,
     SAYS("c.ini:15: [parallel] data = 'many' must be auto or a whole number in 1..65536 (ranks "
          "that see other "
          "samples; auto: all ranks left)"),
     1, 0},
    {0, "[model]\ntie_word_embeddings = yes\n", 0,
     SAYS("c.ini:2: [model] tie_word_embeddings = 'yes' must be true or false (the head shares the "
          "embedding's weights)"),
     1, 0},
    {0, "[model]\nfamily = gpt2\n", 0,
     SAYS("c.ini:2: [model] family = 'gpt2' must be llama, qwen2 or qwen3 (architecture of a new "
          "model)"),
     1, 0},
    {0, "[run]\ndevice = tpu\n", 0,
     SAYS("c.ini:2: [run] device = 'tpu' must be auto, cpu or cuda (where arithmetic happens; "
          "auto: the fastest that is here)"),
     1, 0},
    {0, "[run]\nseed =\n", 0,
     SAYS("c.ini:2: [run] seed = '' must be a whole number in 0..9007199254740992 (of the first "
          "weights and of the "
          "order of samples)"),
     1, 0},
    /* the command line */
    {"", 0, "train.micro_batchsize=3",
     SAYS("command line: unknown key 'micro_batchsize' in [train]; did you mean "
          "'micro_batch_size'?"),
     1, 0},
    {"", 0, "trian.steps=3", SAYS("command line: unknown section [trian]; did you mean [train]?"),
     1, 0},
    {"", 0, "train.steps=x",
     SAYS("command line: [train] steps = 'x' must be a whole number in 1..9007199254740992 "
          "(updates of the model)"),
     1, 0},
    {"", 0, "steps=5",
     SAYS("command line: 'steps=5' must read section.key=value; did you mean 'train.steps=...'?"),
     1, 0},
    {"", 0, "--train.steps=5", SAYS("command line: '--train.steps=5' must read section.key=value"),
     1, 0},
    {"", 0, "train.steps", SAYS("command line: 'train.steps' must read section.key=value"), 1, 0},
    {"", 0, "data.train=a #b",
     SAYS("command line: the value of [data] train holds a comment sign ('#' or ';') at its start "
          "or behind white space"),
     1, 0},
    {"", 0, "data.train=a\nb", SAYS("command line: an override holds a control character"), 1, 0},
    /* missing */
    {0, "[run]\ndir = r\n", 0,
     SAYS("c.ini: [model] hidden_size is missing, and so is [model] path: width of the model (a "
          "whole number in 1..1048576)"),
     1, 0},
    {"", 0, "data.train=",
     SAYS(
         "c.ini: [data] train is missing: files or folders, comma separated, each with a weight if "
         "wanted: a.txt, b.txt:0.5 (half of its samples an epoch) (text of at most 4095 bytes)"),
     1, 0},
    {0,
     "[model]\npath = m\n[data]\ntrain = a\n[train]\nglobal_batch_size = 1\nseq_length = 1\nsteps "
     "= 1\n",
     0,
     SAYS("c.ini: [run] dir is missing: directory of the run: its configuration, metrics, logs and "
          "the model at the end "
          "(text of at most 4095 bytes)"),
     1, 0},
    {0, "[model]\npath = m\n", 0,
     SAYS("c.ini: [data] eval is missing: what it is evaluated on, written as train is; empty: "
          "nothing (text of at most "
          "4095 bytes)"),
     1, DS_CONFIG_EVAL},
    {0, "[data]\neval = m\n[train]\nseq_length = 4\n", 0,
     SAYS(
         "c.ini: [run] dir and [model] path are missing: one of them says what is to be evaluated"),
     1, DS_CONFIG_EVAL},
    {0, "[run]\ndir = r\n", 0, SAYS("c.ini: [data] train and eval are missing: nothing to prepare"),
     1, DS_CONFIG_PREPARE},
    {0, "[data]\ntrain = r\n", 0,
     SAYS("c.ini: [data] cache and [run] dir are missing: one of them says where token shards go"),
     1, DS_CONFIG_PREPARE},
    {0, "[data]\ntrain = r\nformat = safetensors\n", 0,
     SAYS("c.ini:3: [data] format = safetensors needs no preparation, only text and jsonl do"), 1,
     DS_CONFIG_PREPARE},
    /* rows */
    {0, "[data]\ntrain = a.txt, b.jsonl:0.5\ncache = c\n", 0,
     SAYS("c.ini:2: [data] train names b.jsonl: is it rows, [data] format = jsonl, or plain text "
          "all the same, format = text?"),
     1, DS_CONFIG_PREPARE},
    {"", 0, "data.train_on=all",
     SAYS("command line: [data] train_on is about rows of JSONL: it needs [data] format = jsonl"),
     1, 0},
    {0, "[data]\ntrain = r\ncache = c\nformat = jsonl\nchat_end = x\n", 0,
     SAYS("c.ini:5: [data] chat_end is part of a template of one's own: it needs [data] "
          "chat_template = custom"),
     1, DS_CONFIG_PREPARE},
    {0, "[data]\ntrain = r\ncache = c\nformat = jsonl\neval = e\neval_share = 0.1\n", 0,
     SAYS("c.ini:6: [data] eval_share = 0.1: [data] eval says already what is evaluated on"), 1,
     DS_CONFIG_PREPARE},
    /* combinations */
    {"", 0, "model.path=m",
     SAYS("c.ini:4: [model] hidden_size cannot stand beside [model] path (command line): the "
          "folder's "
          "config.json decides it"),
     1, 0},
    {"", 0, "model.num_key_value_heads=3",
     SAYS("command line: [model] num_key_value_heads = 3 must divide num_attention_heads = 4; "
          "nearest: 2"),
     1, 0},
    {"", 0, "model.hidden_size=66",
     SAYS("command line: [model] hidden_size = 66 must be a multiple of num_attention_heads = 4; "
          "nearest: 64"),
     1, 0},
    {"", 0, "model.hidden_size=60",
     SAYS("command line: [model] hidden_size = 60 makes head_dim = 60 / 4 = 15, which must be even "
          "(rotary positions turn pairs) and in 2..256; nearest: 56"),
     1, 0},
    {"", 0, "model.hidden_size=6",
     SAYS("command line: [model] hidden_size = 6 must be a multiple of num_attention_heads = 4; "
          "nearest: 8"),
     1, 0},
    {"", 0, "model.head_dim=258",
     SAYS("command line: [model] head_dim = '258' must be auto or a whole number in 2..256 (width "
          "of a "
          "head; auto: 128 for qwen3, else hidden_size / num_attention_heads)"),
     1, 0},
    {"[parallel]\n", 0, "model.head_dim=15",
     SAYS("command line: [model] head_dim = 15 must be even: rotary positions turn pairs; nearest: "
          "14"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\ndeterministic = false\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n",
     0,
     SAYS("c.ini:4: [run] deterministic = false has no meaning with device = cpu, which always "
          "is deterministic; nearest: auto"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n[parallel]\ntransport = nccl\n",
     0, SAYS("c.ini:13: [parallel] transport = nccl is between GPUs, device is cpu; nearest: auto"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cuda\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n[parallel]\ntransport = mpi\n",
     0,
     SAYS("c.ini:13: [parallel] transport = mpi is between the memories of cpu ranks, device is "
          "cuda; nearest: auto"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n[parallel]\ngather = "
     "copy_engine\n",
     0,
     SAYS("c.ini:13: [parallel] gather = copy_engine is between GPUs, device is cpu; nearest: "
          "kernel"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\nshare_device = true\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n",
     0,
     SAYS("c.ini:4: [run] share_device = true is about GPUs, device is cpu, which ranks share "
          "anyway; nearest: false"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\ngraphs = true\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n",
     0,
     SAYS(
         "c.ini:4: [run] graphs = true is about GPUs, device is cpu, which has no graphs; nearest: "
         "false"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cuda\ngraphs = true\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n[parallel]\ngather = "
     "copy_engine\n",
     0,
     SAYS("c.ini:14: [parallel] gather = copy_engine cannot be captured into a graph (NCCL 2.28), "
          "graphs = true asks for that; nearest: kernel"),
     1, 0},
    {"", 0, "model.hidden_size=4100",
     SAYS(
         "command line: [model] hidden_size = 4100 makes head_dim = 4100 / 4 = 1025, which must be "
         "even (rotary positions turn pairs) and in 2..256; nearest: 1024"),
     1, 0},
    {"", 0, "model.vocab_size=100",
     SAYS("command line: [model] vocab_size = 100 is smaller than the tokenizer's 259 ([data] "
          "tokenizer = bytes); nearest: 259"),
     1, 0},
    {"", 0, "data.format=safetensors",
     SAYS("command line: [data] format = safetensors needs a number in [model] vocab_size: no "
          "tokenizer decides it"),
     1, 0},
    {"", 0, "model.max_position_embeddings=16",
     SAYS("c.ini:13: [train] seq_length = 32 is longer than [model] max_position_embeddings = 16; "
          "nearest: 16"),
     1, 0},
    {"[parallel]\ndata = 4\n", 0, 0,
     SAYS("c.ini:15: [parallel] data = 4 wants 4 ranks (tensor = 1, pipeline = 1), this launch "
          "has 2; "
          "nearest: data = 2, or run under mpirun -n 4"),
     2, 0},
    {"[parallel]\ndata = 2\ntensor = 2\npipeline = 3\n", 0, 0,
     SAYS(
         "c.ini:15: [parallel] data = 2 wants 12 ranks (tensor = 2, pipeline = 3), this launch has "
         "6; nearest: data = 1, or run under mpirun -n 12"),
     6, 0},
    {"", 0, "parallel.shard=3",
     SAYS("command line: [parallel] shard = 3 must divide data = 4; nearest: 2"), 4, 0},
    {"[parallel]\npipeline = 2\n", 0, "parallel.tensor=3",
     SAYS("command line: [parallel] tensor = 3 times pipeline = 2 must divide the 4 ranks of this "
          "launch; nearest: tensor = 2"),
     4, 0},
    {"[parallel]\ndata = 3\ntensor = 4\n", 0, 0,
     SAYS("c.ini:16: [parallel] tensor = 4 times pipeline = 1 must divide the 6 ranks of this "
          "launch; nearest: tensor = 2 and [train] global_batch_size = 9"),
     6, 0},
    {"[parallel]\npipeline = 4\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 4 must divide the 6 ranks of this launch; nearest: "
          "pipeline = 3, or run under mpirun -n 4"),
     6, 0},
    {"[parallel]\npipeline = 2\nchunks = 2\n", 0, 0,
     SAYS("c.ini:16: [parallel] chunks = 2 needs schedule = interleaved and pipeline > 1 (pipeline "
          "= "
          "2); nearest: 1"),
     2, 0},
    {"[parallel]\npipeline = 2\nschedule = interleaved\n", 0, 0,
     SAYS("c.ini:16: [parallel] schedule = interleaved needs chunks > 1: with 1 it is 1f1b; "
          "nearest: "
          "chunks = 2"),
     2, 0},
    {"[parallel]\npipeline = 8\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 8 times chunks = 1 is more than the 4 blocks of the "
          "model (2 layers, embedding, head); nearest: 4"),
     8, 0},
    {"[parallel]\ntensor = 3\n", 0, 0,
     SAYS("c.ini:15: [parallel] tensor = 3 cannot share 4 query heads and 4 kv heads: it must "
          "divide the first, and divide the second or be a multiple of it; nearest: tensor = 1 and "
          "[train] global_batch_size = 9"),
     3, 0},
    {"[parallel]\ntensor = 2\nsequence_parallel = true\n", 0, "train.seq_length=31",
     SAYS("c.ini:16: [parallel] sequence_parallel = true needs micro_batch_size * seq_length = 1 * "
          "31 "
          "to be a multiple of tensor = 2; nearest: tensor = 1"),
     2, 0},
    {"[precision]\nmaster = none\n", 0, 0,
     SAYS("c.ini:15: [precision] master = none is for compute = bf16, but compute = fp32; nearest: "
          "fp32"),
     1, 0},
    {"[precision]\ncompute = fp16\nreduce = bf16\n", 0, 0,
     SAYS("c.ini:16: [precision] reduce = bf16 does not go with compute = fp16, whose gradients "
          "have "
          "3 bits more and a loss scale for their range; nearest: fp32"),
     1, 0},
    {"[zero]\nstage = 2\nwindow = 4\n", 0, 0,
     SAYS("c.ini:16: [zero] window = 4 is for stage = 3, which gathers parameters; stage = 2 keeps "
          "them; nearest: 1"),
     1, 0},
    {"[parallel]\npipeline = 8\n", 0, "model.num_hidden_layers=3",
     SAYS("c.ini:15: [parallel] pipeline = 8 times chunks = 1 is more than the 5 blocks of the "
          "model (3 layers, embedding, head); nearest: 4"),
     8, 0},
    {"[parallel]\npipeline = 4\nschedule = interleaved\nchunks = 10\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 4 times chunks = 10 is more than the 4 blocks of the "
          "model (2 layers, embedding, head); nearest: chunks = 1 and schedule = 1f1b"),
     4, 0},
    {"[parallel]\npipeline = 3\nschedule = interleaved\nchunks = 2\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 3 times chunks = 2 is more than the 4 blocks of the "
          "model (2 layers, embedding, head); nearest: chunks = 1 and schedule = 1f1b"),
     3, 0},
    {"[parallel]\ntensor = 4\nsequence_parallel = true\n", 0, "train.seq_length=30",
     SAYS("c.ini:16: [parallel] sequence_parallel = true needs micro_batch_size * seq_length = 1 * "
          "30 to be a multiple of tensor = 4; nearest: tensor = 2"), /* not 3, nor 5 */
     4, 0},
    {"[parallel]\ntensor = 65536\npipeline = 65536\n", 0, 0,
     SAYS("c.ini:15: [parallel] tensor = 65536 times pipeline = 65536 must divide the 4 ranks of "
          "this launch; nearest: tensor = 4 and pipeline = 1"),
     4, 0},
    {"", 0, "train.global_batch_size=15",
     SAYS("command line: [train] global_batch_size = 15 must be a multiple of micro_batch_size * "
          "data = 1 * 8 = 8; nearest: 16"),
     8, 0},
    {"", 0, "zero.window=9",
     SAYS("command line: [zero] window = 9 is more than the 8 micro-batches of a rank in a step; "
          "nearest: 8"),
     1, 0},
    {"[log]\ntrace = 3..2\n", 0, 0,
     SAYS("c.ini:15: [log] trace = '3..2' must be first..last with 1 <= first <= last"), 1, 0},
    {"[log]\ntrace = 11..12\n", 0, 0,
     SAYS("c.ini:15: [log] trace = '11..12' begins after the last step, train.steps = 10; nearest: "
          "10..10"),
     1, 0},
    {"micro_batch_size = 4\n", 0, 0,
     SAYS("c.ini:12: [train] global_batch_size = 8 must be a multiple of micro_batch_size * data = "
          "4 * 4 = 16; nearest: 16"),
     4, 0},
    {"", 0, "train.micro_batch_size=3",
     SAYS("c.ini:12: [train] global_batch_size = 8 must be a multiple of micro_batch_size * data = "
          "3 * 1 = 3; nearest: 9"),
     0, 0},
    {"[schedule]\nwarmup_steps = 11\n", 0, 0,
     SAYS("c.ini:15: [schedule] warmup_steps = 11 is more than [train] steps = 10; nearest: 10"), 1,
     0},
    {"[schedule]\nkind = wsd\n", 0, 0,
     SAYS("c.ini:15: [schedule] kind = wsd needs decay_steps: how many of the last steps decay; "
          "nearest: decay_steps = 1"),
     1, 0},
    {"[schedule]\nkind = wsd\nwarmup_steps = 10\ndecay_steps = 2\n", 0, 0,
     SAYS("c.ini:17: [schedule] decay_steps = 2 does not fit behind warmup_steps: 10 + 2 > [train] "
          "steps = 10; nearest: warmup_steps = 8"),
     1, 0},
    {"[schedule]\nkind = wsd\nwarmup_steps = 4\ndecay_steps = 7\n", 0, 0,
     SAYS("c.ini:17: [schedule] decay_steps = 7 does not fit behind warmup_steps: 4 + 7 > [train] "
          "steps = 10; nearest: 6"),
     1, 0},
    {"[schedule]\nkind = constant\nwarmup_steps = 4\ndecay_steps = 3\n", 0, 0,
     SAYS("c.ini:17: [schedule] decay_steps = 3 has no meaning with kind = constant; nearest: 0"),
     1, 0},
    {"[schedule]\nkind = constant\nmin_learning_rate = 1e-4\n", 0, 0,
     SAYS("c.ini:16: [schedule] min_learning_rate = 0.0001 has no meaning with kind = constant; "
          "nearest: 0"),
     1, 0},
    {"", 0, "optimizer.beta2=0.9999999",
     SAYS("command line: [optimizer] beta2 = '0.9999999' must be a number in 0..0.999999 (AdamW: "
          "memory of its square)"),
     1, 0},
    {"", 0, "schedule.min_learning_rate=1",
     SAYS("command line: [schedule] min_learning_rate = 1 is larger than [optimizer] learning_rate "
          "= 0.0003; nearest: 0.0003"),
     1, 0},
    {"eval_interval = 5\n", 0, 0,
     SAYS("c.ini:14: [train] eval_interval = 5 needs data to evaluate on: [data] eval; nearest: 0"),
     1, 0},
    {"eval_samples = 5\n", 0, 0,
     SAYS("c.ini:14: [train] eval_samples = 5 needs data to evaluate on: [data] eval; nearest: 0"),
     1, 0},
    {"[checkpoint]\nkeep_every = 50\n", 0, 0,
     SAYS("c.ini:15: [checkpoint] keep_every = 50 needs checkpoints: [checkpoint] interval; "
          "nearest: 0"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cuda\ncpu_streams = deferred\n[model]\npath = m\n[data]\ntrain = "
     "a\n[train]\n"
     "global_batch_size = 1\nseq_length = 1\nsteps = 1\n",
     0,
     SAYS("c.ini:4: [run] cpu_streams = deferred is a mode of the cpu, device is cuda; nearest: "
          "inline"),
     1, 0},
    {"", 0, "data.train=a,,b",
     SAYS("command line: [data] train: an empty path; paths are separated by single commas"), 1, 0},
    {"", 0, "data.eval=a:0",
     SAYS("command line: [data] eval: the weight in 'a:0' must be a number in 1e-6..1e6"), 1, 0},
    {"[debug]\ninject = melt:0:1\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'melt:0:1' must be KIND:RANK:STEP with KIND hang, fail, kill "
          "or nan, or KIND:all:FIRST-LAST with KIND labels or rate"),
     1, 0},
    {"[debug]\ninject = hang:0\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'hang:0' must be KIND:RANK:STEP with KIND hang, fail, kill "
          "or nan, or KIND:all:FIRST-LAST with KIND labels or rate"),
     1, 0},
    {"[debug]\ninject = hang:2:5\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'hang:2:5' names rank 2 of 2; nearest: hang:1:5"), 2, 0},
    /* several: what cannot be advised about is named */
    {"[log]\ntrace = 3..2\n", 0, "parallel.tensor=3",
     SAYS("command line: [parallel] tensor = 3 times pipeline = 1 must divide the 4 ranks of this "
          "launch; nearest: tensor = 2, and [log] trace must change, too"),
     4, 0},
    {"[debug]\ninject = nan:0:0\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'nan:0:0': nothing is computed before step 1; nearest: "
          "nan:0:1"),
     1, 0},
};

static void errors_name_place_key_and_remedy(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        char text[4096];
        struct load l = {.text = text, .use = errors[i].use, .rank_count = errors[i].rank_count};
        ds_status st;

        snprintf(text, sizeof text, "%s%s", errors[i].whole ? errors[i].whole : GOOD,
                 errors[i].text ? errors[i].text : "");
        l.overrides[0] = errors[i].override;
        st = load(&l);
        assert_string_equal(l.said, errors[i].said);
        assert_int_equal(st, DS_ERR_CONFIG);
    }
}

static void advice_that_is_taken_ends_in_a_good_configuration(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        char text[4096];
        struct load l = {.text = text, .use = errors[i].use, .rank_count = errors[i].rank_count};

        if (!strstr(errors[i].said, "nearest: "))
            continue;
        snprintf(text, sizeof text, "%s%s", errors[i].whole ? errors[i].whole : GOOD,
                 errors[i].text ? errors[i].text : "");
        l.overrides[0] = errors[i].override;
        assert_int_equal(load(&l), DS_ERR_CONFIG);
        assert_advice_holds(&l);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_name_place_key_and_remedy),
        cmocka_unit_test(advice_that_is_taken_ends_in_a_good_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
