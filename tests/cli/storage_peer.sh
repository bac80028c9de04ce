#!/bin/sh
# tests/bench/storage_peer.sh takes turns with fio, tells the quartiles of the ratios, and does not hide a failure. fio here
# is a script that says what it is told to; dstrain is real. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
script=$root/tests/bench/storage_peer.sh
shown="out err"

mkdir bin
# bw_bytes of the n-th call that is measured: the n-th of $SPEEDS; the first one of all makes the file
cat >bin/fio <<'FIO'
#!/bin/sh
[ "$1" != --version ] || { echo fio-0; exit 0; }
for word; do case $word in --rw=*) way=${word#--rw=} ;; esac; done
echo "$*" >>"$CALLS"
n=$(($(wc -l <"$CALLS") - 1))
speed=$(echo "$SPEEDS" | cut -d' ' -f"$((n > 0 ? n : 1))")
[ "$speed" != broken ] || { echo "a disk that fails" >&2; exit 3; }
printf '{ "jobs" : [ {\n "read" : {\n "bw_bytes" : %s,\n "x" : 1\n },\n "write" : {\n "bw_bytes" : %s\n }\n} ] }\n' \
    "$([ "$way" = read ] && echo "$speed" || echo 7)" "$([ "$way" = write ] && echo "$speed" || echo 7)"
FIO
chmod +x bin/fio

measure() { # speeds of fio
    rm -f calls lines
    SPEEDS=$1 CALLS=$work/calls PATH=$work/bin:$PATH sh "$script" -d . -p 3 -m 4 -b 512 -q 2 -l threads -o lines \
        "$program" >out 2>err
}

measure "1e9 2e9 3e9 4e9 5e9 6e9" || fail "three pairs"
[ "$(grep -c '"pair"' lines)" = 6 ] || fail "a pair for each direction, three times"
grep '"direction":"write","pairs":3' lines | grep -q '"fio_gb_per_s":3}' || fail "the median of 1, 3 and 5"
grep '"direction":"read","pairs":3' lines | grep -q '"fio_gb_per_s":4}' || fail "the median of 2, 4 and 6"
for way in write read; do
    sorted=$(sed -n "/\"pair\".*stream $way/s/.*\"ratio\":\([0-9.]*\).*/\1/p" lines | sort -n | tr '\n' ' ')
    told=$(sed -n "s/.*\"direction\":\"$way\".*\"quartile_lower\":\([0-9.]*\),\"median\":\([0-9.]*\),.*/\1 \2/p" lines)
    # shellcheck disable=SC2086
    set -- $sorted
    [ "$told" = "$1 $2" ] || fail "$way: of $sorted quartile and median are $told"
done
grep -q 'block 524288 depth 2' lines || fail "block and depth"
grep -q -- '--bs=512k --iodepth=2 --direct=1' calls || fail "fio has the same block and depth"
cmp -s out lines || fail "the file differs from standard output"
measure "1e9 2e9 broken" && fail "a fio that fails"
grep -q 'a disk that fails' err || fail "a fio that fails: not said"
measure '1e9 "?"' && fail "a fio without a speed"
grep -q 'no speed was printed' err || fail "a fio without a speed: not said"
[ -z "$(ls -d storage-peer.* 2>/dev/null)" ] || fail "something stays"
[ $bad = 0 ] && echo "turns, quartiles and failures are as they should be"
exit $bad
