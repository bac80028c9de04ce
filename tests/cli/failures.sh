#!/bin/sh
# What goes wrong in a run of several ranks: faults in the middle of a step, ranks that hang or are gone,
# and input that cannot be used. Called with the program and the part: ranks, input, model or launches.
# Every run ends within 5 s of the line that says why, as a person starts it (no setting of Open MPI), with
# the exit code of the README, and leaves nothing half-made.
. "$(dirname "$0")/../support/cli.sh"
part=${2:?ranks, input, model or launches}
need_mpirun
export CUDA_VISIBLE_DEVICES= # what is asked for here is what a machine without GPUs answers
count=0
longest=0

small_text 2000 >t.txt
small_config run.deadline=20 model.hidden_size=16 model.intermediate_size=32 model.num_attention_heads=2 train.steps=6 \
    train.global_batch_size=12 train.micro_batch_size=1 train.seq_length=16 zero.stage=3 >c.ini

# ---- running, and when what happened

# launch command...: to its end, and that of all its ranks; sets code and took, in hundredths
launch() {
    : >decided
    { timeout -k 5 300 "$@" >out; echo $? >code; } 2>&1 | watch_lines >err
    ended_at=$(now)
    code=$(cat code)
    for _ in $(seq 50); do
        left=$(ranks_here)
        [ -n "$left" ] || break
        sleep 0.1
        ended_at=$(now)
    done
    [ -z "$left" ] || fail "$what: ranks are still there: $left"
    took=0
    [ ! -s decided ] || took=$((ended_at - $(cat decided)))
    [ $took -le $longest ] || longest=$took
    count=$((count + 1))
}

# run RANKS arguments...: a run of c.ini in a fresh r
run() {
    rm -rf r
    again "$@"
}

again() {
    ranks=$1
    shift
    what="$ranks ranks, $*"
    launch mpirun -n "$ranks" "$program" c.ini "$@"
}

# ended CODE: with this exit code, soon where it says why; nothing half-made lies about
ended() {
    [ "$code" = "$1" ] || fail "$what: exit code $code, not $1"
    [ "$1" = 0 ] || [ ! -e r/export ] || fail "$what: there is an export"
    [ "$1" = 0 ] || [ -s decided ] || fail "$what: does not say why"
    [ $took -le 500 ] || fail "$what: it took $took hundredths of a second from the line that says why"
    half=$(find . -name '*.tmp' -o -name '*.old' -o -name '*.part')
    [ -z "$half" ] || fail "$what: left $half"
    if [ -s r/metrics.jsonl ]; then
        awk '!/^\{.*\}$/ { exit 1 }' r/metrics.jsonl || fail "$what: a broken line in metrics.jsonl"
        [ "$(tail -c 1 r/metrics.jsonl | od -An -c | tr -d ' ')" = '\n' ] ||
            fail "$what: the last line of metrics.jsonl is not whole"
    fi
}

# said "words": one line of error, with these words in it
said() {
    [ "$(grep -c 'error: ' err)" = 1 ] || fail "$what: not one line of error"
    grep 'error: ' err | grep -qF -- "$1" || fail "$what: does not say '$1'"
}

# refused CODE "words" RANKS arguments...: and the directory of the run is not there afterwards, unless
# text was prepared in it before
refused() {
    want=$1
    words=$2
    shift 2
    run "$@"
    ended "$want"
    said "$words"
    stays=$(find r -mindepth 1 ! -path r/data ! -path 'r/data/*.safetensors' 2>/dev/null)
    [ -z "$stays" ] || fail "$what: left" $stays
    [ ! -e r ] || [ -n "$(ls r/data 2>/dev/null)" ] || fail "$what: left an empty directory"
}

# ---- ranks that fail, hang, or are gone

hangs_are_named() {
    run 3 run.deadline=4 debug.inject=hang:1:3
    ended 71
    grep -qE 'error: shard group: [a-z_]+: waited [3-9](\.[0-9]+)? s for rank 1 \(of 3\)' err ||
        fail "$what: the wait does not name its group and the rank"
    [ "$(grep -cE "error: rank 1 \(process [0-9]+\) is behind: section 'step', step 3; last action [0-9]+ update" err)" = 1 ] ||
        fail "$what: nobody names section, step and action of rank 1"
    [ "$(find r/incidents -name 'I-*.json' | wc -l)" = 1 ] || fail "$what: not one incident"
    grep -q '"code": 71' r/incidents/I-*.json || fail "$what: the incident has another code"
}

# the watchdog: the one rank of a run waits for nobody
watchdog_ends_it() {
    run 1 run.deadline=2 debug.inject=hang:0:3
    ended 71
    said "rank 0 hangs in section 'step', step 3: no beat for"
    grep -q '"section": "step", "step": 3' r/incidents/I-0.json || fail "$what: no incident"
}

