#!/bin/sh
# The configurations in examples/ are what the program takes, and with DSTRAIN_TEST_LONG the quickstart goes
# through from corpus to sample, in 20 steps on a corpus of its own. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
examples=$root/examples
count=0
mkdir m # what a folder says of its model
echo '{"model_type": "llama", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4}' >m/config.json

for file in "$examples"/*.ini; do
    case ${file##*/} in # what a person names on the command line
    finetune.ini) set -- model.path=m data.train=t.safetensors train.seq_length=128 ;;
    chat.ini | lora_7b.ini) set -- model.path=m data.train=t.jsonl train.seq_length=128 ;;
    lora_cpu_base.ini) set -- data.tokenizer=bytes ;; # which its script makes
    lora_cpu.ini) set -- model.path=m ;;
    bench-*.ini) set -- data.train=t.txt ;;
    *) set -- ;;
    esac
    case ${file##*/} in # how many ranks it is for
    bench-1b.ini | bench-7b.ini | bench-124m.ini | lora_7b.ini) ranks=1 ;;
    *) ranks=2 ;;
    esac
    "$program" check "$file" "$@" >out 2>err || fail "check ${file##*/} $*"
    grep -v 'No such file or directory; a run here is refused$' err && fail "check ${file##*/}: complains"
    "$program" plan "$file" --ranks $ranks "$@" >out 2>err || fail "plan ${file##*/} $*"
    count=$((count + 1))
done
[ $count -ge 8 ] || fail "only $count configurations"

# what lora_7b.ini says, on a model that a cpu trains in a second: its keys, and the commands in front of them
mkdir tok && cp "$root/tests/golden/tokenizers/qwen3/tokenizer.json" tok/
cat >tok/tokenizer_config.json <<'EOT'
{"eos_token": "<|im_end|>", "chat_template": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"}
EOT
awk 'BEGIN { for (i = 0; i < 400; i++)
    printf "{\"messages\": [{\"role\": \"user\", \"content\": \"%d + 1?\"}, {\"role\": \"assistant\", \"content\": \"%d\"}]}\n",
        i, i + 1 }' >chats.jsonl
small_config run.dir=base data.train=chats.jsonl data.format=jsonl data.tokenizer=tok train.steps=1 \
    train.global_batch_size=1 train.seq_length=64 >base.ini
"$program" base.ini >out 2>err || fail "a small model"
set -- "$examples/lora_7b.ini" model.path=base/export data.train=chats.jsonl run.dir=lora
"$program" prepare "$@" --show 3 >out 2>err || fail "prepare of lora_7b.ini"
grep -qF "  + 1<|im_end|>" out || fail "prepare of lora_7b.ini: the answer is not learned"
"$program" "$@" run.device=cpu run.threads=1 train.seq_length=64 train.steps=4 train.eval_interval=2 \
    checkpoint.interval=2 schedule.warmup_steps=1 >out 2>err || fail "lora_7b.ini"
"$program" export --merge lora/export merged >out 2>err || fail "the merge of lora_7b.ini"
for file in lora/export/adapter_model.safetensors merged/model.safetensors merged/tokenizer_config.json; do
    [ -s $file ] || fail "lora_7b.ini: no $file"
done

# the shape that it is for, of which there is only a config.json: what a plan says it takes, and what would fit 24 GB
mkdir shape
echo '{"model_type": "llama", "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 30, "num_attention_heads": 32, "rms_norm_eps": 1e-6}' >shape/config.json
set -- "$examples/lora_7b.ini" --ranks 1 model.path=shape
"$program" plan "$@" >out 2>err || fail "plan of lora_7b.ini"
"$program" plan "$@" memory.device_limit=24000000000 >out 2>err && fail "the plan fits 24 GB as it is"
"$program" plan "$@" memory.device_limit=24000000000 train.activation_checkpointing=full >out 2>err ||
    fail "recomputed it does not fit 24 GB"
"$program" plan "$@" memory.device_limit=16000000000 lora.base=nf4 train.activation_checkpointing=full >out 2>err ||
    fail "in nf4 it does not fit 16 GB"

if [ "${DSTRAIN_TEST_LONG:-0}" = 1 ] && command -v mpirun >/dev/null; then
    mkdir -p runs/quickstart-corpus
    for part in train eval; do
        awk -v part=$part 'BEGIN { for (i = 0; i < 4000; i++) print i " green bottles, " part }' >runs/quickstart-corpus/$part.txt
    done
    mpirun -n 4 "$program" "$examples/quickstart.ini" train.steps=20 train.eval_interval=10 schedule.warmup_steps=5 \
        >out 2>err || fail "the quickstart"
    [ "$(wc -l <runs/quickstart/metrics.jsonl)" = 20 ] || fail "the quickstart: not a line a step"
    "$program" generate runs/quickstart/export --prompt "1 green" --tokens 40 >out 2>err || fail "its sample"
    grep -q '^1 green' out || fail "its sample does not go on from the prompt"
fi
[ $bad = 0 ] && echo "$count configurations are as the program takes them"
exit $bad
