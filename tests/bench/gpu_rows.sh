#!/bin/sh
# The rows of RESULTS.md's tables of GPUs by their names, each as gpu_peers.sh measures it, beside its peer.
#
#   tests/bench/gpu_rows.sh                      names and what they are
#   [PEERS=folder] tests/bench/gpu_rows.sh [-r repetitions] [-s steps] [-o folder] build/dstrain row ... [-- section.key=value ...]
#
#   tests/bench/gpu_rows.sh words ROW            dstrain's part of a row: for `dstrain plan`, say
#
# PEERS: where peer_torch.py and peer_lora.py are; without it dstrain is measured alone. DRIVE: where states that live in
# files go. 'row ...' may be patterns ('offload-*', quoted). A peer makes as many steps as dstrain, unless its row says
# how many. What follows -- is said to dstrain behind the row's own. A row that fails is said and the next one measured;
# the folder (gpu_rows) gets ROW.jsonl and ROW.jsonl.log of each.
set -u
here=$(cd "$(dirname "$0")" && pwd)
examples=$here/../../examples

# ---- the rows: row NAME RANKS "what" "peer and its arguments" CONFIG overrides ...; $do says what becomes of each

# products of weights' gradients are rounded to 16 bits, as autocast and LLM.Q round them
sums="precision.reduce=bf16 run.tuning=load" # in fp32, as FSDP's
short="precision.gradients=bf16 $sums"
most=memory.device_limit=83000000000 # of 84.9 GB, what libraries take counted in
adapter="precision.master=fp32 precision.exp_avg=fp32 precision.exp_avg_sq=fp32 precision.gradients=fp32 lora.r=16 lora.alpha=32"
two="train.micro_batch_size=2 train.global_batch_size=2"
four="train.micro_batch_size=4 train.global_batch_size=4"
shape7="train.seq_length=2048 model.vocab_size=102400 model.num_hidden_layers=30" # DeepSeek-LLM-7B's on bench-7b.ini
states="precision.exp_avg=fp32 precision.exp_avg_sq=fp32"
homes="offload.master=auto offload.exp_avg=auto offload.exp_avg_sq=auto offload.depth=24"
shape3="model.vocab_size=128256 model.hidden_size=3072 model.intermediate_size=8192 model.num_hidden_layers=28
    model.num_attention_heads=24 model.num_key_value_heads=8 model.head_dim=128"
files="offload.master=nvme offload.exp_avg=nvme offload.exp_avg_sq=nvme offload.directories=${DRIVE:-/tmp/dstrain-rows}"
away="$shape7 train.micro_batch_size=4 train.global_batch_size=4 train.activation_checkpointing=full precision.master=remainder16
    $states precision.reduce=bf16 $homes"
fsdp_offload="peer_torch.py --model 7b --mode fsdp --offload 1 --seq 2048 --mbs 4 --ac full --steps 4 --warm 1"
fsdp_7b="peer_torch.py --model 7b --mode fsdp --mbs 4 --seq 4096 --ac full"

