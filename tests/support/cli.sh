# cli.sh - sourced by tests/cli/*.sh, whose first argument is the program: a folder of its own that goes at the end,
# what is said of a failure, numbers drawn from a printed seed, a small run and its processes, and when what happened.
# What one test alone needs is in that test.
set -u
program=$(readlink -f "${1:?the dstrain program}")
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 2 # of the sources
work=$(readlink -f "$(mktemp -d)") || exit 2
leave_nothing() { # also no ranks of a test that has failed, which would make others late
    others=
    # shellcheck disable=SC2046
    kill -KILL $(ranks_here) 2>/dev/null
    rm -rf "$work"
}
trap leave_nothing EXIT
cd "$work" || exit 2

# ---- failing

bad=0
shown=err # files whose ends tell why

fail() { # the test goes on
    echo "FAILED: $*"
    # shellcheck disable=SC2086
    tail -n 40 $shown 2>/dev/null | sed 's/^/    /'
    bad=1
}

die() { # nothing could be learned from the rest
    fail "$@"
    exit 1
}

# ---- how much

short_or_long() { # SHORT LONG: which of the two is it to be?
    [ -n "${DSTRAIN_TEST_LONG:-}" ] && echo "$2" || echo "$1"
}

seed_draws() {
    seed=${DSTRAIN_TEST_SEED:-$(date +%s)}
    draws=$seed
    echo "$(basename "$0" .sh): seed $seed (DSTRAIN_TEST_SEED)"
}

draw() { # N: sets drawn to 0..N-1
    draws=$(((draws * 1103515245 + 12345) % 2147483648))
    drawn=$((draws / 65536 % $1))
}

sleep_ms() {
    sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"
}

# ---- a small run

need_mpirun() {
    command -v mpirun >/dev/null || { echo "skipped: no mpirun"; exit 77; }
    export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # MPI leaks from libraries that it has unloaded
}

small_text() { # LINES
    awk -v lines="$1" 'BEGIN { for (i = 0; i < lines; i++) print "line " i " of a small text" }'
}

# small_config SECTION.KEY=VALUE ...: sections and keys in the order in which they are first named; the last value counts.
# One thread a rank: many tests run at once, and a late rank is what deadlines of seconds are about.
small_config() {
    printf '%s\n' run.dir=r run.device=cpu run.deadline=60 run.threads=1 model.hidden_size=64 \
        model.intermediate_size=128 model.num_hidden_layers=2 model.num_attention_heads=4 data.train=t.txt "$@" |
        awk '{
                 dot = index($0, "."); is = index($0, "=")
                 section = substr($0, 1, dot - 1); key = substr($0, dot + 1, is - dot - 1)
                 if (!(section in keys)) sections[++count] = section
                 if (!((section, key) in value)) keys[section] = keys[section] " " key
                 value[section, key] = substr($0, is + 1)
             }
             END {
                 for (i = 1; i <= count; i++) {
                     print "[" sections[i] "]"
                     n = split(keys[sections[i]], names, " ")
                     for (k = 1; k <= n; k++) print names[k] " = " value[sections[i], names[k]]
                 }
             }'
}

run() { # NAME option ...: c.ini in a folder of that name; sets code
    name=$1
    shift
    timeout -k 5 120 "$program" c.ini run.dir="$name" "$@" >out 2>err
    code=$?
}

need_gpu() { # a step of c.ini, which is for a GPU
    run first train.steps=1
    if grep -qE 'device = cuda: (no CUDA driver|the driver shows no CUDA device)' err; then
        echo "skipped: $(cat err)"
        exit 77
    fi
    [ $code -eq 0 ] || die "one step on a GPU: $code"
    rm -rf first
}

figures() { # NAME DIR: of every line of metrics
    sed -n "s/.*\"$1\": *\([^,}]*\).*/\1/p" "$2/metrics.jsonl"
}

# die unless the two runs have ended with one model, or DIR's checkpoints are whole
must_be_alike() { # DIR DIR WHAT
    cmp "$1/export/model.safetensors" "$2/export/model.safetensors" || die "$3: other weights"
}
must_verify() { # DIR WHAT
    "$program" verify "$1" >verified 2>&1 || die "$2: $(cat verified)"
}

# ---- its processes

ranks_of() { # JOB: what this mpirun has started
    for stat in /proc/[0-9]*/stat; do
        awk -v parent="$1" '{ sub(/^.*\) /, "&|"); split($0, at, "|"); split(at[2], field, " ")
            if (field[2] == parent) print $1 }' "$stat" 2>/dev/null
    done
}

# the processes of the program that were started here, whoever is their parent now, but for those of a launch beside it
others=
ranks_here() {
    find /proc -maxdepth 2 -path '/proc/[0-9]*/exe' -lname "$program" 2>/dev/null | while read -r exe; do
        pid=$(basename "${exe%/exe}")
        case " $others " in *" $pid "*) continue ;; esac
        [ "$(readlink "/proc/$pid/cwd")" != "$work" ] || echo "$pid"
    done
}

still_there() { # PID ...: one of them runs the program, which is then in left
    for left in "$@"; do
        [ "$(readlink "/proc/$left/exe" 2>/dev/null)" != "$program" ] || return 0
    done
    return 1
}

await_exit() { # JOB: sets code
    { wait "$1"; } 2>/dev/null
    code=$?
}

steps_done() { # DIR: how many have been written down
    cat "$1/metrics.jsonl" 2>/dev/null | wc -l
}

await_step() { # DIR STEP JOB
    for _ in $(seq 3000); do
        [ "$(steps_done "$1")" -lt "$2" ] || return 0
        kill -0 "$3" 2>/dev/null || die "$1 ended before step $2"
        sleep 0.02
    done
    die "step $2 of $1 does not come"
}

# ---- when what happened

now() { # hundredths of a second since the machine started
    read -r up rest </proc/uptime
    echo "${up%.*}${up#*.}"
}

# stderr goes through here; the first line that says why the run ends is the moment of decision
watch_lines() {
    while IFS= read -r line; do
        case $line in
        *': error: '* | *'this rank is killed now') [ -s decided ] || now >decided ;;
        esac
        printf '%s\n' "$line"
    done
}
