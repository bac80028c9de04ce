#!/bin/sh
# Properties a compiler does not check; each one protects something the program relies on. Run by
# ctest with DS_LIBS = the archives and objects of a plain build.
cd "$(dirname "$0")/.." || exit 2
sources=$(find include runtime parallel checkpoint launch -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort)
symbols=$(objdump -t ${DS_LIBS:?archives to inspect}) || exit 2
bad=0

check() { # check "what is wrong" command: every line of output is one place
    out=$($2)
    [ -z "$out" ] || { echo "$out" | sed "s|^|$1: |"; bad=1; }
}

# file:line:text of all code, without comments and without what stands in quotes (but for includes)
code=$(awk '
    FNR == 1 { in_comment = 0 }
    {
        line = $0; out = ""
        while (line != "") {
            if (in_comment) {
                at = index(line, "*/")
                if (at == 0) break
                line = substr(line, at + 2); in_comment = 0; continue
            }
            if (!match(line, /\/\*|\/\/|"([^"\\]|\\.)*"|\047([^\047\\]|\\.)*\047/)) { out = out line; break }
            found = substr(line, RSTART, RLENGTH)
            out = out substr(line, 1, RSTART - 1)
            line = substr(line, RSTART + RLENGTH)
            if (found == "//") break
            if (found == "/*") in_comment = 1
            else out = out ($0 ~ /^[ \t]*#[ \t]*include/ ? found : "\"\"")
        }
        if (out ~ /[^ \t]/) print FILENAME ":" FNR ":" out
    }' $sources)

# One build has all the logic: what was built in is asked in one file.
build_switches() { echo "$code" | grep -E 'DS_HAVE_' | grep -vE '^runtime/storage/storage\.c:'; }

# A library that ends the process makes rollback impossible and leaves peers waiting. Below launch
# there are a broken assertion, the watchdog, and the one function of comm that ends a whole job.
exits() {
    echo "$code" | awk -F: '
        $1 != file { file = $1; name = "" }
        { text = $0; sub(/^[^:]*:[^:]*:/, "", text) }
        match(text, /^[a-z].*[a-z0-9_]+\(/) { name = text; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name) }
        text !~ /(^|[^A-Za-z0-9_])(_?[eE]xit|quick_exit|abort|MPI_Abort)[ \t]*\(/ { next }
        $1 ~ /^(launch\/(main|bootstrap|fault|signals)|runtime\/base\/(status|watchdog))\.c$/ && !/MPI_Abort/ { next }
        $1 ~ /^runtime\/comm\// && name == "ds_comm_mpi_abort" { next }
        { print }'
}

# A file sees the contracts and its own folder (in launch, launch's sub-folders too; in checkpoint, the floors below). What climbs undoes the layers, and so does
# reaching for the private header of another folder. Two things are one module in several folders: a backend below a module of
# runtime (runtime/MODULE/BACKEND), which also sees the private headers of that module, as "../NAME.h", one step up and no
# further; and a plugin: all see its host, those of the CUDA plugin its device.
climbing_includes() {
    echo "$code" | sed -nE 's/^([^:]*):([0-9]+):[[:space:]]*#[[:space:]]*include[[:space:]]+["<](([^">]*\/)?\.\.\/[^">]*)[">].*/\1 \2 \3/p' |
        while read -r file line header; do
            folder=${file%/*} name=${header#../}
            case $folder in runtime/*/*/*) folder= ;; runtime/*/*) ;; *) folder= ;; esac
            case $name in */*) folder= ;; esac
            [ -n "$folder" ] && [ "$header" = "../$name" ] && [ -f "${folder%/*}/$name" ] || echo "$file:$line:#include \"$header\""
        done
}
# The floors of checkpoint, from the ground: a file sees the private headers of those below its own.
is_floor_below() {
    [ -f "checkpoint/$2" ] || return
    case ' logical  format  directory  load  hf  save ' in *" ${2%%/*} "*" ${1%%/*} "*) ;; *) false ;; esac
}
foreign_includes() {
    echo "$code" | sed -nE 's/^([^:]*):([0-9]+):[[:space:]]*#[[:space:]]*include[[:space:]]+"([^"]+)".*/\1 \2 \3/p' |
        while read -r file line header; do
            case $header in
            ../*) ;; # climbing_includes
            dstrain/*) [ -f "include/$header" ] ;;
            plugin_host.h) case $file in runtime/device/plugin_*|runtime/device/cuda/*) ;; *) false ;; esac ;;
            device_cuda.h) case $file in runtime/device/cuda/*|runtime/kernels/cuda/*|runtime/comm/nccl/*) ;; *) false ;; esac ;;
            *) [ -f "${file%/*}/$header" ] || { [ "${file%%/*}" = launch ] && [ -f "launch/$header" ]; } ||
                { [ "${file%%/*}" = checkpoint ] && is_floor_below "${file#checkpoint/}" "$header"; } ;;
            esac || echo "$file:$line:#include \"$header\""
        done
}

# The configuration and the trainer are launch's objects: what lies below is given numbers, not them.
launch_objects() {
    echo "$code" | grep -E '#[[:space:]]*include[[:space:]]+"dstrain/(config|trainer)\.h"' |
        grep -vE '^(launch/|include/dstrain/trainer\.h:)'
}

# A contract stands on contracts alone.
private_contracts() {
    echo "$code" | grep -E '^include/' | grep -E '#[[:space:]]*include[[:space:]]+"' | grep -v '"dstrain/'
}

# The order of the headers that cmocka wants is kept in one file.
cmocka_includes() { grep -rn --include='*.[ch]' '#include <cmocka' tests | grep -v '^tests/support/test\.h:'; }

# Ranks that run as threads share a mutable global. .data, .bss and their thread-local kin; what
# nvcc adds to each .cu object is not ours. Allowed: the log, the plugin's pointer to its host, and
# OpenBLAS's functions, which are found once for a process (kernel_blas).
mutable_globals() {
    echo "$symbols" | awk '/[ \t]\.t?(data|bss)[.\t]/ && !/\.rel\.ro/ &&
        $NF !~ /^(\..*|ds_log|plugin_host|kernel_blas)$|__nv|__cuda|__device_stub|DW\.ref/ {print $NF}'
}

check "build switch outside storage.c"    build_switches
check "process ends below launch"         exits
check "include climbs out of its folder"  climbing_includes
check "private header of another folder"  foreign_includes
check "object of launch seen below it"    launch_objects
check "contract needs a private header"   private_contracts
check "cmocka.h outside of test.h"        cmocka_includes
check "mutable global"                    mutable_globals
exit $bad
