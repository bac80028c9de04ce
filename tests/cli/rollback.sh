#!/bin/sh
# Rollback on the command line: a run with bad labels in its data goes back, leaves them out and says so once, in its
# incidents, too; killed at any moment behind that and started again, it ends with the same weights. One that goes wrong
# whatever is left out ends with 67, on any number of ranks, and one line says why. Called with the program;
# DSTRAIN_TEST_LONG: 40 kills.
set -u
program=$(readlink -f "${1:?the dstrain program}")
work=$(readlink -f "$(mktemp -d)") || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
command -v mpirun >/dev/null || exit 77
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # MPI leaks from libraries that it has unloaded
seed=${DSTRAIN_TEST_SEED:-$(date +%s)}
echo "rollback: seed $seed (DSTRAIN_TEST_SEED)"
kills=2
[ -z "${DSTRAIN_TEST_LONG:-}" ] || kills=40

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

awk 'BEGIN { for (i = 0; i < 9000; i++) printf "%s", "abcdefgh" }' >t.txt
cat >c.ini <<'EOT'
[run]
dir = r
device = cpu
deadline = 60
threads = 1
[model]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = t.txt
[train]
steps = 150
global_batch_size = 6
micro_batch_size = 2
seq_length = 32
[optimizer]
learning_rate = 0.01
[checkpoint]
interval = 20
rollback_skip = 20
[debug]
inject = labels:all:90-94
EOT

mpirun -n 3 "$program" c.ini run.dir=whole >out 2>err || fail "with bad labels it ends with $?"
[ "$(grep -c 'back to the checkpoint of step' err)" = 1 ] || fail "it does not say once that it goes back"
[ "$(ls whole/incidents)" = rollback-000002.json ] || fail "incidents: $(ls whole/incidents)"
grep -q '^{"what": "rollback", "why": "loss", "first_step": 90, .*"left_out_first": 80, .*}$' whole/incidents/rollback-000002.json ||
    fail "the incident: $(cat whole/incidents/*)"
awk -F'[:,]' '{ seen[$2 + 0]++ } END { for (s = 1; s <= 150; s++) if (!seen[s]) exit 1; exit seen[90] < 2 }' whole/metrics.jsonl ||
    fail "metrics lack steps, or do not show that some came again"
"$program" verify whole >verified 2>&1 || fail "$(cat verified)"

killed=0
while [ $killed -lt $kills ]; do
    rm -rf r
    mpirun -n 3 "$program" c.ini >out 2>err &
    job=$!
    for _ in $(seq 2000); do
        ! grep -q 'back to the checkpoint' err || break
        sleep 0.01
    done
    draw 200
    sleep "$(awk -v ms="$drawn" 'BEGIN { printf "%.3f", ms / 1000 }')"
    kill -KILL $job 2>/dev/null
    { wait $job; } 2>/dev/null
    killed=$((killed + 1))
    launches=0
    until mpirun -n 3 "$program" c.ini >out 2>err; do # the first launch may hold the lock for a moment
        launches=$((launches + 1))
        [ $launches -lt 20 ] || fail "killed after $drawn ms it does not go on"
        sleep 0.2
    done
    cmp whole/export/model.safetensors r/export/model.safetensors || fail "killed after $drawn ms: other weights"
done

for ranks in 1 3; do
    rm -rf r
    mpirun -n $ranks "$program" c.ini debug.inject=rate:all:70-70 >out 2>err
    code=$?
    [ $code -eq 67 ] || fail "what does not help ends with $code"
    [ "$(grep -c 'error:.*diverged: .* has not helped' err)" = 1 ] || fail "no line says why, or several do"
    [ "$(ls r/incidents | wc -l)" = 2 ] || fail "incidents: $(ls r/incidents)"
    [ ! -d r/export ] || fail "it exports what has diverged"
done
echo "$killed kills"
