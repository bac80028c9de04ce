#!/bin/sh
# quickstart.sh - from a clone to a trained model: installs what is missing, builds, prepares a corpus of
# real English (the `fortunes` package), trains a 1M-parameter Llama on 4 cpu ranks for about two
# minutes, and prints what it has learned to write. Run it again and it starts at the training.
set -eu
cd "$(dirname "$0")/.."
. examples/packages.sh

./examples/install.sh $build_packages fortunes

echo "== building"
build_program() {
    [ -f build/build.ninja ] || cmake --preset default -DDS_TESTS=OFF || return 1
    cmake --build build --target dstrain
}
mkdir -p build
if ! build_program >build/quickstart.log 2>&1; then
    tail -n 30 build/quickstart.log >&2
    echo "quickstart: the build failed; all of its output is in build/quickstart.log" >&2
    exit 1
fi

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
echo "== training: mpirun -n 4 build/dstrain examples/quickstart.ini"
rm -rf $run
mpirun -n 4 build/dstrain examples/quickstart.ini

echo "== a sample: dstrain generate $run/export --prompt ..."
build/dstrain generate $run/export --prompt "The " --tokens 240
echo
echo "== files"
echo "model (Hugging Face folder):  $run/export"
echo "numbers, one line a step:     $run/metrics.jsonl"
echo "configuration as resolved:    $run/config.ini"
echo "logs of each rank:            $run/log"
