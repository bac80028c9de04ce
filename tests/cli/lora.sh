#!/bin/sh
# An adapter's whole way through the program: trained beside a frozen model, saved, gone on from, exported on the way and
# at the end, evaluated, asked for a text, merged; and what does not go together, in one line each.
# Called with the program.
. "$(dirname "$0")/../support/cli.sh"

# refused CODE "words" arguments...: one line
refused() {
    code=$1
    words=$2
    shift 2
    "$program" "$@" >out 2>err
    got=$?
    [ $got = "$code" ] && [ "$(grep -c error: err)" = 1 ] && grep -qF -- "$words" err ||
        fail "$*: exit code $got, not $code with '$words'"
}

# trains "words" arguments...: and says them
trains() {
    words=$1
    shift
    "$program" "$@" >out 2>err || fail "$*: $(tail -n 1 err)"
    grep -qF -- "$words" err out || fail "$*: does not say '$words'"
}

same() { cmp -s "$1" "$2" || fail "$1 and $2 differ"; }

# other DIR MODEL "lines": lora.ini with these in place of its own in [lora]
other() {
    awk -v dir="$1" -v model="$2" -v lines="$3" '
        /^\[/ { section = $0 }
        section == "[lora]" { if (/^\[/) print $0 "\n" lines; next }
        { sub(/^dir = .*/, "dir = " dir); sub(/^path = .*/, "path = " model); print }' lora.ini
}

# whole_round DIR "of what": what the run of DIR.ini has trained comes out of its checkpoint alike, has the loss of the model
# that it is merged to, and is gone on from with the settings that it has
whole_round() {
    "$program" export "$1" "$1_from_checkpoint" >out 2>err || fail "$2: export of a checkpoint"
    same "$1_from_checkpoint/adapter_model.safetensors" "$1/export/adapter_model.safetensors"
    same "$1_from_checkpoint/adapter_config.json" "$1/export/adapter_config.json"
    "$program" eval "$1.ini" >out 2>err || fail "$2: eval"
    grep -q "^$1/export: loss" out || fail "$2: eval is not of the adapter"
    adapted=$(cut -d ' ' -f 3 out)
    "$program" export --merge "$1" "$1_merged" >out 2>err || fail "$2: merge"
    other m "$1_merged" "" >merged.ini
    "$program" eval merged.ini >out 2>err || fail "$2: eval of the merged"
    merged=$(cut -d ' ' -f 3 out)
    awk -v a="${adapted%,}" -v b="${merged%,}" 'BEGIN { exit !(a > 0 && a - b < 1e-5 && b - a < 1e-5) }' ||
        fail "$2: loss of the adapter $adapted, of the merged model $merged"
    other "$1_on" base/export "adapter = $1/export" >"$1_on.ini"
    trains "of them trained" "$1_on.ini"
    grep -q 'was made for' err && fail "$2: its own model is doubted"
    same "$1_on/export/adapter_config.json" "$1/export/adapter_config.json"
    cmp -s "$1_on/export/adapter_model.safetensors" "$1/export/adapter_model.safetensors" && fail "$2: nothing is learned behind it"
}

small_text 200 >t.txt
small_config model.hidden_size=16 model.intermediate_size=32 model.num_hidden_layers=2 model.num_attention_heads=2 \
    data.eval=t.txt train.steps=2 train.global_batch_size=2 train.micro_batch_size=1 train.seq_length=16 \
    train.eval_samples=4 run.dir=base checkpoint.interval=2 >base.ini
"$program" base.ini >out 2>err || die "training a model"

cat >lora.ini <<EOT
[run]
dir = r
device = cpu
[model]
path = base/export
[lora]
r = 4
target_modules = q_proj, down_proj
rank_pattern = layers.1.mlp.down_proj: 3
alpha_pattern = q_proj: 5
[data]
train = t.txt
eval = t.txt
[train]
steps = 4
global_batch_size = 2
micro_batch_size = 1
seq_length = 16
eval_samples = 4
[optimizer]
learning_rate = 0.01
[checkpoint]
interval = 2
export = 2
EOT
trains "of them trained" lora.ini train.steps=2
[ -f r/export-2/adapter_model.safetensors ] || fail "no adapter of step 2"
trains "checkpoint of step 2" lora.ini
for file in adapter_model.safetensors adapter_config.json tokenizer.json; do
    [ -s r/export/$file ] || fail "export: no $file"
done
[ -e r/export/model.safetensors ] && fail "the model is exported, too"
"$program" export r early --step 2 >out 2>err || fail "export of step 2"
same early/adapter_model.safetensors r/export-2/adapter_model.safetensors

# read again
cp lora.ini r.ini
whole_round r "an adapter"
grep -q '"model.layers.1.mlp.down_proj": 3' r/export/adapter_config.json ||
    fail "export: the rank of one matrix is not in the patterns"
"$program" generate r --prompt "line " --tokens 5 --temperature 0 >a.txt 2>err || fail "generate"
"$program" generate r/export --prompt "line " --tokens 5 --temperature 0 >b.txt 2>err || fail "generate from the folder"
same a.txt b.txt

# merged: what it is made of does not matter
"$program" export --merge r/export merged >out 2>err || fail "merge of a folder"
"$program" export --merge r_from_checkpoint merged_beside --base base/export >out 2>err || fail "merge beside --base"
same merged/model.safetensors r_merged/model.safetensors
same merged/model.safetensors merged_beside/model.safetensors
same merged/config.json base/export/config.json
[ -e r_merged.factors ] && fail "the factors' folder is left"
cmp -s merged/model.safetensors base/export/model.safetensors && fail "nothing is merged"
"$program" generate merged --prompt "line " --tokens 5 --temperature 0 >c.txt 2>err || fail "generate from the merged"
same a.txt c.txt

# with a part of the model itself: in the adapter, in place of the model's own where it is used, and not frozen again
other w base/export "r = 2\ntarget_modules = q_proj, down_proj\nmodules_to_save = embed_tokens lm_head model.norm" >w.ini
trains "of them trained" w.ini
grep -q '"lm_head"' w/export/adapter_config.json || fail "export: modules_to_save is not in its settings"
for name in lm_head model.embed_tokens model.norm; do
    "$program" inspect w/export/adapter_model.safetensors --verbose >out 2>err || fail "inspect of an adapter"
    grep -q "base_model.model.$name.weight" out || fail "export: no $name in the adapter"
done
whole_round w "with parts of the model"

# with a length for each row
other d base/export "r = 2\ntarget_modules = q_proj, down_proj\ndora = true\ndropout = 0.2" >d.ini
trains "of them trained" d.ini
grep -q '"use_dora": true' d/export/adapter_config.json || fail "export: use_dora is not in its settings"
whole_round d "with lengths"
other d4 base/export "r = 2\ntarget_modules = q_proj, down_proj\ndora = true\nbase = nf4" >d4.ini
trains "of them trained" d4.ini

# a checkpoint has no more than factors: what they were trained beside must be there, on whatever ranks
"$program" base.ini run.dir=other run.seed=9 >out 2>err || fail "training another model"
mv base/export kept && cp -r other/export base/export
refused 65 "base/export: its weights are not those beside which the factors of the checkpoint were trained" \
    lora.ini train.steps=6
refused 65 "base/export: its weights are not those beside which the factors of the checkpoint were trained" \
    export --merge r merged_wrong
refused 65 "kept/../base/export: its weights are not those beside which" \
    export --merge r merged_wrong --base kept/../base/export --quant nf4
ls -d merged_wrong* >/dev/null 2>&1 && fail "something is left of a merge that was refused"
rm -rf base/export && mv kept base/export
trains "checkpoint of step 4" lora.ini train.steps=6
refused 64 "[model] path = 'other/export' (command line, there 'base/export', which held something else)" \
    lora.ini train.steps=6 model.path=other/export
cp -r base/export elsewhere # the same model
trains "checkpoint of step 6" lora.ini train.steps=6 model.path=elsewhere
trains "checkpoint of step 6" lora.ini train.steps=6

# quantised: a model's folder, the same model merged or from a checkpoint, and trained on
quantised() { # OUT "words" arguments...: with nf4's tensors
    out=$1
    words=$2
    shift 2
    "$program" export "$@" >out 2>err || fail "$*: $(tail -n 1 err)"
    cp err "$out.err"
    grep -qF -- "$words" out || fail "$*: does not say '$words'"
    "$program" inspect "$out" >out 2>err || fail "inspect of $out"
    grep -qF "model.layers.1.mlp.down_proj.weight.quant_state.bitsandbytes__nf4" out || fail "$out: no nf4"
    [ -s "$out/tokenizer.json" ] || fail "$out: no tokenizer"
    [ ! -e "$out.whole" ] && [ ! -e "$out.factors" ] || fail "$out: a folder beside it is left"
}
quantised q_folder "q_folder: base/export, nf4 and fp32" --quant nf4 base/export q_folder
quantised q_checkpoint "q_checkpoint: base, nf4 and fp32" base q_checkpoint --quant nf4 --dtype fp32
same q_folder/model.safetensors q_checkpoint/model.safetensors
quantised q_small "q_small: base, nf4 and bf16" base q_small --quant nf4
quantised q_merged "with the adapter of r/export, nf4 and fp32" --merge r/export q_merged --quant nf4
quantised q_merged_too "with the adapter of r, nf4 and fp32" --merge r q_merged_too --quant nf4
"$program" export --merge r merged_now >out 2>err || fail "merge of the newest checkpoint"
quantised q_again "q_again: merged_now, nf4 and fp32" --quant nf4 merged_now q_again
same q_merged/model.safetensors q_merged_too/model.safetensors
same q_merged/model.safetensors q_again/model.safetensors
"$program" eval merged.ini model.path=q_merged >out 2>err || fail "eval of the quantised"
trains "of them trained" lora.ini run.dir=q model.path=q_folder lora.base=nf4
trains "of them trained" lora.ini run.dir=p model.path=base/export lora.base=nf4
cmp -s q/export/adapter_model.safetensors r/export/adapter_model.safetensors && fail "nothing is lost in nf4"
[ "$(figures loss q)" = "$(figures loss p)" ] || fail "codes of a folder and codes of its weights: other losses"
refused 64 "--quant = 'nf5' must be nf4 or int8" export base x --quant nf5
refused 64 "--quant: r is of a run that trains an adapter, which stays as it is; --merge makes a model of it" \
    export r x --quant nf4
refused 64 "--dtype = 'nf4' must be fp32, bf16 or fp16; --quant stores matrices in nf4 or int8" export base x --dtype nf4

# a model whose folder has no tokenizer: one line where it is wanted, for text and for what is written
mkdir bare_base && cp base/export/config.json base/export/model.safetensors bare_base/
trains "[model] path = bare_base: no tokenizer's files are there: texts become bytes" lora.ini run.dir=b model.path=bare_base
[ "$(grep -c "texts become bytes" err)" = 1 ] || fail "not one line"
"$program" lora.ini run.dir=b2 model.path=bare_base data.tokenizer=bytes >out 2>err || fail "bytes as they are asked for"
grep -q "texts become bytes" err && fail "a warning of what was asked for"
trains "bare_base: no tokenizer's files are there, so q_bare has none" export --quant int8 bare_base q_bare
grep -q "no tokenizer's files" q_folder.err && fail "a warning of a folder that has one"

# an adapter for weights that no file has
trains "[lora] r without [model] path: the adapter is made for random weights" base.ini run.dir=of_nothing lora.r=2
[ "$(grep -c "random weights" err)" = 1 ] || fail "not one line"
trains "of them trained" lora.ini run.dir=of_base
grep -q "random weights" err && fail "a warning of an adapter whose model is named"

# what does not go together
rm -rf n
refused 65 "'k_prj' matches no matrix that can have factors; each layer, model.layers.0 to 1, has self_attn.q_proj, self_attn.k_proj" \
    lora.ini run.dir=n lora.target_modules="q_proj k_prj"
refused 65 "the regular expression '(q': missing closing parenthesis" lora.ini run.dir=n lora.target_modules="/(q/"
refused 65 "'embed_tokens' matches no matrix" lora.ini run.dir=n lora.target_modules=embed_tokens
refused 65 "'v_prj' matches no matrix" lora.ini run.dir=n lora.rank_pattern="q_proj: 3, v_prj: 4"
refused 65 "'v_prj' matches no matrix" check lora.ini lora.rank_pattern="q_proj: 3, v_prj: 4"
refused 65 "nowhere: no adapter_config.json" check r_on.ini lora.adapter=nowhere
trains "command line: [data] train: gone.txt: No such file or directory; a run here is refused" \
    check lora.ini data.train="t.txt, gone.txt:2"
refused 65 "'q_proj' must read KEY: NUMBER" lora.ini run.dir=n lora.alpha_pattern=q_proj
refused 65 "'o_proj' is a matrix of the layers, which gets factors" lora.ini run.dir=n lora.modules_to_save=o_proj
refused 65 "'heads' matches nothing" lora.ini run.dir=n lora.modules_to_save="lm_head, heads"
refused 65 "'2-3' must be numbers of layers, 0 to 1" lora.ini run.dir=n lora.layers_to_transform="2-3"
refused 65 "none is left" lora.ini run.dir=n lora.exclude_modules="q_proj down_proj"
refused 65 "a rank of 2.5, which is no whole number" lora.ini run.dir=n lora.rank_pattern="q_proj: 2.5"
refused 64 "[lora] alpha has no meaning without [lora] r or adapter" base.ini run.dir=n lora.alpha=4
refused 64 "[lora] r cannot stand beside [lora] adapter" r_on.ini run.dir=n lora.r=4
refused 64 "it differs in [lora] r = 8" lora.ini lora.r=8
refused 65 "no adapter_config.json: it is no adapter's folder" r_on.ini run.dir=n lora.adapter=base/export
refused 65 "base: a run's folder; its model is base/export" lora.ini run.dir=n model.path=base
refused 65 "base: a run's folder; its model is base/export" export --merge r x --base base
refused 65 "r: a run's folder; its adapter is r/export" r_on.ini run.dir=n lora.adapter=r
"$program" base.ini run.dir=deeper model.num_hidden_layers=3 >out 2>err || fail "training a deeper model"
refused 65 "model.layers.2.self_attn.q_proj.lora_A.weight', which no weight file has: it is not whole, or of another model" \
    r_on.ini run.dir=n model.path=deeper/export
# beside another model of the same shapes an exported adapter is refused, wherever it goes; a copy is the same model; of one
# that is stored otherwise, and of adapters that do not say what they are for, nobody can tell
cp -r base/export another
trains "of them trained" r_on.ini run.dir=beside_copy model.path=another
words="other/export: its weights are not those beside which its adapter was trained (r/export/adapter_model.safetensors)"
refused 65 "$words" r_on.ini run.dir=prepared model.path=other/export # its data stays
refused 65 "$words" eval r_on.ini run.dir=r model.path=other/export
refused 65 "$words" export --merge r/export merged_wrong --base other/export
[ -e merged_wrong ] && fail "something is left of a merge that was refused"
trains "q_folder: stored as U8, and its adapter was trained beside F32: nobody can tell" \
    r_on.ini run.dir=beside_codes model.path=q_folder
cp -r r/export unsaid && sed -i 's/dstrain.base_sum/another.base_sum/' unsaid/adapter_model.safetensors
sed -i "s|r/export|unsaid|" r_on.ini
trains "unsaid/adapter_config.json: the adapter was made for $work/base/export, and goes on with another" \
    r_on.ini run.dir=doubted model.path=another
sed -i "s|unsaid|r/export|" r_on.ini
sed "s|$work/base/export|$work/other/export|" r/export/adapter_config.json >unsaid/adapter_config.json
cp r/export/adapter_model.safetensors unsaid/
refused 65 "other/export: its weights are not those" generate unsaid --prompt "line " --tokens 1
"$program" generate unsaid --base another --prompt "line " --tokens 5 --temperature 0 >c.txt 2>err || fail "generate with --base"
"$program" generate r/export --prompt "line " --tokens 5 --temperature 0 >d.txt 2>err || fail "generate without --base"
same c.txt d.txt
refused 64 "--base is the model that an adapter is for, and another is none" \
    generate another --base another --prompt "line " --tokens 1
trains "line " generate p/export --prompt "line " --tokens 1 # which was trained beside codes of the same weights
mkdir empty && cp r/export/adapter_config.json empty/
refused 65 "empty: no adapter_model.safetensors" r_on.ini run.dir=n lora.adapter=empty
cp -r r/export more && sed -i 's/"q_proj"/"v_proj"/' more/adapter_config.json
refused 65 "adapter_config.json asks for tensor 'base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight'" \
    r_on.ini run.dir=n lora.adapter=more
cp r/export/adapter_config.json more/ && sed -i '/"q_proj"/d' more/adapter_config.json
refused 65 "belongs to no matrix of this model that adapter_config.json names" r_on.ini run.dir=n lora.adapter=more
sed 's/"use_dora": false/"use_dora": true/' r/export/adapter_config.json >more/adapter_config.json
refused 65 "asks for tensor 'base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector'" \
    r_on.ini run.dir=n lora.adapter=more
for wrong in '"bias": "some"' '"r": 0' '"peft_type": "LOHA"'; do
    sed "s/^  ${wrong%%:*}:[^,]*/  $wrong/" r/export/adapter_config.json >more/adapter_config.json
    "$program" r_on.ini run.dir=n lora.adapter=more >out 2>err && fail "an adapter with $wrong is taken"
    [ "$(grep -c error: err)" = 1 ] && grep -qF "more/adapter_config.json: " err || fail "an adapter with $wrong"
done
"$program" lora.ini run.dir=bare checkpoint.interval=0 checkpoint.export=0 >out 2>err || fail "a run without checkpoints"
"$program" export --merge bare bare_merged >out 2>err || fail "merge of a run without checkpoints"
"$program" export --merge bare/export bare_folder >out 2>err || fail "merge of its folder"
same bare_merged/model.safetensors bare_folder/model.safetensors
refused 64 "bare: no checkpoints here" export --merge bare x --step 2
refused 64 "[model] path = nowhere: No such file" prepare lora.ini run.dir=n model.path=nowhere
refused 64 "--merge: base is of a run that trains the model itself" export base x --merge
refused 64 "--base is the model that --merge adds an adapter to" export r x --base base/export
[ -e x ] && fail "what was refused has left a folder"
[ -e n ] && fail "a launch that was refused has left its directory"
exit $bad
