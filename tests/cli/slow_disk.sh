#!/bin/sh
# A disk that takes 1 MB/s behind the whole program: a save takes longer than ranks may wait for one another. Training
# waits for none and has the bits of a run without checkpoints; a save that is due while one is written is left out, not
# queued; memory is what it is with a fast disk; nobody thinks that a rank hangs; behind the last step there are at most
# two saves to wait for, which the disk takes in ten seconds. By what the program says of itself: there is no stop watch
# here. Called with the program and disk_shim.
shim=$(readlink -f "${2:?disk_shim}")
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
due=30

small_text 2000 >t.txt
small_config run.deadline=2 model.hidden_size=128 model.intermediate_size=256 train.steps=$((2 * due)) \
    train.global_batch_size=2 train.micro_batch_size=1 train.seq_length=32 optimizer.learning_rate=0.001 \
    checkpoint.interval=2 >c.ini

# run NAME RATE option ...
run() {
    name=$1 rate=$2
    shift 2
    mpirun -n 2 env LD_PRELOAD="$shim" DISK_BYTES_PER_S="$rate" "$program" c.ini run.dir="$name" "$@" >out 2>err ||
        die "$name ends with $?"
    [ -z "$(ls "$name/incidents" 2>/dev/null)" ] || die "$name: an incident: $(cat "$name"/incidents/*)"
}

run calm 0 checkpoint.interval=0
run fast 0
run slow 1000000

grep -q '^storage: threads .*no plain: make a ring' err || die "not through the slow calls"
figures loss calm >wanted
figures loss slow >got
[ "$(wc -l <wanted)" -eq $((2 * due)) ] && cmp -s wanted got || die "other losses"
must_be_alike calm slow "at 1 MB/s"

# skipped, not queued
written=$(grep -c '^checkpoint of step .* is written' err)
left_out=$(sed -n "s/.* s; \([0-9]*\) saves* w[a-z]* left out until then$/\1/p" err | awk '{ s += $1 } END { print s + 0 }')
[ "$written" -ge 2 ] && [ "$left_out" -ge $((due / 2)) ] && [ $((written + left_out)) -eq $due ] ||
    die "$written written, $left_out left out, of $due"
grep -qE 'given up|stands still|waited ' err && die "somebody thinks that something hangs"
must_verify slow "at 1 MB/s"

# a save is more than the deadline, and two are less than ten seconds; all steps together wait less than for one
bytes=$(du -b -s slow/checkpoints/data/0/P-*-00000-* | awk 'NR == 1 { print $1 }') # of a rank
[ "$bytes" -gt 2200000 ] && [ "$bytes" -lt 5000000 ] || die "a rank saves $bytes bytes"
waited=$(figures wait_checkpoint_s slow | awk -v last=$((2 * due)) 'NR < last { s += $1 } END { printf "%.3f", s }')
awk -v waited="$waited" -v bytes="$bytes" 'BEGIN { exit !(waited < bytes / 1e6) }' || die "steps waited $waited s for the disk"

# what a save takes was there before step 1
slow_bytes=$(figures host_peak_bytes slow | tail -1)
fast_bytes=$(figures host_peak_bytes fast | tail -1)
[ "$slow_bytes" -le $((fast_bytes * 103 / 100 + (2 << 20))) ] || die "$slow_bytes bytes, and $fast_bytes with a fast disk"
echo "$written of $due saves at 1 MB/s, $left_out left out; steps waited $waited s; $slow_bytes bytes, with a fast disk $fast_bytes"
