#!/bin/sh
# run.sh [--long] - installs what is missing, builds with warnings as errors, runs every test that needs no
# GPU. --long: the big counts as well.
set -eu
cd "$(dirname "$0")/.."
. examples/packages.sh

long=0
for option in "$@"; do
    case $option in
    --long) long=1 ;;
    *) echo "usage: tests/run.sh [--long]" >&2; exit 64 ;;
    esac
done
[ $long = 0 ] || export DSTRAIN_TEST_LONG=1

./examples/install.sh $build_packages $test_packages
configure() { # configure FOLDER option ...
    folder=$1; shift
    cmake -G Ninja -B "$folder" -DDS_WERROR=ON -DDS_TESTS=ON "$@" >"$folder.log" 2>&1 || {
        cat "$folder.log"; exit 1; }
}
mkdir -p build-tests
configure build-tests/plain -DCMAKE_BUILD_TYPE=Release
cmake --build build-tests/plain
ctest --test-dir build-tests/plain --output-on-failure --no-tests=error -j 2

# The same unit tests with every access checked. MPI's own leaks are not ours.
configure build-tests/asan -DCMAKE_BUILD_TYPE=Debug -DDS_SANITIZE=address,undefined
cmake --build build-tests/asan
ASAN_OPTIONS=detect_leaks=1:fast_unwind_on_malloc=0 UBSAN_OPTIONS=halt_on_error=1 \
    LSAN_OPTIONS=suppressions=$PWD/tests/support/lsan.supp \
    ctest --test-dir build-tests/asan --output-on-failure --no-tests=error -L unit -j 2

configure build-tests/tsan -DCMAKE_BUILD_TYPE=Debug -DDS_SANITIZE=thread
cmake --build build-tests/tsan --target tsan_tests
ctest --test-dir build-tests/tsan --output-on-failure --no-tests=error -L tsan -j 2
