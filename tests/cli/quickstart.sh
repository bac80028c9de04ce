#!/bin/sh
# What examples/quickstart.sh does when it is run again: it trains once, keeps a model until there is a new one,
# and builds what install needs. Its own script with everything slow played: a corpus that is there, stand-ins
# for cmake and mpirun; configurations and the program are real. Called with the program and cmake.
. "$(dirname "$0")/../support/cli.sh"
cmake=${2:?cmake}
shown=said

mkdir -p clone/build clone/runs/quickstart-corpus play
cp -r "$root/examples" clone
printf '#!/bin/sh\n' >clone/examples/install.sh
echo text | tee clone/runs/quickstart-corpus/train.txt >clone/runs/quickstart-corpus/eval.txt
cat >clone/build/dstrain <<EOT
#!/bin/sh
[ "\$1" = generate ] || exec "$program" "\$@"
echo "a sample of \$(cat "\$2/model.safetensors")"
EOT
cat >play/cmake <<'EOT'
#!/bin/sh
echo "$*" >>../cmakes
touch build/build.ninja
EOT
# a training that ends as ../ends says: well, or before there is a model
cat >play/mpirun <<'EOT'
#!/bin/sh
echo train >>../trainings
mkdir -p runs/quickstart/export
build/dstrain check examples/quickstart.ini >runs/quickstart/config.ini
touch runs/quickstart/metrics.jsonl
[ "$(cat ../ends)" = well ] || exit 70
sleep 0.05
wc -l <../trainings >runs/quickstart/export/model.safetensors
EOT
chmod +x clone/examples/install.sh clone/build/dstrain play/*

# quickstart WANTED TRAININGS SAMPLE option ...: ends with WANTED; so many trainings so far; whose sample is shown
quickstart() {
    wanted=$1 trainings=$2 sample=$3
    shift 3
    PATH=$work/play:$PATH clone/examples/quickstart.sh "$@" >said 2>&1
    got=$?
    [ $got = "$wanted" ] || fail "quickstart $*: exit code $got"
    [ "$(wc -l <trainings)" = "$trainings" ] || fail "quickstart $*: $(wc -l <trainings) trainings, not $trainings"
    if [ "$sample" = none ]; then
        grep -q "a sample of" said && fail "quickstart $*: a sample of what?"
    else
        grep -q "^a sample of $sample\$" said || fail "quickstart $*: not a sample of model $sample"
    fi
}

: >trainings
echo badly >ends
quickstart 70 1 none
echo well >ends
quickstart 0 2 2
quickstart 0 2 2
grep -q -- "to train anew: examples/quickstart.sh --again" said || fail "nothing says how to train anew"
quickstart 0 3 3 --again
echo badly >ends
quickstart 70 4 none --again
[ "$(cat clone/runs/quickstart/export/model.safetensors)" = 3 ] || fail "an interrupted training took the model away"
quickstart 70 5 none
echo well >ends
quickstart 0 6 6
sed -i 's/^steps = .*/steps = 7/' clone/examples/quickstart.ini
quickstart 0 7 7
[ "$(cat clone/runs/quickstart-1/export/model.safetensors)" = 6 ] || fail "the model of another configuration is gone"
quickstart 64 7 none --anew

# it builds what is installed; and a preset takes back what it has left out
grep -qx -- '--build build --target programs' cmakes || fail "what is built is not what is installed"
(cd "$root" && "$cmake" --preset default -N) >said 2>&1
grep -q 'DS_TESTS="ON"' said || fail "--preset default does not say that tests are built"
[ $bad = 0 ] && echo "the quickstart can be run again"
exit $bad
