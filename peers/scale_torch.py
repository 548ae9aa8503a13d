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
    """The fields of a config.json that matter here."""

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
    model_type: str = "llama"
    windows: tuple = ()
    """How many tokens each layer's queries look back over, themselves included; None for all."""

    @property
    def post_norms(self):
        return self.model_type == "olmo2"

    @property
    def residual_norms(self):
        return ("post_attention_layernorm", "post_feedforward_layernorm") if self.post_norms else NORMS

    def query_key_norm_sizes(self, heads, key_value_heads):
        """Lengths of the weights of q_norm and k_norm over so many heads; none where queries and keys are not normalised."""
        sizes = {"qwen3": (1, 1), "olmo2": (heads, key_value_heads)}.get(self.model_type, ())
        return tuple(n * self.head_dim for n in sizes)

    def window(self, layer):
        return self.windows[layer] if self.windows else None


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
    path = pathlib.Path(directory) / "config.json"
    return parse_config(json.loads(path.read_text()), path)


def parse_config(j, path="config.json"):
    """The configuration of a `config.json`; what is not in this reference ends the program."""
    rope = j.get("rope_parameters") or j.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise SystemExit(f"{path}: rope type {kind!r} is not in this reference; compare with transformers instead")
    model_type = j.get("model_type", "llama")
    if model_type not in ("llama", "mistral", "qwen2", "qwen3", "olmo2"):
        raise SystemExit(f"{path}: model type {model_type!r} is not in this reference")
    sliding = j.get("sliding_window") if model_type == "mistral" or j.get("use_sliding_window") else None
    types = j.get("layer_types") if model_type.startswith("qwen") else None
    if model_type.startswith("qwen") and sliding and types is None:
        raise SystemExit(f"{path}: this reference needs `layer_types` where there is a sliding window")
    windows = tuple(sliding if types is None or types[layer] == "sliding_attention" else None for layer in range(j["num_hidden_layers"]))
    heads = j["num_attention_heads"]
    return Config(
        j["vocab_size"], j["hidden_size"], j["intermediate_size"], j["num_hidden_layers"], heads,
        j.get("num_key_value_heads") or heads, j.get("head_dim") or j["hidden_size"] // heads, j["rms_norm_eps"],
        j.get("rope_theta") or rope.get("rope_theta") or 10000.0, j.get("tie_word_embeddings", False), model_type, windows,
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


def attend(q, k, v, head_dim, table, norms=(), eps=0.0, window=None):
    """Causal grouped-query attention over the heads that q, k and v hold, `[batch, seq, heads * head_dim]` each.

    `norms` are the weights of queries and keys, of one head or of all together; `window` is how many tokens a query looks back over."""
    if norms:
        q, k = (rms_norm(t.unflatten(-1, (-1, len(w))), w, eps).flatten(-2) for t, w in zip((q, k), norms))
    q, k, v = (t.unflatten(-1, (-1, head_dim)).transpose(1, 2) for t in (q, k, v))
    q, k = rotate(q, table).to(v.dtype), rotate(k, table).to(v.dtype)
    length = q.shape[2]
    masked = window is not None and window < length
    mask = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window) if masked else None
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=not masked, enable_gqa=q.shape[1] != k.shape[1])
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
        norm = lambda path, t: rms_norm(t, base[f"{prefix}{path}.weight"], eps)
        before = lambda path, t: t if config.post_norms else norm(path, t)
        behind = lambda path, t: norm(path, t) if config.post_norms else t
        first, second = config.residual_norms
        query_key = [w for n in ("q_norm", "k_norm") if (w := base.get(f"{prefix}self_attn.{n}.weight")) is not None]
        h = before(first, x)
        q, k, v = (linear(path, h) for path in ATTENTION[:3])
        attended = attend(q, k, v, config.head_dim, table, query_key, eps, config.window(layer))
        x = x + behind(first, linear("self_attn.o_proj", attended))
        h = before(second, x)
        x = x + behind(second, linear("mlp.down_proj", F.silu(linear("mlp.gate_proj", h)) * linear("mlp.up_proj", h)))
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
        for path in config.residual_norms:
            shapes[f"model.layers.{layer}.{path}.expansion.weight"] = (e,)
        for path, size in zip(("q_norm", "k_norm"), config.query_key_norm_sizes(growth.num_attention_heads, growth.num_key_value_heads)):
            shapes[f"model.layers.{layer}.self_attn.{path}.expansion.weight"] = (size,)
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

        def norm(path, x, z):
            return rms_norm(x, base[f"{prefix}{path}.weight"], eps), rms_norm(z, expansion[f"{prefix}{path}.expansion.weight"], eps)

        def before(path, x, z):
            return (x, z) if config.post_norms else norm(path, x, z)

        def behind(path, x, z):
            return norm(path, x, z) if config.post_norms else (x, z)

        def attended(stream):
            names = (f"{prefix}self_attn.{n}.{'weight' if stream == 0 else 'expansion.weight'}" for n in ("q_norm", "k_norm"))
            norms = [w for n in names if (w := (base, expansion)[stream].get(n)) is not None]
            return attend(q[stream], k[stream], v[stream], hd, table, norms, eps, config.window(layer))

        first, second = config.residual_norms
        h = before(first, x, z)
        q, k, v = (linear(path, *h) for path in ATTENTION[:3])
        dx, dz = behind(first, *linear("self_attn.o_proj", attended(0), attended(1)))
        x, z = x + dx, z + dz
        h = before(second, x, z)
        gate, up = linear("mlp.gate_proj", *h), linear("mlp.up_proj", *h)
        dx, dz = behind(second, *linear("mlp.down_proj", *(F.silu(gate[i]) * up[i] for i in (0, 1))))
        x, z = x + dx, z + dz
    adapted = base_head(base, rms_norm(x, base["model.norm.weight"], eps))
    adapted = adapted + F.linear(rms_norm(z, expansion["model.norm.expansion.weight"], eps), expansion["lm_head.expansion.weight"])
    if not both:
        return adapted
    with torch.no_grad():
        return base_logits(config, base, ids), adapted
