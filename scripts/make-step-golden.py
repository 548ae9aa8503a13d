#!/usr/bin/env python3
"""Writes tests/fixtures/step-golden/: what PyTorch makes of tiny models, for tests/golden_step.rs to agree with.

    "$(scripts/setup-peers.sh)" scripts/make-step-golden.py [MODEL…]

For a tied and an untied Llama (the latter with biases), a Mistral with a narrow window, a Qwen2, a Qwen3 and an OLMo-2: a Hugging
Face folder, an expansion whose every block is random, twenty batches (one window holds two documents), and for the methods preserve
(of a Llama), adapt and full the gradient of the summed loss of the first batch, the weights after one AdamW step on its mean, and the losses of
twenty such steps. Before anything is written the reference is compared with transformers, logits and gradients of the base.
Everything is computed in f64 from f32 values and stored as f32.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "peers"))
import scale_torch  # noqa: E402

IGNORE = 2**32 - 1
STEPS, WINDOWS, LENGTH = 20, 2, 7
ADAMW = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1}
GROWTH = scale_torch.Growth(hidden_size=4, num_attention_heads=2, num_key_value_heads=1, intermediate_size=6, preserved_layers=1, modules=("attention", "ffn"))


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 24, "hidden_size": 8,
    "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "rms_norm_eps": 1e-5, "rope_theta": 1000.0, "max_position_embeddings": 32, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": True, "torch_dtype": "float32",
}


def family(model_type, architecture, **change):
    plain = {key: value for key, value in LLAMA.items() if not key.endswith("_bias")}
    # OLMo-2 has no key for the width of a head: it is a share of the stream's.
    head = {"num_attention_heads": 2, "num_key_value_heads": 1} if model_type == "olmo2" else {}
    tokens = {"vocab_size": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    return plain | {"architectures": [architecture], "model_type": model_type, "tie_word_embeddings": False} | tokens | head | change


# The older ones came first, and keep their seeds.
MODELS = {
    "tied": (8, LLAMA),
    "untied": (7, LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "mistral": (9, family("mistral", "MistralForCausalLM", sliding_window=2)),
    "qwen2": (10, family("qwen2", "Qwen2ForCausalLM", use_sliding_window=True, sliding_window=3, max_window_layers=1,
                         layer_types=["full_attention", "sliding_attention"], tie_word_embeddings=True)),
    "qwen3": (11, family("qwen3", "Qwen3ForCausalLM", attention_bias=True)),
    "olmo2": (12, family("olmo2", "Olmo2ForCausalLM", attention_bias=False)),
}


def tiny_model(config, generator):
    d, m, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, key_value_heads = config["num_attention_heads"], config["num_key_value_heads"]
    q, kv = heads * config["head_dim"], key_value_heads * config["head_dim"]
    random = lambda *shape, scale=0.3: torch.randn(shape, generator=generator) * scale
    weights = {"model.embed_tokens.weight": random(v, d), "model.norm.weight": 1 + random(d)}
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = random(v, d)
    shapes = {"self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d), "self_attn.o_proj": (d, q)}
    shapes |= {"mlp.gate_proj": (m, d), "mlp.up_proj": (m, d), "mlp.down_proj": (d, m)}
    qwen2 = config["model_type"] == "qwen2"
    biased = lambda path: config.get("mlp_bias") if path.startswith("mlp") else config.get("attention_bias") or (qwen2 and "o_proj" not in path)
    reference = scale_torch.parse_config(config)
    for layer in range(config["num_hidden_layers"]):
        for path in reference.residual_norms:
            weights[f"model.layers.{layer}.{path}.weight"] = 1 + random(d)
        for path, size in zip(("q_norm", "k_norm"), reference.query_key_norm_sizes(heads, key_value_heads)):
            weights[f"model.layers.{layer}.self_attn.{path}.weight"] = 1 + random(size)
        for path, shape in shapes.items():
            weights[f"model.layers.{layer}.{path}.weight"] = random(*shape)
            if biased(path):
                weights[f"model.layers.{layer}.{path}.bias"] = random(shape[0])
    return weights


def check_against_transformers(folder, config, weights):
    """Logits, and the gradient of their loss, of the base in the reference and in transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    # Its rotary frequencies are f32 values, as the reference's are.
    ids = torch.randint(0, config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    ours = {name: value.double().requires_grad_() for name, value in weights.items()}
    logits = [model(ids).logits, scale_torch.base_logits(config, ours, ids)]
    for values in logits:
        F.cross_entropy(values[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    largest = (logits[0] - logits[1]).abs().max().item()
    theirs = dict(model.named_parameters())
    gradient = max((ours[name].grad - theirs[name].grad).abs().max().item() for name in ours)
    assert largest < 1e-5 and gradient < 1e-5, f"{folder}: the reference differs from transformers by {largest}, its gradients by {gradient}"


def make_batches(generator, vocab):
    batches = []
    for _ in range(STEPS):
        tokens = torch.randint(0, vocab, (WINDOWS, LENGTH), generator=generator)
        targets = torch.randint(0, vocab, (WINDOWS, LENGTH), generator=generator)
        targets[1, 2] = IGNORE
        # The first window holds two documents, of three and four tokens.
        starts = [[0, 0, 0, 3, 3, 3, 3], [0] * LENGTH]
        batches.append({"tokens": tokens.tolist(), "targets": targets.tolist(), "document_starts": starts})
    return batches


def summed_loss(logits, batch):
    """Every document is run by itself, so that no mask is needed to keep documents apart."""
    total, count = 0.0, 0
    for tokens, targets, starts in zip(batch["tokens"], batch["targets"], batch["document_starts"]):
        for start in sorted(set(starts)):
            part = [i for i, s in enumerate(starts) if s == start]
            target = torch.tensor([-100 if targets[i] == IGNORE else targets[i] for i in part])
            out = logits(torch.tensor([[tokens[i] for i in part]]))
            total = total + F.cross_entropy(out[0], target, ignore_index=-100, reduction="sum")
            count += int((target != -100).sum())
    return total, count


def run(method, config, base, growth, expansion, batches):
    """Trains for twenty steps; returns the first gradients, the weights after the first step and all losses."""
    base = {name: value.double() for name, value in base.items()}
    if method == "full":
        trained = base
        logits = lambda ids: scale_torch.base_logits(config, base, ids)
    else:
        trained = {name: value.double() for name, value in expansion.items() if method == "adapt" or "expansion_to_base" not in name}
        logits = lambda ids: scale_torch.widened_logits(config, base, growth, trained, ids)
    for value in trained.values():
        value.requires_grad_()
    decay = [v for v in trained.values() if v.dim() > 1]
    keep = [v for v in trained.values() if v.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": ADAMW["weight_decay"]}, {"params": keep, "weight_decay": 0.0}],
        lr=ADAMW["learning_rate"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["epsilon"],
    )
    losses, tensors = [], {}
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        loss, count = summed_loss(logits, batch)
        loss.backward()
        if step == 0:
            tensors |= {f"gradient/{name}": value.grad.float().clone() for name, value in trained.items()}
        for value in trained.values():
            value.grad /= count
        optimizer.step()
        if step == 0:
            tensors |= {f"value/{name}": value.detach().float().clone() for name, value in trained.items()}
        losses.append(loss.item() / count)
    return tensors, losses


def main():
    torch.set_default_dtype(torch.float64)
    for name in sys.argv[1:] or MODELS:
        seed, raw = MODELS[name]
        generator = torch.Generator().manual_seed(seed)
        out = ROOT / "tests/fixtures/step-golden" / name
        out.mkdir(parents=True, exist_ok=True)
        weights = {name: value.float().contiguous() for name, value in tiny_model(raw, generator).items()}
        (out / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
        config = scale_torch.read_config(out)
        check_against_transformers(out, config, weights)
        expansion = {}
        for name, shape in scale_torch.expansion_shapes(config, GROWTH).items():
            expansion[name] = ((len(shape) == 1) + torch.randn(shape, generator=generator) * 0.3).float()
        save_file(expansion, out / "expansion.safetensors")
        batches = make_batches(generator, raw["vocab_size"])
        expected = {}
        # Adapt trains all that Preserve does: enough, where fixtures are to stay small.
        for method in ("preserve", "adapt", "full") if raw["model_type"] == "llama" else ("adapt", "full"):
            tensors, expected[method] = run(method, config, weights, GROWTH, expansion, batches)
            save_file(tensors, out / f"{method}.safetensors")
        growth = {
            "sizes": {key: getattr(GROWTH, key) for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")},
            "placement": {"preserved_layers": GROWTH.preserved_layers, "modules": list(GROWTH.modules)},
        }
        golden = {"growth": growth, "adamw": ADAMW, "losses": expected, "batches": batches}
        (out / "golden.json").write_text(json.dumps(golden) + "\n")
        print(out, {method: (round(l[0], 4), round(l[-1], 4)) for method, l in expected.items()})


if __name__ == "__main__":
    main()
