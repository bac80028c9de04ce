#!/bin/sh
# An option of the build that is none of its choices is refused, and the line names them. Called with cmake.
set -u
cmake=${1:?cmake}
script=$(cd "$(dirname "$0")/.." && pwd)/cmake/DstrainChoices.cmake
bad=0

taken() {
    "$cmake" "$@" -P "$script" >/dev/null 2>&1 || { echo "FAILED: $* is refused"; bad=1; }
}

refused() { # "words" -D...
    words=$1
    shift
    said=$("$cmake" "$@" -P "$script" 2>&1) && { echo "FAILED: $* is taken"; bad=1; }
    echo "$said" | tr -s ' \n' ' ' | grep -qF "$words" || { echo "FAILED: $*: said '$said'"; bad=1; }
}

taken
for choice in AUTO ON OFF; do
    taken -DDS_CUDA=$choice -DDS_URING=$choice
done
for choice in "" address undefined address,undefined thread; do
    taken -DDS_SANITIZE=$choice
done
refused "DS_CUDA = 'maybe' must be AUTO, ON or OFF" -DDS_CUDA=maybe
refused "DS_URING = 'maybe' must be AUTO, ON or OFF" -DDS_URING=maybe
refused "DS_URING = '' must be AUTO, ON or OFF" -DDS_URING=
refused "DS_SANITIZE = 'foo' must be empty, address, undefined, address,undefined or thread" -DDS_SANITIZE=foo
refused "DS_SANITIZE = 'address,foo' must be" -DDS_SANITIZE=address,foo
refused "exclude each other" -DDS_SANITIZE=address,thread
exit $bad
