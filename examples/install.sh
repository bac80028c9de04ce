#!/bin/sh
# install.sh PACKAGE ... - what is missing of these Debian/Ubuntu packages is installed with apt (through
# sudo only where the user is not root). Quick and silent where nothing is missing. On other systems it
# names what is needed and stops.
set -eu

missing=
for package in "$@"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "dstrain needs these packages (Debian's names):$missing" >&2
    echo "This system has no apt: please install them and run the command again." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "Missing packages:$missing" >&2
    echo "Neither root nor sudo: ask an administrator to run: apt-get install$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
