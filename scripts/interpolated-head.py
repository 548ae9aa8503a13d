#!/usr/bin/env python3
"""What an expert made of both heads' logits would add to a router: softmax(a * adaptation + p * preservation), between the two where a + p = 1 and p > 0.

usage: interpolated-head.py FOLDER --learn CORPUS... --forget CORPUS... [--tokens 2048] [--experts 0.95:0.05,0.9:0.1,0.8:0.2,1.1:-0.1]

FOLDER is what `treering export RUN --to hf` writes of a run with two heads; a CORPUS is JSON lines with a field "text" (.zst too). Windows of 256 tokens,
evidence from each window's first token on. Prints perplexities, geometric means over the corpora of either kind, one JSON object a line: of each head, of
each expert, and of the fixed-share mixtures (`bayes` with its defaults) of base and adaptation, of base and each expert, of all three, and of
all there are. Needs torch, transformers and zstandard (scripts/setup-peers.sh and `pip install zstandard`).
"""
import argparse, json, math, sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus_lines import lines

WINDOW = 256


def mixture(experts, share=1e-3):
    """The summed loss of a fixed-share mixture of experts, each the loss of every token."""
    count = len(experts)
    weights, total = torch.full((count,), 1.0 / count, dtype=torch.float64), 0.0
    for row in torch.stack(experts, 1).double():
        joint = weights * torch.exp(-row)
        total -= math.log(joint.sum())
        weights = (1 - share) * joint / joint.sum() + share / count
    return total


def measure(model, tokenizer, corpus, wanted, most):
    """Mean losses in nats by name."""
    sums, count = {}, 0
    windows = (ids[start : start + WINDOW + 1] for line in lines(corpus) for ids in [tokenizer(json.loads(line)["text"])["input_ids"]]
               for start in range(0, len(ids) - 1, WINDOW))
    for ids in windows:
        window = torch.tensor([ids])
        with torch.no_grad():
            heads = model(window[:, :-1], head="adaptation", output_heads=True, use_cache=False).head_logits
        base, adapted = (heads[name][0].float() for name in ("preservation", "adaptation"))
        loss = lambda logits: -torch.log_softmax(logits, -1).gather(1, window[0, 1:, None])[:, 0]
        single = {"preservation": loss(base), "adaptation": loss(adapted)}
        experts = {f"{a:g}:{p:g}": loss(a * adapted + p * base) for a, p in wanted}
        found = {name: float(values.double().sum()) for name, values in single.items()}
        found["bayes"] = mixture(list(single.values()))
        for name, values in experts.items():
            found[f"expert {name}"] = float(values.double().sum())
            found[f"bayes, base and {name}"] = mixture([single["preservation"], values])
            found[f"bayes, both and {name}"] = mixture([*single.values(), values])
        found["bayes, all"] = mixture([*single.values(), *experts.values()])
        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
        count += len(ids) - 1
        if count >= most:
            break
    return {name: value / count for name, value in sums.items()}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--learn", nargs="+", required=True)
    parser.add_argument("--forget", nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--experts", default="0.95:0.05,0.9:0.1,0.8:0.2,1.1:-0.1")
    options = parser.parse_args()
    experts = [tuple(float(weight) for weight in expert.split(":")) for expert in options.experts.split(",")]
    tokenizer = AutoTokenizer.from_pretrained(options.folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(options.folder, trust_remote_code=True, dtype=torch.float32).eval()
    if list(model.config.heads) != ["preservation", "adaptation"]:
        sys.exit(f"error: {options.folder} has the heads {', '.join(model.config.heads)}; two are expected")
    kinds = {kind: [measure(model, tokenizer, corpus, experts, options.tokens) for corpus in getattr(options, kind)] for kind in ("learn", "forget")}
    for name in kinds["learn"][0]:
        mean = {kind: math.exp(sum(losses[name] for losses in found) / len(found)) for kind, found in kinds.items()}
        print(json.dumps({"experts": name, **{kind: round(value, 4) for kind, value in mean.items()}}))


if __name__ == "__main__":
    main()
