#!/bin/sh
# What a run does with the disk of its checkpoints: the level of storage is told once, and the next one is taken where
# memory may not be locked; a disk that is really full costs checkpoints and lines, and not a bit of the training.
program=${1:?the program}
work=$(mktemp -d) || exit 2
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2

fail() {
    echo "FAIL: $*"
    cat out
    exit 1
}

seq 1 4000 >text.txt
cat >c.ini <<'END'
[model]
hidden_size = 64
intermediate_size = 96
num_hidden_layers = 2
num_attention_heads = 4
[data]
format = text
train = text.txt
[train]
steps = 30
global_batch_size = 4
seq_length = 64
[checkpoint]
interval = 10
END

losses() { grep -o '"loss": *[^,]*' "$1/metrics.jsonl"; }

# ---- the level is told once, and is the best that is to be had here
best=$("$program" bench storage . --quick --saves --depth 1 --block-mib 1 2>&1 | sed -n 's/^storage: \([a-z]*\) .*/\1/p')
"$program" c.ini run.dir=good >out 2>&1 || fail "a run with checkpoints"
[ "$(grep -c '^storage: ' out)" = 1 ] || fail "not one line about storage"
grep -q "^storage: ${best:-none} " out || fail "not the best level, '$best'"
[ "$(grep -c '^checkpoint of step .* is written' out)" -ge 1 ] || fail "no checkpoint"
"$program" verify good >out 2>&1 || fail "the checkpoints do not verify"
losses good >wanted
[ "$(wc -l <wanted)" = 30 ] || fail "not 30 losses"

[ "$(id -u)" = 0 ] || exit 77

# ---- a user who may lock 64 KiB
plain_user() { setpriv --reuid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"; }
if [ "$best" = fixed ] && plain_user test -x "$program"; then
    mkdir other && chown 65534 other
    plain_user sh -c 'ulimit -l 64 && exec "$@"' sh "$program" c.ini run.dir="$work/other/run" >out 2>&1 || fail "a plain user's run"
    grep -q '^storage: plain (io_uring); no fixed: register memory: .*RLIMIT_MEMLOCK' out || fail "not the reason, or not the next level"
    "$program" verify other/run >out 2>&1 || fail "the plain user's checkpoints do not verify"
fi

# ---- a disk with room for one checkpoint, not for two
unshare -m true 2>/dev/null || exit 77
mkdir disk
unshare -m sh -c '
    mount -t tmpfs -o size=2000k none disk || exit 77
    "$0" c.ini run.dir=full checkpoint.dir=disk || exit 1
    echo "== verify"
    "$0" verify disk || exit 3' "$program" >out 2>&1
code=$?
[ $code = 77 ] && exit 77
[ $code = 0 ] || fail "on a full disk: code $code"
grep -q 'No space left on device' out || fail "the disk was not full"
grep -q 'checkpoint of step 30 was not written .*; training goes on' out || fail "nothing said of the last checkpoint"
grep -q '^checkpoint of step 10 is written' out || fail "the first checkpoint had room"
grep -q '^done: 30 steps' out || fail "training ended"
losses full >got
cmp -s wanted got || fail "other losses on a full disk"
