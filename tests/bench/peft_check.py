#!/usr/bin/env python3
"""dstrain beside transformers and peft, on the cpu: models and adapters that one of them wrote, in the other.

    tests/bench/peft_check.py build/dstrain [--work DIR] [--only llama] [--seed N]

Small random models of each family in shapes that are not round, trained through the command line and by torch on the
same data. A line of JSON a figure: what, of which model, on which layout, the largest difference (relative, see
`apart`) and what it may be. The exit code is 1 where one is more than that. Needs torch, transformers, peft and
safetensors; no test needs them.

    full      losses of dstrain's steps against torch's; its export, loaded by transformers: logits against torch's model
    ours      an adapter trained by dstrain from its own first factors: losses against peft's, which goes on from the
              same folder; logits of what both have come to, each loaded by peft
    merged    dstrain export --merge, loaded by transformers: logits against peft's with the adapter beside the model
    seen      of the adapter that dstrain has written: losses of single batches, as dstrain computes them and as peft does
    tokens    of the same adapter, the logits themselves: log-probabilities of tokens drawn from all of the vocabulary behind
              drawn places, each dstrain's loss of a batch in which that one token is trained, against peft's log-softmax
    theirs    an adapter that peft has trained and saved, gone on with by both
    nf4, int8 dstrain export --quant, where bitsandbytes is there: how many codes are not those that it makes of the
              same weights; the folder, loaded by transformers: what codes stand for (as a whole: of absmax and of
              ties some are rounded otherwise), and what is not quantised. QLoRA on such a folder: losses of dstrain
              with lora.base = nf4 against peft's, and the factors of both. (With int8 bitsandbytes rounds activations.)
"""
import argparse
import json
import os
import subprocess
import sys
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

try:
    import bitsandbytes
except ImportError:
    bitsandbytes = None

STEPS, ROWS, SEQ, VOCAB = 10, 12, 37, 509
TOKENS = 60
ENVIRON = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
               OMPI_MCA_rmaps_base_oversubscribe="1", OMP_NUM_THREADS="1")

