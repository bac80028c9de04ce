#!/bin/sh
# Kill storm: a run whose ranks, or mpirun, or all of them are killed at random moments, and which is started again
# by the same command until it is done, ends with the bits of the run that nobody disturbed: the same export, the same
# last line of metrics for every step. Every checkpoint that is left verifies. Called with the program;
# DSTRAIN_TEST_LONG: 1,000 kills.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
seed_draws
wanted=$(short_or_long 20 1000)
ranks=3

small_text 2000 >t.txt
small_config train.steps=240 train.global_batch_size=12 train.micro_batch_size=2 train.seq_length=64 \
    optimizer.learning_rate=0.001 checkpoint.interval=10 checkpoint.keep=2 zero.stage=3 >c.ini

# Of every step the last line, without what clocks and memory say.
numbers() {
    sed 's/"step_s".*//' "$1" | awk -F'[:,]' '{ line[$2 + 0] = $0 } END { for (s = 1; s <= 240; s++) print line[s] }'
}

mpirun -n $ranks "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>err || die "the undisturbed run"
numbers calm/metrics.jsonl >calm.numbers

# Now and then by the clock, which may well be in the start, else when some more steps are done, however slow.
await_moment() {
    draw 4
    if [ "$drawn" = 0 ]; then
        draw 1500
        sleep_ms "$drawn"
        return
    fi
    draw 60
    goal=$(($(steps_done r) + drawn))
    while [ "$(steps_done r)" -lt $goal ] && kill -0 "$job" 2>/dev/null; do
        sleep 0.01
    done
    draw 30 # a save takes some
    sleep_ms "$drawn"
}

# A rank, mpirun, or everything, at a moment that is as likely in a save as between two.
kill_something() {
    await_moment
    victims=$(ranks_of "$job")
    draw 4
    case $drawn in
    0) kill -KILL "$job" 2>/dev/null ;;
    1) kill -KILL "$job" $victims 2>/dev/null ;;
    *)
        draw $ranks
        set -- $victims
        [ $# -le "$drawn" ] || shift "$drawn"
        [ $# -eq 0 ] || kill -KILL "$1" 2>/dev/null
        ;;
    esac
}

# Those who outlive mpirun hold the run's lock for a while, also who was not there yet when it was chosen who dies.
await_ranks() {
    for _ in $(seq 300); do
        left=$(ranks_here)
        [ -n "$left" ] || return 0
        sleep 0.1
    done
    die "ranks outlive their launch: $left"
}

kills=0
storms=0
while [ $kills -lt $wanted ]; do
    rm -rf r
    launches=0
    while :; do
        launches=$((launches + 1))
        [ $launches -le 200 ] || die "no end after $launches launches"
        mpirun -n $ranks "$program" c.ini >>out 2>>err &
        job=$!
        # the last launches of a storm are left alone, or the start alone could take it all
        [ $launches -gt 8 ] || kill_something
        await_exit $job
        [ $code -eq 0 ] || kills=$((kills + 1))
        await_ranks
        [ $code -ne 0 ] || break
        case $code in
        64 | 65 | 66 | 67 | 72 | 73) die "launch $launches ends with $code" ;;
        esac
    done
    storms=$((storms + 1))
    must_be_alike calm r "storm $storms"
    numbers r/metrics.jsonl >r.numbers
    cmp calm.numbers r.numbers || die "storm $storms: other numbers"
    must_verify r "storm $storms"
done
resumed=$(grep -c 'loaded' err)
[ "$resumed" -gt 0 ] || die "no launch has gone on from a checkpoint"
echo "$kills kills in $storms storms, $resumed launches went on from a checkpoint"
