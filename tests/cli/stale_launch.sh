#!/bin/sh
# A stale launch: one that stands still (its host sleeps, its network is gone) while the same command is started again
# elsewhere, and that then wakes up. It never commits again and ends with 73; what the new launch has written is whole,
# and its training ends with the bits of a run that nobody disturbed. Two directories of runs with one of checkpoints
# stand for two hosts whose locks do not know of each other: in one directory the second launch is refused. Called
# with the program; DSTRAIN_TEST_LONG: 100 times.
set -u
program=$(readlink -f "${1:?the dstrain program}")
work=$(readlink -f "$(mktemp -d)") || exit 2
trap 'kill -KILL ${stopped:-} 2>/dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 2
command -v mpirun >/dev/null || exit 77
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # MPI leaks from libraries that it has unloaded
seed=${DSTRAIN_TEST_SEED:-$(date +%s)}
echo "stale_launch: seed $seed (DSTRAIN_TEST_SEED)"
turns=1
[ -z "${DSTRAIN_TEST_LONG:-}" ] || turns=100
ranks=2

fail() {
    echo "FAILED: $*"
    tail -20 old.err new.err 2>/dev/null | sed 's/^/    /'
    exit 1
}

# draw N: sets drawn to 0..N-1
state=$seed
draw() {
    state=$(((state * 1103515245 + 12345) % 2147483648))
    drawn=$((state / 65536 % $1))
}

awk 'BEGIN { for (i = 0; i < 2000; i++) print "line " i " of a small text" }' >t.txt
cat >c.ini <<'EOT'
[run]
device = cpu
deadline = 600
threads = 1
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = t.txt
[train]
steps = 1000
global_batch_size = 4
micro_batch_size = 2
seq_length = 64
[optimizer]
learning_rate = 0.001
[checkpoint]
interval = 10
keep = 3
[zero]
stage = 3
EOT

ranks_of() { # the ranks that write to a directory, by their working files
    for exe in /proc/[0-9]*/exe; do
        pid=${exe#/proc/}
        pid=${pid%/exe}
        [ "$(readlink "$exe" 2>/dev/null)" = "$program" ] || continue
        tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "run.dir=$1 " && echo "$pid"
    done
}

await_step() { # await_step DIR STEP JOB
    for _ in $(seq 3000); do
        [ "$(cat "$1/metrics.jsonl" 2>/dev/null | wc -l)" -lt "$2" ] || return 0
        kill -0 "$3" 2>/dev/null || fail "$1 ended before step $2"
        sleep 0.02
    done
    fail "step $2 of $1 does not come"
}

mpirun -n $ranks "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>new.err || fail "the undisturbed run"

for turn in $(seq $turns); do
    rm -rf old new shared
    mpirun -n $ranks "$program" c.ini run.dir="$work/old" checkpoint.dir="$work/shared" >old.out 2>old.err &
    old=$!
    draw 60
    await_step old $((10 + drawn)) $old
    stopped=$(ranks_of "$work/old")
    [ "$(echo "$stopped" | wc -w)" = $ranks ] || fail "turn $turn: ranks of the old launch: '$stopped'"
    # mpirun may stay awake, as it does on another host
    kill -STOP $stopped

    # here the lock holds
    "$program" c.ini run.dir="$work/old" checkpoint.dir="$work/shared" >refused 2>&1
    code=$?
    [ $code -eq 73 ] && grep -q 'another launch is at work there' refused || fail "turn $turn: in one directory: $code"

    ls shared/manifests | sort >before
    mpirun -n $ranks "$program" c.ini run.dir="$work/new" checkpoint.dir="$work/shared" >new.out 2>new.err &
    new=$!
    draw 100
    await_step new $((2 + drawn)) $new
    kill -CONT $stopped
    { wait $old; } 2>/dev/null
    code=$?
    [ $code -eq 73 ] || fail "turn $turn: the old launch ends with $code"
    grep -q 'another launch owns the run' old.err || fail "turn $turn: the old launch does not say why"
    stopped=
    { wait $new; } 2>/dev/null
    code=$?
    [ $code -eq 0 ] || fail "turn $turn: the new launch ends with $code"

    # a manifest of the first epoch that was not there before would be a commit of the old launch
    for name in $(ls shared/manifests | grep '^M-0*1-'); do
        grep -q "^$name$" before || fail "turn $turn: the old launch has committed $name"
    done
    ls shared/manifests | grep -q '^M-0*2-' || fail "turn $turn: nothing is the new launch's"
    "$program" verify shared >verified 2>&1 || fail "turn $turn: $(cat verified)"
    cmp calm/export/model.safetensors new/export/model.safetensors || fail "turn $turn: other weights"
    [ ! -e old/export/model.safetensors ] || fail "turn $turn: the old launch went on to its end"
done
echo "$turns stale launches fenced off"
