#!/bin/sh
# A disk that takes 1 MB/s behind the whole program: a save takes longer than ranks may wait for one another. Training
# waits for none and has the bits of a run without checkpoints; a save that is due while one is written is left out, not
# queued; memory is what it is with a fast disk; nobody thinks that a rank hangs; behind the last step there are at most
# two saves to wait for, which the disk takes in ten seconds. By what the program says of itself: there is no stop watch
# here. Called with the program and disk_shim.
set -u
program=$(readlink -f "${1:?the dstrain program}")
shim=$(readlink -f "${2:?disk_shim}")
work=$(readlink -f "$(mktemp -d)") || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
command -v mpirun >/dev/null || exit 77

fail() {
    echo "FAILED: $*"
    sed 's/^/    /' err
    exit 1
}

awk 'BEGIN { for (i = 0; i < 2000; i++) print "line " i " of a small text" }' >t.txt
cat >c.ini <<'EOT'
[run]
device = cpu
deadline = 2
threads = 1
[model]
hidden_size = 128
intermediate_size = 256
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = t.txt
[train]
steps = 60
global_batch_size = 2
micro_batch_size = 1
seq_length = 32
[optimizer]
learning_rate = 0.001
[checkpoint]
interval = 2
[log]
interval = 1
EOT
due=30

# run NAME RATE option ...
run() {
    name=$1 rate=$2
    shift 2
    mpirun -n 2 env LD_PRELOAD="$shim" DISK_BYTES_PER_S="$rate" \
        "$program" c.ini run.dir="$name" "$@" >out 2>err || fail "$name ends with $?"
    [ -z "$(ls "$name/incidents" 2>/dev/null)" ] || fail "$name: an incident: $(cat "$name"/incidents/*)"
}
sum() { # sum FILE KEY LAST: over steps 1 to LAST
    awk -v key="\"$2\": " -v last="$3" 'NR <= last { at = index($0, key); split(substr($0, at + length(key)), field, ","); s += field[1] }
        END { printf "%.3f", s }' "$1"
}
losses() { sed 's/.*\("loss": [^,]*\),.*/\1/' "$1/metrics.jsonl"; }

run calm 0 checkpoint.interval=0
run fast 0
run slow 1000000

grep -q '^storage: threads .*no plain: make a ring' err || fail "not through the slow calls"
losses calm >wanted
losses slow >got
cmp -s wanted got || fail "other losses"
cmp -s calm/export/model.safetensors slow/export/model.safetensors || fail "other weights"

# skipped, not queued
written=$(grep -c '^checkpoint of step .* is written' err)
left_out=$(grep -c 'left out: that of step .* is still being written' err)
[ "$written" -ge 2 ] && [ "$left_out" -ge $((due / 2)) ] && [ $((written + left_out)) -eq $due ] ||
    fail "$written written, $left_out left out, of $due"
grep -qE 'given up|stands still|waited ' err && fail "somebody thinks that something hangs"
"$program" verify slow >out 2>err || fail "the checkpoints do not verify"

# a save is more than the deadline; no step waits for it: all of them together less than for one of its chunks
bytes=$(du -b -s slow/checkpoints/data | cut -f1)
bytes=$((bytes / 2)) # two are there
[ $bytes -gt 4500000 ] || fail "a save has only $bytes bytes in two packs"
waited=$(sum slow/metrics.jsonl wait_checkpoint_s 59)
awk -v waited="$waited" 'BEGIN { exit !(waited < 1) }' || fail "steps waited $waited s for the disk"
[ $((2 * bytes / 2)) -lt 10000000 ] || fail "two saves of $bytes bytes take a rank more than 10 s"

# memory: what a save takes was there before step 1
peak() { sed -n '$s|.*"host_peak_bytes": \([0-9]*\),.*|\1|p' "$1/metrics.jsonl"; }
[ "$(peak slow)" -le $(($(peak fast) * 103 / 100 + (2 << 20))) ] || fail "$(peak slow) bytes, and $(peak fast) with a fast disk"
echo "$written of $due saves at 1 MB/s, $left_out left out, steps waited $waited s; $(peak slow) bytes, with a fast disk $(peak fast)"
