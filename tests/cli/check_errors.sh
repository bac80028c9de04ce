#!/bin/sh
# What a person hears who gets something wrong: exactly one line on stderr, nothing on stdout, the exit
# code. Called with the program; no rank is started for most of it, two for the last part.
. "$(dirname "$0")/../support/cli.sh"
count=0

# refused CODE "the line" arguments...: the program ends with CODE and says this line alone
refused() {
    code=$1
    line=$2
    shift 2
    "$program" "$@" >out 2>err
    got=$?
    count=$((count + 1))
    [ "$got" = "$code" ] || fail "$*: exit code $got, not $code"
    [ "$(cat err)" = "dstrain: error: $line" ] || fail "$*: said '$(cat err)', not '$line'"
    [ -s out ] && fail "$*: wrote to stdout"
}

# file TEXT: config.ini is a good one with TEXT behind it; its first line is line 14
file() {
    cat >config.ini <<EOT
[run]
dir = r
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = a.txt
[train]
steps = 10
global_batch_size = 8
seq_length = 32
EOT
    printf "$1" >>config.ini
}

file ''
"$program" check config.ini >out 2>err || fail "data that lies elsewhere is refused: $(cat err)"
grep -qx "dstrain: warning: config.ini:9: \[data\] train: a.txt: No such file or directory; a run here is refused" err ||
    fail "data that is not there is not spoken of: $(cat err)"
echo text >a.txt
"$program" check config.ini >out 2>err || fail "a good configuration is refused: $(cat err)"
[ -s err ] && fail "a good configuration is complained about: $(cat err)"
"$program" check out >again 2>err || fail "what check prints is refused: $(cat err)"
cmp -s out again || fail "what check prints does not check to itself"

# the grammar
file '\nsteps = 3\n';       refused 64 "config.ini:15: key 'steps' in [train] again; the first is on line 11" check config.ini
file '[train]\n';           refused 64 "config.ini:14: section [train] again; the first is on line 10" check config.ini
file 'word\n';              refused 64 "config.ini:14: expected '[section]' or 'key = value', found 'word'" check config.ini
file '[log\n';              refused 64 "config.ini:14: a section must read '[name]'" check config.ini
file 'grad_clip = 1\r\n';   refused 64 "config.ini:14: the line holds a carriage return; lines must end with a line feed alone" check config.ini
file '# \000\n';            refused 64 "config.ini:14: the line holds a NUL byte" check config.ini
file '# \377\n';            refused 64 "config.ini:14: the line holds bytes that are not UTF-8" check config.ini
printf '\357\273\277[run]\n' >config.ini
refused 64 "config.ini:1: the file begins with a byte order mark; save it as plain UTF-8" check config.ini
printf 'dir = r\n' >config.ini
refused 64 "config.ini:1: key 'dir' stands before the first [section]" check config.ini
head -c 1100000 /dev/zero | tr '\0' '\n' >config.ini
refused 64 "config.ini:1: the file has 1100000 bytes; at most 1048576 are allowed" check config.ini
head -c 70000 /dev/zero | tr '\0' ' ' >config.ini
refused 64 "config.ini:1: the line has 70000 bytes; at most 65536 are allowed" check config.ini

# names
file 'micro_batchsize = 3\n'; refused 64 "config.ini:14: unknown key 'micro_batchsize' in [train]; did you mean 'micro_batch_size'?" check config.ini
file 'lr = 1e-3\n';           refused 64 "config.ini:14: unknown key 'lr' in [train]; did you mean 'learning_rate' in [optimizer]?" check config.ini
file '[zerro]\n';             refused 64 "config.ini:14: unknown section [zerro]; did you mean [zero]?" check config.ini

# values
file 'micro_batch_size = 1.5\n'
refused 64 "config.ini:14: [train] micro_batch_size = '1.5' must be a whole number in 1..1048576 (sequences a rank takes through the model at once)" check config.ini
file '[zero]\nstage = 9\n'
refused 64 "config.ini:15: [zero] stage = '9' must be a whole number in 0..3 (what shard ranks share out: 1 optimizer states, 2 and gradients, 3 and parameters)" check config.ini
file '[schedule]\nkind = step\n'
refused 64 "config.ini:15: [schedule] kind = 'step' must be constant, linear, cosine or wsd (shape of the learning rate after warm-up)" check config.ini

