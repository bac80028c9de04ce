#!/bin/sh
# The configurations in examples/ are what the program takes, and with DSTRAIN_TEST_LONG the quickstart goes
# through from corpus to sample, in 20 steps on a corpus of its own. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
examples=$root/examples
count=0
mkdir m # what a folder says of its model
echo '{"model_type": "llama", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4}' >m/config.json

for file in "$examples"/*.ini; do
    case ${file##*/} in # what a person names on the command line
    finetune.ini) set -- model.path=m data.train=t.safetensors train.seq_length=128 ;;
    bench-*.ini) set -- data.train=t.txt ;;
    *) set -- ;;
    esac
    case ${file##*/} in # how many ranks it is for
    bench-1b.ini | bench-7b.ini | bench-124m.ini) ranks=1 ;;
    *) ranks=2 ;;
    esac
    "$program" check "$file" "$@" >out 2>err || fail "check ${file##*/} $*"
    [ -s err ] && fail "check ${file##*/}: complains"
    "$program" plan "$file" --ranks $ranks "$@" >out 2>err || fail "plan ${file##*/} $*"
    count=$((count + 1))
done
[ $count -ge 8 ] || fail "only $count configurations"

if [ "${DSTRAIN_TEST_LONG:-0}" = 1 ] && command -v mpirun >/dev/null; then
    mkdir -p runs/quickstart-corpus
    for part in train eval; do
        awk -v part=$part 'BEGIN { for (i = 0; i < 4000; i++) print i " green bottles, " part }' >runs/quickstart-corpus/$part.txt
    done
    mpirun -n 4 "$program" "$examples/quickstart.ini" train.steps=20 train.eval_interval=10 schedule.warmup_steps=5 \
        >out 2>err || fail "the quickstart"
    [ "$(wc -l <runs/quickstart/metrics.jsonl)" = 20 ] || fail "the quickstart: not a line a step"
    "$program" generate runs/quickstart/export --prompt "1 green" --tokens 40 >out 2>err || fail "its sample"
    grep -q '^1 green' out || fail "its sample does not go on from the prompt"
fi
[ $bad = 0 ] && echo "$count configurations are as the program takes them"
exit $bad
