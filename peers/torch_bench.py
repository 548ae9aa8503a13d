"""Training throughput of PyTorch on this machine: one mode, one process, one JSON line.

Each mode has a process of its own so that the peak memory printed is that mode's (scripts/speed-vs-torch.sh starts them).

    python peers/torch_bench.py MODEL_DIR --mode preserve --dtype bf16 --batch 4 --length 256 --steps 5 --threads 2

forward            the base, no gradient (the readable reference of scale_torch.py)
full               transformers, every parameter, AdamW
lora               peft, rank 16, all linear modules
freeze             transformers, the bottom three layers and the embedding frozen
llama-pro          transformers, a copy of a layer after every fifth of 30 (o_proj and down_proj zero), only the copies trained
preserve, adapt, adapt-all
                   scale_torch.py, streams kept apart and the base frozen: the cheapest way to write the method in PyTorch;
                   adapt trains W12 in the attention of the upper half of the layers, adapt-all in every layer and module
route, route-all   the same models, both heads and no gradient
adapted, adapted-all
                   the same, the adaptation head alone
"""

import argparse
import copy
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F

import scale_torch

REFERENCE = ("forward", "preserve", "adapt", "adapt-all", "route", "route-all", "adapted", "adapted-all")
MODES = (*REFERENCE, "full", "lora", "freeze", "llama-pro")


def reference(args):
    """(logits function, trained tensors, vocabulary size) for the modes of scale_torch.py."""
    config, base = scale_torch.load_base(args.model)
    if args.dtype == "bf16" and args.frozen == "bf16":
        base = {name: value.bfloat16() if value.dim() > 1 else value for name, value in base.items()}
    if args.mode == "forward":
        return (lambda ids: scale_torch.base_logits(config, base, ids)), [], config.vocab_size
    forks = {"preserve": config.num_hidden_layers, "adapt": config.num_hidden_layers // 2, "route": config.num_hidden_layers // 2, "adapted": config.num_hidden_layers // 2}
    # With W12 everywhere the fork is at the bottom.
    growth = scale_torch.Growth(preserved_layers=forks.get(args.mode, 0), modules=("attention",) if args.mode in forks else ("attention", "ffn"))
    # Initial values do not change the speed; the decompositions would only cost start-up time.
    shapes = scale_torch.expansion_shapes(config, growth)
    expansion = {name: (torch.randn(shape) * 0.02).requires_grad_() for name, shape in shapes.items()}
    if args.mode in ("adapted", "adapted-all"):
        return (lambda ids: scale_torch.widened_logits(config, base, growth, expansion, ids)), [], config.vocab_size
    if args.mode in ("route", "route-all"):
        return (lambda ids: scale_torch.widened_logits(config, base, growth, expansion, ids, both=True)[1]), [], config.vocab_size
    return (lambda ids: scale_torch.widened_logits(config, base, growth, expansion, ids)), list(expansion.values()), config.vocab_size


def transformers_model(args):
    """The same for the modes that a user would run with transformers and peft."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    vocab = model.config.vocab_size
    if args.mode == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    if args.mode == "freeze":
        frozen = ("embed_tokens", "layers.0.", "layers.1.", "layers.2.")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not any(part in name for part in frozen))
    if args.mode == "llama-pro":
        add_copies(model)
    model.train()
    return (lambda ids: model(ids, use_cache=False).logits), [p for p in model.parameters() if p.requires_grad], vocab


def add_copies(model):
    """Wu et al., ACL 2024: a copy of its last layer after each group of layers, the identity at first; nothing else is trained. The groups are Treering's own default."""
    layers = model.model.layers
    groups = next(n for n in range(max(len(layers) // 4, 1), 0, -1) if len(layers) % n == 0)
    size = len(layers) // groups
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    grown = []
    for index, layer in enumerate(layers):
        grown.append(layer)
        if (index + 1) % size == 0:
            added = copy.deepcopy(layer)
            for zero in (added.self_attn.o_proj, added.mlp.down_proj):
                torch.nn.init.zeros_(zero.weight)
            for parameter in added.parameters():
                parameter.requires_grad_(True)
            grown.append(added)
    for index, layer in enumerate(grown):
        layer.self_attn.layer_idx = index
    model.model.layers = torch.nn.ModuleList(grown)
    model.config.num_hidden_layers = len(grown)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--frozen", choices=("f32", "bf16"), default="bf16", help="how the modes of scale_torch.py keep frozen matrices under bf16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    logits, trained, vocab = (reference if args.mode in REFERENCE else transformers_model)(args)
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True) if trained else None
    seconds = []
    for _ in range(args.steps + 1):
        ids = torch.randint(0, vocab, (args.batch, args.length + 1))
        start = time.perf_counter()
        with torch.set_grad_enabled(bool(trained)), torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            out = logits(ids[:, :-1])
            loss = F.cross_entropy(out.float().flatten(0, 1), ids[:, 1:].flatten()) if trained else None
        if trained:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        del out, loss
        seconds.append(time.perf_counter() - start)
    # The first step pays for allocations and, under bf16, for oneDNN's kernels.
    median = statistics.median(seconds[1:])
    print(json.dumps({
        "mode": args.mode, "dtype": args.dtype, "threads": args.threads, "batch": args.batch, "length": args.length,
        "trained": sum(t.numel() for t in trained), "tokens_per_second": round(args.batch * args.length / median, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))


if __name__ == "__main__":
    main()
