#!/bin/sh
# `dstrain generate` and `dstrain eval` on what a run left: from the run's directory or from the export,
# whatever the vocabulary and the tokenizer; the answer and nothing else is written.
# Called with the program.
. "$(dirname "$0")/../support/cli.sh"

# refused CODE "words" MODEL: one line, nothing drawn
refused() {
    "$program" generate "$3" --prompt x >out 2>err
    got=$?
    [ $got = "$1" ] && [ "$(wc -l <err)" = 1 ] && grep -qF -- "$2" err && [ ! -s out ] ||
        fail "generate $3: exit code $got, not the one line '$2'"
}

small_text 200 >t.txt
small_config model.vocab_size=400 model.hidden_size=16 model.intermediate_size=32 model.num_hidden_layers=1 \
    model.num_attention_heads=2 data.eval=t.txt train.steps=2 train.global_batch_size=2 train.micro_batch_size=1 \
    train.seq_length=16 train.eval_samples=4 >c.ini
"$program" c.ini >out 2>err || fail "training"

# what config.json calls a special token, tokenizer.json does
for token in bos eos pad; do
    id=$(grep -o "\"${token}_token_id\": *[a-z0-9]*" r/export/config.json | grep -o '[a-z0-9]*$')
    [ -n "$id" ] && grep -A 1 "\"id\": $id," r/export/tokenizer.json | grep -q "\"<$token>\"" ||
        fail "export: ${token}_token_id is '$id', which tokenizer.json does not say"
done

for model in r r/export; do
    "$program" generate $model --prompt "The " --tokens 40 --temperature 50 --seed 3 >out 2>err || fail "generate $model"
    [ -s err ] && fail "generate $model: said something"
    [ "$(head -c 4 out)" = "The " ] || fail "generate $model: does not begin with the prompt"
    [ "$(wc -c <out)" -gt 5 ] || fail "generate $model: nothing drawn"
    mv out "out-$(basename $model)"
done
cmp -s out-r out-export || fail "the run's directory and its export write differently"

# told "the line" arguments...: refused with it, nothing drawn
told() {
    line=$1
    shift
    "$program" generate "$@" >out 2>err
    got=$?
    [ $got = 64 ] && [ "$(cat err)" = "dstrain: error: $line" ] && [ ! -s out ] ||
        fail "generate $*: exit code $got, not the one line '$line'"
}
told "--prompt is missing (text to go on from, may be '')" r
told "--prompt is missing (text to go on from, may be '')" r --tokens 3
told "--prompt is given twice" r --prompt a --prompt b
told "--tokens is given twice" r --tokens 3 --prompt a --tokens 3
"$program" generate r --prompt "" --tokens 3 >out 2>err && [ ! -s err ] || fail "generate: an empty prompt"
"$program" generate r --prompt 123456789012345 --tokens 3 >out 2>err && [ ! -s err ] || fail "generate: a prompt that just fits"
"$program" generate r --prompt 1234567890123456 --tokens 3 >out 2>err || fail "generate: a long prompt"
[ "$(cat err)" = "dstrain: warning: --prompt has 17 tokens with its begin, the model sees the last 16 alone (max_position_embeddings)" ] ||
    fail "generate: nothing is said of a prompt that the model does not see whole"

# a tokenizer that is not ours, but has the same ids
cp -r r/export other
sed 's/"<bos>"/"<s>"/' r/export/tokenizer.json >other/tokenizer.json
refused 65 "other/tokenizer_config.json: bos_token '<bos>' is not in the tokenizer" other
sed -i 's/"<bos>"/"<s>"/; s/^{$/{ "add_bos_token": true,/' other/tokenizer_config.json
"$program" generate other --prompt "The " --tokens 40 --temperature 50 --seed 3 >out 2>err || fail "generate other"
cmp -s out out-export || fail "the same ids under other names: written differently"
awk '/^\[model\]/ { print; print "path = other"; skip = 1; next } /^\[/ { skip = 0 } !skip' c.ini >other.ini
"$program" eval other.ini run.dir=none >out 2>err && "$program" eval c.ini >wanted 2>err || fail "eval of text with another tokenizer"
sed -i 's/.*: //' out wanted # the folders differ
cmp -s out wanted || fail "eval of text with the same ids under other names"
"$program" eval other.ini run.dir=none data.tokenizer=bytes >out 2>err
[ $? = 64 ] && grep -q "error: other.ini:7: \[model\] path = other: its tokenizer is another one than the byte tokenizer" err && [ ! -s out ] ||
    fail "eval of text in bytes with another tokenizer: not refused"
