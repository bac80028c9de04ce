# steps.sh - sourced by scripts that go from a clone to a trained model, in the folder of the sources, where `again`
# is 0 or 1: what they have in common.

build_quietly() {
    [ -f build/build.ninja ] || cmake --preset default -DDS_TESTS=OFF || return 1
    cmake --build build --target programs
}

# build_programs NAME: the script that wants it, after which the log is called
build_programs() {
    echo "== building"
    mkdir -p build
    build_quietly >"build/$1.log" 2>&1 && return
    tail -n 30 "build/$1.log" >&2
    echo "$1: the build failed; all of its output is in build/$1.log" >&2
    exit 1
}

resolved() { build/dstrain check "$1" 2>/dev/null; }

# is_done DIR: the model comes after the last line of metrics; where that is the newer one, it is of a later run
is_done() {
    for model in "$1/export/model.safetensors" "$1/export/adapter_model.safetensors"; do
        [ ! -f "$model" ] || [ "$1/metrics.jsonl" -nt "$model" ] || return 0
    done
    return 1
}

# train_once NAME RANKS CONFIG DIR: unless that is done; a model from before stays until there is a new one
train_once() {
    if [ -f "$4/config.ini" ] && [ "$(resolved "$4/config.ini")" != "$(resolved "$3")" ]; then
        n=1
        while [ -e "$4-$n" ]; do n=$((n + 1)); done
        mv "$4" "$4-$n"
        echo "== $4 holds a run of another configuration; it is now $4-$n"
    fi
    if [ "$again" = 0 ] && is_done "$4"; then
        echo "== $4: trained before; to train anew: examples/$1.sh --again"
    else
        echo "== training: mpirun -n $2 build/dstrain $3"
        mpirun -n "$2" build/dstrain "$3"
    fi
}
