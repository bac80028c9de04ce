#!/bin/sh
# What a directory of checkpoints may be made of, and what a launch that is refused leaves of it: nothing waits for a pipe that
# lies where a file should, a damaged checkpoint gives way to an older one, a failed load changes nothing, and what a run reads
# may lie elsewhere when it goes on.
. "$(dirname "$0")/../support/cli.sh"
export CUDA_VISIBLE_DEVICES= ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"

small_text 500 >t.txt
small_config model.hidden_size=16 model.intermediate_size=32 train.steps=6 train.global_batch_size=4 \
    train.micro_batch_size=4 train.seq_length=16 checkpoint.interval=2 checkpoint.keep=3 run.export=none >c.ini

# try CODE arguments...: of the program; one that hangs ends with 124
try() {
    want=$1
    shift
    what=$*
    timeout -k 5 300 "$program" "$@" >out 2>err
    code=$?
    [ $code = "$want" ] || fail "$what: exit code $code, not $want"
}

said() {
    [ "$(grep -c 'error: ' err)" = 1 ] || fail "$what: not one line of error"
    grep 'error: ' err | grep -qF -- "$1" || fail "$what: does not say '$1'"
}

told() { # the same, where it is one line of several
    grep -qF -- "$1" err || fail "$what: does not say '$1'"
}

manifest() { # STEP
    ls r/checkpoints/manifests/M-*"$1".json
}

# ---- other things than files

instead() { # FILE KIND: a pipe that nobody writes into, or a link to the file, has its name
    mv "$1" aside
    if [ "$2" = pipe ]; then
        mkfifo "$1"
    else
        ln -s "$work/aside" "$1"
    fi
}

again_itself() { # FILE
    rm -rf "$1"
    mv aside "$1"
}

only_files_are_read() {
    for kind in pipe link; do
        says='not a regular file'
        [ $kind = pipe ] || says='a symbolic link'
        for file in "$(manifest 6)" "$(ls r/checkpoints/data/*/P-* | tail -n 1)"; do
            instead "$file" $kind
            try 65 verify r
            told "$file: $says"
            case $file in
            *.json) try 65 inspect r ;; # which reads no packs
            *) timeout -k 5 300 "$program" inspect r >out 2>err || [ $? = 65 ] || fail "inspect r: $file is a $kind" ;;
            esac
            cp -R r kept
            try 0 c.ini run.dir=kept checkpoint.dir=kept/checkpoints
            grep -q 'checkpoint of step [24] (epoch 1) loaded' err || fail "$what: no older one is loaded"
            rm -rf kept
            again_itself "$file"
        done
        instead r/checkpoints/RUN.json $kind
        for command in 'verify r' 'inspect r' 'export r out'; do
            try 64 $command
            said "r/checkpoints/RUN.json: $says"
        done
        try 64 c.ini
        said "r/checkpoints/RUN.json: $says"
        again_itself r/checkpoints/RUN.json
    done
}

# what cannot be looked at is not taken for what is not there
what_cannot_be_looked_at_is_said() {
    mv r/checkpoints/RUN.json aside
    ln -s RUN.json r/checkpoints/RUN.json # which leads to itself
    for command in 'verify r' 'inspect r' 'export r out' 'verify r/checkpoints'; do
        try 64 $command
        said "r/checkpoints: its RUN.json cannot be looked at: Too many levels of symbolic links"
    done
    try 64 c.ini
    again_itself r/checkpoints/RUN.json
}

directories_may_be_links() {
    mv r/checkpoints elsewhere
    ln -s ../elsewhere r/checkpoints
    try 0 verify r
    try 0 c.ini
    told "checkpoint of step 6 (epoch 1) loaded"
    rm r/checkpoints
    mv elsewhere r/checkpoints
}

# ---- failed loads

# refused_load CODE arguments...: nothing of the run has changed but its log
refused_load() {
    before=$(all_of)
    try "$@"
    after=$(all_of)
    [ "$before" = "$after" ] || fail "$what: has changed the run: $(echo "$before
$after" | sort | uniq -u)"
}

all_of() { # r and its mirror
    find r m ! -type d ! -path 'r/log/*' ! -name lock -exec cksum {} + | sort
    find r m -type d | sort
}

a_failed_load_changes_nothing() {
    rm -rf r
    try 0 c.ini checkpoint.mirror=m
    refused_load 64 c.ini checkpoint.mirror=m train.steps=3 log.interval=2
    for file in r/checkpoints/manifests/M-*.json m/manifests/M-*.json; do
        mv "$file" "$file.kept"
        echo '{}' >"$file"
    done
    refused_load 66 c.ini checkpoint.mirror=m log.interval=3
    for file in r/checkpoints/manifests/M-*.kept m/manifests/M-*.kept; do
        mv "$file" "${file%.kept}"
    done
    try 0 c.ini checkpoint.mirror=m log.interval=3
    grep -q 'interval = 3' r/config.ini || fail "$what: is not what config.ini says"
}

# ---- directories that cannot be had

