#!/bin/sh
# check_format.sh [--fix] - every C file is as clang-format writes it. Its versions disagree with each
# other; what counts is 14 (Debian 12's; Ubuntu has it as clang-format-14).
cd "$(dirname "$0")/.." || exit 2

format=
for name in clang-format-14 clang-format; do
    "$name" --version 2>/dev/null | grep -q 'version 14\.' && { format=$name; break; }
done
[ -n "$format" ] || { echo "skipped: no clang-format of version 14 (package clang-format-14)"; exit 77; }

case ${1-} in
--fix) how=-i ;;
*) how='--dry-run --ferror-limit=1 -Werror' ;;
esac
find include runtime parallel checkpoint launch tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort |
    xargs "$format" $how 2>&1 | grep -E '^[^ ].*(error|warning):' && exit 1
exit 0
