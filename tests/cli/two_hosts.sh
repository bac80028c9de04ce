#!/bin/sh
# Two hosts on one machine: network namespaces with a wire between them, each with a name and a /dev/shm of
# its own, as real hosts have. Called with the program. mpirun starts two ranks on each: inside a host they
# talk through shared memory, between hosts through MPI, and the numbers are those of one host to the bit.
# Faults on the other host end the run on both. Needs root; what it makes goes with it, however it ends.
. "$(dirname "$0")/../support/cli.sh"
need_mpirun
command -v ip >/dev/null || { echo "skipped: no ip (iproute2)"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skipped: only root may make network namespaces"; exit 77; }

first=dstrain-test-$$-a
second=dstrain-test-$$-b
remove() { # HOST...
    for host in "$@"; do
        # shellcheck disable=SC2046
        kill -KILL $(ip netns pids "$host" 2>/dev/null) 2>/dev/null # nobody else is in there
        ip netns del "$host" 2>/dev/null
    done
}
clean_up() {
    remove $first $second
    cd / && rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 2' HUP INT PIPE TERM

# Hosts of a test that was killed and so could not remove them.
ip netns list 2>/dev/null | sed -n 's/^dstrain-test-\([0-9]*\)-[ab].*/\1/p' | sort -u | while read -r pid; do
    [ -e "/proc/$pid" ] || remove "dstrain-test-$pid-a" "dstrain-test-$pid-b"
done

make_hosts() {
    ip netns add $first && ip netns add $second &&
        ip link add wire netns $first type veth peer name wire netns $second &&
        ip -n $first addr add 10.77.0.1/24 dev wire && ip -n $second addr add 10.77.0.2/24 dev wire &&
        for host in $first $second; do
            ip -n $host link set lo up && ip -n $host link set wire up || return 1
        done
}
cat >on_host <<'EOT2'
#!/bin/sh
# on_host HOST command...: how mpirun reaches a host, and the test the one that it starts from
host=$1
shift
exec ip netns exec "$host" unshare --uts --mount sh -c \
    'hostname "$0" && mount -t tmpfs -o size=64m none /dev/shm && exec sh -c "$1"' "$host" "$*"
EOT2
chmod +x on_host
{ make_hosts && ./on_host $first true; } 2>err || {
    echo "skipped: no namespaces here: $(tail -1 err)"
    exit 77
}

count=0
small_text 2000 >t.txt
small_config run.deadline=20 model.hidden_size=32 model.intermediate_size=72 model.num_hidden_layers=3 \
    model.num_key_value_heads=2 data.eval=t.txt data.cache=cache train.steps=12 train.global_batch_size=8 \
    train.micro_batch_size=1 train.seq_length=16 train.eval_interval=5 >c.ini

# ---- running

one_host() { # DIR arguments...
    dir=$1
    shift
    what="one host, $*"
    timeout 300 mpirun -n 4 "$program" c.ini run.dir="$dir" "$@" >out 2>err
    code=$?
    count=$((count + 1))
}

# until nobody is on the hosts; who is still there after 5 s is noted and ended
await_all() {
    for _ in $(seq 50); do
        now >ended_at
        left=$(ip netns pids $first; ip netns pids $second)
        [ -n "$left" ] || break
        sleep 0.1
    done
    echo $left >left
    [ -z "$left" ] || kill -KILL $left
}

two_hosts() { # DIR arguments...
    dir=$1
    shift
    what="two hosts, $*"
    : >decided
    {
        timeout -k 5 300 ./on_host $first mpirun --mca plm_rsh_agent "$work/on_host" --host $first:2,$second:2 -n 4 \
            --bind-to none --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
            "$program" c.ini run.dir="$dir" "$@" >out
        echo $? >code
        await_all
    } 2>&1 | watch_lines >err
    code=$(cat code)
    count=$((count + 1))
    [ -z "$(cat left)" ] || fail "$what: processes were still there: $(cat left)"
    [ ! -s decided ] || [ $(($(cat ended_at) - $(cat decided))) -le 500 ] ||
        fail "$what: not all ranks ended within 5 s of the line that says why"
}

ended() { # CODE
    [ "$code" = "$1" ] || fail "$what: exit code $code, not $1"
}

numbers() { # DIR: what the clock has no part in
    grep -oE '"(step|loss|grad_norm|lr|trained_tokens|eval_loss)": [^,}]*' "$1/metrics.jsonl"
}

# same_as DIR: losses, norms, evaluations and the model, to the bit
same_as() {
    numbers "$1" >there
    numbers "$dir" >here
    [ "$(grep -c '"loss": [0-9]' here)" = 12 ] || fail "$what: not a loss a step"
    [ "$(grep -c '"eval_loss": [0-9]' here)" = 3 ] || fail "$what: not three evaluations"
    diff there here >err || fail "$what: other numbers than $1"
    cmp -s "$dir/export/model.safetensors" "$1/export/model.safetensors" || fail "$what: another model than $1"
}

# talks GROUP BACKEND: on every rank, says the log
talks() {
    [ "$(cat "$dir"/log/rank-*.log | grep -c "$1 group: .* over $2\$")" = 4 ] ||
        fail "$what: the $1 group does not talk over $2: $(cat "$dir"/log/rank-*.log | grep ' group: rank')"
}

# ---- equal numbers

# the hosts' own parts through shared memory, what joins them through messages
layouts_agree() {
    for stage in 1 3; do
        one_host "flat$stage" zero.stage=$stage
        ended 0
        talks shard shm
        two_hosts "two-flat$stage" zero.stage=$stage
        ended 0
        talks shard mpi
        same_as "flat$stage"
    done
    one_host hybrid parallel.shard=2 zero.stage=3
    ended 0
    two_hosts two-hybrid parallel.shard=2 zero.stage=3
    ended 0
    talks shard shm
    talks replica mpi
    same_as hybrid
    # tensor ranks are neighbours, stages lie on different hosts; every rank has one of each group
    one_host stages parallel.tensor=2 parallel.pipeline=2 parallel.sequence_parallel=true
    ended 0
    talks tp shm
    talks pp shm
    two_hosts two-stages parallel.tensor=2 parallel.pipeline=2 parallel.sequence_parallel=true
    ended 0
    talks tp shm
    talks pp mpi
    same_as stages
    two_hosts asked parallel.transport=shm
    ended 64
    grep -q 'command line: \[parallel\] transport = shm, but the shard group cannot have it: all its ranks on one host' err ||
        fail "$what: does not say why"
}

# MPI calls these neighbours, but no memory can be shared: each has a /dev/shm of its own
memory_that_cannot_be_shared() {
    dir=apart
    what="one host, each rank with a /dev/shm of its own"
    OMPI_MCA_btl=self,tcp timeout 300 mpirun -n 4 unshare --mount sh -c \
        'mount -t tmpfs -o size=64m none /dev/shm && exec "$0" c.ini run.dir=apart zero.stage=3' "$program" >out 2>err
    code=$?
    count=$((count + 1))
    ended 0
    talks shard mpi
    same_as flat3
}

# ---- faults on the other host

faults_end_both_hosts() {
    two_hosts killed debug.inject=kill:3:4
    ended 137
    two_hosts failed debug.inject=fail:2:4
    ended 70
    [ "$(grep -c 'error: ' err)" = 1 ] || fail "$what: not one line of error"
    grep -q 'rank 2.*error: debug.inject: a failure in step 4' err || fail "$what: does not say why"
    two_hosts hung run.deadline=6 debug.inject=hang:3:4 # a second and a half before the watchdog of the other host
    ended 71
    grep -qE 'shard group: [a-z_]+: waited ([6-9]|1[0-9]).* for rank 3 \(of 4\)' err || fail "$what: nobody names rank 3"
    [ "$(grep -cE "rank 3 \(process [0-9]+\) is behind: section 'step', step 4" err)" = 1 ] ||
        fail "$what: its neighbour does not say where it is"
    two_hosts refused data.train=missing.txt
    ended 65
    [ "$(grep -c 'error: ' err)" = 1 ] || fail "$what: not one line of error"
    [ ! -e refused ] || fail "$what: left its directory"
}

layouts_agree
memory_that_cannot_be_shared
faults_end_both_hosts
[ $bad = 0 ] && echo "$count runs ended as they should"
exit $bad
