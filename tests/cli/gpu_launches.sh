#!/bin/sh
# Launches on GPUs, as a person makes them: four ranks share one GPU, so that every way to divide the work runs
# where there is but one; where there are two, eight share them. Losses are those of one rank to rounding, those of ZeRO's stages to the bit when
# that is asked for; what cannot be is refused in one line; a rank that hangs, dies or cannot talk ends the run.
# Called with the program; 77 where there is no GPU.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
all_gpus=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, -)}
export CUDA_VISIBLE_DEVICES="${all_gpus:-0}"
CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*}
count=0

small_text 2000 >t.txt
small_config run.device=cuda run.export=none model.intermediate_size=192 model.num_hidden_layers=4 \
    model.num_key_value_heads=2 model.tie_word_embeddings=true data.eval=t.txt train.steps=4 train.global_batch_size=16 \
    train.micro_batch_size=4 train.seq_length=64 train.eval_samples=8 optimizer.learning_rate=1e-3 optimizer.eps=1e-5 >c.ini

# launch RANKS arguments...: a run in a fresh r; sets code and took, in seconds
launch() {
    ranks=$1
    shift
    rm -rf r
    began=$(date +%s)
    timeout -k 5 120 mpirun -n "$ranks" "$program" c.ini "$@" >out 2>err
    code=$?
    took=$(($(date +%s) - began))
    count=$((count + 1))
}

# ends CODE SECONDS TEXT: the last launch ended so, with a line that says so
ends() {
    [ "$code" = "$1" ] || fail "$what: exit code $code, not $1"
    [ "$took" -le "$2" ] || fail "$what: took $took s, not $2"
    grep -q "$3" err || fail "$what: it does not say: $3"
}

need_gpu

# ---- layouts

launch 1
[ $code = 0 ] || fail "one rank: exit code $code"
figures loss r >want
figures eval_loss r >>want
[ "$(wc -l <want)" = 5 ] || fail "one rank: not 4 losses and an evaluation"

# same RANKS arguments...: the losses of one rank, to rounding in fp32
same() {
    what="$*"
    launch "$@" run.share_device=true
    [ $code = 0 ] || { fail "$what: exit code $code"; return; }
    { figures loss r; figures eval_loss r; } >got
    paste want got | awk -v tolerance=2e-5 '
        function abs(x) { return x < 0 ? -x : x }
        NF != 2 || abs($1 - $2) > tolerance * abs($1) { print "step " NR ": " $2 ", one rank has " $1; bad = 1 }
        END { exit bad || NR != 5 }' >err || fail "$what: other losses"
}

for stage in 0 1 2 3; do
    same 4 zero.stage=$stage
done
same 4 parallel.shard=2
same 4 parallel.tensor=4
same 4 parallel.tensor=2 parallel.sequence_parallel=true
same 2 parallel.tensor=2 parallel.sequence_parallel=true parallel.gather=copy_engine
same 4 parallel.pipeline=4 parallel.schedule=1f1b
same 4 parallel.pipeline=2 parallel.schedule=zero_bubble
same 4 parallel.pipeline=2 parallel.chunks=2 parallel.schedule=interleaved
same 4 parallel.tensor=2 parallel.pipeline=2 train.activation_checkpointing=full

# ---- the same bits, where they are asked for

sharing=true
bits() {
    what="$*"
    launch "$@" run.share_device=$sharing run.deterministic=true
    [ $code = 0 ] || fail "$what: exit code $code"
    { figures loss r; figures grad_norm r; } >got
}

bits 4 zero.stage=3
cp got want
bits 4 zero.stage=3
cmp -s want got || fail "$what: again, other bits"
for stage in 0 2; do
    bits 4 zero.stage=$stage
    cmp -s want got || fail "$what: other bits than stage 3"
done
bits 4 zero.stage=3 precision.compute=bf16 train.activation_checkpointing=none
cp got want
bits 4 zero.stage=3 precision.compute=bf16 train.activation_checkpointing=full
cmp -s want got || fail "$what: other bits than without recomputation"

# ways that a gather may take: between two GPUs where there are two, else NCCL falls back by itself
bits 2 zero.stage=3
cp got want
for way in symmetric copy_engine; do
    bits 2 zero.stage=3 parallel.gather=$way
    cmp -s want got || fail "$what: other bits than by kernels"
done
case $all_gpus in
*,*)
    one=$CUDA_VISIBLE_DEVICES
    CUDA_VISIBLE_DEVICES=$(echo "$all_gpus" | cut -d, -f1,2)
    sharing=false
    bits 2 zero.stage=3
    cp got want
    for way in symmetric copy_engine; do
        bits 2 zero.stage=3 parallel.gather=$way
        cmp -s want got || fail "$what on two GPUs: other bits than by kernels"
    done
    bits 2 zero.stage=3 run.graphs=true
    cmp -s want got || fail "$what on two GPUs: other bits than without graphs"
    launch 1
    { figures loss r; figures eval_loss r; } >want
    smaller=train.micro_batch_size=2 # 8 replicas have 16 sequences between them
    same 8 zero.stage=3 $smaller
    same 8 parallel.tensor=2 parallel.pipeline=2 parallel.schedule=zero_bubble
    same 8 parallel.tensor=2 parallel.sequence_parallel=true parallel.pipeline=4
    for way in symmetric copy_engine; do
        same 2 parallel.tensor=2 parallel.sequence_parallel=true parallel.gather=$way
    done
    CUDA_VISIBLE_DEVICES=$one
    ;;
esac

# ---- what is refused

what="two ranks on one GPU"
launch 2
ends 64 30 '2 ranks have 1 GPU between them (rank 1 computes where rank 0 does)'
grep -q 'run.share_device = true' err || fail "$what: no remedy"
what="copies in a graph"
launch 2 run.share_device=true run.graphs=true parallel.gather=copy_engine
ends 64 30 'gather = copy_engine cannot be captured into a graph'
what="shared memory between GPUs"
launch 2 run.device=auto run.share_device=true parallel.transport=shm
ends 64 30 'transport = shm, but the .* group is between GPUs'

# ---- ranks that do not come

what="a rank that hangs"
launch 4 run.share_device=true debug.inject=hang:2:3 run.deadline=8
ends 71 60 'a rank has not come within 8 s'
what="a rank that is killed"
launch 4 run.share_device=true debug.inject=kill:1:3 run.deadline=20
[ "$code" != 0 ] || fail "$what: exit code 0"
[ "$took" -le 40 ] || fail "$what: took $took s"
what="a rank that fails"
launch 4 run.share_device=true debug.inject=fail:3:2 run.deadline=20
ends 70 40 'debug.inject: a failure in step 2'
what="NCCL without a network"
NCCL_SOCKET_IFNAME=nosuch0 launch 2 run.share_device=true run.deadline=20
[ "$code" != 0 ] || fail "$what: exit code 0"
[ "$took" -le 60 ] || fail "$what: took $took s"
grep -q 'group: .*NCCL' err || fail "$what: it does not say that it is NCCL"

[ $bad = 0 ] && echo "$count launches on a GPU: as they must be"
exit $bad
