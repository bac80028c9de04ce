#!/bin/sh
# A stale launch: one that stands still (its host sleeps, its network is gone) while the same command is started again
# elsewhere, and that then wakes up. It never commits again and ends with 73; what the new launch has written is whole,
# and its training ends with the bits of a run that nobody disturbed. Two directories of runs with one of checkpoints
# stand for two hosts whose locks do not know of each other: in one directory the second launch is refused. Called
# with the program; DSTRAIN_TEST_LONG: 100 times.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
seed_draws
turns=$(short_or_long 1 100)
ranks=2
shown="old.err new.err"

small_text 2000 >t.txt
small_config run.deadline=600 train.steps=1000 train.global_batch_size=4 train.micro_batch_size=2 train.seq_length=64 \
    optimizer.learning_rate=0.001 checkpoint.interval=10 checkpoint.keep=3 zero.stage=3 >c.ini

mpirun -n $ranks "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>new.err || die "the undisturbed run"

for turn in $(seq $turns); do
    rm -rf old new shared
    mpirun -n $ranks "$program" c.ini run.dir="$work/old" checkpoint.dir="$work/shared" >old.out 2>old.err &
    old=$!
    draw 60
    await_step old $((10 + drawn)) $old
    stopped=$(ranks_of $old)
    [ "$(echo "$stopped" | wc -w)" = $ranks ] || die "turn $turn: ranks of the old launch: '$stopped'"
    # mpirun may stay awake, as it does on another host
    kill -STOP $stopped

    # here the lock holds
    "$program" c.ini run.dir="$work/old" checkpoint.dir="$work/shared" >refused 2>&1
    code=$?
    [ $code -eq 73 ] && grep -q 'another launch is at work there' refused || die "turn $turn: in one directory: $code"

    ls shared/manifests | sort >before
    mpirun -n $ranks "$program" c.ini run.dir="$work/new" checkpoint.dir="$work/shared" >new.out 2>new.err &
    new=$!
    draw 100
    await_step new $((2 + drawn)) $new
    kill -CONT $stopped
    await_exit $old
    [ $code -eq 73 ] || die "turn $turn: the old launch ends with $code"
    grep -q 'another launch owns the run' old.err || die "turn $turn: the old launch does not say why"
    await_exit $new
    [ $code -eq 0 ] || die "turn $turn: the new launch ends with $code"

    # a manifest of the first epoch that was not there before would be a commit of the old launch
    for name in $(ls shared/manifests | grep '^M-0*1-'); do
        grep -q "^$name$" before || die "turn $turn: the old launch has committed $name"
    done
    ls shared/manifests | grep -q '^M-0*2-' || die "turn $turn: nothing is the new launch's"
    must_verify shared "turn $turn"
    must_be_alike calm new "turn $turn"
    [ ! -e old/export/model.safetensors ] || die "turn $turn: the old launch went on to its end"
done
echo "$turns stale launches fenced off"