# combinations
file ''
refused 64 "config.ini:12: [train] global_batch_size = 8 must be a multiple of micro_batch_size * data = 3 * 1 = 3; nearest: 9" check config.ini train.micro_batch_size=3
refused 64 "config.ini:4: [model] hidden_size cannot stand beside [model] path (command line): the folder's config.json decides it" check config.ini model.path=m
refused 64 "command line: [schedule] warmup_steps = 11 is more than [train] steps = 10; nearest: 10" check config.ini schedule.warmup_steps=11

# what the model's folder says: nothing is begun with it
mkdir m
echo '{"model_type": "llama", "vocab_size": 300, "hidden_size": 960, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 3}' >m/config.json
printf '[run]\ndir = r\ndevice = cpu\n[model]\npath = m\n[data]\ntrain = a.txt\n[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 8\n' >folder.ini
for command in check plan ""; do
    refused 65 "m/config.json: 'head_dim' must be in 2..256, is 320" $command folder.ini
    [ -e r ] && fail "$command: leaves a run directory"
done

# what does not fit the folder's model: one line, and no table before it
sed 's/960/896/; s/"num_attention_heads": 3/"num_attention_heads": 7, "num_key_value_heads": 1/' m/config.json >m/next
mv m/next m/config.json
for override in parallel.tensor=3 parallel.pipeline=4; do
    for command in check plan; do
        arguments="$command folder.ini train.global_batch_size=12 $override"
        [ "$command" != plan ] || arguments="$arguments --ranks ${override#*=}"
        "$program" $arguments >out 2>err
        got=$?
        count=$((count + 1))
        [ "$got" = 64 ] || fail "$arguments: exit code $got"
        [ -s out ] && fail "$arguments: wrote to stdout"
        [ "$(wc -l <err)" = 1 ] && grep -qE '^dstrain: error: command line: \[parallel\] (tensor|pipeline) = [34] .*: m; nearest: [0-9]+$' err ||
            fail "$arguments: said '$(cat err)'"
    done
done
"$program" plan folder.ini --ranks 2 train.global_batch_size=2 >out 2>err || fail "plan: $(cat err)"
[ -s err ] && fail "plan: its answer is not on stdout alone: $(cat err)"
grep -q 'every rank, of 2:' out && grep -q 'what one key changes' out || fail "plan: no tables on stdout"
"$program" plan folder.ini memory.device_limit=1000 >out 2>err
[ $? = 64 ] && [ "$(grep -c '' err)" = 1 ] && grep -q 'does not fit' err && grep -q 'takes:' out ||
    fail "plan: a run that does not fit: $(cat err)"
# what a save waits for is the checkpoint less what its buffer holds
"$program" plan folder.ini checkpoint.interval=1 checkpoint.buffer=1 >out 2>err
least=$(sed -n 's/.*nearest: \([0-9]*\).*/\1/p' err)
"$program" plan folder.ini checkpoint.interval=1 checkpoint.buffer="${least:-1}" >out 2>err || fail "plan: $(cat err)"
whole=$(sed -n 's/^  a checkpoint .* \([0-9]*\) bytes$/\1/p' out)
seconds=$(sed -n 's/.*training stops .* are written: \([^ ]*\) s for each rank.*/\1/p' out)
awk -v whole="$whole" -v buffer="$least" -v seconds="$seconds" \
    'BEGIN { s = (whole - buffer) / 1e9; exit !(s > 0 && seconds > 0.99 * s && seconds < 1.01 * s) }' ||
    fail "plan: a checkpoint of '$whole' bytes, a buffer of '$least', '$seconds' s of waiting: $(cat out)"
rm -r m
for command in check plan ""; do
    refused 65 "folder.ini:5: [model] path = m: No such file or directory" $command folder.ini
done
for command in check plan ""; do
    refused 64 "command line: [data] tokenizer = nowhere: No such file or directory" $command config.ini data.tokenizer=nowhere run.device=cpu
done

# the command line
refused 64 "command line: unknown key 'stepz' in [train]; did you mean 'steps'?" check config.ini train.stepz=3
refused 64 "command line: 'steps=3' must read section.key=value; did you mean 'train.steps=...'?" check config.ini steps=3
refused 64 "command line: train.steps is given twice" check config.ini train.steps=3 train.steps=4
refused 64 "usage: dstrain check config.ini [section.key=value ...]" check
refused 64 "a configuration or a subcommand is missing; 'dstrain help' lists what can be done"
refused 64 "a configuration or a subcommand is missing; 'dstrain help' lists what can be done" ""
refused 64 "usage: dstrain version" version x
refused 64 "usage: dstrain version" --version x
"$program" bench unheard >out 2>err
[ $? = 64 ] && [ "$(grep -c 'usage: dstrain bench kernels .*--threads N.* step config.ini' err)" = 1 ] ||
    fail "bench: no usage that names its parts: $(cat err)"
