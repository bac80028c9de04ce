#!/bin/sh
# On a GPU, too, where states live, and what layers keep, changes no bit of what a run computes: near, in host memory, in
# files, half of them, with updates at the end of a step or late, step by step and as graphs, where streams wait for files
# inside of them; and a checkpoint taken from files goes on. By the model that comes out, in deterministic mode. Called with
# the program; 77 where there is no GPU.
. "$(dirname "$0")/../support/cli.sh"
mkdir one two
small_text 2000 >t.txt
small_config run.device=cuda run.deterministic=true model.num_hidden_layers=6 train.steps=8 train.global_batch_size=8 \
    train.micro_batch_size=2 train.seq_length=64 train.eval_interval=5 train.eval_samples=8 data.eval=t.txt \
    optimizer.learning_rate=0.001 precision.compute=bf16 offload.block_size=32768 \
    offload.directories="$work/one,$work/two" >c.ini

need_gpu
run near run.graphs=false
[ $code -eq 0 ] || die "near: $code"

away() { # HOME option ...: the same model
    home=$1
    shift
    run away offload.params="$home" offload.master="$home" offload.exp_avg="$home" offload.exp_avg_sq="$home" \
        offload.grads="$home" "$@"
    [ $code -eq 0 ] || { fail "$home $*: $code"; rm -rf away; return; }
    cmp -s near/export/model.safetensors away/export/model.safetensors || fail "$home $*: other weights"
    [ -z "$(ls one two | grep states)" ] || fail "$home $*: files are left"
    rm -rf away
}

for graphs in false true; do
    for updates in end late; do
        away host run.graphs=$graphs offload.updates=$updates
        away nvme run.graphs=$graphs offload.updates=$updates
        away nvme:0.5 run.graphs=$graphs offload.updates=$updates offload.depth=1
    done
done
away nvme offload.storage=threads run.graphs=true

# ---- what layers keep

kept() { # option ...: the same model
    run kept "$@"
    [ $code -eq 0 ] || { fail "$*: $code"; rm -rf kept; return; }
    cmp -s near/export/model.safetensors kept/export/model.safetensors || fail "$*: other weights"
    rm -rf kept
}

for graphs in false true; do
    for recompute in none selective full; do
        kept offload.activations=host run.graphs=$graphs train.activation_checkpointing=$recompute
    done
    kept offload.activations=nvme run.graphs=$graphs offload.exp_avg=nvme
    kept offload.activations=host:0.5 run.graphs=$graphs offload.exp_avg=host offload.params=host offload.updates=late
done

# ---- what a checkpoint takes from files

run first offload.exp_avg=nvme offload.exp_avg_sq=nvme offload.params=nvme train.steps=4 schedule.decay_steps=8 \
    checkpoint.interval=2
[ $code -eq 0 ] || fail "with checkpoints: $code"
run first offload.master=nvme schedule.decay_steps=8 checkpoint.interval=2
[ $code -eq 0 ] || fail "going on: $code"
run whole schedule.decay_steps=8
cmp -s first/export/model.safetensors whole/export/model.safetensors || fail "going on: other weights"
exit $bad