# heads that tensor ranks can share out: `tensor` of them
MODELS = {
    "llama": (transformers.LlamaConfig, 7, dict(hidden_size=56, intermediate_size=100, num_attention_heads=7,
              num_key_value_heads=7, head_dim=12, tie_word_embeddings=False, rms_norm_eps=1e-5,
              rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0,
                                   high_freq_factor=4.0, original_max_position_embeddings=64))),
    "qwen2": (transformers.Qwen2Config, 7, dict(hidden_size=70, intermediate_size=90, num_attention_heads=7,
              num_key_value_heads=1, tie_word_embeddings=True)),
    "qwen3": (transformers.Qwen3Config, 2, dict(hidden_size=40, intermediate_size=93, num_attention_heads=6,
              num_key_value_heads=2, head_dim=24, tie_word_embeddings=False)),
    # widths of whole blocks: bitsandbytes' own products on the cpu want that
    "quantised": (transformers.LlamaConfig, 2, dict(hidden_size=128, intermediate_size=256, num_attention_heads=4,
                  num_key_value_heads=2, tie_word_embeddings=False, rms_norm_eps=1e-5)),
}
FAMILIES = ["llama", "qwen2", "qwen3"]
# keys of [lora] and the same for peft
ADAPTERS = {
    "all-linear": ("r = 5\nalpha = 11\ntarget_modules = all-linear", dict(
        r=5, lora_alpha=11, target_modules="all-linear")),
    "patterns": ("r = 4\nalpha = 6\nrslora = true\ntarget_modules = q_proj, v_proj, o_proj, down_proj\n"
                 "rank_pattern = layers.1.mlp.down_proj: 7, v_proj: 3\nalpha_pattern = q_proj: 9", dict(
                     r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
                     rank_pattern={"layers.1.mlp.down_proj": 7, "v_proj": 3}, alpha_pattern={"q_proj": 9})),
    "regular": ("r = 3\nalpha = 3\ntarget_modules = /.*layers\\.[02]\\..*(k|gate|up)_proj/", dict(
        r=3, lora_alpha=3, target_modules=r".*layers\.[02]\..*(k|gate|up)_proj")),
    "dora": ("r = 4\nalpha = 6\ndora = true\ntarget_modules = q_proj, v_proj, o_proj, up_proj, down_proj", dict(
        r=4, lora_alpha=6, use_dora=True, target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"])),
    "whole": ("r = 3\nalpha = 5\nbias = lora_only\nmodules_to_save = embed_tokens, norm\ntarget_modules = q_proj, o_proj\n"
              "exclude_modules = 1.self_attn.q_proj\nlayers_to_transform = 0-1", dict(
                  r=3, lora_alpha=5, bias="lora_only", modules_to_save=["embed_tokens", "norm"], ensure_weight_tying=True,
                  target_modules=["q_proj", "o_proj"], exclude_modules=["1.self_attn.q_proj"],
                  layers_to_transform=[0, 1])),
}


def layouts_of(tensor):  # name: ranks, keys
    return {"1": (1, ""), "stage 3 of 2": (2, "[zero]\nstage = 3\n"),
            f"tensor {tensor}": (tensor, f"[parallel]\ntensor = {tensor}\n"),
            "pipeline 2": (2, "[parallel]\npipeline = 2\n")}


class Checks:
    def __init__(self):
        self.failed = False

    def __call__(self, what, of, layout, value, limit):
        passed = value <= limit
        self.failed |= not passed
        print(json.dumps(dict(check=what, of=of, layout=layout, apart=float(f"{value:.3g}"), limit=limit,
                              passed=passed)), flush=True)


def apart(a, b):
    """The largest difference over the largest size: of numbers, one by one, of tensors, of all together."""
    if isinstance(a, list):
        assert len(a) == len(b), (len(a), len(b))
        return max(abs(x - y) / abs(y) for x, y in zip(a, b))
    return float((a - b).abs().max() / b.abs().max())


# ---- what is compared


def new_model(family, seed):
    kind, _, keys = MODELS[family]
    torch.manual_seed(seed)
    config = kind(num_hidden_layers=3, vocab_size=VOCAB, max_position_embeddings=256, initializer_range=0.08,
                  use_cache=False, attn_implementation="eager", bos_token_id=1, eos_token_id=2, **keys)
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def new_data(path, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (ROWS, SEQ), generator=generator)
    labels = ids.clone()
    labels[0::3, :6] = -100
    labels[1::3, -4:] = -100
    save_file({"input_ids": ids, "labels": labels}, path)
    return ids, labels


def new_tokens(path, data, seed):
    """(row, place, token) one by one; in the file each is a batch of that row, twice, with that token alone to learn there."""
    generator = torch.Generator().manual_seed(seed)
    rows, places, tokens = (torch.randint(low, high, (TOKENS,), generator=generator)
                            for low, high in [(0, ROWS), (1, SEQ), (0, VOCAB)])
    labels = torch.full((TOKENS, SEQ), -100)
    labels[torch.arange(TOKENS), places] = tokens
    save_file({"input_ids": data[0][rows].repeat_interleave(2, 0), "labels": labels.repeat_interleave(2, 0)}, path)
    return rows, places, tokens


def batches(data):
    return [(data[0][i:i + 2], data[1][i:i + 2]) for i in range(0, ROWS, 2)]


def load(path, adapter=None, trains=False):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter, is_trainable=trains) if adapter else model


def logits(model, data):
    model.eval()
    with torch.no_grad():
        return model(input_ids=data[0]).logits


def losses(model, data):
    model.eval()
    with torch.no_grad():
        return [float(model(input_ids=x, labels=y).loss) for x, y in batches(data)]


def train(model, data, rate, decay, steps=STEPS):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=decay)
    some, said = batches(data), []
    model.train()
    for step in range(steps):
        x, y = some[step % len(some)]
        loss = model(input_ids=x, labels=y).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        said.append(float(loss))
    return said


# ---- the program


