#!/bin/sh
# What a run does with the disk of its checkpoints: the level of storage is told once, and the next one is taken where
# memory may not be locked; a disk that is really full costs checkpoints and lines, and not a bit of the training;
# where it costs the last checkpoint the run ends with 70.
. "$(dirname "$0")/../support/cli.sh"
chmod 755 "$work"
shown=out

seq 1 4000 >text.txt
small_config data.train=text.txt data.format=text model.intermediate_size=96 train.steps=30 train.global_batch_size=4 \
    train.seq_length=64 checkpoint.interval=10 >c.ini

# ---- the level is told once, and is the best that is to be had here
best=$("$program" bench storage . --quick --saves --depth 1 --block-mib 1 2>&1 | sed -n 's/^storage: \([a-z]*\) .*/\1/p')
"$program" c.ini run.dir=good >out 2>&1 || die "a run with checkpoints"
[ "$(grep -c '^storage: ' out)" = 1 ] || die "not one line about storage"
grep -q "^storage: ${best:-none} " out || die "not the best level, '$best'"
[ "$(grep -c '^checkpoint of step .* is written' out)" -ge 1 ] || die "no checkpoint"
"$program" verify good >out 2>&1 || die "the checkpoints do not verify"
figures loss good >wanted
[ "$(wc -l <wanted)" = 30 ] || die "not 30 losses"

[ "$(id -u)" = 0 ] || exit 77

# ---- a user who may lock 64 KiB
plain_user() { setpriv --reuid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"; }
if [ "$best" = fixed ] && plain_user test -x "$program"; then
    mkdir other && chown 65534 other
    plain_user sh -c 'ulimit -l 64 && exec "$@"' sh "$program" c.ini run.dir="$work/other/run" >out 2>&1 || die "a plain user's run"
    grep -q '^storage: plain (io_uring); no fixed: register memory: .*RLIMIT_MEMLOCK' out || die "not the reason, or not the next level"
    "$program" verify other/run >out 2>&1 || die "the plain user's checkpoints do not verify"
fi

# ---- a disk with room for one checkpoint, not for two
unshare -m true 2>/dev/null || exit 77
mkdir disk
unshare -m sh -c '
    mount -t tmpfs -o size=2000k,mode=755 none disk || exit 77
    "$0" c.ini run.dir=full checkpoint.dir=disk; code=$?
    [ $code = 70 ] || exit $((code ? code : 1))
    echo "== verify"
    "$0" verify disk || exit 3' "$program" >out 2>&1
code=$?
[ $code = 77 ] && exit 77
[ $code = 0 ] || die "on a full disk: code $code"
grep -q 'No space left on device' out || die "the disk was not full"
grep -q 'checkpoint of step 20 was not written .*; training goes on' out || die "nothing said of the second checkpoint"
! grep 'checkpoint of step 30 .*training goes on' out || die "training goes on behind the last step"
grep -q '^checkpoint of step 30: tried once more' out || die "the last checkpoint was not tried again"
[ "$(grep -c 'error: the last checkpoint, of step 30, was not written to disk, though the model is exported' out)" = 1 ] ||
    die "nothing said of the last checkpoint at the end"
[ -f full/export/model.safetensors ] || die "nothing is exported"
grep -q '^checkpoint of step 10 is written' out || die "the first checkpoint had room"
grep -q '^done: 30 steps' out || die "training ended"
figures loss full >got
cmp -s wanted got || die "other losses on a full disk"
