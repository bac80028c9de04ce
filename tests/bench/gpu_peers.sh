#!/bin/sh
# A training step of dstrain and the same of a peer, in turn on the same GPUs, and the ratio of their speeds.
#
#   [PEER=peer.py] tests/bench/gpu_peers.sh [-n ranks] [-r repetitions] [-s steps] [-o lines.jsonl]
#       build/dstrain examples/bench-1b.ini [section.key=value ...] [-- arguments of the peer ...]
#
# The peer is a script that prints one line of JSON with tok_s_gpu (or, of one GPU, tok_s) and, if it knows them, mfu_causal, peak_GB and
# first_step_s. It is started by python3, or by torchrun for several ranks; PEER_RUN names something else.
# Without PEER only dstrain is measured. MPIRUN: mpirun with options of its own; empty: none, for one rank.
# COMMIT: what is measured, where there is no repository to ask. Every measurement starts with empty caches of
# timed algorithms and compiled code; KEEP_CACHES=1: with those of the user.
#
# Standard output and the file (-o, gpu_peers.jsonl) get the same lines: the machine, every measurement with the
# clock and the power that nvidia-smi saw while a GPU was busy, and at last medians and ratios. What programs say
# goes to the file with .log behind its name. dstrain's first_step_s counts from before mpirun, a peer's as it
# says; wall_s is that of the whole command.
set -eu

ranks=1 repetitions=3 steps=20 out=gpu_peers.jsonl
while getopts n:r:s:o: option; do
    case $option in
    n) ranks=$OPTARG ;;
    r) repetitions=$OPTARG ;;
    s) steps=$OPTARG ;;
    o) out=$OPTARG ;;
    *) exit 64 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 64; }
# shellcheck disable=SC2034 # the words of measure_dstrain name it
program=$1
shift
ours='' # the words up to --, quoted
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    ours="$ours '$(printf %s "$1" | sed "s/'/'\\\\''/g")'"
    shift