def program(*words, ranks=0):
    command = (["mpirun", "-n", str(ranks)] if ranks else []) + [sys.argv[1], *words]
    done = subprocess.run(command, env=ENVIRON, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def dstrain(run, model, data, layout, lora="", rate=1e-3, decay=0.0, steps=STEPS):
    """Losses of a run; its export lies in run/export."""
    ranks, keys = layout
    with open(run + ".ini", "w") as file:
        file.write(f"[run]\ndir = {run}\ndevice = cpu\nthreads = 1\n[model]\npath = {model}\n[lora]\n{lora}\n"
                   f"[data]\nformat = safetensors\ntrain = {data}\nshuffle = false\n[train]\nsteps = {steps}\n"
                   f"global_batch_size = 2\nmicro_batch_size = 1\nseq_length = {SEQ}\ngrad_clip = 1.0\n"
                   f"[optimizer]\nlearning_rate = {rate}\nbeta2 = 0.95\neps = 1e-5\nweight_decay = {decay}\n"
                   f"weight_decay_on = all\n[schedule]\nkind = constant\n{keys}")
    program(run + ".ini", ranks=ranks)
    with open(run + "/metrics.jsonl") as file:
        return [json.loads(line)["loss"] for line in file]


# ---- the checks


def check_full(check, family, work, base, file, data, layouts):
    for name, layout in layouts.items():
        run = f"{work}/full-{layout[0]}-{name[0]}"
        said = dstrain(run, base, file, layout, decay=0.1)
        peer = load(base)
        check("full losses", family, name, apart(said, train(peer, data, 1e-3, 0.1)), 2e-6)
        check("full logits", family, name, apart(logits(load(run + "/export"), data), logits(peer, data)), 1e-5)


def check_adapter(check, of, work, base, file, data, layouts, keys, seed):
    begin = f"{work}/begin"
    dstrain(begin, base, file, layouts["1"], keys, rate=0, steps=1)
    peer = load(base, begin + "/export", trains=True)
    wanted = train(peer, data, 5e-3, 0.0)
    wanted_logits = logits(peer, data)
    one_by_one = f"{work}/tokens.safetensors"
    drawn = new_tokens(one_by_one, data, seed)
    for name, layout in layouts.items():
        run = f"{work}/ours-{layout[0]}-{name[0]}"
        said = dstrain(run, base, file, layout, keys, rate=5e-3)
        check("ours losses", of, name, apart(said, wanted), 5e-6)
        there = logits(load(base, run + "/export"), data)
        seen = dstrain(run + "-tokens", base, one_by_one, layout, f"adapter = {run}/export", rate=0, steps=TOKENS)
        rows, places, tokens = drawn
        check("seen tokens", of, name, apart(torch.tensor(seen), -there.log_softmax(-1)[rows, places - 1, tokens]), 1e-5)
        check("ours logits", of, name, apart(there, wanted_logits), 1e-4)
        program("export", "--merge", run + "/export", run + "/merged")
        check("merged logits", of, name, apart(logits(load(run + "/merged"), data), there), 1e-5)
        seen = dstrain(run + "-seen", base, file, layout, f"adapter = {run}/export", rate=0, steps=ROWS // 2)
        check("seen losses", of, name, apart(seen, losses(load(base, run + "/export"), data)), 1e-6)


def check_theirs(check, of, work, base, file, data, layouts, settings, seed):
    torch.manual_seed(seed)
    peer = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    train(peer, data, 5e-3, 0.0)
    peer.save_pretrained(f"{work}/theirs")
    wanted = train(peer, data, 2e-3, 0.01)
    wanted_logits = logits(peer, data)
    # rows of a table that few tokens look up have gradients near 0, whose rounding AdamW makes larger
    limit = 1e-4 if "modules_to_save" in settings else 1e-5
    for name, layout in layouts.items():
        run = f"{work}/on-{layout[0]}-{name[0]}"
        said = dstrain(run, base, file, layout, f"adapter = {work}/theirs", rate=2e-3, decay=0.01)
        check("theirs losses", of, name, apart(said, wanted), 5e-6)
        check("theirs logits", of, name, apart(logits(load(base, run + "/export"), data), wanted_logits), limit)


def stored(kind, weight):
    """Codes of a matrix, and what they stand for, by bitsandbytes itself."""
    if kind == "int8":
        codes, absmax, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.half())
        return codes, codes.float() * absmax[:, None] / 127
    codes, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return codes, bitsandbytes.functional.dequantize_4bit(codes, state)


def weight_of(module):
    """What a quantised module computes with."""
    weight = module.weight
    if isinstance(module, bitsandbytes.nn.Linear4bit):
        return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    return weight.data.float() * weight.SCB[:, None] / 127


def check_stored(check, kind, base, export):
    there, weights = load_file(export + "/model.safetensors"), load_file(base + "/model.safetensors")
    others, square, size = 0, 0.0, 0.0
    for name, module in load(export).named_modules():
        if not isinstance(module, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)):
            continue
        weight, here = weights.pop(name + ".weight"), weight_of(module)
        codes, values = stored(kind, weight)
        is_other = there[name + ".weight"] != codes
        if kind == "int8":  # of two that are equally near either will do
            is_other &= (here - weight).abs() > (values - weight).abs() * (1 + 1e-4)
        others += int(is_other.sum())
        square, size = square + float((here - values).square().sum()), size + float(values.square().sum())
    check(f"{kind} codes", "quantised", "", others, 0)
    check(f"{kind} weights", "quantised", "", (square / size) ** 0.5, 1e-3)
    check(f"{kind} the rest", "quantised", "", max(float((there[n] - w).abs().max()) for n, w in weights.items()), 0)