# shellcheck disable=SC2086 # the lists above are words
rows() {
    row 1b 1 "1B, S 4096, micro-batch 4" "peer_torch.py --model 1b --mbs 4" \
        bench-1b.ini memory.logits=4300000000 $short
    row 124m 1 "124M, S 1024, micro-batch 32" "peer_torch.py --model 124m --seq 1024 --mbs 32" \
        bench-124m.ini memory.logits=4300000000 run.graphs=true $short
    row 7b 1 "Llama-2-7B, 8 bytes a parameter, 32,768 tokens a step" "" \
        bench-7b.ini train.micro_batch_size=2 memory.device_limit=84000000000 $sums
    row offload-76 1 "7B, 8,192 tokens, 76 GB of device memory, updates late" "$fsdp_offload" \
        bench-7b.ini $away offload.updates=late memory.device_limit=76000000000
    row offload-76-end 1 "the same, updates at the end of the step" "$fsdp_offload" \
        bench-7b.ini $away offload.updates=end memory.device_limit=76000000000
    row offload-40 1 "the same in 40 GB, updated by the GPU, late" "$fsdp_offload" \
        bench-7b.ini $away offload.updates=late memory.device_limit=40000000000
    row offload-40-shared 1 "the same, updates divided among GPU and host" "$fsdp_offload" \
        bench-7b.ini $away offload.updates=late offload.optimizer_compute=auto memory.device_limit=40000000000
    row offload-24 1 "the same in 24 GB, everything away" "$fsdp_offload" \
        bench-7b.ini $away offload.params=host offload.grads=host offload.updates=late memory.device_limit=24000000000
    row nvme-3b 1 "3B, all optimizer state in files, bf16 moments" "" \
        bench-7b.ini $shape3 train.seq_length=2048 train.micro_batch_size=4 train.global_batch_size=16 \
        precision.master=remainder16 $files
    row nvme-3b-fp32 1 "the same, fp32 moments: 36 GB of files" "" \
        bench-7b.ini $shape3 train.seq_length=2048 train.micro_batch_size=4 train.global_batch_size=16 \
        precision.master=remainder16 $states $files
    row lora 1 "7B, r 16 on all linear layers, micro-batch 2" "peer_lora.py --mbs 2 --ac 0" \
        bench-7b.ini $shape7 $adapter $two train.activation_checkpointing=none
    row lora-compiled 1 "the same; the peer compiled" "peer_lora.py --mbs 2 --ac 0 --compile 1" \
        bench-7b.ini $shape7 $adapter $two train.activation_checkpointing=none
    row lora-4 1 "the same, micro-batch 4, blocks recomputed by both" "peer_lora.py --mbs 4 --ac 1" \
        bench-7b.ini $shape7 $adapter $four train.activation_checkpointing=full
    row lora-4-compiled 1 "the same; the peer compiled" "peer_lora.py --mbs 4 --ac 1 --compile 1" \
        bench-7b.ini $shape7 $adapter $four train.activation_checkpointing=full
    row lora-nf4 1 "the same, the base in NF4" "" \
        bench-7b.ini $shape7 $adapter $two train.activation_checkpointing=none lora.base=nf4
    row lora-dora 1 "the same in bf16, DoRA" "" \
        bench-7b.ini $shape7 $adapter $two train.activation_checkpointing=none lora.dora=true
    row lora-24 1 "the same in 24 GB" "" \
        bench-7b.ini $shape7 $adapter $two train.activation_checkpointing=full memory.device_limit=24000000000
    row 1b-zero3 2 "1B on two GPUs, ZeRO-3" "peer_torch.py --model 1b --mode fsdp --mbs 4" \
        bench-1b.ini train.global_batch_size=8 memory.logits=4300000000 parallel.gather=copy_engine $sums
    row tensor2 2 "1B untied, tensor parallel 2 and sequence parallel" "peer_torch.py --model 1b --mode tp --mbs 4" \
        bench-1b-tp2.ini $sums parallel.gather=copy_engine
    row 7b-zero3 2 "DeepSeek-LLM-7B on two GPUs, ZeRO-3, full recomputation" "$fsdp_7b" bench-7b-zero3.ini \
        $short precision.master=remainder16 parallel.gather=copy_engine memory.logits=3400000000 $most
    row 7b-16k 2 "the same tokens a step, micro-batch 1, nothing made again" "$fsdp_7b" \
        bench-7b-zero3.ini train.micro_batch_size=1 train.activation_checkpointing=none precision.master=remainder16 \
        $sums parallel.gather=copy_engine
    row 7b-16k-homes 2 "the same, ZeRO stage 2 and moments partly on the host, updates late" "$fsdp_7b" \
        bench-7b-zero3.ini train.micro_batch_size=1 train.activation_checkpointing=none precision.master=remainder16 \
        $sums zero.stage=2 offload.exp_avg=auto offload.exp_avg_sq=auto offload.updates=late
    row 7b-16k-2 2 "the same with ZeRO-3, micro-batch 2, gradients in bf16, selective recomputation, 82 GB" "$fsdp_7b" \
        bench-7b-zero3.ini train.micro_batch_size=2 train.activation_checkpointing=selective precision.master=remainder16 \
        $short parallel.gather=copy_engine $most
    row 7b-16k-2-stage2 2 "the same with ZeRO stage 2, selective recomputation, 1 % of the moments on the host" "$fsdp_7b" \
        bench-7b-zero3.ini train.micro_batch_size=2 train.activation_checkpointing=selective precision.master=remainder16 \
        $short zero.stage=2 offload.exp_avg=auto offload.exp_avg_sq=auto offload.updates=late parallel.gather=copy_engine $most
}

# ---- what becomes of a row

show() { # NAME RANKS what peer CONFIG overrides ...
    printf '%-18s %s GPU%s: %s%s\n' "$1" "$2" "$([ "$2" = 1 ] || echo s)" "$3" "${4:+; peer: $4}"
}

# The words after the peer: dstrain's, as they are measured.
words() {
    [ "$1" != "$wanted" ] || { shift 4; config=$1; shift; echo "$examples/$config" "$@"; }
}

measure() {
    name=$1 ranks=$2 what=$3 peer=$4 config=$5
    shift 5
    # shellcheck disable=SC2254 # patterns
    case $name in $pattern) ;; *) return ;; esac
    found=1
    echo "== $name: $what"
    [ -n "${PEERS-}" ] || peer=
    # shellcheck disable=SC2086
    PEER=${peer:+$PEERS/${peer%% *}} "$here/gpu_peers.sh" -n "$ranks" -r "$repetitions" -s "$steps" -o "$out/$name.jsonl" \
        "$program" "$examples/$config" "$@" $more ${peer:+-- --steps "$steps" ${peer#* }} || {
        echo "== $name: failed; see $out/$name.jsonl.log" >&2
        failed=$((failed + 1))
    }
}

row() { "$do" "$@"; }

repetitions=1 steps=20 out=gpu_rows
while getopts r:s:o: option; do
    case $option in
    r) repetitions=$OPTARG ;;
    s) steps=$OPTARG ;;
    o) out=$OPTARG ;;
    *) exit 64 ;;
    esac
done
shift $((OPTIND - 1))
if [ $# -eq 0 ]; then
    do=show
    rows
    exit 0
fi
program=$1
shift
if [ "$program" = words ]; then
    do=words wanted=${1:?a row}
    rows
    exit 0
fi
patterns=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    patterns="$patterns $1"
    shift
done
[ $# -eq 0 ] || shift
more="$*"
[ -n "$patterns" ] || { echo "gpu_rows.sh: which rows? '$0' says their names" >&2; exit 64; }
mkdir -p "$out"
do=measure failed=0
set -f
for pattern in $patterns; do
    found=0
    rows
    [ $found = 1 ] || { echo "gpu_rows.sh: no row '$pattern'; '$0' says their names" >&2; exit 64; }
done
[ $failed = 0 ]