# an evaluation is held to the limits, too: to its own bytes, which are fewer than those of training
"$program" eval c.ini memory.device_limit=1000 >out 2>err
[ $? = 64 ] && [ ! -s out ] && [ "$(wc -l <err)" = 1 ] || fail "eval beyond device_limit: not refused, $(cat err)"
least=$(sed -n 's/.*command line: \[memory\] device_limit = 1000 (1000 B) is too little .*; nearest: \([0-9]*\) ([0-9.]* [KM]iB): .*/\1/p' err)
"$program" eval c.ini memory.device_limit="${least:-0}" >out 2>err || fail "eval within device_limit: $(cat err)"
"$program" eval c.ini memory.device_limit=$((${least:-1} - 1)) >out 2>err &&
    fail "eval a byte beyond device_limit is not refused"
"$program" eval c.ini memory.host_limit=1 >out 2>err
[ $? = 64 ] && grep -q 'command line: \[memory\] host_limit = 1 (1 B) is too little' err || fail "eval beyond host_limit: $(cat err)"
"$program" eval c.ini run.dir=none >out 2>err
[ $? = 64 ] && grep -q "error: command line: \[run\] dir = none: nothing to evaluate" err && [ ! -s out ] ||
    fail "eval of nothing: not refused, $(cat err)"
echo '{' >other/tokenizer.json
refused 65 "other/tokenizer.json:2:0: not valid JSON" other
rm other/tokenizer.json
refused 65 "other: tokenizer.json is missing" other
refused 65 "missing/config.json: No such file" missing

"$program" prepare c.ini data.cache=again >out 2>err || fail "prepare"
grep -q '^\[data\] train: 1 document, [0-9]* bytes, [0-9]* tokens; 1 shard made, 0 used again, in again$' err ||
    fail "prepare: not the plain line"
"$program" eval c.ini >out 2>err || fail "eval"
[ -s err ] && fail "eval: said something"
grep -q '^r/export: loss [0-9.]*, perplexity [0-9.]*, [0-9]* tokens$' out || fail "eval: no figures"

# the export has the tokenizer that its tokens came from: of text the byte tokenizer, of a folder's model that
# folder's, of other people's tokens none
tokens='{"input_ids":{"dtype":"U8","shape":[2,16],"data_offsets":[0,32]}}'
{ printf "$(printf '\\%03o' ${#tokens})\0\0\0\0\0\0\0%s" "$tokens"; head -c 32 t.txt; } >t.safetensors
echo theirs >other/tokenizer.model
for model in c other; do
    sed 's/^eval = .*//; s/^eval_samples = .*//; s/^train = .*/train = t.safetensors\nformat = safetensors/' $model.ini >tokens.ini
    "$program" tokens.ini run.dir=tokens-$model >out 2>err || fail "training on tokens"
    [ ! -e tokens-$model/export/tokenizer.json ] || fail "an export of tokens has a tokenizer that nobody gave"
done
cmp -s other/tokenizer.model tokens-other/export/tokenizer.model || fail "the folder's tokenizer is not in the export"
refused 65 "tokens-c/export: tokenizer.json is missing" tokens-c
rm other/tokenizer.model
"$program" other.ini run.dir=text >out 2>err || fail "training on text, of a model without a tokenizer"
cmp -s r/export/tokenizer.json text/export/tokenizer.json || fail "an export of text has no byte tokenizer"

