"""The widened decoder in PyTorch: a readable reference to check Treering against, and the opponent in the speed comparison.

Weights are plain dictionaries of tensors. The base has its Hugging Face names; an expansion has the names of Treering's
expansion files (docs/format.md), so either side's files load into the other. docs/method.md says what is computed and why.

    config, base = load_base("models/SmolLM2-135M-Instruct")
    logits = base_logits(config, base, ids)                               # [batch, seq, vocab]
    expansion = grow(config, base, Growth())
    preserved, adapted = widened_logits(config, base, Growth(), expansion, ids, both=True)
"""

import json
import pathlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FFN = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass
class Config:
    """The fields of a Llama config.json that matter here."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool


@dataclass
class Growth:
    """Added sizes, and where W12 is trained; the defaults are the recipes' for SmolLM2-135M."""

    hidden_size: int = 64
    num_attention_heads: int = 3
    num_key_value_heads: int = 1
    intermediate_size: int = 256
    preserved_layers: int = 1 << 30
    modules: tuple = ("attention",)

    def trains_w12(self, layer, path):
        module = "attention" if path.startswith("self_attn") else "ffn"
        return layer >= self.preserved_layers and module in self.modules


def read_config(directory):
    j = json.loads((pathlib.Path(directory) / "config.json").read_text())
    rope = j.get("rope_parameters") or j.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise SystemExit(f"{directory}/config.json: rope type {kind!r} is not in this reference; compare with transformers instead")
    heads = j["num_attention_heads"]
    return Config(
        j["vocab_size"], j["hidden_size"], j["intermediate_size"], j["num_hidden_layers"], heads,
        j.get("num_key_value_heads") or heads, j.get("head_dim") or j["hidden_size"] // heads, j["rms_norm_eps"],
        j.get("rope_theta") or rope.get("rope_theta") or 10000.0, j.get("tie_word_embeddings", False),
    )


def load_base(directory, dtype=torch.float32):
    """Reads a Hugging Face folder: its configuration and its tensors by name."""
    from safetensors.torch import load_file

    weights = {}
    for file in sorted(pathlib.Path(directory).glob("*.safetensors")):
        weights |= load_file(file)
    config = read_config(directory)
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return config, {name: value.to(dtype) for name, value in weights.items()}


def rms_norm(x, weight, eps):
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def rope_table(length, config):
    inverse = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
    angles = torch.outer(torch.arange(length, dtype=inverse.dtype), inverse).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x, table):
    low, high = x.chunk(2, -1)
    return x * table[0] + torch.cat([-high, low], -1) * table[1]


def attend(q, k, v, head_dim, table):
    """Causal grouped-query attention over the heads that q, k and v hold, `[batch, seq, heads * head_dim]` each."""
    q, k, v = (t.unflatten(-1, (-1, head_dim)).transpose(1, 2) for t in (q, k, v))
    q, k = rotate(q, table).to(v.dtype), rotate(k, table).to(v.dtype)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2).flatten(2)


def base_head(base, x):
    return F.linear(x, base.get("lm_head.weight", base["model.embed_tokens.weight"]))


def base_logits(config, base, ids):
    """The unwidened model, `[batch, seq]` tokens to `[batch, seq, vocab]` logits."""
    eps, table, x = config.rms_norm_eps, rope_table(ids.shape[1], config), F.embedding(ids, base["model.embed_tokens.weight"])
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        linear = lambda path, t: F.linear(t, base[f"{prefix}{path}.weight"], base.get(f"{prefix}{path}.bias"))
        norm = lambda path: rms_norm(x, base[f"{prefix}{path}.weight"], eps)
        h = norm("input_layernorm")
        q, k, v = (linear(path, h) for path in ATTENTION[:3])
        x = x + linear("self_attn.o_proj", attend(q, k, v, config.head_dim, table))
        h = norm("post_attention_layernorm")
        x = x + linear("mlp.down_proj", F.silu(linear("mlp.gate_proj", h)) * linear("mlp.up_proj", h))
    return base_head(base, rms_norm(x, base["model.norm.weight"], eps))


