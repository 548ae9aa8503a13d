"""The layers of a widened model: every linear module a block matrix over the streams, everything else each stream by itself.

A ring reads the base, every ring within it and itself. Only the innermost ring may also write to the base (`expansion_to_base`), in the layers
and modules that its placement names, and there add a low-rank part to the base's own weight (`lora_A`, `lora_B`); in the lowest
layers, where the placement says so, nothing is written at a text's first position, which is to become the attention sink that the base makes of it: what
others see of it, its key and value, is adapted, what it hands on to the next layer is the base's. Fewer streams than there are rings are those of the model that had fewer rings.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


# The factor on a low-rank part.
LORA_SCALING = 2.0


class Family:
    """Where the layers of a base depart from a plain Llama's.

    Args:
        config: The configuration; its `base_model_type` names the family.
    """

    def __init__(self, config):
        kind = config.base_model_type
        if kind not in ("llama", "mistral", "qwen2", "qwen3", "olmo2"):
            raise ValueError(f"a base of type `{kind}` is not one that this code computes")
        # Norms stand behind attention and feed-forward network instead of before them.
        self.post_norms = kind == "olmo2"
        # Queries and keys are normed: each head by itself, or all heads of a stream together.
        self.query_key_norm = {"qwen3": "head", "olmo2": "projection"}.get(kind)
        bias = config.attention_bias if kind in ("llama", "qwen3", "olmo2") else False
        self.query_bias, self.output_bias = (True, False) if kind == "qwen2" else (bias, bias)
        self.mlp_bias = config.mlp_bias and kind == "llama"


def rings_of(module, count):
    """The parts of `module` that belong to the first `count` rings."""
    return [getattr(module, f"ring_{number}") for number in range(1, count + 1)]


def add_rings(module, blocks):
    """Gives `module` a child `ring_1`, `ring_2` ... for each dict of blocks."""
    for number, ring in enumerate(blocks, start=1):
        module.add_module(f"ring_{number}", nn.ModuleDict(ring))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


class WidenedNorm(RMSNorm):
    """Every stream normed by itself, each with a weight of its own."""

    def __init__(self, size, added, eps):
        super().__init__(size, eps)
        add_rings(self, [{"expansion": RMSNorm(width, eps)} for width in added])

    def forward(self, streams):
        rings = rings_of(self, len(streams) - 1)
        return [super().forward(streams[0])] + [ring["expansion"](x) for ring, x in zip(rings, streams[1:])]


class WidenedEmbedding(nn.Embedding):
    """Every stream's embedding."""

    def __init__(self, vocabulary, size, added):
        super().__init__(vocabulary, size)
        add_rings(self, [{"expansion": nn.Embedding(vocabulary, width)} for width in added])

    def forward(self, tokens, rings):
        return [super().forward(tokens)] + [ring["expansion"](tokens) for ring in rings_of(self, rings)]


class WidenedLinear(nn.Module):
    """A linear module over all streams: the base's weight, and each ring's blocks beside it.

    Args:
        added: What each ring adds to the input and to the output.
        adapts: Whether the innermost ring writes to the base here.
        rank: Of what it adds to the base's own weight then; 0 for nothing.
    """

    def __init__(self, size_in, size_out, bias, added, adapts, rank):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size_out, size_in))
        self.bias = nn.Parameter(torch.zeros(size_out)) if bias else None
        blocks = []
        for number, (width, rows) in enumerate(added, start=1):
            ring = {"base_to_expansion": nn.Linear(size_in, rows, bias=False)}
            for inner in range(1, number):
                ring[f"ring_{inner}_to_expansion"] = nn.Linear(added[inner - 1][0], rows, bias=False)
            ring["expansion_to_expansion"] = nn.Linear(width, rows, bias=False)
            if adapts and number == 1:
                ring["expansion_to_base"] = nn.Linear(width, size_out, bias=False)
                if rank > 0:
                    ring["lora_A"] = nn.Linear(size_in, rank, bias=False)
                    ring["lora_B"] = nn.Linear(rank, size_out, bias=False)
            blocks.append(ring)
        add_rings(self, blocks)

    def forward(self, inputs, held):
        """One output a stream; nothing is written to the base stream where `held` is true (`[batch, length, 1]`; `None` for nowhere)."""

        def written(x):
            return x if held is None else x.masked_fill(held, 0.0)

        outputs = [F.linear(inputs[0], self.weight, self.bias)]
        for number, ring in enumerate(rings_of(self, len(inputs) - 1), start=1):
            reads = ["base_to_expansion", *(f"ring_{inner}_to_expansion" for inner in range(1, number)), "expansion_to_expansion"]
            outputs.append(sum(ring[block](x) for block, x in zip(reads, inputs)))
            if "lora_A" in ring:
                outputs[0] = outputs[0] + written(ring["lora_B"](LORA_SCALING * ring["lora_A"](inputs[0])))
            if "expansion_to_base" in ring:
                outputs[0] = outputs[0] + written(ring["expansion_to_base"](inputs[number]))
        return outputs


class WidenedHead(nn.Module):
    """The output projection: each head adds a ring's share to the head before it."""

    def __init__(self, vocabulary, size, added, tied):
        super().__init__()
        # A tied base uses its embedding.
        self.weight = None if tied else nn.Parameter(torch.empty(vocabulary, size))
        add_rings(self, [{"expansion": nn.Linear(width, vocabulary, bias=False)} for width in added])

    def base(self, x, embedding):
        return F.linear(x, embedding if self.weight is None else self.weight)