dir_and_mirror_are_apart() {
    for pair in x/checkpoints:x/checkpoints/m x/checkpoints:"$work"/x/checkpoints/m/n x/../y/c:./x//../y/c/m \
        x/c:x/c/ x/c:./x//c x/c/d:x/c x/checkpoints:x "$work"/x/c:x/./c; do
        try 64 c.ini run.dir=x checkpoint.dir="${pair%%:*}" checkpoint.mirror="${pair#*:}"
        said '[checkpoint] mirror = '
        told "[checkpoint] dir = ${pair%%:*}"
        [ ! -e x ] && [ ! -e y ] || fail "$what: has made something"
    done
    try 0 c.ini run.dir=x checkpoint.dir=x/c checkpoint.mirror=x/c2
    rm -rf x
}

# what a name leads to counts, whether it is there yet or not
links_do_not_hide_it() {
    mkdir -p real/deep
    ln -s real link
    ln -s real/deep short
    for pair in real/c:link/c/m link/c/d:real/c real/c:link/c "$work"/link/c:real/./c short/c:link/deep \
        real:short/m link/deep/c:short/c/m/n; do
        try 64 c.ini run.dir=x checkpoint.dir="${pair%%:*}" checkpoint.mirror="${pair#*:}"
        said '[checkpoint] mirror = '
        told "[checkpoint] dir = ${pair%%:*}"
        [ "$(find real x 2>/dev/null | grep -v '^x/data\|^x$')" = "real
real/deep" ] || fail "$what: has made $(find real x)"
    done
    try 0 c.ini run.dir=x checkpoint.dir=link/c checkpoint.mirror=short/c
    try 0 verify real/c
    try 0 verify real/deep/c
    rm -rf real link short x
}

# a directory is made before anybody knows whether there is something to load
what_was_made_for_nothing_goes_again() {
    try 0 c.ini run.dir=x checkpoint.mirror=m
    rm -rf x
    for file in m/manifests/M-*.json; do
        mv "$file" "$file.kept"
        echo '{}' >"$file"
    done
    before=$(find m | sort)
    mkdir -p y/empty
    try 66 c.ini run.dir=x checkpoint.mirror=m
    [ ! -e x/checkpoints ] || fail "$what: $(find x/checkpoints)"
    try 66 c.ini run.dir=x checkpoint.dir=y/a/b/c checkpoint.mirror=m
    try 66 c.ini run.dir=x checkpoint.dir=y/empty checkpoint.mirror=m # which a person has made
    try 64 c.ini run.dir=x checkpoint.dir=m checkpoint.mirror=y/mirror run.seed=7
    echo "somebody's" >y/theirs
    try 64 c.ini run.dir=x checkpoint.dir=y checkpoint.mirror=z/mirror
    rm y/theirs
    [ "$(find y z 2>/dev/null | sort)" = "y
y/empty" ] || fail "is left: $(find y z)"
    [ "$(find m | sort)" = "$before" ] || fail "has changed m: $(find m)"
    for file in m/manifests/M-*.kept; do
        mv "$file" "${file%.kept}"
    done
    try 0 c.ini run.dir=x checkpoint.dir=y/a/b/c checkpoint.mirror=m
    rm -rf x y m
}

# as the run's own: neither another's nor everybody's
directories_are_ours() {
    mkdir safe open
    chmod 777 open
    for key in dir mirror; do
        other=mirror
        [ $key = dir ] || other=dir
        try 64 c.ini run.dir=x checkpoint.$key=open checkpoint.$other=safe
        said "checkpoint.$key: open: everybody may write there (mode 0777)"
        [ "$(id -u)" != 0 ] || {
            mkdir theirs
            chown 12345 theirs
            try 64 c.ini run.dir=x checkpoint.$key=theirs checkpoint.$other=safe
            said "checkpoint.$key: theirs: belongs to user 12345, this is user 0"
            [ -z "$(ls theirs)" ] || fail "$what: has written there"
            rmdir theirs
        }
        [ -z "$(find safe open -mindepth 1)" ] || fail "$what: has written there"
    done
    rmdir safe open
    rm -rf x
}

# ---- what a run reads

# what is in files counts, not how they are named or where they lie
what_is_read_may_lie_elsewhere() {
    mkdir data
    cp t.txt data/t.txt
    ln -s data link
    cp t.txt other.txt
    echo 'more' >>other.txt
    try 0 c.ini data.train=data/t.txt run.dir=x train.steps=4
    for name in ./data//t.txt "$work/data/t.txt" link/t.txt; do
        try 0 c.ini data.train="$name" run.dir=x train.steps=4
        told "checkpoint of step 4"
    done
    mv data moved
    try 64 c.ini data.train=data/t.txt run.dir=x train.seq_length=8 # which is said before the file is looked for
    try 64 c.ini data.train=other.txt run.dir=x
    said "[data] train = 'other.txt' (command line, there 'link/t.txt', which held something else)"
    try 0 c.ini data.train=moved/t.txt run.dir=x
    told "checkpoint of step 4"
    try 0 verify x
    rm -rf x moved link other.txt
}

dir_and_mirror_are_apart
links_do_not_hide_it
what_was_made_for_nothing_goes_again
directories_are_ours
what_is_read_may_lie_elsewhere
try 0 c.ini
only_files_are_read
what_cannot_be_looked_at_is_said
directories_may_be_links
a_failed_load_changes_nothing
exit $bad
