#!/bin/sh
# Signals at chosen moments: a rank gets SIGUSR1, once or twice, SIGTERM or SIGINT while it starts, while it loads, in
# the middle of a save, and where the checkpoint gets its name. SIGUSR1 ends the run with 75 behind a checkpoint of its
# last step; the others end it at once, and what is committed stays. The same command goes on and ends with the bits of
# a run that nobody disturbed. Called with the program and disk_shim. 3 of 16 pairs of signal and moment, drawn;
# DSTRAIN_TEST_LONG: 20 times all.
set -u
program=$(readlink -f "${1:?the dstrain program}")
shim=$(readlink -f "${2:?disk_shim}")
work=$(readlink -f "$(mktemp -d)") || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
command -v mpirun >/dev/null || exit 77
seed=${DSTRAIN_TEST_SEED:-$(date +%s)}
echo "signal_points: seed $seed (DSTRAIN_TEST_SEED)"

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

awk 'BEGIN { for (i = 0; i < 500; i++) print "line " i " of a small text" }' >t.txt
cat >c.ini <<'EOT'
[run]
dir = r
device = cpu
deadline = 60
threads = 1
[model]
hidden_size = 48
intermediate_size = 96
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = t.txt
[train]
steps = 80
global_batch_size = 4
micro_batch_size = 1
seq_length = 64
[optimizer]
learning_rate = 0.001
[checkpoint]
interval = 4
EOT

# launch CODE SIGNAL TIMES CALL PATH NTH
launch() {
    mpirun -n 2 env LD_PRELOAD="$shim" DISK_SIGNAL="$2" DISK_TIMES="$3" DISK_CALL="$4" DISK_PATH="$5" DISK_NTH="$6" \
        "$program" c.ini >out 2>err
    code=$?
    # behind the last step there is nothing to leave
    [ "$1" -eq 75 ] && [ $code -eq 0 ] && [ "$(newest)" = 80 ] && return
    [ $code -eq "$1" ] || fail "signal $2 at $4 of $5 number $6: it ends with $code"
}
newest() {
    ls r/checkpoints/manifests | sed -n 's/.*-0*\([0-9]*\)\.json$/\1/p' | sort -n | tail -1
}
last_step() { sed -n '$s/^{"step": \([0-9]*\),.*/\1/p' r/metrics.jsonl; }

mpirun -n 2 "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>err || fail "the undisturbed run"
# what every pair begins with: a checkpoint, and what is left of the next one
launch 143 15 1 rename /manifests/M- 2
first=$(newest)
[ "${first:-0}" -ge 4 ] && [ "$first" -lt 80 ] || fail "SIGTERM at the second commit leaves step $first"
mv r base

# one SIGNAL MOMENT
one() {
    rm -rf r
    cp -r base r
    draw 2
    case $2 in
    0) moment="open t.txt 1" ;; # it starts
    1) moment="pread /data/0/P- $((1 + 3 * drawn))" ;; # it loads
    2) moment="pwrite /data/0/P- $((1 + 2 * drawn))" ;; # it saves
    *) moment="rename /manifests/M- 1" ;; # it commits
    esac
    case $1 in
    0) numbers="75 10 1" ;;
    1) numbers="75 10 2" ;;
    2) numbers="143 15 1" ;;
    *) numbers="130 2 1" ;;
    esac
    # shellcheck disable=SC2086
    launch $numbers $moment
    if [ "${numbers%% *}" = 75 ]; then
        [ "$(newest)" = "$(last_step)" ] || fail "$moment: it leaves behind step $(last_step) with a checkpoint of $(newest)"
    else
        [ "$(newest)" -ge "$first" ] || fail "$moment: what was committed is gone"
    fi
    "$program" verify r >out 2>err || fail "$moment: the checkpoints do not verify"
    mpirun -n 2 "$program" c.ini >out 2>err || fail "$moment: it does not go on: $?"
    cmp calm/export/model.safetensors r/export/model.safetensors || fail "$moment: other weights"
}

count=0
if [ -n "${DSTRAIN_TEST_LONG:-}" ]; then
    for _ in $(seq 20); do
        for signal in 0 1 2 3; do
            for moment in 0 1 2 3; do
                one $signal $moment
                count=$((count + 1))
            done
        done
    done
else
    for _ in 1 2 3; do
        draw 4
        signal=$drawn
        draw 4
        one "$signal" "$drawn"
        count=$((count + 1))
    done
fi
echo "$count signals at chosen moments"
