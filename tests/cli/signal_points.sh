#!/bin/sh
# Signals at chosen moments: a rank gets SIGUSR1, once or twice, SIGTERM or SIGINT while it starts, while it loads, in
# the middle of a save, and where the checkpoint gets its name. SIGUSR1 ends the run with 75 behind a checkpoint of its
# last step; the others end it at once, and what is committed stays. The same command goes on and ends with the bits of
# a run that nobody disturbed. Called with the program and disk_shim. 3 of 16 pairs of signal and moment, drawn;
# DSTRAIN_TEST_LONG: all of them 20 times.
shim=$(readlink -f "${2:?disk_shim}")
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
seed_draws
steps=80

small_text 500 >t.txt
small_config model.hidden_size=48 model.intermediate_size=96 train.steps=$steps train.global_batch_size=4 \
    train.micro_batch_size=1 train.seq_length=64 optimizer.learning_rate=0.001 checkpoint.interval=4 >c.ini

newest() {
    ls r/checkpoints/manifests | sed -n 's/.*-0*\([0-9]*\)\.json$/\1/p' | sort -n | tail -1
}

# launch CODE SIGNAL TIMES CALL PATH NTH
launch() {
    mpirun -n 2 env LD_PRELOAD="$shim" DISK_SIGNAL="$2" DISK_TIMES="$3" DISK_CALL="$4" DISK_PATH="$5" DISK_NTH="$6" \
        "$program" c.ini >out 2>err
    code=$?
    # behind the last step there is nothing to leave
    [ "$1" -eq 75 ] && [ $code -eq 0 ] && [ "$(newest)" = $steps ] && return
    [ $code -eq "$1" ] || die "signal $2 at $4 of $5 number $6: it ends with $code"
}

mpirun -n 2 "$program" c.ini run.dir=calm checkpoint.interval=0 >out 2>err || die "the undisturbed run"
# what every pair begins with: a checkpoint, and what is left of the next one
launch 143 15 1 rename /manifests/M- 2
first=$(newest)
[ "${first:-0}" -ge 4 ] && [ "$first" -lt $steps ] || die "SIGTERM at the second commit leaves step $first"
mv r base

# one SIGNAL MOMENT
one() {
    rm -rf r
    cp -r base r
    draw 2
    case $2 in
    0) moment="open t.txt 1" ;;                        # it starts
    1) moment="pread /data/0/P- $((1 + 3 * drawn))" ;; # it loads
    2) moment="pwrite /data/0/P- $((1 + 2 * drawn))" ;;
    *) moment="rename /manifests/M- 1" ;;
    esac
    case $1 in
    0) numbers="75 10 1" ;;
    1) numbers="75 10 2" ;;
    2) numbers="143 15 1" ;;
    *) numbers="130 2 1" ;;
    esac
    # shellcheck disable=SC2086
    launch $numbers $moment
    if [ $code -eq 75 ]; then
        last=$(figures step r | tail -1)
        [ "$(newest)" = "$last" ] || die "$moment: it leaves behind step $last with a checkpoint of $(newest)"
    else
        [ "$(newest)" -ge "$first" ] || die "$moment: what was committed is gone"
    fi
    must_verify r "$moment"
    mpirun -n 2 "$program" c.ini >out 2>err || die "$moment: it does not go on: $?"
    must_be_alike calm r "$moment"
    count=$((count + 1))
}

count=0
while [ $count -lt "$(short_or_long 3 320)" ]; do
    pair=$count # of the long mode: all in turn
    if [ -z "${DSTRAIN_TEST_LONG:-}" ]; then
        draw 16
        pair=$drawn
    fi
    one $((pair / 4 % 4)) $((pair % 4))
done
echo "$count signals at chosen moments"
