#!/bin/sh
# tests/bench/gpu_peers.sh takes turns with a peer, holds medians against each other and does not hide a failure.
# The peer here is a script that says what it is told to; dstrain is real. Called with the program.
. "$(dirname "$0")/../support/cli.sh"
script=$root/tests/bench/gpu_peers.sh
shown="out err"

cat >tiny.ini <<'INI'
[model]
vocab_size = 61
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
[train]
steps = 1000
global_batch_size = 4
seq_length = 16
INI
# tok_s_gpu of the n-th call: the n-th argument
cat >peer <<'PEER'
echo "it says something else first"
echo x >>calls
eval "speed=\$$(($(wc -l <calls)))"
[ "$speed" != broken ] || exit 3
[ ! -e "$XDG_CACHE_HOME/left" ] || exit 4
touch "$XDG_CACHE_HOME/left"
echo "{\"tok_s_gpu\": $speed, \"mfu_causal\": 0.25, \"peak_GB\": 0.002}"
PEER

measure() { # arguments of the peer
    rm -f calls lines
    PEER=$work/peer PEER_RUN=sh MPIRUN='' sh "$script" -r 3 -s 1 -o lines "$program" tiny.ini run.device=cpu \
        run.threads=1 'run.dir=a b' --quick -- "$@" >out 2>err
}

measure 100 300.5 200 || fail "three repetitions"
order=$(sed -n 's/.*"who":"\([a-z]*\)".*/\1/p' lines | tr '\n' ' ')
[ "$order" = "machine dstrain peer dstrain peer dstrain peer ratio " ] || fail "in turn: $order"
grep -q '"peer_tokens_per_s_rank":200,' lines || fail "the median of 100, 300.5 and 200"
ours=$(sed -n 's/.*"who":"ratio","dstrain_tokens_per_s_rank":\([0-9.]*\).*/\1/p' lines)
ratio=$(sed -n 's/.*"speed":\([0-9.]*\).*/\1/p' lines)
[ "$ratio" = "$(awk "BEGIN { printf \"%.4f\", $ours / 200 }")" ] || fail "the ratio of $ours and 200 is $ratio"
grep -q '"first_step":null' lines || fail "a first step that the peer does not tell"
cmp -s out lines || fail "the file differs from standard output"
[ "$(grep -c '"bench":"step"' lines)" = 3 ] || fail "dstrain's own lines"

measure 100 broken 200 && fail "a peer that fails"
grep -q 'peer failed' err || fail "a peer that fails: not said"
measure 100 '"slow"' 200 && fail "a peer without a speed"
# Every row of gpu_rows.sh is a configuration that plans, and one that is asked for is measured.
rows=$root/tests/bench/gpu_rows.sh
small_text 10 >t.txt
sh "$rows" >names
while read -r name ranks _; do
    # shellcheck disable=SC2046
    "$program" plan $(DRIVE=$work sh "$rows" words "$name") data.train=t.txt --ranks "$ranks" >out 2>err </dev/null ||
        fail "row $name has no plan"
done <names
[ "$(wc -l <names)" -ge 10 ] || fail "rows: $(wc -l <names)"
mkdir peers
printf 'echo "{\"tok_s\": 1000, \"said\": \"$*\"}"\n' >peers/peer_torch.py
sh "$rows" "$program" '9?' >out 2>err && fail "rows: '9?' is no row"
grep -q "no row '9?'" err || fail "rows: '9?': not said"
tiny="run.device=cpu model.num_hidden_layers=1 model.hidden_size=64 model.intermediate_size=64 model.num_attention_heads=1
    model.num_key_value_heads=1 model.head_dim=64 model.vocab_size=64 train.seq_length=16 memory.device_limit=auto --quick"
# shellcheck disable=SC2086
PEERS=$work/peers PEER_RUN=sh MPIRUN='' sh "$rows" -s 1 -o r "$program" '1[b]' -- $tiny >out 2>err ||
    fail "rows: 1b"
grep -q '"said": "--steps 1 --model 1b --mbs 4"' r/1b.jsonl && grep -q '"peer_tokens_per_s_rank":1000,' r/1b.jsonl ||
    fail "rows: not what was asked for"
[ $bad = 0 ] && echo "turns, medians and failures are as they should be"
exit $bad
