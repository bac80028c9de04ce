#!/bin/sh
# Checkpoints that share the blocks of states in files, on a real file system that can (XFS, in a file of its own): the packs are
# those of a run that copies, the run goes on from them, and nothing is left behind. Needs root, loop devices and
# mkfs.xfs. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
disk=$work/disk
mkdir "$disk"
{ [ "$(id -u)" = 0 ] && command -v mkfs.xfs >/dev/null && truncate -s 1500M image && mkfs.xfs -q image 2>/dev/null &&
    mount -o loop image "$disk" 2>/dev/null; } || { echo "skipped: no XFS can be mounted here"; exit 77; }
trap 'umount "$disk" 2>/dev/null; rm -rf "$work"' EXIT
mkdir "$disk/states"

small_text 2000 >t.txt
small_config precision.compute=bf16 model.hidden_size=1024 train.steps=4 train.global_batch_size=4 train.micro_batch_size=2 \
    train.seq_length=16 offload.params=nvme offload.master=nvme offload.exp_avg=nvme offload.exp_avg_sq=nvme \
    offload.directories="$disk/states" checkpoint.interval=2 checkpoint.keep=5 run.export=none >c.ini

run() { # NAME option ...
    name=$1
    shift
    mpirun -n 2 "$program" c.ini run.dir="$disk/$name" "$@" >out 2>err
    code=$?
}
loss_of() { # DIR STEP: the last that was written down
    sed -n "s/.*\"step\": *$2,.*\"loss\": *\([^,}]*\).*/\1/p" "$1/metrics.jsonl" | tail -n 1
}

run shared checkpoint.references=on
[ $code -eq 0 ] || die "packs that share: $code"
grep -q 'checkpoints: packs share the blocks of states in files' err || fail "nobody says that packs share"
must_verify "$disk/shared" "packs that share"
run copied checkpoint.references=off
[ $code -eq 0 ] || die "packs that are written: $code"
grep -q 'packs share' err && fail "packs share, although they should not"
[ -z "$(ls "$disk/states")" ] || fail "files are left: $(ls "$disk/states")"
for name in shared copied; do
    run $name train.steps=6
    [ $code -eq 0 ] || fail "$name: going on: $code"
    grep -q '^checkpoint of step 4 .* loaded' err || fail "$name: not from step 4"
done
for step in 5 6; do
    [ -n "$(loss_of "$disk/copied" $step)" ] || fail "no loss of step $step"
    [ "$(loss_of "$disk/shared" $step)" = "$(loss_of "$disk/copied" $step)" ] || fail "step $step differs"
done
run elsewhere checkpoint.references=on checkpoint.dir="$work/other"
[ $code -eq 64 ] || fail "checkpoints on another disk: $code"
grep -q 'references = on: blocks of files in .* cannot be shared with files in' err || fail "that is not said"
exit $bad