refused 64 "unknown: --verbose; 'dstrain help' lists what can be done" --verbose
refused 64 "unknown command 'chek'; did you mean 'check'?" chek config.ini
refused 64 "unknown command 'evla'; did you mean 'eval'?" evla
refused 64 "unknown command 'unheard'; 'dstrain help' lists the commands" unheard config.ini
refused 64 "missing.ini: No such file or directory" missing.ini
refused 64 "no section or key is called 'stepz'; did you mean 'steps' in [train]?" help stepz

# options, the file and overrides in any order
refused 64 "unknown option '--foo'; dstrain check takes section.key=value and --help" check config.ini --foo
refused 64 "unknown option '--foo'; dstrain eval takes section.key=value and --help" eval --foo config.ini
refused 64 "unknown option '--foo=3'; dstrain takes section.key=value and --help" config.ini --foo=3
refused 64 "unknown option '--rank' (did you mean '--ranks'?); dstrain plan takes --ranks N, section.key=value and --help" plan --rank 2 config.ini
refused 64 "unknown option '-x'; dstrain prepare takes --show N, --train-tokenizer N, section.key=value and --help" prepare -x config.ini
refused 64 "--ranks: a whole number in 1..1000000 is missing behind it" plan config.ini --ranks
refused 64 "--ranks = 'config.ini' must be a whole number in 1..1000000" plan --ranks config.ini
refused 64 "--ranks = '' must be a whole number in 1..1000000" plan --ranks= config.ini
refused 64 "--ranks = '-1' must be a whole number in 1..1000000" plan config.ini --ranks -1
refused 64 "--ranks is given twice" plan --ranks 2 config.ini --ranks=2
refused 64 "'extra.ini' beside 'config.ini': one configuration file is read; dstrain takes section.key=value and --help" config.ini extra.ini
refused 64 "'config.ini' beside 'extra.ini': one configuration file is read; dstrain check takes section.key=value and --help" check extra.ini train.steps=3 config.ini
refused 64 "command line: 'steps=3' must read section.key=value; did you mean 'train.steps=...'?" check steps=3 config.ini
refused 64 "command line: 'steps' must read section.key=value; did you mean 'train.steps=...'?" check config.ini steps
refused 64 "command line: 'train.steps' must read section.key=value" check config.ini train.steps
refused 64 "usage: dstrain check config.ini [section.key=value ...]" check train.steps=3
refused 64 "usage: dstrain plan config.ini --ranks N [section.key=value ...]" plan --ranks 2
refused 64 "config.ini: [data] eval is missing: what it is evaluated on, written as train is; empty: nothing (text of at most 4095 bytes)" eval train.steps=3 config.ini
refused 64 "config.ini:12: [train] global_batch_size = 8 must be a multiple of micro_batch_size * data = 3 * 1 = 3; nearest: 9" train.micro_batch_size=3 config.ini

# alike ARGUMENTS: the answer is that of the arguments before, 'first' of none
alike() {
    "$program" "$@" >out 2>err || fail "$*: $(cat err)"
    [ ! -e first ] || cmp -s first out || fail "$*: answers '$(cat out)', not '$(cat first)'"
    mv out first
}
alike check config.ini train.steps=3 run.seed=4
grep -qx 'steps = 3' first && grep -qx 'seed = 4' first || fail "check: overrides are not read"
alike check train.steps=3 config.ini run.seed=4
alike check train.steps=3 run.seed=4 config.ini
mkdir -p a=1
cp config.ini a=1/c.ini
cp config.ini b=1.ini
alike check train.steps=3 run.seed=4 a=1/c.ini
alike check b=1.ini train.steps=3 run.seed=4
rm first
sed '/^\[run\]/a device = cpu' config.ini >cpu.ini
alike plan cpu.ini --ranks 2 train.global_batch_size=16
grep -q 'every rank, of 2:' first || fail "plan: --ranks 2 is not read"
alike plan --ranks 2 cpu.ini train.global_batch_size=16
alike plan train.global_batch_size=16 --ranks=2 cpu.ini
rm first

