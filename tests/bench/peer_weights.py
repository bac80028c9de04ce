"""Weights as peer_torch.py draws them on one GPU, by PyTorch's own rules for nn.Linear and nn.Embedding, as a Hugging Face folder: dstrain
starts from it with [model] path, and both then multiply the same kind of numbers. peer_weights.py 124m|1b FOLDER"""
import json, os, sys

import torch
from safetensors.torch import save_file

SHAPES = {  # hidden, layers, heads, kv heads, intermediate, vocabulary, rope theta
    "124m": (768, 12, 12, 12, 2048, 50304, 1e4),
    "1b": (2048, 16, 32, 8, 8192, 128256, 5e5),
}


def main(name, folder):
    hidden, layers, heads, kv, wide, vocabulary, theta = SHAPES[name]
    dim = hidden // heads
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def linear(rows, columns):
        return torch.nn.Linear(columns, rows, bias=False, device=device).weight.data.cpu()

    tensors = {
        "model.embed_tokens.weight": torch.nn.Embedding(vocabulary, hidden, device=device).weight.data.cpu(),
        "model.norm.weight": torch.ones(hidden),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}."
        tensors |= {
            at + "self_attn.q_proj.weight": linear(heads * dim, hidden),
            at + "self_attn.k_proj.weight": linear(kv * dim, hidden),
            at + "self_attn.v_proj.weight": linear(kv * dim, hidden),
            at + "self_attn.o_proj.weight": linear(hidden, heads * dim),
            at + "mlp.gate_proj.weight": linear(wide, hidden),
            at + "mlp.up_proj.weight": linear(wide, hidden),
            at + "mlp.down_proj.weight": linear(hidden, wide),
            at + "input_layernorm.weight": torch.ones(hidden),
            at + "post_attention_layernorm.weight": torch.ones(hidden),
        }
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden, intermediate_size=wide,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim,
        vocab_size=vocabulary, rms_norm_eps=1e-5, rope_theta=theta, tie_word_embeddings=True, hidden_act="silu",
        max_position_embeddings=131072, torch_dtype="float32",
    )
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