# waited_for RANK SECTION STEP: all others of the world were waiting for it; one of them says where it stands
waited_for() {
    grep -qE "error: world group: [a-z_]+: waited [4-9](\.[0-9]+)? s for rank $1 " err || fail "$what: the wait does not name it"
    [ "$(grep -cE "error: rank [0-9]+ \(process [0-9]+\) is behind" err)" = 1 ] &&
        grep -qE "error: rank $1 \(process [0-9]+\) is behind: section '$2', step $3; " err ||
        fail "$what: not one line about where it stands"
    [ "$(find r/incidents -name 'I-*.json' | wc -l)" = 1 ] || fail "$what: not one incident"
}

# behind the last step: the model is written
export_that_never_ends() {
    for rank in 1 0; do
        run 4 run.deadline=4 debug.inject=hang:$rank:7 parallel.pipeline=2
        ended 71
        waited_for $rank export 6
    done
    run 3 debug.inject=fail:2:7
    ended 70
    said 'dstrain [rank 2]: error: debug.inject: a failure in step 7'
}

# before the first step: rank 0 prepares text, and the others wait for it, 15/32 of a deadline longer than its watchdog
data_that_never_comes() {
    run 3 run.deadline=6 debug.inject=hang:0:0
    ended 71
    grep -q "error: rank 0 hangs in section 'prepare data', step 0" err || fail "$what: nobody names it"
    grep -q '"section": "prepare data"' r/incidents/I-0.json || fail "$what: no incident"
    run 3 run.deadline=4 debug.inject=hang:2:0
    ended 71
    waited_for 2 start 0
    run 3 debug.inject=fail:2:0
    ended 70
    said 'dstrain [rank 2]: error: debug.inject: a failure in step 0'
    run 3 debug.inject=kill:0:0
    ended 137
    again 2 run.seed=7 # what it left does not keep another run from taking the directory
    ended 0
}

pid_of_rank() {
    for pid in $(ranks_here); do
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$1" && echo "$pid"
    done
}

await() { # FILE: until there is something in it
    for _ in $(seq 1200); do
        [ -s "$1" ] && return
        sleep 0.05
    done
    fail "$what: no $1"
}

stopped_rank_is_named() {
    rm -rf r
    what="a rank is stopped"
    { await r/metrics.jsonl; pid_of_rank 2 >victim; kill -STOP "$(cat victim)"; } &
    launch mpirun -n 3 "$program" c.ini run.deadline=3 train.steps=1000000 run.export=none
    ended 71
    victim=$(cat victim)
    grep -qE 'waited [3-9](\.[0-9]+)? s for rank 2 \(of 3\)' err || fail "$what: the wait does not name it"
    grep -qE "error: rank 2 \(process $victim\) is behind and stopped: section 'step'" err ||
        fail "$what: nobody says that it is stopped"
}

# within SIZE "commands" RANKS arguments...: a /dev/shm of that size of its own; whoever may not make one
# sees nothing of this
within() {
    size=$1
    before=$2
    ranks=$3
    shift 3
    what="$ranks ranks, /dev/shm of $size, $*"
    rm -rf r
    export OMPI_MCA_btl=self,tcp # MPI's own shared memory is not what this is about
    launch unshare -m sh -c "mount -t tmpfs -o size=$size none /dev/shm && $before"' && exec "$@"' sh \
        mpirun -n "$ranks" "$program" c.ini "$@"
    unset OMPI_MCA_btl
}

# room for the pages of the run, not for a group: messages instead of shared memory; no room at all, or not
# for us: no pages, and one line says so
little_shared_memory() {
    unshare -m true 2>/dev/null || return 0
    within 56k true 2 run.deadline=3 debug.inject=hang:1:3
    grep -q 'talk through MPI' err || fail "$what: it was there"
    ended 71
    within 56k true 2 debug.inject=fail:1:3
    ended 70
    within 4k true 2
    ended 0
    [ "$(grep -c 'warning: recorder: ' err)" = 1 ] || fail "$what: not one line about pages"
    within 64m "mkdir -m 0755 /dev/shm/dstrain-$(id -u)" 3
    ended 0
    [ "$(grep -c 'warning: ' err)" = 1 ] || fail "$what: not one warning"
    grep -q "warning: recorder: '/dev/shm/dstrain-$(id -u)' must belong to" err || fail "$what: another one"
}

