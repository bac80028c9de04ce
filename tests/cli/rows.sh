#!/bin/sh
# JSONL through the command line: packed and unpacked the same losses, what is learned is shown, bad input ends with 65 and
# one line, and preparing goes on where it was killed. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun

rows() { # COUNT: of all kinds and lengths
    awk -v count="$1" 'BEGIN {
        for (i = 0; i < count; i++) {
            text = ""
            for (k = 0; k < i * 7 % 11; k++) text = text "word" k " "
            if (i % 3 == 0) printf "{\"text\": \"%sstory %d\"}\n", text, i
            if (i % 3 == 1) printf "{\"prompt\": \"%sask %d:\", \"completion\": \" answer %d\"}\n", text, i, i
            if (i % 3 == 2) printf "{\"messages\": [{\"role\": \"user\", \"content\": \"%s?\"}, {\"role\": \"assistant\", \"content\": \"%d\"}]}\n", text, i
        }
    }'
}

config() { # KEY=VALUE ...
    small_config data.train=t.jsonl data.format=jsonl data.chat_template=plain data.shuffle=false train.steps=4 \
        train.seq_length=96 train.global_batch_size=1 optimizer.learning_rate=0.002 schedule.kind=constant run.export=none "$@"
}

losses() { sed 's/.*"loss": *\([^,]*\),.*"trained_tokens": *\([0-9]*\).*/\1 \2/' "$1/metrics.jsonl"; }

# ---- one update an epoch: what is packed and what is not learns the same tokens

rows 24 >t.jsonl
config >c.ini
mpirun -n 2 "$program" c.ini run.dir=apart data.packing=false train.global_batch_size=24 train.micro_batch_size=3 >err 2>&1 ||
    die "a run of which each row has a sequence of its own"
grep -q 'an epoch has 24 sequences' err || fail "24 rows are not 24 sequences"
mpirun -n 1 "$program" c.ini run.dir=probe train.steps=1 >err 2>&1 || die "a packed run"
packed=$(sed -n 's/.*an epoch has \([0-9]*\) sequences.*/\1/p' err)
[ "${packed:-24}" -lt 16 ] || fail "packed rows take ${packed:-no} sequences"
mpirun -n 1 "$program" c.ini run.dir=packed train.global_batch_size="$packed" >err 2>&1 || die "a packed run"
losses apart >apart.txt
losses packed >packed.txt
paste -d ' ' apart.txt packed.txt | awk '
    { off = ($1 - $3) / $3; if (off > 1e-6 || off < -1e-6 || $2 != $4 || $2 == 0) bad = 1 }
    END { exit bad || NR != 4 }' || { shown="apart.txt packed.txt"; fail "packed and unpacked differ"; shown=err; }

# ---- packed rows on other layouts: the same but for rounding

