#!/bin/sh
# What goes wrong in a run of several ranks: faults in the middle of a step, ranks that hang or are gone,
# and input that cannot be used. Called with the program and the part: ranks, input or launches. Every
# run ends soon, with the exit code of the README, says what a person needs in one line, and leaves
# nothing half-made.
set -u
program=${1:?the dstrain program}
part=${2:?ranks, input or launches}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
command -v mpirun >/dev/null || exit 77
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # MPI leaks from libraries that it has unloaded
bad=0
count=0

fail() {
    echo "FAILED: $*"
    sed 's/^/    /' err
    bad=1
}

awk 'BEGIN { for (i = 0; i < 2000; i++) print "line " i " of a small text" }' >t.txt
cat >c.ini <<'EOT'
[run]
dir = r
device = cpu
deadline = 20
[model]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
[data]
train = t.txt
[train]
steps = 6
global_batch_size = 12
micro_batch_size = 1
seq_length = 16
[zero]
stage = 3
EOT

# run RANKS arguments...: a run of c.ini in a fresh r, with its exit code and its time
run() {
    rm -rf r
    again "$@"
}

again() {
    ranks=$1
    shift
    what="$ranks ranks, $*"
    begin=$(date +%s)
    timeout 60 mpirun -n "$ranks" "$program" c.ini "$@" >out 2>err
    code=$?
    seconds=$(($(date +%s) - begin))
    count=$((count + 1))
}

# ended CODE: with this exit code; nothing half-made lies about
ended() {
    [ "$code" = "$1" ] || fail "$what: exit code $code, not $1"
    [ "$1" = 0 ] || [ ! -e r/export ] || fail "$what: there is an export"
    half=$(find . -name '*.tmp' -o -name '*.old' -o -name '*.part')
    [ -z "$half" ] || fail "$what: left $half"
    if [ -s r/metrics.jsonl ]; then
        awk '!/^\{.*\}$/ { exit 1 }' r/metrics.jsonl || fail "$what: a broken line in metrics.jsonl"
        [ "$(tail -c 1 r/metrics.jsonl | od -An -c | tr -d ' ')" = '\n' ] ||
            fail "$what: the last line of metrics.jsonl is not whole"
    fi
}

# soon SECONDS: it did not take longer; a loaded machine gets as much again
soon() {
    [ "$seconds" -le $((2 * $1)) ] || fail "$what: took $seconds s"
}

# said "words": one line of error, with these words in it
said() {
    [ "$(grep -c 'error: ' err)" = 1 ] || fail "$what: not one line of error"
    grep 'error: ' err | grep -qF -- "$1" || fail "$what: does not say '$1'"
}

# refused CODE "words" RANKS arguments... (by itself mpirun waits two seconds after a bad exit code)
refused() {
    want=$1
    words=$2
    shift 2
    export OMPI_MCA_odls_base_sigkill_timeout=0
    run "$@"
    unset OMPI_MCA_odls_base_sigkill_timeout
    ended "$want"
    soon 5
    said "$words"
}

# ---- ranks that fail, hang, or are gone

hangs_are_named() {
    run 3 run.deadline=2 debug.inject=hang:1:3
    ended 71
    soon 5
    grep -qE 'error: shard group: [a-z_]+: waited 2(\.[0-9]+)? s for rank 1 \(of 3\)' err ||
        fail "$what: the wait does not name its group and the rank"
    [ "$(grep -cE "error: rank 1 \(process [0-9]+\) is behind: section 'step', step 3; last action [0-9]+ update" err)" = 1 ] ||
        fail "$what: nobody names section, step and action of rank 1"
    [ "$(find r/incidents -name 'I-*.json' | wc -l)" = 1 ] || fail "$what: not one incident"
    grep -q '"code": 71' r/incidents/I-*.json || fail "$what: the incident has another code"
}

# the watchdog: the one rank of a run waits for nobody
watchdog_ends_it() {
    run 1 run.deadline=1 debug.inject=hang:0:3
    ended 71
    soon 5
    said "rank 0 hangs in section 'step', step 3: no beat for"
    grep -q '"section": "step", "step": 3' r/incidents/I-0.json || fail "$what: no incident"
}

# of mpirun, by number of rank: each wrote its own into its page
pid_of_rank() {
    for pid in $(pgrep -P "$1"); do
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$2" && echo "$pid"
    done
}

await() { # FILE: until there is something in it
    for _ in $(seq 200); do
        [ -s "$1" ] && return
        sleep 0.05
    done
    fail "$what: no $1"
}

stopped_rank_is_named() {
    rm -rf r
    what="a rank is stopped"
    count=$((count + 1))
    begin=$(date +%s)
    mpirun -n 3 "$program" c.ini run.deadline=2 train.steps=1000000 run.export=none >out 2>err &
    mpirun=$!
    await r/metrics.jsonl
    victim=$(pid_of_rank $mpirun 2)
    kill -STOP "$victim" || fail "$what: no rank 2"
    wait $mpirun
    code=$?
    seconds=$(($(date +%s) - begin))
    ended 71
    soon 6
    grep -qE 'waited 2(\.[0-9]+)? s for rank 2 \(of 3\)' err || fail "$what: the wait does not name it"
    grep -qE "error: rank 2 \(process $victim\) is behind and stopped: section 'step'" err ||
        fail "$what: nobody says that it is stopped"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        grep -q '^State:[^Z]*$' "/proc/$victim/status" 2>/dev/null || return # not there, or a zombie
        sleep 0.1
    done
    fail "$what: it is still there"
}