def factors_apart(path, peer):
    there, here = load_file(path + "/adapter_model.safetensors"), get_peft_model_state_dict(peer)
    assert there.keys() == here.keys()
    square = sum(float((there[name] - here[name]).square().sum()) for name in there)
    return (square / sum(float(value.square().sum()) for value in here.values())) ** 0.5


def check_quantised(check, work, seed):
    base, file, layouts = f"{work}/base", f"{work}/data.safetensors", layouts_of(2)
    os.makedirs(work)
    new_model("quantised", seed).to(torch.bfloat16).float().save_pretrained(base)
    data = new_data(file, seed)
    for kind in ["nf4", "int8"]:
        program("export", "--quant", kind, base, f"{work}/{kind}")
        check_stored(check, kind, base, f"{work}/{kind}")
    keys = "r = 4\nalpha = 8\nbase = nf4"
    dstrain(f"{work}/begin", f"{work}/nf4", file, layouts["1"], keys, rate=0, steps=1)
    peer = load(f"{work}/nf4", f"{work}/begin/export", trains=True)
    wanted = train(peer, data, 5e-3, 0.0)
    for name, layout in layouts.items():
        run = f"{work}/run-{layout[0]}-{name[0]}"
        said = dstrain(run, f"{work}/nf4", file, layout, keys, rate=5e-3)
        check("nf4 losses", "quantised", name, apart(said, wanted), 5e-6)
        check("nf4 factors", "quantised", name, factors_apart(run + "/export", peer), 1e-4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dstrain")
    parser.add_argument("--work", default="peft_check")
    parser.add_argument("--only", choices=FAMILIES, action="append")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    check = Checks()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    if bitsandbytes and not asked.only:
        check_quantised(check, os.path.abspath(f"{asked.work}/quantised"), asked.seed)
    for family in asked.only or FAMILIES:
        layouts = layouts_of(MODELS[family][1])
        work = os.path.abspath(f"{asked.work}/{family}")
        base, file = f"{work}/base", f"{work}/data.safetensors"
        os.makedirs(work)
        new_model(family, asked.seed).save_pretrained(base)
        data = new_data(file, asked.seed + 1)
        check_full(check, family, work, base, file, data, layouts)
        for name, (keys, settings) in ADAPTERS.items():
            of, place = f"{family}, {name}", f"{work}/{name}"
            os.makedirs(place)
            check_adapter(check, of, place, base, file, data, layouts, keys, asked.seed)
            check_theirs(check, of, place, base, file, data, layouts, settings, asked.seed)
    sys.exit(check.failed)


if __name__ == "__main__":
    main()
