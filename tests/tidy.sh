#!/bin/sh
# tidy.sh BUILD [FILE ...] - clang-tidy over all sources or some, with the compile commands of the build
# folder BUILD. One file a call: with several, version 14 reports va_list errors that are not there.
cd "$(dirname "$0")/.." || exit 2
build=${1:?a build folder}
shift

tidy=$(command -v clang-tidy-14 || command -v clang-tidy) || { echo "clang-tidy is missing" >&2; exit 77; }
if [ $# = 0 ]; then
    set -- $(find runtime parallel checkpoint launch -name '*.c' | sort)
fi
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 "$tidy" --quiet -p "$build" \
    --extra-arg=-Wno-unknown-warning-option --extra-arg=-include"$PWD/tests/support/analyzer.h" 2>/dev/null
