#!/bin/sh
# A drive that holds states and does not answer any more in the middle of a run: nobody waits for ever, the watchdog ends the
# run with 71 and leaves an incident, and the same command goes on from the last checkpoint. Called with the program
# and disk_shim.
shim=$(readlink -f "${2:?disk_shim}")
. "$(dirname "$0")/../support/cli.sh"
need_mpirun

mkdir drive
small_text 2000 >t.txt
small_config precision.compute=bf16 train.steps=40 train.global_batch_size=8 train.micro_batch_size=4 \
    train.seq_length=32 run.deadline=4 checkpoint.interval=4 offload.params=nvme offload.master=nvme \
    schedule.decay_steps=40 offload.exp_avg=nvme offload.exp_avg_sq=nvme offload.block_size=65536 offload.directories="$work/drive" >c.ini

"$program" c.ini run.dir=whole >out 2>err || die "on a sound drive: $?"
for call in pread pwrite; do
    # so that one is committed, however fast or slow the disk of checkpoints is
    "$program" c.ini run.dir=$call train.steps=8 run.export=none >out 2>err || die "before $call: $?"
    # every call from here on takes ten seconds, twice as long as anybody waits
    LD_PRELOAD="$shim" DISK_SIGNAL=0 DISK_CALL=$call DISK_PATH=.states DISK_NTH=700 DISK_TIMES=1000000 \
        "$program" c.ini run.dir=$call >out 2>err
    code=$?
    [ $code -eq 71 ] || fail "$call does not return: $code"
    [ -n "$(ls $call/incidents 2>/dev/null)" ] || fail "$call: no incident"
    "$program" c.ini run.dir=$call >out 2>err || fail "$call: going on: $?"
    grep -q '^checkpoint of step .* loaded' err || fail "$call: from the beginning"
    must_be_alike whole $call "behind a $call that did not return"
done
[ -z "$(ls drive)" ] || fail "files are left: $(ls drive)"
exit $bad