# subwords: the vocabulary is the tokenizer's, whose files go with the export; U+FFFD where that was asked for
golden=$root/tests/golden/tokenizers
for name in llama3 llama2 qwen3; do
    "$program" c.ini model.vocab_size=auto data.tokenizer="$golden/$name" data.cache=$name-shards run.dir=$name >out 2>err ||
        fail "training on text with the tokenizer $name"
    cmp -s "$golden/$name/tokenizer.json" $name/export/tokenizer.json || fail "$name: its file is not in the export"
    "$program" generate $name --prompt "a line" --tokens 5 >out 2>err && [ ! -s err ] && [ "$(head -c 6 out)" = "a line" ] ||
        fail "generate $name"
    "$program" eval c.ini model.vocab_size=auto data.tokenizer="$golden/$name/tokenizer.json" data.cache=$name-shards \
        run.dir=$name >out 2>err && [ ! -s err ] || fail "eval $name"
    [ "$(ls $name-shards | wc -l)" = 1 ] || fail "$name: the text was prepared again"
done
# from nothing: a tokenizer learned from the text, a model that has its size, and a second call that finds all of it
for again in "1 shard made, 0 used again" "0 shards made, 1 used again"; do
    "$program" prepare --train-tokenizer=280 data.tokenizer=own c.ini run.dir=learned >out 2>err || fail "prepare --train-tokenizer"
    grep -q "$again" err || fail "prepare --train-tokenizer: not '$again'"
    made=${made:-$(sed -n 's/^own: a tokenizer of \([0-9]*\) tokens, learned from .*/\1/p' err)}
done
grep -q '^own/tokenizer.json: is there with '"$made"' tokens, and used as it is; remove it to have --train-tokenizer 280 learn a new one$' err || fail "a tokenizer that is there is not told"
"$program" c.ini model.vocab_size=auto data.tokenizer=own run.dir=learned >out 2>err &&
    cmp -s own/tokenizer.json learned/export/tokenizer.json &&
    "$program" generate learned --prompt "a line" --tokens 5 >out 2>err && [ ! -s err ] || fail "a model with a learned tokenizer"
"$program" prepare c.ini --train-tokenizer 258 data.tokenizer=other-own >out 2>err
[ $? = 64 ] && [ "$(cat err)" = "dstrain: error: --train-tokenizer = '258' must be a whole number in 259..1048576" ] ||
    fail "a vocabulary smaller than bytes: $(cat err)"
"$program" prepare c.ini --train-tokenizer 280 >out 2>err
[ $? = 64 ] && grep -q 'tokenizer must name the folder that --train-tokenizer writes to' err || fail "a tokenizer without a folder: $(cat err)"
printf 'abc\377' >>t.txt
"$program" prepare c.ini data.tokenizer="$golden/llama3" data.cache=invalid >out 2>err
[ $? = 65 ] && [ "$(cat err)" = "dstrain: error: t.txt: byte $(($(wc -c <t.txt) - 1)) (0xff) is not UTF-8; write the text as UTF-8, or have data.invalid_utf8 = replace put U+FFFD in its place" ] ||
    fail "text that is not UTF-8: $(cat err)"
"$program" prepare c.ini data.tokenizer="$golden/llama3" data.cache=invalid data.invalid_utf8=replace >out 2>err ||
    fail "text that is not UTF-8, replaced: $(cat err)"
"$program" check c.ini data.tokenizer="$golden/llama3" >out 2>err
[ $? = 64 ] && grep -q 'vocab_size = 400 is smaller than the tokenizer.s 520' err || fail "a vocabulary too small: $(cat err)"

# weights that nobody could load are not written: with eps = 0 what had no gradient is 0 / 0
"$program" c.ini run.dir=nan optimizer.eps=0 >out 2>err
got=$?
[ $got = 67 ] && [ ! -e nan/export ] && [ "$(grep -c error: err)" = 1 ] &&
    grep -q "error: .*the run has diverged: element [0-9]* of 'model.embed_tokens.weight' is not a number; nothing is exported" err ||
    fail "an export that is not finite: exit code $got, $(ls nan)"

if [ -c /dev/full ]; then
    for arguments in "eval c.ini" "generate r --prompt x --tokens 3" "inspect r/export"; do
        # shellcheck disable=SC2086
        "$program" $arguments >/dev/full 2>err
        got=$?
        [ $got = 70 ] && [ "$(wc -l <err)" = 1 ] || fail "$arguments: to /dev/full: exit code $got"
    done
fi
exit $bad
