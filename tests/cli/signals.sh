#!/bin/sh
# Signals: SIGUSR1 ends a run with 75 behind a checkpoint of the step that was the last, whenever it comes and however
# often; SIGTERM and SIGINT end it at once. The same command then goes on, and ends with the bits of a run that nobody
# disturbed. The batch script asks for its job again if, and only if, it ends with 75. Called with the program;
# DSTRAIN_TEST_LONG: 300 signals.
set -u
program=$(readlink -f "${1:?the dstrain program}")
examples=$(readlink -f "$(dirname "$0")/../../examples")
work=$(readlink -f "$(mktemp -d)") || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
command -v mpirun >/dev/null || exit 77
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # MPI leaks from libraries that it has unloaded
seed=${DSTRAIN_TEST_SEED:-$(date +%s)}
echo "signals: seed $seed (DSTRAIN_TEST_SEED)"
turns=1
[ -z "${DSTRAIN_TEST_LONG:-}" ] || turns=75

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
steps = 800
global_batch_size = 6
micro_batch_size = 2
seq_length = 32
[optimizer]
learning_rate = 0.001
[checkpoint]
interval = 150
EOT

start() {
    mpirun -n 3 "$program" c.ini "$@" >>out 2>err &
    job=$!
}

finish() { # finish: sets code and took, in tenths of a second since signal
    wait $job 2>/dev/null
    code=$?
    took=$((($(date +%s%N) - sent) / 100000000))
}

await_end() { # of these processes: sets took
    for _ in $(seq 1000); do
        left=
        for pid in "$@"; do
            [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" != "$program" ] || left=$pid
        done
        took=$((($(date +%s%N) - sent) / 100000000))
        [ -n "$left" ] || return 0
        sleep 0.02
    done
}

signal() {
    sent=$(date +%s%N)
    kill "-$1" $job
}

lines() { # how many steps have been written down
    cat r/metrics.jsonl 2>/dev/null | wc -l
}

await_step() {
    for _ in $(seq 3000); do
        [ "$(lines)" -lt "$1" ] || return 0
        kill -0 $job 2>/dev/null || fail "it ended before step $1"
        sleep 0.02
    done
    fail "step $1 does not come"
}

children_of() {
    for stat in /proc/[0-9]*/stat; do
        awk -v parent="$1" '{ sub(/^.*\) /, "&|"); split($0, at, "|"); split(at[2], field, " ")
            if (field[2] == parent) print $1 }' "$stat" 2>/dev/null
    done
}

newest() {
    ls r/checkpoints/manifests 2>/dev/null | sed -n 's/.*-0*\([0-9]*\)\.json$/\1/p' | sort -n | tail -1
}

ends_like_calm() {
    mpirun -n 3 "$program" c.ini >>out 2>err || fail "$1: it does not go on: $?"
    cmp calm/export/model.safetensors r/export/model.safetensors || fail "$1: other weights"
    "$program" verify r >verified 2>&1 || fail "$1: $(cat verified)"
    rm -rf r
}

mpirun -n 3 "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>err || fail "the undisturbed run"

for _ in $(seq $turns); do
    # in the middle, twice
    start
    draw 60
    await_step $((drawn + 1))
    signal USR1
    sleep 0.01
    kill -USR1 $job 2>/dev/null
    finish
    [ $code -eq 75 ] || fail "SIGUSR1 in the middle ends with $code"
    step=$(newest)
    [ "${step:-0}" -gt 0 ] && [ "$step" = "$(lines)" ] || fail "left behind step $(lines) with the checkpoint of ${step:-none}"
    grep -q "goes on behind step $step" err || fail "nobody says that it leaves"
    ends_like_calm "SIGUSR1 in the middle"

    # while it starts: it waits for the first steps
    start
    draw 500
    sleep "$(awk -v ms="$drawn" 'BEGIN { printf "%.3f", 0.2 + ms / 1000 }')"
    signal USR1
    finish
    case $code in
    75) ;;
    138) ;; # mpirun itself did not expect it yet
    0) [ "$(newest)" = 800 ] || fail "SIGUSR1 after $drawn ms is not obeyed" ;;
    *) fail "SIGUSR1 after $drawn ms ends with $code" ;;
    esac
    ends_like_calm "SIGUSR1 after $drawn ms"

    # at once, as a batch system tells all ranks; what is committed stays
    start
    await_step 160
    ranks=$(children_of $job)
    sent=$(date +%s%N)
    kill -TERM $ranks
    await_end $ranks
    [ $took -lt 15 ] || fail "ranks end $took tenths of a second after SIGTERM"
    wait $job 2>/dev/null
    code=$?
    [ $code -eq 143 ] || fail "SIGTERM ends with $code"
    [ "$(newest)" -lt 800 ] || fail "SIGTERM does not end it"
    ends_like_calm "SIGTERM"
done

# one process, without mpirun
for pair in TERM:143 INT:130; do
    # a shell has its background jobs ignore SIGINT
    env --default-signal=INT "$program" c.ini >>out 2>err &
    job=$!
    await_step 3
    signal ${pair%:*}
    finish
    [ $code -eq ${pair#*:} ] && [ $took -lt 10 ] || fail "SIG${pair%:*} ends one process with $code, $took"
    rm -rf r
done

# nothing can be saved: it says so and goes on
start checkpoint.interval=0
await_step 3
signal USR1
finish
[ $code -eq 0 ] || fail "without checkpoints SIGUSR1 ends with $code"
grep -q 'checkpoint.interval = 0' err || fail "nobody says that nothing can be saved"
cmp calm/export/model.safetensors r/export/model.safetensors || fail "without checkpoints: other weights"
rm -rf r

# the batch script, with stand-ins for mpirun, which ends as it is told, and for scontrol
mkdir bin
cat >bin/mpirun <<'EOT'
#!/bin/sh
echo "$*" >>arguments
[ "$END" = signal ] || exit "$END"
trap 'sleep 0.2; exit 75' USR1
touch ready
while :; do sleep 0.02; done
EOT
printf '#!/bin/sh\necho "$*" >>requeued\n' >bin/scontrol
chmod +x bin/mpirun bin/scontrol
for shell in sh bash; do
    $shell -n "$examples/slurm.sh" || fail "$shell does not read slurm.sh"
done
batch() { # batch END
    rm -f arguments requeued ready
    END=$1 PATH="$work/bin:$PATH" SLURM_JOB_ID=77 DSTRAIN=/some/dstrain bash "$examples/slurm.sh" c.ini run.seed=2 &
    job=$!
}
for _ in $(seq $((turns + 2))); do
    batch signal
    for _ in $(seq 500); do [ -f ready ] || sleep 0.02; done
    signal USR1
    draw 2
    [ "$drawn" -eq 0 ] || kill -USR1 $job
    finish
    [ $code -eq 75 ] && [ "$(cat requeued)" = "requeue 77" ] || fail "the batch script ends with $code: $(cat requeued)"
    [ "$(cat arguments)" = "--bind-to none /some/dstrain c.ini run.seed=2" ] || fail "it starts $(cat arguments)"
done
for end in 0 67 71 143; do
    batch $end
    sent=0
    finish
    [ $code -eq $end ] && [ ! -f requeued ] || fail "the batch script turns $end into $code"
done

echo "$((turns * 3)) signals under mpirun"