done
[ $# -eq 0 ] || shift # now "$@" is the peer's

here=$(dirname "$0")
work=$(mktemp -d)
sampler=''
trap '[ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
log=$out.log
: >"$out"
: >"$log"

say() { printf '%s\n' "$1" | tee -a "$out"; }
quoted() { printf '"%s"' "$(printf %s "$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"; }
# number KEY < lines: the last value of that key, or null
number() { sed -n "s/.*\"$1\": *\\(-\\{0,1\\}[0-9][-+.0-9eE]*\\).*/\\1/p" | tail -n 1 | grep . || echo null; }
now_ms() { date +%s%3N; }
median() { sort -n | awk '{ v[NR] = $1 } END { print NR ? v[int(NR / 2) + 1] : "null" }'; }
has_smi() { command -v nvidia-smi >/dev/null 2>&1; }

# ---- the machine

gpu_facts() {
    has_smi || { printf '"gpus":0'; return; }
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total --format=csv,noheader,nounits |
        awk -F', ' 'NR == 1 { name = $1; driver = $2; clock = $3; power = $4; memory = $5 }
            END { printf "\"gpus\":%d,\"gpu\":\"%s\",\"driver\":\"%s\",\"clock_max_mhz\":%d,\"power_limit_w\":%d,\"memory_mib\":%d",
                  NR, name, driver, clock, power, memory }'
    printf ',"cuda":%s' "$(quoted "$(nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9.]*\).*/\1/p' | head -n 1)")"
}

torch_version() { # of the python3 that starts the peer; nothing where there is none
    python3 -c 'import torch; print(torch.__version__, torch.version.cuda, torch.backends.cudnn.version())' 2>/dev/null || true
}

machine() {
    commit=${COMMIT:-$(git -C "$here" describe --always --dirty --abbrev=10 --exclude='*' 2>/dev/null || echo unknown)}
    say "{\"who\":\"machine\",\"at\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",\"commit\":$(quoted "$commit"),$(gpu_facts),\"cores\":$(nproc),\"peer\":$(quoted "${PEER:+${PEER##*/} torch $(torch_version)}"),\"peer_arguments\":$(quoted "$*"),\"ranks\":$ranks}"
}

# ---- what nvidia-smi sees meanwhile

watch_begin() {
    : >"$work/samples"
    has_smi || return 0
    nvidia-smi --query-gpu=utilization.gpu,clocks.sm,power.draw,temperature.gpu,memory.used --format=csv,noheader,nounits \
        -lms 500 >"$work/samples" 2>/dev/null &
    sampler=$!
}

watch_end() {
    [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
    [ -z "$sampler" ] || wait "$sampler" 2>/dev/null || true
    sampler=''
}

# means over the samples of a busy GPU; the most memory and heat of any
watched() {
    awk -F', *' '$1 >= 50 { n++; clock += $2; power += $3 } $4 > heat { heat = $4 } $5 > memory { memory = $5 }
        END { if (n) printf "\"busy_samples\":%d,\"clock_mhz\":%.0f,\"power_w\":%.0f,\"temperature_max\":%d,\"smi_memory_mib\":%d",
                     n, clock / n, power / n, heat, memory; else printf "\"busy_samples\":0" }' "$work/samples"
}

# dstrain's, and PyTorch's compiler's
empty_caches() {
    [ "${KEEP_CACHES:-0}" != 1 ] || return 0
    rm -rf "$work/cache"
    mkdir "$work/cache"
    export XDG_CACHE_HOME="$work/cache" TORCHINDUCTOR_CACHE_DIR="$work/cache/inductor" TRITON_CACHE_DIR="$work/cache/triton"
}

# ---- one measurement: who, then its command; $began and $ended say when, $work/answer what it printed

run_once() {
    who=$1
    shift
    empty_caches
    echo "== $who, repetition $repetition: $*" >>"$log"
    watch_begin
    began=$(now_ms)
    "$@" >"$work/answer" 2>>"$log" || { cat "$work/answer" >>"$log"; echo "$who failed; see $log" >&2; exit 1; }
    ended=$(now_ms)
    watch_end
    cat "$work/answer" >>"$log"
}

# record TOKENS_PER_S MFU MEMORY_GB FIRST_STEP_S
record() {
    [ "$1" != null ] || { echo "$who printed no speed; see $log" >&2; exit 1; }
    echo "$1" >>"$work/$who.speed"
    echo "$3" >>"$work/$who.memory"
    echo "$4" >>"$work/$who.first"
    say "{\"who\":\"$who\",\"repetition\":$repetition,\"tokens_per_s_rank\":$1,\"mfu\":$2,\"memory_gb\":$3,\"first_step_s\":$4,\"wall_s\":$(awk "BEGIN { print ($ended - $began) / 1000 }"),$(watched)}"
}

measure_dstrain() {
    starter=${MPIRUN-mpirun}
    [ -z "$starter" ] || starter="$starter -n $ranks"
    eval "run_once dstrain $starter \"\$program\" bench step $ours --steps $steps"
    head -n 1 "$work/answer" >"$work/line"
    at_ms=$(number first_step_at_ms <"$work/line")
    bytes=$(number device_peak_bytes <"$work/line")
    record "$(number tokens_per_s_rank <"$work/line")" "$(number mfu <"$work/line")" \
        "$(awk "BEGIN { print $bytes / 1e9 }")" "$(awk "BEGIN { print ($at_ms - $began) / 1000 }")"
    say "$(cat "$work/line")"
}

measure_peer() {
    start=${PEER_RUN:-python3}
    [ -n "${PEER_RUN-}" ] || [ "$ranks" = 1 ] || start="torchrun --nproc-per-node $ranks"
    # shellcheck disable=SC2086
    run_once peer $start "$PEER" "$@"
    grep -E '"tok_s(_gpu)?"' "$work/answer" | tail -n 1 | sed 's/"tok_s"/"tok_s_gpu"/' >"$work/line" || true
    record "$(number tok_s_gpu <"$work/line")" "$(number mfu_causal <"$work/line")" "$(number peak_GB <"$work/line")" \
        "$(number first_step_s <"$work/line")"
    say "$(cat "$work/line")"
}

# ratio KIND: dstrain's median over the peer's
ratio() {
    awk -v a="$(median <"$work/dstrain.$1")" -v b="$(median <"$work/peer.$1")" \
        'BEGIN { if (a == "null" || b == "null" || b == 0) print "null"; else printf "%.4f\n", a / b }'
}

machine "$@"
for repetition in $(seq "$repetitions"); do
    measure_dstrain
    [ -z "${PEER-}" ] || measure_peer "$@"
done
[ -n "${PEER-}" ] || exit 0
say "{\"who\":\"ratio\",\"dstrain_tokens_per_s_rank\":$(median <"$work/dstrain.speed"),\"peer_tokens_per_s_rank\":$(median <"$work/peer.speed"),\"speed\":$(ratio speed),\"memory\":$(ratio memory),\"first_step\":$(ratio first)}"
