#!/bin/sh
# The same command goes on though its machine has been up for another time at every launch, less than before or more:
# each launch has a time namespace of its own, and the launches together the bits of one. Called with the program. 3
# launches; DSTRAIN_TEST_LONG: 50.
. "$(dirname "$0")/../support/cli.sh"
unshare -T --fork --monotonic 1000 --boottime 1000 true 2>/dev/null || { echo "skipped: no time namespaces"; exit 77; }
unshare -T --fork --monotonic -1 --boottime -1 true 2>/dev/null && least=0 || least=1 # some read no minus
seed_draws
launches=$(short_or_long 3 50)
steps=$((4 * launches))

small_text 500 >t.txt
small_config model.hidden_size=32 model.intermediate_size=48 train.global_batch_size=2 train.micro_batch_size=1 \
    train.seq_length=32 optimizer.learning_rate=0.001 schedule.decay_steps=$steps checkpoint.interval=2 >c.ini

"$program" c.ini run.dir=calm train.steps=$steps checkpoint.interval=0 >out 2>err || die "the undisturbed run"
read -r up rest </proc/uptime
for launch in $(seq "$launches"); do
    draw $((5 - least))
    case $((drawn + least)) in # seconds; the clock must not be before its beginning
    0) by=$((30 - ${up%.*})) ;;
    1) by=0 ;;
    2) by=3600 ;;
    3) by=31536000 ;;
    *) by=1000000000 ;;
    esac
    unshare -T --fork --monotonic $by --boottime $by "$program" c.ini train.steps=$((4 * launch)) >out 2>err ||
        die "launch $launch, clock by $by s: it ends with $?"
    [ -z "$(ls r/incidents 2>/dev/null)" ] || die "launch $launch, clock by $by s: an incident"
    grep -qE 'given up|stands still|waited ' err && die "launch $launch, clock by $by s: somebody waited too long"
    [ "$launch" = 1 ] || grep -q "checkpoint of step $((4 * launch - 4)) .* loaded" err ||
        die "launch $launch, clock by $by s: it does not go on from the last one"
done
must_be_alike calm r "$launches launches"
must_verify r "$launches launches"
echo "$launches launches, each with clocks of its own"
