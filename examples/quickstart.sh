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

./examples/install.sh $build_packages fortunes

echo "== building"
build_program() {
    [ -f build/build.ninja ] || cmake --preset default -DDS_TESTS=OFF || return 1
    cmake --build build --target programs
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
resolved() { build/dstrain check "$1" 2>/dev/null; }
is_of_another() { [ -f $run/config.ini ] && [ "$(resolved $run/config.ini)" != "$(resolved examples/quickstart.ini)" ]; }
# The model comes after the last line of metrics: an older one is of a run before.
is_done() { [ $run/export/model.safetensors -nt $run/metrics.jsonl ]; }
if is_of_another; then
    n=1
    while [ -e $run-$n ]; do n=$((n + 1)); done
    mv $run $run-$n
    echo "== $run holds a run of another configuration; it is now $run-$n"
fi
if [ $again = 0 ] && is_done; then
    echo "== trained before; to train anew: examples/quickstart.sh --again"
else
    echo "== training: mpirun -n 4 build/dstrain examples/quickstart.ini"
    mpirun -n 4 build/dstrain examples/quickstart.ini # a model from before stays until there is a new one
fi

echo "== a sample: dstrain generate $run/export --prompt ..."
build/dstrain generate $run/export --prompt "The " --tokens 240
echo
echo "== files"
echo "model (Hugging Face folder):  $run/export"
echo "numbers, one line a step:     $run/metrics.jsonl"
echo "configuration as resolved:    $run/config.ini"
echo "logs of each rank:            $run/log"
