#!/bin/sh
# quickstart.sh [--again] - from a clone to a trained model: installs what is missing, builds, prepares a corpus
# of real English (the `fortunes` package), trains a 1M-parameter Llama on 4 cpu ranks for about two
# minutes, and prints what it has learned to write. Where that is done it prints this again; --again: trains anew.
set -eu
again=0
for option in "$@"; do
    case $option in
    --again) again=1 ;;
    *) echo "usage: examples/quickstart.sh [--again]" >&2; exit 64 ;;
    esac
done
cd "$(dirname "$0")/.."
. examples/packages.sh
. examples/steps.sh

./examples/install.sh $build_packages fortunes

build_programs quickstart

# Every 20th fortune is held out; the rest is for training. Text that samples should not imitate is left out.
echo "== corpus"
corpus=runs/quickstart-corpus
if [ ! -s $corpus/eval.txt ]; then
    mkdir -p $corpus
    rm -f $corpus/*.txt
    for file in /usr/share/games/fortunes/*; do
        [ -f "$file" ] && [ ! -L "$file" ] || continue
        case $file in *.dat | */ethnic | */men-women) continue ;; esac
        cat "$file"
        echo "%"
    done | awk -v train=$corpus/train.tmp -v eval=$corpus/eval.tmp '
        /^%$/ { out = ++n % 20 == 0 ? eval : train; if (text != "") printf "%s\n", text > out; text = ""; next }
        { text = text $0 "\n" }'
    mv $corpus/train.tmp $corpus/train.txt
    mv $corpus/eval.tmp $corpus/eval.txt
fi
wc -c $corpus/train.txt $corpus/eval.txt | awk '$2 != "total" { printf "%s: %.1f MB\n", $2, $1 / 1e6 }'

run=runs/quickstart
train_once quickstart 4 examples/quickstart.ini $run

echo "== a sample: dstrain generate $run/export --prompt ..."
build/dstrain generate $run/export --prompt "The " --tokens 240
echo
echo "== files"
echo "model (Hugging Face folder):  $run/export"
echo "numbers, one line a step:     $run/metrics.jsonl"
echo "configuration as resolved:    $run/config.ini"
echo "logs of each rank:            $run/log"