def expansion_shapes(config, growth):
    """Name and shape of every trained tensor."""
    e, m, hd = growth.hidden_size, growth.intermediate_size, config.head_dim
    q, kv, d = growth.num_attention_heads * hd, growth.num_key_value_heads * hd, config.hidden_size
    base_q, base_kv = config.num_attention_heads * hd, config.num_key_value_heads * hd
    # base out, base in, added out, added in
    sides = {
        "self_attn.q_proj": (base_q, d, q, e), "self_attn.k_proj": (base_kv, d, kv, e), "self_attn.v_proj": (base_kv, d, kv, e),
        "self_attn.o_proj": (d, base_q, e, q),
        "mlp.gate_proj": (config.intermediate_size, d, m, e), "mlp.up_proj": (config.intermediate_size, d, m, e),
        "mlp.down_proj": (d, config.intermediate_size, e, m),
    }
    shapes = {"model.embed_tokens.expansion.weight": (config.vocab_size, e), "lm_head.expansion.weight": (config.vocab_size, e), "model.norm.expansion.weight": (e,)}
    for layer in range(config.num_hidden_layers):
        for path in NORMS:
            shapes[f"model.layers.{layer}.{path}.expansion.weight"] = (e,)
        for path, (out, inp, out_up, in_up) in sides.items():
            prefix = f"model.layers.{layer}.{path}"
            shapes[f"{prefix}.base_to_expansion.weight"] = (out_up, inp)
            shapes[f"{prefix}.expansion_to_expansion.weight"] = (out_up, in_up)
            if growth.trains_w12(layer, path):
                shapes[f"{prefix}.expansion_to_base.weight"] = (out, in_up)
    return shapes


def grow(config, base, growth, seed=0):
    """`svd,zero`: W21 sees the base along its own main directions, W22, W12 and the new head start at zero."""
    generator = torch.Generator().manual_seed(seed)
    expansion = {}
    for name, shape in expansion_shapes(config, growth).items():
        path, block, _ = name.rsplit(".", 2)
        value = torch.zeros(shape)
        if block == "base_to_expansion":
            _, s, vt = torch.linalg.svd(base[f"{path}.weight"].float(), full_matrices=False)
            value = torch.randn(shape, generator=generator) * 0.02
            top = (s[:, None] * vt)[: shape[0]]
            value[: len(top)] = top
        elif name == "model.embed_tokens.expansion.weight":
            embedding = base["model.embed_tokens.weight"].float()
            value = embedding @ torch.linalg.eigh(embedding.T @ embedding).eigenvectors.flip(-1)[:, : shape[1]]
        elif len(shape) == 1:
            value = torch.ones(shape)
        expansion[name] = value.contiguous()
    return expansion


def widened_logits(config, base, growth, expansion, ids, both=False):
    """Adaptation logits, or with `both` (preservation, adaptation): two residual streams side by side, the base one frozen."""
    eps, table, hd = config.rms_norm_eps, rope_table(ids.shape[1], config), config.head_dim
    x = F.embedding(ids, base["model.embed_tokens.weight"])
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    z = F.embedding(ids, expansion["model.embed_tokens.expansion.weight"])
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."

        def linear(path, x, z):
            name = prefix + path
            y = F.linear(x, base[f"{name}.weight"], base.get(f"{name}.bias"))
            if (w12 := expansion.get(f"{name}.expansion_to_base.weight")) is not None:
                y = y + F.linear(z, w12)
            return y, F.linear(x, expansion[f"{name}.base_to_expansion.weight"]) + F.linear(z, expansion[f"{name}.expansion_to_expansion.weight"])

        def norm(path):
            return rms_norm(x, base[f"{prefix}{path}.weight"], eps), rms_norm(z, expansion[f"{prefix}{path}.expansion.weight"], eps)

        h = norm("input_layernorm")
        q, k, v = (linear(path, *h) for path in ATTENTION[:3])
        dx, dz = linear("self_attn.o_proj", *(attend(q[i], k[i], v[i], hd, table) for i in (0, 1)))
        x, z = x + dx, z + dz
        h = norm("post_attention_layernorm")
        gate, up = linear("mlp.gate_proj", *h), linear("mlp.up_proj", *h)
        dx, dz = linear("mlp.down_proj", *(F.silu(gate[i]) * up[i] for i in (0, 1)))
        x, z = x + dx, z + dz
    adapted = base_head(base, rms_norm(x, base["model.norm.weight"], eps))
    adapted = adapted + F.linear(rms_norm(z, expansion["model.norm.expansion.weight"], eps), expansion["lm_head.expansion.weight"])
    if not both:
        return adapted
    with torch.no_grad():
        return base_logits(config, base, ids), adapted
