"""Compares what `examples/parity.rs` wrote with PyTorch; prints one JSON object, exits with 3 where a tolerance is exceeded.

    python peers/parity.py HUGGING_FACE_FOLDER CASE_DIR

Largest absolute differences, f32 against f32: logits through the cache (`*_logits`) and log-probabilities through the batched
forward pass (`*_log_probs`) of each head; the same between transformers and the reference; and for one AdamW step of each method
the gradients (relative to the largest of their tensor) and the weights (in units of the learning rate: the largest entry, and the
root mean square of the worst tensor, which rounding noise in single entries with hardly any gradient does not move).
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import scale_torch

TOLERANCES = {"logits": 1e-3, "log_probs": 1e-3, "gradient": 1e-3, "step": 5e-2, "step_rms": 1e-3}


def largest(ours, theirs):
    return (ours - theirs).abs().max().item()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    logging.disable_progress_bar()
    folder, case_dir = sys.argv[1], pathlib.Path(sys.argv[2])
    case = json.loads((case_dir / "case.json").read_text())
    sizes, placement = case["growth"]["sizes"], case["growth"]["placement"]
    growth = scale_torch.Growth(**sizes, preserved_layers=placement["preserved_layers"], modules=tuple(placement["modules"]))
    config, base = scale_torch.load_base(folder)
    grid = lambda key: torch.tensor(case[key]).view(case["windows"], case["length"])
    ids, targets = grid("tokens"), grid("targets")
    counted = targets != case["ignore"]
    targets = torch.where(counted, targets, -100)

    ours = load_file(case_dir / "logits.safetensors")
    expansion = load_file(case_dir / "expansion.safetensors")
    result = {}
    with torch.no_grad():
        transformers = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        preserved, adapted = scale_torch.widened_logits(config, base, growth, expansion, ids, both=True)
    sides = {
        "transformers_base": ("base", transformers), "reference_base": ("base", preserved),
        "preservation": ("preservation", preserved), "adaptation": ("adaptation", adapted),
    }
    for name, (head, logits) in sides.items():
        result[f"{name}_logits"] = largest(ours[f"{head}/logits"], logits[0])
        log_probs = -F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        result[f"{name}_log_probs"] = largest(ours[f"{head}/log_probs"][counted], log_probs[counted])
    result["transformers_reference_logits"] = largest(transformers, preserved)
    result["expansion_moves_logits_by"] = largest(adapted, preserved)
    del transformers, preserved, adapted

    for method in ("preserve", "adapt", "full"):
        ours = load_file(case_dir / f"{method}.safetensors")
        if method == "full":
            trained = {name: value.clone() for name, value in base.items()}
            logits = scale_torch.base_logits
            arguments = (config, trained)
        else:
            trained = {name: value.clone() for name, value in expansion.items() if method == "adapt" or "expansion_to_base" not in name}
            logits = scale_torch.widened_logits
            arguments = (config, base, growth, trained)
        found = {name.removeprefix("value/") for name in ours if name.startswith("value/")}
        if found != set(trained):
            sys.exit(f"error: {method}: parameters differ: {sorted(found ^ set(trained))[:4]}")
        for value in trained.values():
            value.requires_grad_()
        F.cross_entropy(logits(*arguments, ids).flatten(0, 1), targets.flatten()).backward()
        result[f"{method}_gradient"] = max(
            largest(ours[f"gradient/{name}"], value.grad) / max(value.grad.abs().max().item(), 1e-30) for name, value in trained.items()
        )
        groups = [
            {"params": [v for v in trained.values() if v.dim() > 1], "weight_decay": case["weight_decay"]},
            {"params": [v for v in trained.values() if v.dim() == 1], "weight_decay": 0.0},
        ]
        torch.optim.AdamW(groups, lr=case["learning_rate"], betas=(case["beta1"], case["beta2"]), eps=case["epsilon"]).step()
        differences = [(ours[f"value/{name}"] - value.detach()) / case["learning_rate"] for name, value in trained.items()]
        result[f"{method}_step"] = max(difference.abs().max().item() for difference in differences)
        result[f"{method}_step_rms"] = max(difference.pow(2).mean().sqrt().item() for difference in differences)

    result = {name: float(f"{value:.3g}") for name, value in result.items()}
    # Written so that a difference that is not a number fails too.
    kind = lambda name: next((kind for kind in TOLERANCES if name.endswith("_" + kind)), None)
    failed = [name for name, value in result.items() if kind(name) and not value <= TOLERANCES[kind(name)]]
    print(json.dumps({"model": pathlib.Path(folder).name, **result, "tolerances": TOLERANCES, "failed": failed}))
    sys.exit(3 if failed else 0)


if __name__ == "__main__":
    main()