for layout in parallel.tensor=2 parallel.pipeline=2; do
    mpirun -n 2 "$program" c.ini run.dir=${layout#*.} $layout train.global_batch_size="$packed" >err 2>&1 || fail "$layout"
    losses ${layout#*.} >layout.txt
    paste -d ' ' layout.txt packed.txt | awk '
        { off = ($1 - $3) / $3; if (off > 5e-6 || off < -5e-6 || $2 != $4) bad = 1 }
        END { exit bad || NR != 4 }' || { shown="layout.txt packed.txt"; fail "$layout differs"; shown=err; }
done

# ---- a share to evaluate on, set aside on every rank

mpirun -n 2 "$program" c.ini run.dir=share data.eval_share=0.3 train.eval_interval=2 train.global_batch_size=2 >err 2>&1 ||
    fail "a run with data.eval_share"
[ "$(grep -c 'evaluation after' err)" = 2 ] || fail "data.eval_share: it was not evaluated twice"

# ---- files blended by weight: half of the samples of one of them

mpirun -n 2 "$program" c.ini run.dir=blend data.train=t.jsonl,t.jsonl:0.5 data.packing=false train.steps=1 train.global_batch_size=2 >err 2>&1 ||
    fail "two files of rows"
grep -q 'an epoch has 36 sequences' err || fail "24 rows and half of them are not 36"

# ---- what is learned is shown

"$program" prepare --show 3 c.ini >out 2>err || fail "prepare --show"
grep -qx '  + story 0<eos>' out && grep -qx '  . <bos>.*ask 1:' out && grep -qx '  +  answer 1<eos>' out &&
    grep -q 't.jsonl, row 3: ' out || { shown=out; fail "prepare --show shows something else"; shown=err; }
[ "$(grep -c ', row ' out)" = 3 ] || fail "prepare --show 3 shows more, or less"

# ---- bad input: 65, one line

refused() { # WHAT IS SAID, KEY=VALUE ...: of bad.jsonl
    said=$1
    shift
    "$program" c.ini run.dir=bad data.train=bad.jsonl "$@" >out 2>err
    code=$?
    [ $code = 65 ] || fail "$said: $code instead of 65"
    [ "$(wc -l <err)" = 1 ] && grep -q "$said" err || fail "$said: is not what it says"
}

long=$(printf '%0200d' 7)
{ rows 5; echo '{"text": "unfinished'; rows 5; } >bad.jsonl
refused 'bad.jsonl:6: not valid JSON'
"$program" c.ini run.dir=skip data.train=bad.jsonl data.malformed=skip >out 2>err || fail "data.malformed = skip"
grep -q '1 of 11 lines are left out (data.malformed = skip); the first is line 6' err || fail "it does not say what is left out"
echo '{"messages": [{"role": "gpt", "content": "a"}]}' >bad.jsonl
refused "bad.jsonl:1: messages\[0\]: role 'gpt' is none of system, user, assistant, tool"
echo '{"messages": []}' >bad.jsonl
refused "bad.jsonl:1: 'messages' is an empty conversation"
echo '{"messages": [{"role": "user", "content": "a"}]}' >bad.jsonl
refused "bad.jsonl:1: no message is the assistant's"
echo '{"prompt": "a", "completion": "'"$long"'"}' >bad.jsonl
refused 'bad.jsonl: row 1 has 203 tokens, more than a sample of train.seq_length + 1 = 97 (c.ini:'
refused 'bad.jsonl: all 1 rows are longer' data.overlong=cut
"$program" prepare c.ini data.train=bad.jsonl data.cache=long >out 2>err
[ $? = 65 ] && grep -q 'bad.jsonl: row 1 has 203 tokens, more than a sample of train.seq_length + 1 = 97 (c.ini:' err ||
    fail "prepare says nothing of rows that a run refuses"
{ head -n 3 t.jsonl; cat bad.jsonl; } >mixed.jsonl
"$program" prepare c.ini data.train=mixed.jsonl data.overlong=drop data.cache=long >out 2>err || fail "prepare of long rows"
grep -q 'mixed.jsonl: 1 of 4 rows are longer than train.seq_length + 1 = 97 tokens, the longest has 203: they are left out' err ||
    fail "prepare says nothing of rows that are left out"
refused 'bad.jsonl:1: it is longer than data.line_limit = 99 bytes' data.line_limit=99
refused 'data.chat_template = llama3 writes the token <|begin_of_text|>, which the tokenizer does not have' data.chat_template=llama3
echo '{"messages": [{"role": "assistant", "content": "a"}]}' >bad.jsonl
refused 'bad.jsonl:1: it has messages, and no chat template is known' data.chat_template=auto

# a tokenizer that makes ids for which the model has no row
cat >m.ini <<EOF
[run]
dir = mismatch
device = cpu
[model]
path = $root/tests/golden/llama_mha
[data]
train = t.jsonl
format = jsonl
chat_template = plain
tokenizer = $root/tests/golden/tokenizers/llama2
[train]
steps = 1
global_batch_size = 1
seq_length = 64
EOF
"$program" m.ini >out 2>err
[ $? = 65 ] && [ "$(wc -l <err)" = 1 ] && grep -q 'its vocab_size is 512, but data.tokenizer = .* they do not belong together' err ||
    fail "a tokenizer of another vocabulary"

# ---- killed while it prepares: what is done is not done again, and what comes out is the same

awk 'BEGIN { for (i = 0; i < 150000; i++) printf "{\"prompt\": \"question %d of many, and some more text\", \"completion\": \"answer %d\", \"of no interest\": \"%0100d\"}\n", i, i, i }' >t.jsonl
"$program" prepare c.ini data.cache=whole >err 2>&1 || die "prepare"
"$program" prepare c.ini data.cache=killed >out 2>err &
pid=$!
while kill -0 $pid 2>/dev/null && [ ! -e "$(echo killed/*.parts/000001)" ]; do sleep_ms 5; done
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
"$program" prepare c.ini data.cache=killed >out 2>err || fail "prepare, after it was killed"
grep -q 'parts were there' out err || grep -q '1 used again' out err || fail "it has begun from the beginning"
cmp -s whole/*.safetensors killed/*.safetensors || fail "a shard that was made in two goes differs"
[ "$(ls killed | wc -l)" = 1 ] || fail "parts are left"
[ $bad = 0 ] && echo "rows are as they should be"
exit $bad
