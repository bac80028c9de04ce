#!/bin/sh
# Whatever an adapter may hold, its steps on a GPU are those of the cpu: factors of all linear layers, DoRA, biases, modules trained
# whole, a base in NF4 and int8; losses and norms of each step and the evaluation behind the last, in fp32, and the
# losses of two ranks that share the GPU. Called with the program; 77 where there is no GPU.
. "$(dirname "$0")/../support/cli.sh"
small_text 4000 >t.txt
cat >c.ini <<END
[run]
device = cuda
[model]
path = $root/tests/golden/qwen2_bias
[data]
train = t.txt
tokenizer = bytes
eval = t.txt
[train]
steps = 12
global_batch_size = 4
micro_batch_size = 2
seq_length = 32
eval_samples = 4
[precision]
compute = fp32
[lora]
r = 4
alpha = 8
[optimizer]
learning_rate = 0.003
END

need_gpu

# near KEY LIMIT A B: as many, some, and each within so much of the other, relative
near() {
    figures "$1" "$3" >a
    figures "$1" "$4" >b
    [ "$(wc -l <a)" = "$(wc -l <b)" ] && [ -s a ] || { fail "$4: other steps"; return; }
    paste a b | awk -v limit="$2" '{ d = ($1 - $2) / $2; if (d < 0) d = -d; if (d > most) most = d }
        END { printf "%.1e", most; exit most > limit }' >most || fail "$4: $1 differs by $(cat most)"
}

both() { # "what" option ...: cpu and GPU
    what=$1
    shift
    rm -rf cpu gpu two
    run cpu run.device=cpu "$@"
    [ $code -eq 0 ] || { fail "$what, cpu: $code"; return; }
    run gpu "$@"
    [ $code -eq 0 ] || { fail "$what, GPU: $code"; return; }
    near loss 2e-6 cpu gpu
    said="$what: losses $(cat most)"
    near grad_norm 2e-5 cpu gpu
    said="$said, norms $(cat most)"
    near eval_loss 2e-6 cpu gpu
    echo "$said, evaluation $(cat most)"
    cmp -s cpu/export/adapter_config.json gpu/export/adapter_config.json || fail "$what: other settings in the export"
    command -v mpirun >/dev/null || return 0
    timeout -k 5 120 mpirun -n 2 "$program" c.ini run.dir=two run.share_device=true "$@" >out 2>err ||
        { fail "$what, two ranks: $?"; return; }
    near loss 5e-5 cpu two
}

both "all linear layers"
both "DoRA" lora.dora=true
both "biases" lora.bias=all
both "modules trained whole" lora.modules_to_save="embed_tokens, norm"
both "DoRA, biases and whole modules" lora.dora=true lora.bias=lora_only lora.modules_to_save=lm_head
both "NF4" lora.base=nf4
both "NF4, DoRA, biases" lora.base=nf4 lora.dora=true lora.bias=lora_only
both "int8" lora.base=int8
exit $bad
