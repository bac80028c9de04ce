#!/bin/sh
# Kill storm: a run whose ranks, or mpirun, or all of them are killed at random moments, and which is started again
# by the same command until it is done, ends with the bits of the run that nobody disturbed: the same export, the same
# last line of metrics for every step. Every checkpoint that is left verifies. Called with the program;
# DSTRAIN_TEST_LONG: 1,000 kills.
set -u
program=$(readlink -f "${1:?the dstrain program}")
work=$(readlink -f "$(mktemp -d)") || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
command -v mpirun >/dev/null || exit 77
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # MPI leaks from libraries that it has unloaded
seed=${DSTRAIN_TEST_SEED:-$(date +%s)}
echo "kill_storm: seed $seed (DSTRAIN_TEST_SEED)"
wanted=20
[ -z "${DSTRAIN_TEST_LONG:-}" ] || wanted=1000
ranks=3

fail() {
    echo "FAILED: $*"
    tail -20 err | sed 's/^/    /'
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
dir = r
device = cpu
deadline = 60
threads = 1
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = t.txt
[train]
steps = 240
global_batch_size = 12
micro_batch_size = 2
seq_length = 64
[optimizer]
learning_rate = 0.001
[checkpoint]
interval = 10
keep = 2
[zero]
stage = 3
EOT

# Of every step the last line, without what clocks and memory say.
numbers() {
    sed 's/"step_s".*//' "$1" | awk -F'[:,]' '{ line[$2 + 0] = $0 } END { for (s = 1; s <= 240; s++) print line[s] }'
}

mpirun -n $ranks "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>err || fail "the undisturbed run"
numbers calm/metrics.jsonl >calm.numbers

children_of() {
    for stat in /proc/[0-9]*/stat; do
        awk -v parent="$1" '{ sub(/^.*\) /, "&|"); split($0, at, "|"); split(at[2], field, " ")
            if (field[2] == parent) print $1 }' "$stat" 2>/dev/null
    done
}

steps_done() { cat r/metrics.jsonl 2>/dev/null | wc -l; }

# Now and then by the clock, which may well be in the start, else when some more steps are done, however slow.
await_moment() {
    draw 4
    if [ "$drawn" = 0 ]; then
        draw 1500
        sleep "$(awk -v ms="$drawn" 'BEGIN { printf "%.3f", ms / 1000 }')"
        return
    fi
    draw 60
    goal=$(($(steps_done) + drawn))
    while [ "$(steps_done)" -lt $goal ] && kill -0 "$job" 2>/dev/null; do
        sleep 0.01
    done
    draw 30 # a save takes some
    sleep "$(awk -v ms="$drawn" 'BEGIN { printf "%.3f", ms / 1000 }')"
}

# A rank, mpirun, or everything, at a moment that is as likely in a save as between two.
kill_something() {
    await_moment
    victims=$(children_of "$job")
    draw 4
    case $drawn in
    0) kill -KILL "$job" 2>/dev/null ;;
    1) kill -KILL "$job" $victims 2>/dev/null ;;
    *)
        draw $ranks
        set -- $victims
        [ $# -le "$drawn" ] || shift "$drawn"
        [ $# -eq 0 ] || kill -KILL "$1" 2>/dev/null
        ;;
    esac
}

# Those who outlive mpirun hold the run's lock for a while.
await_ranks() {
    for _ in $(seq 100); do
        left=
        for pid in $victims; do
            [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" != "$program" ] || left=$pid
        done
        [ -n "$left" ] || return 0
        sleep 0.1
    done
    fail "rank $left outlives its launch"
}

kills=0
storms=0
while [ $kills -lt $wanted ]; do
    rm -rf r
    launches=0
    while :; do
        launches=$((launches + 1))
        [ $launches -le 200 ] || fail "no end after $launches launches"
        mpirun -n $ranks "$program" c.ini >>out 2>>err &
        job=$!
        victims=
        # the last launches of a storm are left alone, or the start alone could take it all
        [ $launches -gt 8 ] || kill_something
        { wait $job; } 2>/dev/null
        code=$?
        [ $code -eq 0 ] || kills=$((kills + 1))
        await_ranks
        [ $code -ne 0 ] || break
        case $code in
        64 | 65 | 66 | 67 | 72 | 73) fail "launch $launches ends with $code" ;;
        esac
    done
    storms=$((storms + 1))
    cmp calm/export/model.safetensors r/export/model.safetensors || fail "storm $storms: other weights"
    numbers r/metrics.jsonl >r.numbers
    cmp calm.numbers r.numbers || fail "storm $storms: other numbers"
    "$program" verify r >verified 2>&1 || fail "storm $storms: $(cat verified)"
done
resumed=$(grep -c 'loaded' err)
[ "$resumed" -gt 0 ] || fail "no launch has gone on from a checkpoint"
echo "$kills kills in $storms storms, $resumed launches went on from a checkpoint"
