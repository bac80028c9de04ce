#!/bin/sh
# lora_cpu.sh [--again] - from a clone to a fine-tuned model, without a GPU, in about three minutes of training on two
# cores: installs what is missing, builds, learns a tokenizer and trains a model of a million parameters on the
# `fortunes` package, all but three of its categories; then trains an adapter on these, each as an answer to the
# category's name, and prints what both models make of such a name. What is there is not made again; --again: trains anew.
set -eu
again=0
for option in "$@"; do
    case $option in
    --again) again=1 ;;
    *) echo "usage: examples/lora_cpu.sh [--again]" >&2; exit 64 ;;
    esac
done
cd "$(dirname "$0")/.."
. examples/packages.sh
. examples/steps.sh

./examples/install.sh $build_packages fortunes
build_programs lora_cpu

# rows NAME START: the fortunes of stdin as a line of JSON each, START of it given, into two files; every 20th is held out
rows() {
    { tr -d '\000-\010\013-\037' | sed 's/[\\"]/\\&/g; s/\t/\\t/g'; echo "%"; } | awk -v name="$1" -v start="$2" '
        /^%$/ {
            if (text != "")
                printf "%s\"%s\"}\n", start, text >> (name (++n % 20 == 0 ? "-eval.jsonl" : "-train.jsonl"))
            text = ""
            next
        }
        { text = text (text == "" ? "" : "\\n") $0 }'
}

# Text that samples should not imitate is left out.
echo "== data"
data=runs/lora-cpu-data
if [ ! -d $data ]; then
    rm -rf $data.tmp
    mkdir -p $data.tmp
    for file in /usr/share/games/fortunes/*; do
        [ -f "$file" ] && [ ! -L "$file" ] || continue
        category=${file##*/}
        case $category in
        *.dat | ethnic | men-women) ;;
        definitions | perl | startrek)
            # awk makes \\n of what is four backslashes and an n here: JSON's line feed
            rows $data.tmp/lora "{\"prompt\": \"[$category]\\\\n\", \"completion\": " <"$file" ;;
        *) rows $data.tmp/base '{"text": ' <"$file" ;;
        esac
    done
    mv $data.tmp $data
fi
build/dstrain prepare examples/lora_cpu_base.ini --train-tokenizer 2048

train_once lora_cpu 2 examples/lora_cpu_base.ini runs/lora-cpu-base

# Its first rows, as the model sees them. An adapter of a model from before is trained anew.
echo "== rows for the adapter: dstrain prepare examples/lora_cpu.ini --show 1"
build/dstrain prepare examples/lora_cpu.ini --show 1
[ runs/lora-cpu/export/adapter_model.safetensors -nt runs/lora-cpu-base/export/model.safetensors ] || again=1
train_once lora_cpu 2 examples/lora_cpu.ini runs/lora-cpu

echo "== answers held out, without the adapter and with it: dstrain eval examples/lora_cpu.ini"
build/dstrain eval examples/lora_cpu.ini run.dir=runs/lora-cpu-base
build/dstrain eval examples/lora_cpu.ini

for category in definitions perl startrek; do
    for run in runs/lora-cpu-base runs/lora-cpu; do
        echo "== a sample: dstrain generate $run --prompt '[$category]...'"
        build/dstrain generate $run --tokens 80 --temperature 0.5 --prompt "[$category]
"
        echo
    done
done
echo "== files"
echo "model (Hugging Face folder):  runs/lora-cpu-base/export"
echo "adapter (PEFT folder):        runs/lora-cpu/export"
echo "both as one model:            build/dstrain export --merge runs/lora-cpu runs/lora-cpu-merged"
