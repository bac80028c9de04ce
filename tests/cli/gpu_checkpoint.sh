#!/bin/sh
# Checkpoints on a GPU: a run that was killed, or asked to leave, and started again ends with the weights of the run that
# nobody disturbed, to the bit in deterministic mode, step by step and as graphs; the cpu goes on from what the GPU wrote, and
# the GPU from that; and a run with bad labels in its data goes back, leaves them out and says so once. Called with the
# program; 77 where there is no GPU.
. "$(dirname "$0")/../support/cli.sh"
small_text 4000 >t.txt
small_config run.device=cuda run.deterministic=true model.num_hidden_layers=3 train.steps=16 train.global_batch_size=4 \
    train.micro_batch_size=2 train.seq_length=64 optimizer.learning_rate=0.001 checkpoint.interval=4 schedule.decay_steps=16 >c.ini

need_gpu

same() { # what: the two runs' models
    cmp -s whole/export/model.safetensors cut/export/model.safetensors || fail "$1: other weights"
}

for kind in "bf16 false" "bf16 true" "fp32 false"; do
    set -- precision.compute="${kind% *}" run.graphs="${kind#* }"
    rm -rf whole cut
    run whole "$@"
    [ $code -eq 0 ] || die "$*: $code"
    run cut "$@" debug.inject=kill:0:11
    [ $code -ne 0 ] || fail "$*: not killed"
    run cut "$@"
    [ $code -eq 0 ] && grep -q 'step 8' err || fail "$*: it does not go on from step 8: $code"
    same "killed, $*"

    rm -rf cut
    "$program" c.ini run.dir=cut train.steps=100000 "$@" >out 2>err &
    job=$!
    for _ in $(seq 3000); do
        ! ls cut/checkpoints/*/manifest.json >/dev/null 2>&1 || break
        sleep 0.01
    done
    kill -USR1 $job
    await_exit $job
    [ $code -eq 75 ] || fail "asked to leave, $*: $code"
    must_verify cut "asked to leave"
done

# ---- on another device, and back

rm -rf whole cut
run whole precision.compute=fp32
run cut precision.compute=fp32 train.steps=8
run cut precision.compute=fp32 run.device=cpu train.steps=12
[ $code -eq 0 ] && grep -q 'step 8' err || fail "the cpu does not go on: $code"
run cut precision.compute=fp32
[ $code -eq 0 ] && grep -q 'step 12' err || fail "the GPU does not go on from the cpu's: $code"
loss_of() { grep '"step": *16,' "$1/metrics.jsonl" | sed 's/.*"loss": *\([^,]*\).*/\1/'; }
awk "BEGIN { a = $(loss_of whole); b = $(loss_of cut); exit !(a > 0 && (a - b) / a < 1e-5 && (b - a) / a < 1e-5) }" ||
    fail "by way of the cpu the last loss is $(loss_of cut), not $(loss_of whole)"

# ---- bad labels

awk 'BEGIN { for (i = 0; i < 9000; i++) printf "%s", "abcdefgh" }' >t.txt
for graphs in false true; do
    rm -rf bad
    run bad run.graphs=$graphs train.steps=150 train.seq_length=32 optimizer.learning_rate=0.01 checkpoint.interval=20 \
        checkpoint.rollback_skip=20 debug.inject=labels:all:90-94 precision.compute=bf16
    [ $code -eq 0 ] || fail "bad labels, graphs $graphs: $code"
    [ "$(grep -c 'back to the checkpoint of step' err)" = 1 ] || fail "bad labels, graphs $graphs: it does not say once that it goes back"
    [ "$(ls bad/incidents)" = rollback-000002.json ] || fail "bad labels: incidents $(ls bad/incidents)"
    must_verify bad "behind the rollback"
done
exit $bad
