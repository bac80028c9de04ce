#!/bin/sh
# run.sh [--sanitizers] [--long] - installs what is missing, builds with warnings as errors and runs every test
# that needs no GPU, as built for use: some 10 minutes on two cores. --sanitizers: then unit tests and fuzz
# targets again under the address and undefined behaviour sanitizers, and what threads do under the thread
# sanitizer; some 20 minutes more. --long: these too, and the big counts, as built for use (sanitizers see the same
# code with the usual ones), and minutes of every fuzz target, of libFuzzer where clang is; hours more on two free
# cores, most of it kill_storm, stale_launch, signals, signal_points, test_composition (some 3,200 runs) and
# test_plan. The last line says "N passed, N failed".
set -eu
cd "$(dirname "$0")/.."
. examples/packages.sh

long=0 sanitizers=0
for option in "$@"; do
    case $option in
    --sanitizers) sanitizers=1 ;;
    --long) long=1 sanitizers=1 ;;
    *) echo "usage: tests/run.sh [--sanitizers] [--long]" >&2; exit 64 ;;
    esac
done
[ $long = 0 ] || export DSTRAIN_TEST_LONG=1
# shellcheck disable=SC2086
./examples/install.sh $build_packages $test_packages

cores=$(nproc)
rm -rf build-tests/log
mkdir -p build-tests/log

# build NAME TARGET option ... - build-tests/NAME; quick where nothing changed
build() {
    name=$1 target=$2
    shift 2
    echo "== $name: building"
    cmake -G Ninja -B "build-tests/$name" -DDS_WERROR=ON -DDS_TESTS=ON "$@" >"build-tests/log/$name.cmake" 2>&1 || {
        cat "build-tests/log/$name.cmake"
        exit 1
    }
    cmake --build "build-tests/$name" --target "$target" >"build-tests/log/$name.build" 2>&1 || {
        grep -v '^\[' "build-tests/log/$name.build" || true
        echo "== $name: does not build"
        exit 1
    }
}

# check NAME PART option ... - tests of build-tests/NAME; what failed is counted at the end
check() {
    name=$1 part=$2
    shift 2
    echo "== $name: testing"
    $steady ctest --test-dir "build-tests/$name" --output-on-failure --no-tests=error -j "$cores" \
        -O "$PWD/build-tests/log/$name-$part.ctest" "$@" || true
}

steady=
build plain all -DCMAKE_BUILD_TYPE=Release
check plain all
if [ $sanitizers = 1 ]; then
    # Where the kernel spreads addresses widely, sanitizers of these years find no place for their shadow.
    setarch -R true 2>/dev/null && steady="setarch -R"
    build asan all -DCMAKE_BUILD_TYPE=Debug -DDS_SANITIZE=address,undefined
    (unset DSTRAIN_TEST_LONG; check asan unit -L unit)
    check asan fuzz -L fuzz
    build tsan tsan_tests -DCMAKE_BUILD_TYPE=Debug -DDS_SANITIZE=thread -DDS_CUDA=OFF
    (unset DSTRAIN_TEST_LONG; check tsan all -L tsan)
fi
if [ $long = 1 ]; then
    clang=$(command -v clang-14 || command -v clang) || clang=
    fuzzer='#include <stddef.h>
        int LLVMFuzzerTestOneInput(const char *data, size_t size) { return !data && size; }'
    if [ -n "$clang" ] && echo "$fuzzer" | "$clang" -fopenmp -fsanitize=fuzzer -x c - -o /dev/null 2>/dev/null; then
        build fuzz fuzz_targets -DCMAKE_C_COMPILER="$clang" -DDS_FUZZ=ON -DDS_FUZZ_SECONDS=120 -DDS_CUDA=OFF
        check fuzz all -L fuzz
    else
        echo "== fuzz: no clang with libFuzzer and OpenMP (clang-14 libclang-rt-14-dev libomp-14-dev)"
    fi
fi

# A run that ended without its closing line is one that failed.
echo
awk '/tests failed out of/ { failed += $4; total += $9; closed++ }
     /\*\*\*Skipped/ { skipped++ }
     END {
         failed += ARGC - 1 - closed
         printf "%d passed, %d failed, %d skipped\n", total - failed - skipped, failed, skipped
         exit failed > 0 || total == 0
     }' build-tests/log/*.ctest
