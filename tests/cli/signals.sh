#!/bin/sh
# Signals: SIGUSR1 ends a run with 75 behind a checkpoint of the step that was the last, whenever it comes and however
# often; SIGTERM and SIGINT end it at once. The same command then goes on, and ends with the bits of a run that nobody
# disturbed. The batch script asks for its job again if, and only if, it ends with 75. Called with the program;
# DSTRAIN_TEST_LONG: 300 signals.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
examples=$root/examples
seed_draws
turns=$(short_or_long 1 75)

small_text 2000 >t.txt
# weights of a step do not depend on how many there will be
small_config train.steps=800 schedule.decay_steps=800 train.global_batch_size=6 train.micro_batch_size=2 train.seq_length=32 \
    optimizer.learning_rate=0.001 checkpoint.interval=150 >c.ini

start() {
    mpirun -n 3 "$program" c.ini "$@" >>out 2>err &
    job=$!
}

finish() { # finish: sets code and took, in hundredths of a second since signal
    await_exit $job
    took=$(($(now) - sent))
}

await_end() { # of these processes: sets took
    for _ in $(seq 1000); do
        still_there "$@"
        is_over=$?
        took=$(($(now) - sent))
        [ $is_over = 0 ] || return 0
        sleep 0.02
    done
}

signal() {
    sent=$(now)
    kill "-$1" $job
}

newest() {
    ls r/checkpoints/manifests 2>/dev/null | sed -n 's/.*-0*\([0-9]*\)\.json$/\1/p' | sort -n | tail -1
}

ends_like_calm() {
    mpirun -n 3 "$program" c.ini >>out 2>err || die "$1: it does not go on: $?"
    must_be_alike calm r "$1"
    must_verify r "$1"
    rm -rf r
}

# The same behind a run without an end, which nothing but the signal has ended.
goes_on_like_calm() {
    steps=$(($(newest) + 40))
    mpirun -n 3 "$program" c.ini run.dir=calm-too checkpoint.interval=0 train.steps=$steps >>out 2>err || die "$steps steps"
    mpirun -n 3 "$program" c.ini train.steps=$steps >>out 2>err || die "$1: it does not go on: $?"
    must_be_alike calm-too r "$1"
    must_verify r "$1"
    rm -rf r calm-too
}

mpirun -n 3 "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>err || die "the undisturbed run"

for _ in $(seq $turns); do
    # in the middle, twice
    start train.steps=1000000
    draw 60
    await_step r $((drawn + 1)) $job
    signal USR1
    sleep 0.01
    kill -USR1 $job 2>/dev/null
    finish
    [ $code -eq 75 ] || die "SIGUSR1 in the middle ends with $code"
    step=$(newest)
    [ "${step:-0}" -gt 0 ] && [ "$step" = "$(steps_done r)" ] || die "left behind step $(steps_done r) with the checkpoint of ${step:-none}"
    grep -q "goes on behind step $step" err || die "nobody says that it leaves"
    goes_on_like_calm "SIGUSR1 in the middle"

    # while it starts: it waits for the first steps
    start
    draw 500
    sleep_ms $((200 + drawn))
    signal USR1
    finish
    case $code in
    75) ;;
    138) ;; # mpirun itself did not expect it yet
    0) [ "$(newest)" = 800 ] || die "SIGUSR1 after $drawn ms is not obeyed" ;;
    *) die "SIGUSR1 after $drawn ms ends with $code" ;;
    esac
    ends_like_calm "SIGUSR1 after $drawn ms"

    # at once, as a batch system tells all ranks; what is committed stays
    start train.steps=1000000
    await_step r 160 $job
    ranks=$(ranks_of $job)
    sent=$(now)
    kill -TERM $ranks
    await_end $ranks
    await_exit $job
    [ $took -lt 150 ] || die "ranks end $took hundredths of a second after SIGTERM"
    [ $code -eq 143 ] || die "SIGTERM ends with $code"
    goes_on_like_calm "SIGTERM"
done

# one process, without mpirun
for pair in TERM:143 INT:130; do
    # a shell has its background jobs ignore SIGINT
    env --default-signal=INT "$program" c.ini train.steps=1000000 >>out 2>err &
    job=$!
    await_step r 3 $job
    signal ${pair%:*}
    finish
    [ $code -eq ${pair#*:} ] && [ $took -lt 100 ] || die "SIG${pair%:*} ends one process with $code, $took"
    [ "$(grep -c "dstrain: SIG${pair%:*}: the run ends here, at once" err)" = 1 ] || die "SIG${pair%:*} is not spoken of: $(cat err)"
    rm -rf r
done

# nothing can be saved: it says so and goes on
start checkpoint.interval=0
await_step r 3 $job
signal USR1
finish
[ $code -eq 0 ] || die "without checkpoints SIGUSR1 ends with $code"
grep -q 'checkpoint.interval = 0' err || die "nobody says that nothing can be saved"
must_be_alike calm r "without checkpoints"
rm -rf r

# the batch script, with stand-ins for mpirun, which ends as it is told, and for scontrol
mkdir bin
cat >bin/mpirun <<'EOT'
#!/bin/sh
echo "$*" >>arguments
[ "$END" = signal ] || exit "$END"
trap 'sleep 0.2; exit 75' USR1
touch ready
while [ -e ready ]; do sleep 0.02; done # as long as the test is there
EOT
printf '#!/bin/sh\necho "$*" >>requeued\n' >bin/scontrol
chmod +x bin/mpirun bin/scontrol
for shell in sh bash; do
    $shell -n "$examples/slurm.sh" || die "$shell does not read slurm.sh"
done
batch() { # batch END
    rm -f arguments requeued ready
    END=$1 PATH="$work/bin:$PATH" SLURM_JOB_ID=77 DSTRAIN=/some/dstrain bash "$examples/slurm.sh" c.ini run.seed=2 &
    job=$!
}
for _ in $(seq $((turns + 2))); do
    batch signal
    for _ in $(seq 500); do [ -f ready ] || sleep 0.02; done
    signal USR1
    draw 2
    [ "$drawn" -eq 0 ] || kill -USR1 $job
    finish
    [ $code -eq 75 ] && [ "$(cat requeued)" = "requeue 77" ] || die "the batch script ends with $code: $(cat requeued)"
    [ "$(cat arguments)" = "--bind-to none /some/dstrain c.ini run.seed=2" ] || die "it starts $(cat arguments)"
done
for end in 0 67 71 143; do
    batch $end
    await_exit $job
    [ $code -eq $end ] && [ ! -f requeued ] || die "the batch script turns $end into $code"
done

echo "$((turns * 3)) signals under mpirun"