# a /dev/shm with room for the pages of the run, not for a group: messages instead of shared memory
without_shared_memory() {
    unshare -m true 2>/dev/null || return 0
    what="without shared memory"
    for inject in hang:1:3:71 fail:1:3:70; do
        rm -rf r
        count=$((count + 1))
        OMPI_MCA_btl=self,tcp unshare -m sh -c 'mount -t tmpfs -o size=56k none /dev/shm && exec "$@"' sh \
            timeout 60 mpirun -n 2 "$program" c.ini run.deadline=2 debug.inject="${inject%:*}" >out 2>err
        code=$?
        grep -q 'talk through MPI' err || fail "$what: it was there"
        ended "${inject##*:}"
    done
}

test_ranks() {
    run 4 debug.inject=fail:1:4
    ended 70
    soon 5
    said 'dstrain [rank 1]: error: debug.inject: a failure in step 4'
    [ "$(wc -l <r/metrics.jsonl)" -ge 1 ] || fail "$what: no metrics of the steps before"
    run 2 debug.inject=fail:0:1
    ended 70
    said 'dstrain [rank 0]: error: debug.inject: a failure in step 1'
    hangs_are_named
    watchdog_ends_it
    stopped_rank_is_named
    without_shared_memory
    run 3 debug.inject=kill:1:3
    ended 137
    soon 5
    run 2 debug.inject=nan:1:3
    ended 0
    [ "$(grep -c '"skipped": true' r/metrics.jsonl)" = 1 ] || fail "$what: not one step skipped"
    [ "$(wc -l <r/metrics.jsonl)" = 6 ] || fail "$what: not all steps have a line"
    grep '"step": 3,' r/metrics.jsonl | grep -q '"loss": null' || fail "$what: step 3 has a loss"
    [ -s r/export/model.safetensors ] || fail "$what: no export"
}

# ---- input

le8() { # NUMBER: eight bytes, little endian
    number=$1
    for _ in 1 2 3 4 5 6 7 8; do
        printf "\\$(printf %03o $((number % 256)))"
        number=$((number / 256))
    done
}