test_ranks() {
    run 4 debug.inject=fail:1:4
    ended 70
    said 'dstrain [rank 1]: error: debug.inject: a failure in step 4'
    [ "$(wc -l <r/metrics.jsonl)" -ge 1 ] || fail "$what: no metrics of the steps before"
    run 2 debug.inject=fail:0:1
    ended 70
    said 'dstrain [rank 0]: error: debug.inject: a failure in step 1'
    hangs_are_named
    watchdog_ends_it
    data_that_never_comes
    export_that_never_ends
    stopped_rank_is_named
    little_shared_memory
    run 3 debug.inject=kill:1:3
    ended 137
    run 2 debug.inject=nan:1:3
    ended 0
    [ "$(grep -c '"skipped": true' r/metrics.jsonl)" = 1 ] || fail "$what: not one step skipped"
    [ "$(wc -l <r/metrics.jsonl)" = 6 ] || fail "$what: not all steps have a line"
    grep -q 'step 3 skipped: loss or gradient is not finite (1 skipped so far)' err || fail "$what: not said"
    [ "$(grep -c '1 of 6 steps were skipped' err)" = 1 ] || fail "$what: not said at the end"
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
    refused 65 'error: command line: [data] train: missing.txt: No such file or directory' 2 data.train=missing.txt
    refused 65 'none: no text' 3 data.train=none
    refused 65 'short.txt: 5 tokens are less than one sample of train.seq_length + 1 = 17 (c.ini:17) (prepared as ' 2 data.train=short.txt
    refused 65 'command line: [data] eval: missing.txt: No such' 2 data.eval=missing.txt
    refused 64 'command line: [data] cache = empty.txt/below: no prepared data can be kept there: Not a directory' 2 data.cache=empty.txt/below
    if [ "$(id -u)" != 0 ]; then
        cp t.txt closed.txt
        chmod 0 closed.txt
        refused 65 'closed.txt: cannot read this text: Permission denied' 2 data.train=closed.txt
    fi
    mkfifo pipe # nobody writes into it
    refused 65 'pipe: neither a regular file nor a directory' 2 data.train=pipe
    mkdir r # a person's own, with or without something in it, stays
    again 2 data.train=missing.txt
    ended 65
    [ "$(ls -A r | wc -l)" = 0 ] || fail "$what: left something"
    again 2
    ended 0
}

test_tokens() {
    set -- data.format=safetensors model.vocab_size=61 train.global_batch_size=2
    tokens input_ids I64 2 4 1 2 300 4 5 6 7 8 >large.safetensors
    tokens ids I64 2 4 1 2 3 4 5 6 7 8 >name.safetensors
    head -c 100 large.safetensors >cut.safetensors
    tokens input_ids I64 2 4 1 2 3 4 5 6 7 8 >good.safetensors
    mkdir d dd
    cp good.safetensors d/b.safetensors
    cp t.txt d/a.txt
    cp large.safetensors dd/a.safetensors
    cp large.safetensors dd/b.safetensors
    run 2 "$@" data.train=d data.eval=good.safetensors train.seq_length=4
    ended 0
    refused 65 'dd/a.safetensors: sample 0 has token id 300' 2 "$@" data.train=d,dd train.seq_length=4
    refused 65 'command line: [data] train: none: no *.safetensors file in this directory' 2 "$@" data.train=none train.seq_length=4
    refused 65 'large.safetensors: sample 0 has token id 300' \
        2 "$@" data.train=good.safetensors data.eval=large.safetensors train.seq_length=4
    refused 65 'large.safetensors: sample 0 has token id 300 at position 2, but the vocabulary has 61 ids (0..60)' \
        2 "$@" data.train=large.safetensors train.seq_length=4
    refused 65 "large.safetensors: 'input_ids' has rows of 4 tokens, but train.seq_length is 16 (c.ini:17)" \
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
    edit 's/"eos_token_id": 257/"eos_token_id": 999/'
    names=$(grep -ao '"[a-z_.0-9]*weight"' m/model.safetensors)
    { # one tensor more
        printf '{"weight_map":{"extra":"extra.safetensors"'
        for name in $names; do printf ',%s:"model.safetensors"' "$name"; done
        printf '}}'
    } >m/model.safetensors.index.json
    tokens extra I64 1 1 1 >m/extra.safetensors
    run 3
    ended 0
    kept=$(cat err)
    sed -i 's/"model.norm.weight":"model.safetensors"/"model.norm.weight":"extra.safetensors"/' m/model.safetensors.index.json
    refused 65 "m/model.safetensors: tensor 'model.norm.weight' is here, but model.safetensors.index.json says that it is in extra.safetensors" 2
    echo "$kept" >err
    for words in "'eos_token_id' is 999" '1 tensors are not part of the model'; do
        [ "$(grep -c "warning: .*$words" err)" = 1 ] || fail "$what: not one warning '$words'"
    done
    model
    sed -i 's/"<bos>"/"<s>"/' m/tokenizer.json
    refused 65 "m/tokenizer_config.json: bos_token '<bos>' is not in the tokenizer" 2
    refused 64 'c.ini:7: [model] path = m: its tokenizer is another one than the byte tokenizer' 2 data.tokenizer=bytes
    refused 64 'c.ini:7: [model] path = m: its tokenizer is another one than the byte tokenizer' 3 data.tokenizer=bytes
    refused 64 'command line: [data] tokenizer = nowhere: No such file or directory' 2 data.tokenizer=nowhere
    rm m/tokenizer.json
    run 2
    ended 0
    { head -c -4 good/model.safetensors; printf '\000\000\200\177'; } >m/model.safetensors
    refused 65 "m/model.safetensors: tensor 'model.norm.weight' has inf at element 15; weights must be finite" 2
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
    edit 's/"tie_word_embeddings": false/"tie_word_embeddings": true/'
    refused 65 "m/model.safetensors: tensor 'lm_head.weight' differs from 'model.embed_tokens.weight' at element 0, but config.json has tie_word_embeddings = true; set that to false there, or take the tensor out of the file" 4
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
    rm -r m
    refused 65 'c.ini:7: [model] path = m: No such file or directory' 2
    : >m
    refused 65 'c.ini:7: [model] path = m: Not a directory' 2
}

