#!/usr/bin/env python3
"""Writes tests/fixtures/step-golden/: what PyTorch makes of tiny models, for tests/golden_step.rs to agree with.

    "$(scripts/setup-peers.sh)" scripts/make-step-golden.py

For a tied and an untied model (the latter with biases): a Hugging Face folder, an expansion whose every block is random,
twenty batches (one window holds two documents), and for the methods preserve, adapt and full the gradient of the summed
loss of the first batch, the weights after one AdamW step on its mean, and the losses of twenty such steps.
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


def tiny_model(tied, generator):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 24, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "rms_norm_eps": 1e-5, "rope_theta": 1000.0, "max_position_embeddings": 32, "attention_bias": not tied, "mlp_bias": not tied,
        "tie_word_embeddings": tied, "torch_dtype": "float32",
    }
    random = lambda *shape, scale=0.3: torch.randn(shape, generator=generator) * scale
    weights = {"model.embed_tokens.weight": random(24, 8), "model.norm.weight": 1 + random(8)}
    if not tied:
        weights["lm_head.weight"] = random(24, 8)
    shapes = {"q": (16, 8), "k": (8, 8), "v": (8, 8), "o": (8, 16)}
    shapes = {f"self_attn.{k}_proj": s for k, s in shapes.items()} | {"mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
    for layer in range(2):
        for path in scale_torch.NORMS:
            weights[f"model.layers.{layer}.{path}.weight"] = 1 + random(8)
        for path, shape in shapes.items():
            weights[f"model.layers.{layer}.{path}.weight"] = random(*shape)
            if not tied:
                weights[f"model.layers.{layer}.{path}.bias"] = random(shape[0])
    return config, weights


def make_batches(generator):
    batches = []
    for _ in range(STEPS):
        tokens = torch.randint(0, 24, (WINDOWS, LENGTH), generator=generator)
        targets = torch.randint(0, 24, (WINDOWS, LENGTH), generator=generator)
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
    for tied in (True, False):
        generator = torch.Generator().manual_seed(7 + tied)
        out = ROOT / "tests/fixtures/step-golden" / ("tied" if tied else "untied")
        out.mkdir(parents=True, exist_ok=True)
        raw, weights = tiny_model(tied, generator)
        weights = {name: value.float().contiguous() for name, value in weights.items()}
        (out / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
        config = scale_torch.read_config(out)
        expansion = {}
        for name, shape in scale_torch.expansion_shapes(config, GROWTH).items():
            expansion[name] = ((len(shape) == 1) + torch.randn(shape, generator=generator) * 0.3).float()
        save_file(expansion, out / "expansion.safetensors")
        batches = make_batches(generator)
        expected = {}
        for method in ("preserve", "adapt", "full"):
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