# tokens NAME DTYPE ROWS COLUMNS ids...: a safetensors file of eight-byte numbers
tokens() {
    header="{\"$1\":{\"dtype\":\"$2\",\"shape\":[$3,$4],\"data_offsets\":[0,$(($3 * $4 * 8))]}}"
    shift 4
    le8 ${#header}
    printf %s "$header"
    for id in "$@"; do le8 "$id"; done
}

test_text() {
    : >empty.txt
    printf 'abc' >short.txt
    mkdir none
    refused 65 'empty.txt: no text' 2 data.train=empty.txt
    refused 65 'missing.txt: cannot read this text: No such file or directory' 2 data.train=missing.txt
    refused 65 'none: no text' 3 data.train=none
    refused 65 'short.txt: 5 tokens are less than one sample of train.seq_length + 1 = 17' 2 data.train=short.txt
    refused 65 'missing.txt' 2 data.eval=missing.txt
    refused 64 'data.cache = empty.txt/below: no prepared data can be kept there: Not a directory' 2 data.cache=empty.txt/below
    if [ "$(id -u)" != 0 ]; then
        cp t.txt closed.txt
        chmod 0 closed.txt
        refused 65 'closed.txt: cannot read this text: Permission denied' 2 data.train=closed.txt
    fi
    again 2 # what a failed launch left does not keep the right one from running
    ended 0
}

test_tokens() {
    set -- data.format=safetensors model.vocab_size=61 train.global_batch_size=2
    tokens input_ids I64 2 4 1 2 300 4 5 6 7 8 >large.safetensors
    tokens ids I64 2 4 1 2 3 4 5 6 7 8 >name.safetensors
    head -c 100 large.safetensors >cut.safetensors
    refused 65 'large.safetensors: sample 0 has token id 300 at position 2, but the vocabulary has 61 ids (0..60)' \
        2 "$@" data.train=large.safetensors train.seq_length=4
    refused 65 "large.safetensors: 'input_ids' has rows of 4 tokens, but train.seq_length is 16" \
        2 "$@" data.train=large.safetensors
    refused 65 "input_ids" 2 "$@" data.train=name.safetensors
    refused 65 'cut.safetensors: ' 2 "$@" data.train=cut.safetensors train.seq_length=4
    refused 65 't.txt: ' 2 "$@" data.train=t.txt train.seq_length=4
}

# model FILE: a copy of the good model in m, for the test to spoil
model() {
    rm -rf m
    cp -r good m
}

edit() { # EXPRESSION: config.json
    model
    sed "$1" good/config.json >m/config.json
    cmp -s good/config.json m/config.json && fail "the edit '$1' changes nothing"
}

test_model() {
    run 2 train.steps=1
    ended 0
    mv r/export good
    # the model comes from a folder from here on
    awk '/^\[model\]/ { print; print "path = m"; skip = 1; next } /^\[/ { skip = 0 } !skip' c.ini >with && mv with c.ini
    model
    run 2
    ended 0
    head -c 3000 good/model.safetensors >m/model.safetensors
    refused 65 'm/model.safetensors: the tensors take' 2
    { le8 99999999999; printf '{}'; } >m/model.safetensors
    refused 65 'm/model.safetensors: says its header has 99999999999 bytes' 2
    { le8 2; printf '[]'; } >m/model.safetensors
    refused 65 'm/model.safetensors: ' 2
    rm m/model.safetensors
    refused 65 'm: neither model.safetensors nor model.safetensors.index.json' 2
    : >m/pytorch_model.bin
    refused 65 'm: only pickled weights (.bin)' 2
    edit 's/"hidden_size": 16/"hidden_size": 32/'
    refused 65 "tensor 'model.embed_tokens.weight' is [259, 16], but config.json makes it [259, 32]" 2
    edit 's/"num_hidden_layers": 2/"num_hidden_layers": 3/'
    refused 65 "config.json asks for tensor 'model.layers.2.input_layernorm.weight'" 2
    edit 's/"num_hidden_layers": 2/"num_hidden_layers": 1/'
    refused 65 "m: tensor 'model.layers.1.input_layernorm.weight' is not part of the model" 2
    edit 's/"model_type": "llama"/"model_type": "unheard"/'
    refused 64 "'model_type' is 'unheard'; supported: llama" 2
    edit 's/"num_attention_heads": 2/"num_attention_heads": "two"/'
    refused 65 "m/config.json: key 'num_attention_heads' must be an integer" 2
    echo '{' >m/config.json
    refused 65 'm/config.json:2:0: not valid JSON' 2
    rm m/config.json
    refused 65 'm/config.json: No such file or directory' 2
}

test_input() {
    test_text
    test_tokens
    refused 64 'device = cuda: ' 2 run.device=cuda
    grep -q 'device = auto takes what is here' err || fail "$what: no remedy"
    refused 64 'c.ini: [model] head_dim' 2 model.hidden_size=18
    refused 64 'num_key_value_heads = 3' 2 model.num_key_value_heads=3
    refused 64 'smaller than the tokenizer' 2 model.vocab_size=100
    refused 64 'hidden_size = 16 must be a multiple of num_attention_heads = 3' 2 model.num_attention_heads=3
    refused 64 "'unheard'" 2 model.family=unheard
    test_model
}

# ---- run directories, launches side by side

test_launches() {
    : >plain
    refused 64 'run.dir: plain/below: Not a directory' 2 run.dir=plain/below
    refused 64 'run.dir: plain: not a directory' 2 run.dir=plain
    run 2
    ended 0
    cp r/metrics.jsonl kept
    again 2 optimizer.learning_rate=0.5 data.train=missing.txt
    [ "$code" = 64 ] || fail "$what: exit code $code"
    said "run.dir: r: holds another run; it differs in [data] train = 'missing.txt' (there 't.txt'), [optimizer] learning_rate = 0.5"
    cmp -s r/metrics.jsonl kept || fail "$what: the other run's metrics have changed"

    again 2
    ended 0
    grep -q 'starts again at step 1; the earlier metrics are now r/metrics-1.jsonl' err ||
        fail "$what: nothing is said of the earlier run"
    cmp -s r/metrics-1.jsonl kept || fail "$what: the earlier metrics have changed"
    [ "$(wc -l <r/metrics.jsonl)" = 6 ] || fail "$what: not a line a step"
    rm -rf r/export
    echo mine >r/export
    again 2
    [ "$code" = 64 ] || fail "$what: exit code $code"
    said 'run.dir: r/export: not a directory'
    [ "$(cat r/export)" = mine ] || fail "$what: a file called export is gone"
    [ ! -e r/metrics-2.jsonl ] || fail "$what: metrics moved without a run"

    rm -rf r
    mpirun -n 2 "$program" c.ini train.steps=1000000 >first.out 2>first.err &
    first=$!
    await r/metrics.jsonl
    again 2 train.steps=1000000
    [ "$code" = 73 ] || fail "$what: exit code $code, not 73"
    said 'run.dir: r: another launch is at work there (process '
    soon 5
    kill -0 $first || fail "the first launch has ended"
    before=$(wc -l <r/metrics.jsonl)
    sleep 1
    [ "$(wc -l <r/metrics.jsonl)" -gt "$before" ] || fail "the first launch does not go on"
    kill -TERM $first
    wait $first
    cp first.err err
    awk 'END { exit NR < 2 }' r/metrics.jsonl || fail "the first launch left no metrics"
    again 2 # its lock went with it
    ended 0
}

"test_$part"
[ $bad = 0 ] && echo "$count runs ended as they should"
exit $bad
