#!/bin/sh
# Block I/O of dstrain and of fio in turn: one file of the same size on the same file system, written over or read from
# beginning to end around the page cache, by io_uring with the same block and depth; and the ratio of their speeds.
#
#   [FIO='options'] tests/bench/storage_peer.sh [-d folder] [-p pairs] [-m MiB] [-b block in KiB] [-q depth]
#       [-l level] [-o lines.jsonl] build/dstrain
#
# fio gets registered memory and files, a thread, and neither clocks nor buffers of its own to look after
# (--fixedbufs --registerfiles --thread --gtod_reduce=1 --scramble_buffers=0); FIO adds to that: with
# FIO=--iomem=mmaphuge its memory is huge pages, as dstrain's is, where vm.nr_hugepages has some.
#
# Both files are there in full before a clock starts. The two take turns at who is first in a pair. Standard output and the
# file (-o, storage_peer.jsonl) get the same lines: the machine, every pair, and at last for each direction the
# lower quartile, the median and the upper quartile of the ratios, with both medians in GB/s.
set -eu

folder=. pairs=11 mib=1024 block=1024 depth=16 level=auto out=storage_peer.jsonl
while getopts d:p:m:b:q:l:o: option; do
    case $option in
    d) folder=$OPTARG ;;
    p) pairs=$OPTARG ;;
    m) mib=$OPTARG ;;
    b) block=$OPTARG ;;
    q) depth=$OPTARG ;;
    l) level=$OPTARG ;;
    o) out=$OPTARG ;;
    *) exit 64 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 64; }
program=$1
command -v fio >/dev/null || { echo "fio is not there (apt-get install fio)" >&2; exit 77; }

work=$(mktemp -d "$folder/storage-peer.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
: >"$out"

say() { printf '%s\n' "$1" | tee -a "$out"; }
# number KEY < lines: the first value of that key
number() { sed -n "s/.*\"$1\" *: *\\([0-9][-+.0-9eE]*\\).*/\\1/p" | head -n 1; }
# known FILE: there is a speed in it
known() { [ -s "$1" ] || { cat "$work/answer" "$work/words" >&2; echo "no speed was printed" >&2; exit 1; }; }
# part N M < numbers: the one N/M of the way through the sorted ones
part() { sort -n | awk -v n="$1" -v m="$2" '{ v[NR] = $1 } END { print v[int((NR - 1) * n / m) + 1] }'; }

dstrain() { # read | write
    "$program" bench storage "$work" --stream "$1" --level "$level" --mib "$mib" --block-kib "$block" \
        --depth "$depth" >"$work/answer" 2>"$work/words" || { cat "$work/words" >&2; exit 1; }
    # shellcheck disable=SC2034
    took=$(sed -n 's/.*"case":"\([^"]*\)".*/\1/p' "$work/answer")
    number gb_per_s <"$work/answer" >"$work/dstrain.now"
    known "$work/dstrain.now"
}

peer() {
    # shellcheck disable=SC2086
    fio --name=peer --filename="$work/fio" --size="${mib}m" --bs="${block}k" --iodepth="$depth" --direct=1 \
        --ioengine=io_uring --fixedbufs=1 --registerfiles=1 --thread --gtod_reduce=1 --scramble_buffers=0 \
        --overwrite=1 --rw="$1" --output-format=json ${FIO-} >"$work/answer" 2>"$work/words" ||
        { cat "$work/words" >&2; exit 1; }
    sed -n "/\"$1\" : {/,/}/p" "$work/answer" | number bw_bytes | awk '{ printf "%.6g\n", $1 / 1e9 }' >"$work/peer.now"
    known "$work/peer.now"
}

pair() { # N read|write
    if [ $(($1 % 2)) -eq 0 ]; then
        dstrain "$2"
        peer "$2"
    else
        peer "$2"
        dstrain "$2"
    fi
    ratio=$(awk -v a="$(cat "$work/dstrain.now")" -v b="$(cat "$work/peer.now")" 'BEGIN { printf "%.4f\n", a / b }')
    cat "$work/dstrain.now" >>"$work/dstrain.$2"
    cat "$work/peer.now" >>"$work/peer.$2"
    echo "$ratio" >>"$work/ratio.$2"
    say "{\"pair\":$1,\"case\":\"$took\",\"dstrain_gb_per_s\":$(cat "$work/dstrain.now"),\"fio_gb_per_s\":$(cat "$work/peer.now"),\"ratio\":$ratio,\"load\":$(cut -d' ' -f1 /proc/loadavg)}"
}

say "{\"who\":\"machine\",\"at\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",\"commit\":\"$(git -C "$(dirname "$0")" describe --always --dirty --abbrev=10 --exclude='*' 2>/dev/null || echo unknown)\",\"kernel\":\"$(uname -r)\",\"cores\":$(nproc),\"file_system\":\"$(stat -f -c %T "$work")\",\"fio\":\"$(fio --version)\",\"fio_options\":\"${FIO-}\",\"mib\":$mib,\"block_kib\":$block,\"depth\":$depth}"
peer write # makes its file
for n in $(seq "$pairs"); do
    pair "$n" write
    pair "$n" read
done
for direction in write read; do
    say "{\"who\":\"ratio\",\"direction\":\"$direction\",\"pairs\":$pairs,\"quartile_lower\":$(part 1 4 <"$work/ratio.$direction"),\"median\":$(part 1 2 <"$work/ratio.$direction"),\"quartile_upper\":$(part 3 4 <"$work/ratio.$direction"),\"dstrain_gb_per_s\":$(part 1 2 <"$work/dstrain.$direction"),\"fio_gb_per_s\":$(part 1 2 <"$work/peer.$direction")}"
done
