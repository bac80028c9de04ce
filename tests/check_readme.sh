#!/bin/sh
# The README's configuration reference is what the program's own table says. tests/update_readme.sh
# renews it. Called with the program; exit code 0: equal.
set -eu
program=${1:?the dstrain program}
readme=${2:-$(dirname "$0")/../README.md}
begin='<!-- config reference: begin -->'
end='<!-- config reference: end -->'
[ -f "$readme" ] || { echo "$readme: missing"; exit 1; }
[ "$(grep -cxF -e "$begin" -e "$end" "$readme")" = 2 ] ||
    { echo "$readme: the lines '$begin' and '$end' must stand there once each"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$program" help --markdown >"$work/now"
awk -v begin="$begin" -v end="$end" '$0 == end { inside = 0 } inside { print } $0 == begin { inside = 1 }' \
    "$readme" >"$work/there"
diff "$work/there" "$work/now" ||
    { echo "$readme: the configuration reference is stale: tests/update_readme.sh BUILD/dstrain"; exit 1; }
