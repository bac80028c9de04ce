#!/usr/bin/env python3
"""dstrain's chat templates beside transformers': the tokens of random conversations, through the command line.

    tests/bench/chat_check.py build/dstrain [--tokenizers FOLDER] [--work DIR] [--seed N]

Every template in tests/golden/chat beside the small tokenizer that goes with it; with --tokenizers the whole ones in that
folder, too (NAME.tokenizer.json and NAME.tokenizer_config.json, packed by xz or not). `dstrain prepare` makes shards of
conversations, apply_chat_template renders the same. A line of JSON for each; the exit code is 1 where one differs. Needs
transformers and safetensors; no test needs them.
"""
import argparse
import json
import lzma
import os
import random
import subprocess
import sys

import transformers
from safetensors.numpy import load_file

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORDS = ["Hello", " there", "42", "naïve café", "\n\n", "  two", "汉字", "😀", "def f(x):\n    return x", "\t", "it's", "?", " ", "e\u0301"]
MARKS = {"llama2": ("<s>", "</s>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "llama3.1": ("<|begin_of_text|>", "<|eot_id|>")}
DEEPSEEK_MARKS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")


def text(draw):
    return "".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))


def conversation(draw):
    """Contents begin and end with letters: spaces there are the template's business, which cases in tests/golden look at."""
    said = [dict(role="system", content="S" + text(draw) + "s")] if draw.random() < 0.5 else []
    for _ in range(draw.randint(1, 3)):
        said += [dict(role="user", content="U" + text(draw) + "u"), dict(role="assistant", content="A" + text(draw) + "a")]
    return said


def add(tokenizer, token):
    ids = [*tokenizer["model"]["vocab"].values(), *(there["id"] for there in tokenizer["added_tokens"])]
    tokenizer["added_tokens"].append(dict(id=max(ids) + 1, content=token, single_word=False, lstrip=False, rstrip=False,
                                          normalized=False, special=True))


def folders(asked, work):
    """name, folder with tokenizer.json and tokenizer_config.json"""
    with open(f"{ROOT}/tests/golden/chat/expected.json") as file:
        golden = json.load(file)
    for name, template in golden["templates"].items():
        small = next(case["tokenizer"] for case in golden["cases"] if case["template"] == name)
        with open(f"{ROOT}/tests/golden/tokenizers/{small}/tokenizer.json") as file:
            tokenizer = json.load(file)
        for token in ["<|start_header_id|>", "<|end_header_id|>"] if name.startswith("llama3") else []:
            add(tokenizer, token)
        bos, eos = MARKS.get(name, DEEPSEEK_MARKS if "deepseek" in name else (None, "<|im_end|>"))
        folder = f"{work}/{name}"
        os.makedirs(folder)
        with open(folder + "/tokenizer.json", "w") as file:
            json.dump(tokenizer, file)
        with open(folder + "/tokenizer_config.json", "w") as file:
            json.dump(dict(chat_template=template, bos_token=bos, eos_token=eos, tokenizer_class="PreTrainedTokenizerFast"), file)
        yield name, folder
    for path in sorted(os.listdir(asked.tokenizers)) if asked.tokenizers else []:
        if ".tokenizer.json" not in path:
            continue
        name = path.split(".")[0]
        folder = f"{work}/whole-{name}"
        os.makedirs(folder)
        for part in ["tokenizer", "tokenizer_config"]:
            source = f"{asked.tokenizers}/{name}.{part}.json"
            data = open(source, "rb").read() if os.path.exists(source) else lzma.open(source + ".xz").read()
            with open(f"{folder}/{part}.json", "wb") as file:
                file.write(data)
        yield name, folder


def rows_of_dstrain(program, folder, rows):
    with open(folder + "/rows.jsonl", "w") as file:
        file.writelines(json.dumps(dict(messages=row), ensure_ascii=False) + "\n" for row in rows)
    with open(folder + "/c.ini", "w") as file:
        file.write(f"[run]\ndir = {folder}/run\ndevice = cpu\n[model]\nhidden_size = 32\nintermediate_size = 32\n"
                   f"num_hidden_layers = 1\nnum_attention_heads = 2\n[data]\nformat = jsonl\ntrain = {folder}/rows.jsonl\n"
                   f"tokenizer = {folder}\ntrain_on = all\n[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 4096\n")
    done = subprocess.run([program, "prepare", folder + "/c.ini"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{folder}: {done.stderr}")
    (shard,) = [f"{folder}/run/data/{name}" for name in os.listdir(folder + "/run/data") if name.endswith(".safetensors")]
    there = load_file(shard)
    ends = there["documents"].tolist()
    return [there["tokens"][a:b].tolist() for a, b in zip(ends, ends[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dstrain")
    parser.add_argument("--tokenizers")
    parser.add_argument("--work", default="chat_check")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    draw, failed = random.Random(asked.seed), False
    for name, folder in folders(asked, os.path.abspath(asked.work)):
        rows = [conversation(draw) for _ in range(100)]
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        wanted = [tokenizer.apply_chat_template(row, tokenize=True, return_dict=False) for row in rows]
        got = rows_of_dstrain(asked.dstrain, folder, rows)
        # what follows the last end is learned by nobody, and left out
        other = [i for i, (a, b) in enumerate(zip(got, wanted)) if a != b[:len(a)] or len(b) - len(a) > 1]
        failed |= len(got) != len(wanted) or bool(other)
        print(json.dumps(dict(template=name, rows=len(rows), tokens=sum(map(len, wanted)), others=len(other))), flush=True)
        for i in other[:1]:
            print(json.dumps(rows[i], ensure_ascii=False), tokenizer.decode(got[i]), tokenizer.decode(wanted[i]), sep="\n", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
