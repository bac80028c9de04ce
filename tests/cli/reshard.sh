#!/bin/sh
# Another layout goes on: a run is saved by one layout of ranks under mpirun and loaded by another. Where it is loaded
# and nothing is left to train, its export is the saved run's to the byte; trained on, its losses are those that the
# layout that saved it would have had, to rounding. Called with the program. 4 pairs of layouts, drawn;
# DSTRAIN_TEST_LONG: 40.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
seed_draws
pairs=$(short_or_long 4 40)

small_text 500 >t.txt
small_config model.hidden_size=48 model.intermediate_size=72 model.num_hidden_layers=6 model.num_attention_heads=8 \
    model.num_key_value_heads=2 model.head_dim=8 model.tie_word_embeddings=true train.steps=6 \
    train.global_batch_size=24 train.micro_batch_size=1 train.seq_length=24 optimizer.learning_rate=0.001 \
    schedule.kind=constant checkpoint.interval=3 checkpoint.keep=9 >c.ini

# data tensor pipeline schedule
layouts='1 1 1 1f1b
2 1 1 1f1b
4 1 1 1f1b
8 1 1 1f1b
1 2 1 1f1b
1 4 1 1f1b
2 2 1 1f1b
4 2 1 1f1b
2 4 1 1f1b
1 1 2 1f1b
1 1 3 gpipe
1 1 4 zero_bubble
2 1 2 zero_bubble
3 1 2 1f1b
2 1 3 interleaved
1 2 2 interleaved
1 2 3 1f1b
2 2 2 1f1b
1 4 2 gpipe'
count=$(echo "$layouts" | wc -l)

lost() {
    die "$saver -> $loader: $*"
}

# run LAYOUT OPTION ...: of layout number LAYOUT, stage 0 to 3
run() {
    # shellcheck disable=SC2086
    set -- "$(echo "$layouts" | sed -n "$(($1 + 1))p") $(($2))" "$@"
    layout=$1
    shift 3
    # shellcheck disable=SC2086
    set -- $layout "$@"
    data=$1 tensor=$2 pipeline=$3 schedule=$4 stage=$5
    shift 5
    chunks=1
    [ "$schedule" != interleaved ] || chunks=2
    mpirun -n $((data * tensor * pipeline)) "$program" c.ini parallel.data=$data parallel.tensor=$tensor \
        parallel.pipeline=$pipeline parallel.schedule=$schedule parallel.chunks=$chunks zero.stage=$stage "$@" \
        >out 2>err || lost "exit code $? of $data x $tensor x $pipeline $schedule, stage $stage"
}

losses() { sed 's/^{"step": *\([0-9]*\),.*"loss": *\([^,]*\),.*/\1 \2/' "$1"; }

done_pairs=0
while [ $done_pairs -lt $pairs ]; do
    draw "$count"
    saver=$drawn
    draw 4
    saver_stage=$drawn
    draw "$count"
    loader=$drawn
    draw 4
    loader_stage=$drawn
    [ "$saver" != "$loader" ] || continue
    rm -rf whole saved
    run "$saver" "$saver_stage" run.dir=whole # checkpoints of steps 3 and 6
    cp -r whole/checkpoints kept
    mkdir saved
    mv whole/checkpoints saved/
    run "$loader" "$loader_stage" run.dir=saved
    grep -q 'checkpoint of step 6 .* loaded' err || lost "step 6 was not loaded"
    must_be_alike whole saved "$saver -> $loader"
    rm -rf saved
    mkdir saved
    mv kept saved/checkpoints
    rm saved/checkpoints/manifests/M-*6.json
    run "$loader" "$loader_stage" run.dir=saved
    grep -q 'checkpoint of step 3 .* loaded' err || lost "step 3 was not loaded"
    losses whole/metrics.jsonl >whole.losses
    losses saved/metrics.jsonl >saved.losses
    awk 'NR == FNR { loss[$1] = $2; next }
         { d = ($2 - loss[$1]) / loss[$1]; seen++; if (!(d * d <= 4e-12)) { print "step " $1 ": " $2 ", not " loss[$1]; bad = 1 } }
         END { exit bad || seen != 3 }' whole.losses saved.losses || lost "other losses"
    done_pairs=$((done_pairs + 1))
done
echo "$done_pairs pairs of layouts: the same weights where they are loaded, the same losses behind it"
