#!/bin/sh
# States in files, and what layers keep, as a person meets them: the model is that of a run without, on two ranks; a second
# run is kept out of the
# directory, one that was killed is in nobody's way, and nothing is left behind; what cannot be says which key; a drive that
# gives back other bytes ends the run with 65 and the file named, and the same command goes on from the last
# checkpoint. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun

mkdir one two
small_text 2000 >t.txt
away="offload.params=nvme offload.master=nvme offload.exp_avg=nvme:0.5 offload.exp_avg_sq=nvme offload.grads=nvme \
    offload.activations=nvme"
small_config precision.compute=bf16 model.num_hidden_layers=3 train.steps=6 train.global_batch_size=8 train.micro_batch_size=1 \
    train.seq_length=32 offload.block_size=16384 offload.directories="$work/one, $work/two" >c.ini

states() { # how many names
    find one two -name '*.states' | wc -l
}

no_space() { # WHEN: a name says whose the place is; states have none
    [ -z "$(find one two -type f -size +8)" ] || fail "$1: more than names: $(find one two -type f -size +8)"
}

# shellcheck disable=SC2086
run() { # NAME option ...
    name=$1
    shift
    mpirun -n 2 "$program" c.ini run.dir="$name" "$@" >out 2>err
    code=$?
}

# ---- the same model

run near
[ $code -eq 0 ] || die "without files: $code"
for storage in auto threads; do
    # shellcheck disable=SC2086
    run "away-$storage" $away offload.storage=$storage
    [ $code -eq 0 ] || die "with files, $storage: $code"
    must_be_alike near "away-$storage" "with files, $storage"
    grep -q "^offload: $work/one: .* a rank, " err || fail "the log does not say where states are"
done
[ "$(states)" -eq 0 ] || fail "files are left: $(find one two)"

# ---- two runs, and one that was killed

# shellcheck disable=SC2086
mpirun -n 2 "$program" c.ini run.dir=first $away train.steps=1000000 >out.first 2>err.first &
first=$!
await_step first 2 $first
[ "$(states)" -eq 4 ] || fail "$(states) places of two ranks in two directories"
# shellcheck disable=SC2086
run second $away offload.directories="$work/two"
[ $code -eq 64 ] || fail "a second run in the same directory: $code"
[ "$(grep -c ': error: ' err)" -eq 1 ] || fail "the second run is refused in $(grep -c ': error: ' err) lines"
grep -q "directories: $work/two: another run has its states there (process [0-9]* on host " err ||
    fail "the second run does not say who is there"
kill -0 $first 2>/dev/null || fail "the first run has ended"
ranks=$(ranks_of $first)
# shellcheck disable=SC2086
kill -9 $ranks
await_exit $first
[ "$(states)" -eq 4 ] || fail "$(states) places of ranks that were killed"
no_space "killed"
# shellcheck disable=SC2086
"$program" c.ini run.dir=third $away train.steps=2 >out 2>err || fail "behind a killed run: $?"
[ "$(grep -c 'was left by a run that was killed' err)" -eq 2 ] || fail "nobody says what was left"
[ "$(states)" -eq 0 ] || fail "files are left: $(find one two)"

# ---- however a run ends, its space is free

for way in TERM fail hang; do
    given=
    case $way in
    TERM) ;;
    *) given="debug.inject=$way:1:3 run.deadline=3" ;;
    esac
    # shellcheck disable=SC2086
    mpirun -n 2 "$program" c.ini run.dir="end-$way" $away train.steps=1000000 $given >out 2>err &
    job=$!
    if [ $way = TERM ]; then
        await_step "end-$way" 2 $job
        # shellcheck disable=SC2046
        kill -TERM $(ranks_of $job)
    fi
    await_exit $job
    [ "$code" -ne 0 ] || fail "$way: the run goes on"
    no_space "$way"
done
(
    ulimit -f 600 # of 512 bytes
    exec "$program" c.ini run.dir=small $away log.trace= >out 2>err
)
code=$?
[ $code -eq 64 ] && grep -q 'is more than a process may write (ulimit -f)' err || fail "a limit of a file's size: $code"

# ---- what cannot be

refused() { # WORDS option ...
    words=$1
    shift
    "$program" c.ini run.dir=never "$@" >out 2>err
    code=$?
    [ $code -eq 64 ] && [ "$(grep -c ': error: ' err)" -eq 1 ] && grep -q -- "$words" err || fail "$words: $code"
}

refused 'exp_avg = nvme: \[offload\] directories is missing' offload.exp_avg=nvme offload.directories=
refused 'activations = nvme: \[offload\] directories is missing' offload.activations=nvme offload.directories=
refused 'directories: /none/such: states cannot live there: No such file' offload.exp_avg=nvme \
    offload.directories=/none/such
refused "directories: $work/t.txt: states cannot live there: Not a directory" offload.exp_avg=nvme \
    offload.directories="$work/t.txt"
refused "directories names $work/one twice" offload.directories="$work/one,$work/one/"
ln -s one alias
refused "directories: $work/alias is named twice" offload.exp_avg=nvme offload.directories="$work/one,$work/alias"
refused "master = 'nvme:1.5' must be device, host, nvme or auto" offload.master=nvme:1.5
refused "master = 'disk' must be device, host, nvme or auto" offload.master=disk
refused 'for stage = 3' offload.params=nvme zero.stage=2
[ "$(ls never)" = data ] || fail "runs that were refused have left more than prepared data: $(ls never)"
if [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ]; then
    mkdir "/dev/shm/$(basename "$work")"
    "$program" c.ini run.dir=memory offload.exp_avg=nvme offload.directories="/dev/shm/$(basename "$work")" \
        >out 2>err || fail "on tmpfs: $?"
    grep -q 'that is memory (tmpfs)' err || fail "nobody says that it is memory"
    rmdir "/dev/shm/$(basename "$work")" || fail "files are left on tmpfs"
fi

# ---- a drive that gives back other bytes

# shellcheck disable=SC2086
mpirun -n 2 "$program" c.ini run.dir=broken $away train.steps=1000000 checkpoint.interval=2 >out 2>err &
job=$!
await_step broken 5 $job
victim=$(find two -name '*-0001.states')
for rank in $(ranks_of $job); do
    for file in "/proc/$rank/fd"/*; do
        case $(readlink "$file") in "$work/$victim.data (deleted)") data=$file ;; esac
    done
done
dd if=/dev/urandom of="$data" bs=4096 count=$(($(stat -L -c %s "$data") / 4096)) conv=notrunc,fsync 2>/dev/null
await_exit $job
[ $code -eq 65 ] || fail "other bytes: $code"
grep -q "$victim: [0-9]* bytes at [0-9]* came back with another checksum" err || fail "the file is not named"
no_space "other bytes"
must_verify broken "behind other bytes"
steps=$(($(steps_done broken) + 2))
# shellcheck disable=SC2086
run broken $away train.steps=$steps checkpoint.interval=2
[ $code -eq 0 ] || fail "going on: $code"
grep -q '^checkpoint of step .* loaded' err || fail "from the beginning"
[ "$(states)" -eq 0 ] || fail "files are left: $(find one two)"
exit $bad