# help behind a subcommand is its part of 'dstrain help'
"$program" help >whole
for command in check plan prepare eval "" bench; do
    for arguments in "--help" "-h"; do
        [ "$command" ] || arguments="config.ini $arguments"
        "$program" $command $arguments >out 2>err || fail "$command $arguments: $(cat err)"
        [ ! -s err ] && [ "$(wc -l <out)" -le 2 ] && grep -q "^  dstrain ${command:-config.ini}" out ||
            fail "$command $arguments: said '$(cat out err)'"
        [ "$(grep -cxFf out whole)" = "$(wc -l <out)" ] || fail "$command $arguments: says something else than help"
    done
done
"$program" plan config.ini --ranks --help >again 2>err && grep -q '^  dstrain plan' again || fail "plan --ranks --help: $(cat again err)"
grep -q 'dstrain bench .*each: \[--quick\]$' whole || fail "help: the parts of bench are cut off"

# a configuration may be called like anything, as long as it is there
cp config.ini chek
"$program" chek model.path=m >out 2>err
grep -q 'hidden_size cannot stand beside' err || fail "a configuration called chek is not read: $(cat err)"

# more threads than cores: said, and done all the same
"$program" check config.ini run.threads=4096 >out 2>err || fail "run.threads = 4096 is refused"
[ "$(wc -l <err)" = 1 ] && grep -q '^dstrain: warning: run.threads = 4096 are more than the [0-9]* cores* of a rank here' err ||
    fail "run.threads = 4096: said '$(cat err)'"

# what is missing is named with a meaning that stands alone
refused 64 "config.ini: [data] eval is missing: what it is evaluated on, written as train is; empty: nothing (text of at most 4095 bytes)" eval config.ini

# files
refused 64 "missing.ini: No such file or directory" check missing.ini
refused 64 ".: not a regular file" check .
refused 65 "missing: No such file or directory" inspect missing
refused 65 "missing: No such file or directory" verify missing
refused 64 ".: no checkpoints here (no RUN.json); name a run directory, or what its checkpoint.dir was" verify .
refused 64 ".: neither checkpoints (RUN.json) nor tensors (*.safetensors) here" inspect .
refused 64 ".: no checkpoints here (no RUN.json); name a run directory, or what its checkpoint.dir was" export . there
printf 'abc' >short.safetensors
refused 65 "short.safetensors: too short for a pack" verify short.safetensors
"$program" inspect short.safetensors >out 2>err
[ $? = 65 ] && [ "$(wc -l <err)" = 1 ] || fail "inspect of a short file: $(cat err)"

# standard output that takes nothing
if [ -c /dev/full ]; then
    for arguments in version help "help --markdown" "help steps" "check config.ini"; do
        "$program" $arguments >/dev/full 2>err
        got=$?
        count=$((count + 1))
        [ $got = 70 ] && [ "$(wc -l <err)" = 1 ] && grep -q 'standard output cannot be written' err ||
            fail "$arguments: to /dev/full: exit code $got, $(cat err)"
    done
fi

# several ranks: one line all the same, and every rank with the code
if command -v mpirun >/dev/null; then
    mpirun -n 2 "$program" check config.ini parallel.data=4 >out 2>err
    got=$?
    [ $got = 64 ] || fail "mpirun: exit code $got"
    [ "$(grep -c '^dstrain' err)" = 1 ] &&
        grep -qxF 'dstrain [rank 0]: error: command line: [parallel] data = 4 wants 4 ranks (tensor = 1, pipeline = 1), this launch has 2; nearest: data = 2, or run under mpirun -n 4' err ||
        fail "mpirun: said '$(cat err)'"
    mpirun -n 2 "$program" check config.ini >out 2>err || fail "mpirun: $(cat err)"
    [ "$(grep -c '^\[run\]' out)" = 1 ] || fail "mpirun: the configuration is not printed once"
    mpirun -n 2 "$program" check config.ini --foo >unused 2>err
    got=$?
    [ $got = 64 ] && [ "$(grep -c '^dstrain' err)" = 1 ] || fail "mpirun: an unknown option: exit code $got, $(cat err)"
    mpirun -n 2 "$program" config.ini --help >again 2>err || fail "mpirun: --help: $(cat err)"
    [ "$(grep -c '^  dstrain config.ini' again)" = 1 ] || fail "mpirun: help is not printed once: $(cat again)"
    grep -qx 'data = 2' out || fail "mpirun: data = auto is not the number of ranks"
fi
[ $bad = 0 ] && echo "$count refusals are as they should be"
exit $bad