class TreeringAttention(nn.Module):
    """Attention: the streams share positions and mask, and their heads never mix before `o_proj`."""

    def __init__(self, config, layer):
        super().__init__()
        family, size, dim = Family(config), config.hidden_size, config.head_dim
        rings = [ring["sizes"] for ring in config.rings]
        self.dim = dim
        # Query heads and key/value heads of each stream.
        self.heads = [(config.num_attention_heads, config.num_key_value_heads)]
        self.heads += [(ring["num_attention_heads"], ring["num_key_value_heads"]) for ring in rings]
        innermost = config.adapts(layer, "attention"), config.rank
        widths = [ring["hidden_size"] for ring in rings]
        (query, *queries), (key, *keys) = ([count * dim for count in counts] for counts in zip(*self.heads))
        self.q_proj = WidenedLinear(size, query, family.query_bias, list(zip(widths, queries)), *innermost)
        self.k_proj = WidenedLinear(size, key, family.query_bias, list(zip(widths, keys)), *innermost)
        self.v_proj = WidenedLinear(size, key, family.query_bias, list(zip(widths, keys)), *innermost)
        self.o_proj = WidenedLinear(query, size, family.output_bias, list(zip(queries, widths)), *innermost)
        self.by_head = family.query_key_norm == "head"
        self.q_norm = self.k_norm = None
        if family.query_key_norm is not None:
            self.q_norm = WidenedNorm(dim if self.by_head else query, [dim] * len(rings) if self.by_head else queries, config.rms_norm_eps)
            self.k_norm = WidenedNorm(dim if self.by_head else key, [dim] * len(rings) if self.by_head else keys, config.rms_norm_eps)

    def forward(self, inputs, held, rotary, mask, cache, slots):
        q, k, v = self.q_proj(inputs, None), self.k_proj(inputs, None), self.v_proj(inputs, None)
        q, k = self.normed(self.q_norm, q), self.normed(self.k_norm, k)
        found = [self.attend(*stream, rotary, mask, cache) for stream in zip(self.heads, slots, q, k, v)]
        if held is not None:
            # It sees only itself: its value, as the base has it.
            value = F.linear(inputs[0], self.v_proj.weight, self.v_proj.bias).unflatten(-1, (-1, self.dim))
            value = value.repeat_interleave(self.heads[0][0] // self.heads[0][1], dim=-2).flatten(-2)
            found[0] = torch.where(held, value, found[0])
        return self.o_proj(found, held)

    def normed(self, norm, streams):
        if norm is None:
            return streams
        if not self.by_head:
            return norm(streams)
        return [x.flatten(-2) for x in norm([x.unflatten(-1, (-1, self.dim)) for x in streams])]

    def attend(self, heads, slot, q, k, v, rotary, mask, cache):
        batch, length, _ = q.shape
        q, k, v = (x.view(batch, length, count, self.dim).transpose(1, 2) for x, count in ((q, heads[0]), (k, heads[1]), (v, heads[1])))
        q, k = apply_rotary_pos_emb(q, k, *rotary)
        if cache is not None:
            k, v = cache.update(k, v, slot)
        k, v = (x.repeat_interleave(heads[0] // heads[1], dim=1) for x in (k, v))
        mask, causal = mask
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=self.dim**-0.5)
        return out.transpose(1, 2).reshape(batch, length, -1)


class TreeringMLP(nn.Module):
    """SwiGLU: old and new channels never mix before `down_proj`."""

    def __init__(self, config, layer):
        super().__init__()
        size, channels, bias = config.hidden_size, config.intermediate_size, Family(config).mlp_bias
        up = [(ring["sizes"]["hidden_size"], ring["sizes"]["intermediate_size"]) for ring in config.rings]
        down = [(channels, width) for width, channels in up]
        innermost = config.adapts(layer, "ffn"), config.rank
        self.gate_proj = WidenedLinear(size, channels, bias, up, *innermost)
        self.up_proj = WidenedLinear(size, channels, bias, up, *innermost)
        self.down_proj = WidenedLinear(channels, size, bias, down, *innermost)

    def forward(self, inputs, held):
        return self.down_proj([F.silu(gate) * up for gate, up in zip(self.gate_proj(inputs, held), self.up_proj(inputs, held))], held)


class TreeringLayer(nn.Module):
    """A decoder layer over the base stream and as many rings' streams as are given."""

    def __init__(self, config, layer):
        super().__init__()
        widths = [ring["sizes"]["hidden_size"] for ring in config.rings]
        self.post_norms = Family(config).post_norms
        self.window = config.window(layer)
        self.self_attn = TreeringAttention(config, layer)
        self.mlp = TreeringMLP(config, layer)
        self.post_attention_layernorm = WidenedNorm(config.hidden_size, widths, config.rms_norm_eps)
        other = WidenedNorm(config.hidden_size, widths, config.rms_norm_eps)
        if self.post_norms:
            self.post_feedforward_layernorm = other
        else:
            self.input_layernorm = other

    def forward(self, streams, held, rotary, masks, cache, slots):
        def attention(inputs):
            return self.self_attn(inputs, held, rotary, masks[self.window], cache, slots)

        def mlp(inputs):
            return self.mlp(inputs, held)

        if self.post_norms:
            streams = add(streams, self.post_attention_layernorm(attention(streams)))
            return add(streams, self.post_feedforward_layernorm(mlp(streams)))
        streams = add(streams, attention(self.input_layernorm(streams)))
        return add(streams, mlp(self.post_attention_layernorm(streams)))


def add(streams, written):
    """Each stream and what was written to it."""
    return [x + y for x, y in zip(streams, written)]
