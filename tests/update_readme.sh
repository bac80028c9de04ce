#!/bin/sh
# Renews the configuration reference in README.md from the program's own table:
#   tests/update_readme.sh build/dstrain
set -eu
program=${1:?the dstrain program}
readme=${2:-$(dirname "$0")/../README.md}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$program" help --markdown >"$work/now"
awk -v now="$work/now" '
    $0 == "<!-- config reference: end -->" { inside = 0; ends++ }
    !inside { print }
    $0 == "<!-- config reference: begin -->" {
        inside = 1
        while ((getline line < now) > 0) print line
    }
    END { exit !(ends == 1 && !inside) }' "$readme" >"$work/new" ||
    { echo "$readme: the two lines around the configuration reference are not there"; exit 1; }
cat "$work/new" >"$readme"
