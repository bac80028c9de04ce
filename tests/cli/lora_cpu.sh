#!/bin/sh
# examples/lora_cpu.sh, in its parts and as a whole: rows of JSON that say what fortunes say, a model, an adapter on it
# that eval and generate find; run again it trains nothing, with --again both, and an adapter anew when its model is.
# Its own script and configurations, made small; installing, building and mpirun are played by stand-ins, the last by
# one rank. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
shown=said

mkdir -p clone/build play fortunes
cp -r "$root/examples" clone
ln -s "$program" clone/build/dstrain
printf '#!/bin/sh\n' | tee clone/examples/install.sh >play/cmake
cat >play/mpirun <<'EOT'
#!/bin/sh
echo "$4" >>../trainings
shift 2
OMP_NUM_THREADS=1 exec "$@"
EOT
chmod +x clone/examples/install.sh play/*
sed -i "s|/usr/share/games/fortunes|$work/fortunes|; s/--tokens 80/--tokens 8/" clone/examples/lora_cpu.sh
sed -i 's/^steps = .*/steps = 3/; s/^eval_interval = .*/eval_interval = 0/; s/^warmup_steps = .*/warmup_steps = 1/
    s/^hidden_size = .*/hidden_size = 32/; s/^intermediate_size = .*/intermediate_size = 64/
    s/^seq_length = .*/seq_length = 64/; s/^num_hidden_layers = .*/num_hidden_layers = 2/' clone/examples/lora_cpu*.ini

# what JSON wants escaped, what it does not allow, an empty fortune, one without a % behind it
printf 'say "no\\yes"\n%%\n%%\n\tnext\001\033 line\nand \\n\n' >fortunes/art
echo "not text" | tee fortunes/art.dat >fortunes/men-women
ln -s art fortunes/art.u8
for category in definitions perl startrek work; do
    awk -v name=$category 'BEGIN { for (i = 1; i <= 40; i++) printf "fortune %d of %s\n\tends\n%%\n", i, name }' >fortunes/$category
done

# example WANTED "trainings" option ...
example() {
    wanted=$1 trainings=$2
    shift 2
    : >trainings
    PATH=$work/play:$PATH clone/examples/lora_cpu.sh "$@" >said 2>&1
    got=$?
    [ $got = "$wanted" ] || fail "lora_cpu $*: exit code $got"
    [ "$(sed 's|.*/lora_||; s|\.ini||' trainings | xargs)" = "$trainings" ] ||
        fail "lora_cpu $*: trained $(xargs <trainings), not $trainings"
}
samples() { awk '/^== a sample/ { on = 1 } /^== files/ { on = 0 } on' said; }

example 0 "cpu_base cpu"
data=clone/runs/lora-cpu-data
cat >wanted <<'EOT'
{"text": "say \"no\\yes\""}
{"text": "\tnext line\nand \\n"}
EOT
head -n 2 $data/base-train.jsonl >got
cmp -s got wanted || { shown=got; fail "not the rows of what fortunes say"; shown=said; }
[ "$(wc -l <$data/base-train.jsonl)" = 40 ] || fail "not every 20th fortune of a model's is held out"
[ "$(wc -l <$data/lora-eval.jsonl)" = 6 ] || fail "not every 20th fortune of an adapter's is held out"
grep -qF '{"prompt": "[startrek]\n", "completion": "fortune 39 of startrek\n\tends"}' $data/lora-train.jsonl ||
    fail "a category is not its fortunes' prompt"
grep -qF '  . [definitions]\n' said || fail "a prompt is not shown as what is not learned"
grep -qF '  + \tends<|endoftext|>' said || fail "a completion is not shown as what is learned, its end with it"
[ "$(grep -c '^runs/lora-cpu-base/export: loss [0-9]' said)$(grep -c '^runs/lora-cpu/export: loss [0-9]' said)" = 11 ] ||
    fail "not a loss without the adapter and one with it"
[ "$(grep -c '^\[\(definitions\|perl\|startrek\)\]$' said)" = 6 ] || fail "not a sample of both models for every category"
samples >before
example 0 ""
samples | cmp -s - before || fail "other samples of the same models"
example 0 "cpu_base cpu" --again
sed -i 's/^steps = 3/steps = 4/' clone/examples/lora_cpu.ini
example 0 "cpu"
[ -f clone/runs/lora-cpu-1/export/adapter_model.safetensors ] || fail "the adapter of another configuration is gone"
sed -i 's/^steps = 3/steps = 4/' clone/examples/lora_cpu_base.ini
example 0 "cpu_base cpu"
example 64 "" --anew
[ $bad = 0 ] && echo "an adapter from fortunes alone, and no training twice"
exit $bad
