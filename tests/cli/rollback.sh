#!/bin/sh
# Rollback on the command line: a run with bad labels in its data goes back, leaves them out and says so once, in its
# incidents, too; killed at any moment behind that and started again, it ends with the same weights. One that goes wrong
# whatever is left out ends with 67, on any number of ranks, and one line says why; so does one that may not go back and has no finite states
# to save at its end. Called with the program; DSTRAIN_TEST_LONG: 40 kills.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
seed_draws
kills=$(short_or_long 2 40)

awk 'BEGIN { for (i = 0; i < 9000; i++) printf "%s", "abcdefgh" }' >t.txt
small_config model.hidden_size=32 model.intermediate_size=64 train.steps=150 train.global_batch_size=6 \
    train.micro_batch_size=2 train.seq_length=32 optimizer.learning_rate=0.01 checkpoint.interval=20 \
    checkpoint.rollback_skip=20 debug.inject=labels:all:90-94 >c.ini

mpirun -n 3 "$program" c.ini run.dir=whole >out 2>err || die "with bad labels it ends with $?"
[ "$(grep -c 'back to the checkpoint of step' err)" = 1 ] || die "it does not say once that it goes back"
[ "$(ls whole/incidents)" = rollback-000002.json ] || die "incidents: $(ls whole/incidents)"
grep -q '^{"what": "rollback", "why": "loss", "first_step": 90, .*"left_out_first": 80, .*}$' whole/incidents/rollback-000002.json ||
    die "the incident: $(cat whole/incidents/*)"
awk -F'[:,]' '{ seen[$2 + 0]++ } END { for (s = 1; s <= 150; s++) if (!seen[s]) exit 1; exit seen[90] < 2 }' whole/metrics.jsonl ||
    die "metrics lack steps, or do not show that some came again"
must_verify whole "behind the rollback"

killed=0
while [ $killed -lt $kills ]; do
    rm -rf r
    mpirun -n 3 "$program" c.ini >out 2>err &
    job=$!
    for _ in $(seq 2000); do
        ! grep -q 'back to the checkpoint' err || break
        sleep 0.01
    done
    draw 200
    sleep_ms "$drawn"
    kill -KILL $job 2>/dev/null
    await_exit $job
    killed=$((killed + 1))
    launches=0
    until mpirun -n 3 "$program" c.ini >out 2>err; do # the first launch may hold the lock for a moment
        launches=$((launches + 1))
        [ $launches -lt 20 ] || die "killed after $drawn ms it does not go on"
        sleep 0.2
    done
    must_be_alike whole r "killed after $drawn ms"
done

for ranks in 1 3; do
    rm -rf r
    mpirun -n $ranks "$program" c.ini debug.inject=rate:all:70-70 >out 2>err
    code=$?
    [ $code -eq 67 ] || die "what does not help ends with $code"
    [ "$(grep -c 'error:.*diverged: .* has not helped' err)" = 1 ] || die "no line says why, or several do"
    [ "$(ls r/incidents | wc -l)" = 2 ] || die "incidents: $(ls r/incidents)"
    [ ! -d r/export ] || die "it exports what has diverged"

    rm -rf r
    mpirun -n $ranks "$program" c.ini train.steps=80 debug.inject=rate:all:70-70 optimizer.weight_decay=100 \
        checkpoint.rollback=off run.export=none >out 2>err
    code=$?
    [ $code -eq 67 ] || die "without finite states at the end it ends with $code"
    [ "$(grep -c 'error:.*the last checkpoint, of step 80, was not written' err)" = 1 ] ||
        die "no line says that nothing is saved, or several do"
    ! grep -q 'tried once more' err || die "what is not finite is tried once more"
done
echo "$killed kills"