# What is mapped goes while it is read: one line, not a signal.
test_cut_short() {
    (
        until [ -s r/metrics.jsonl ]; do sleep 0.1; done
        truncate -s 0 r/data/*.safetensors
    ) &
    run 1 train.steps=1000000
    wait
    ended 70
    said '.safetensors: what is mapped of it is gone: the file was cut short while it was in use'
}

test_input() {
    test_text
    test_tokens
    test_cut_short
    refused 64 'command line: [run] device = cuda: ' 2 run.device=cuda
    grep -q 'device = auto takes what is here' err || fail "$what: no remedy"
    refused 64 'command line: [model] hidden_size = 18 makes head_dim = 18 / 2 = 9' 2 model.hidden_size=18
    refused 64 'num_key_value_heads = 3' 2 model.num_key_value_heads=3
    refused 64 'smaller than the tokenizer' 2 model.vocab_size=100
    refused 64 'hidden_size = 16 must be a multiple of num_attention_heads = 3' 2 model.num_attention_heads=3
    refused 64 "'unheard'" 2 model.family=unheard
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
    said "run.dir: r: holds another run; it differs in [data] train = 'missing.txt', which is not there (command line, there 't.txt'), [optimizer] learning_rate = 0.5 (command line, there 0.0003); take that back, or name another folder"
    cmp -s r/metrics.jsonl kept || fail "$what: the other run's metrics have changed"

    again 2
    ended 0
    grep -q 'starts again at step 1; the earlier metrics are now r/metrics-1.jsonl' err ||
        fail "$what: nothing is said of the earlier run"
    cmp -s r/metrics-1.jsonl kept || fail "$what: the earlier metrics have changed"
    [ "$(wc -l <r/metrics.jsonl)" = 6 ] || fail "$what: not a line a step"
    again 1 run.export=none
    ended 0
    grep -q 'holds the model of an earlier run, .* it is now r/export.kept-1$' err ||
        fail "$what: nothing is said of the earlier model"
    [ -s r/export.kept-1/model.safetensors ] && [ ! -e r/export ] || fail "$what: the earlier model passes for its own"
    [ "$(ls r/log)" = rank-0000.log ] || fail "$what: logs of ranks that it has not"
    rm -r r/export.kept-1 r/metrics-[2-9].jsonl
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
    others=$(ranks_here | tr '\n' ' ')
    again 2 train.steps=1000000
    others=
    [ "$code" = 73 ] || fail "$what: exit code $code, not 73"
    said 'run.dir: r: another launch is at work there (process '
    [ $took -le 500 ] || fail "$what: it took $took hundredths of a second from the line that says why"
    kill -0 $first || fail "the first launch has ended"
    await_step r $(($(steps_done r) + 1)) $first
    kill -TERM $first
    wait $first
    cp first.err err
    awk 'END { exit NR < 2 }' r/metrics.jsonl || fail "the first launch left no metrics"
    again 2 # its lock went with it
    ended 0
    run 2 run.device=auto run.deterministic=false
    ended 0
    grep -q 'run.deterministic = false: the cpu, which device = auto has taken, is deterministic' err ||
        fail "$what: nothing is said of deterministic"
}

"test_$part"
[ $bad = 0 ] && echo "$count runs ended as they should, the slowest in $longest hundredths of a second"
exit $bad
