#!/bin/sh
# A disk that takes no line of a run's log or metrics costs these lines: every rank says so once, on the terminal, and
# training has the bits of a run that could write them. Called with the program and disk_shim.
shim=$(readlink -f "${2:?disk_shim}")
. "$(dirname "$0")/../support/cli.sh"
need_mpirun

small_text 2000 >t.txt
small_config train.steps=20 train.global_batch_size=2 train.micro_batch_size=1 train.seq_length=32 \
    checkpoint.interval=10 >c.ini

mpirun -n 2 "$program" c.ini run.dir=good >out 2>err || die "with room it ends with $?"
! grep 'could not be written' err || die "lines are lost with room"
mpirun -n 2 env LD_PRELOAD="$shim" DISK_FULL=/full/ "$program" c.ini run.dir=full >out 2>err ||
    die "without room it ends with $?"
for rank in 0 1; do
    [ "$(grep -c "\[rank $rank\]: warning: log/rank-000$rank.log .* could not be written: No space left" err)" = 1 ] ||
        die "rank $rank does not say once that its log is lost"
    [ -s good/log/rank-000$rank.log ] || die "no log of rank $rank where there is room"
    [ ! -s full/log/rank-000$rank.log ] || die "a log of rank $rank where there is no room"
done
[ "$(grep -c 'metrics.jsonl: the line of step 1 could not be written' err)" = 1 ] || die "it does not say once that metrics are lost"
cmp -s good/export/model.safetensors full/export/model.safetensors || die "other weights"
must_verify full "without a log"
