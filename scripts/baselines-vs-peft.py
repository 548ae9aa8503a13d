#!/usr/bin/env python3
"""Whether peft and transformers compute from Treering's exports what Treering computes, and Treering from peft's adapters what peft does.

    "$(scripts/setup-peers.sh)" scripts/baselines-vs-peft.py

A tiny random Llama is trained for twenty steps in f32 by `lora` (with dropout on every module; with rslora on three; with the embedding trained
whole), `freeze` and `llama-pro`, and exported; the logits of the run are compared with those of `peft` on the adapter and of `AutoModelForCausalLM`
on the plain folder. Then adapters that peft made, one with a whole embedding, are merged by `treering export`. One JSON line a comparison; the exit
status is 1 where one exceeds its limit, 1e-4 of the largest logit.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORDS, WINDOWS, LENGTH, LIMIT = 62, 3, 24, 1e-4
METHODS = {
    "lora, dropout": 'kind = "lora"\nr = 4\nlora_alpha = 16\nlora_dropout = 0.1\ntarget_modules = "all-linear"\n',
    "lora, rslora": 'kind = "lora"\nr = 6\nlora_alpha = 3.5\nuse_rslora = true\ntarget_modules = ["q_proj", "v_proj", "down_proj"]\n',
    "lora, embedding whole": 'kind = "lora"\nr = 3\nmodules_to_save = ["embed_tokens"]\n',
    "freeze": 'kind = "freeze"\nfrozen_layers = 2\n',
    "llama-pro": 'kind = "llama-pro"\ngroups = 2\n',
}


def build():
    """The command and the example that writes logits."""
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "treering", "--example", "logits", "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = {m["target"]["name"]: m["executable"] for m in map(json.loads, lines) if m.get("executable")}
    return found["treering"], found["logits"]


def make_base(folder, tied):
    config = LlamaConfig(
        vocab_size=WORDS + 2, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        max_position_embeddings=64, tie_word_embeddings=tied, attention_bias=not tied, mlp_bias=not tied, initializer_range=0.2,
        bos_token_id=None, eos_token_id=WORDS + 1,
    )
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)  # norms and biases start away from one and zero
    model.save_pretrained(folder)
    vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<unk>": WORDS, "<|endoftext|>": WORDS + 1}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def corpus(path):
    generator = torch.Generator().manual_seed(2)
    with open(path, "w") as out:
        for _ in range(80):
            words = torch.randint(0, WORDS, (40,), generator=generator).tolist()
            print(json.dumps({"text": " ".join(f"w{i}" for i in words)}), file=out)


def report(case, ours, theirs):
    difference, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    holds = difference <= LIMIT * largest
    print(json.dumps({"case": case, "compared": ours.numel(), "largest_logit": round(largest, 4), "max_difference": difference, "holds": holds}))
    return holds


def logits(model, windows):
    model.eval()
    with torch.no_grad():
        return model(torch.tensor(windows)).logits


def main():
    treering, example = build()
    holds = []
    for tied in (True, False):
        with tempfile.TemporaryDirectory(prefix="treering-baselines-") as folder:
            folder = pathlib.Path(folder)
            run = lambda *arguments: subprocess.run([str(a) for a in arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            load = lambda path: AutoModelForCausalLM.from_pretrained(folder / path, dtype=torch.float32)
            make_base(folder / "base", tied)
            corpus(folder / "corpus.jsonl")
            windows = torch.randint(0, WORDS, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(3)).tolist()
            (folder / "tokens.json").write_text(json.dumps(windows))
            kind = "tied" if tied else "untied, biases"
            base = logits(load("base"), windows)
            for number, (name, method) in enumerate(METHODS.items()):
                recipe = folder / f"{number}.toml"
                recipe.write_text(
                    f'[model]\npath = "base"\ndtype = "f32"\n[method]\n{method}[data]\ntrain = "corpus.jsonl"\nsequence_length = 32\n'
                    "[train]\nsteps = 20\nbatch_size = 4\nlearning_rate = 1e-2\n"
                )
                run(treering, "train", recipe, "--out", f"run-{number}")
                run(example, f"run-{number}", "tokens.json", f"{number}.safetensors")
                ours = load_file(folder / f"{number}.safetensors")["base"]
                assert (ours - base).abs().max() > 0.05 * base.abs().max(), f"{name} learnt nothing, so nothing would be compared"
                run(treering, "export", f"run-{number}", "--out", f"plain-{number}", "--verify")
                holds.append(report(f"{kind}: {name}, plain folder in transformers", ours, logits(load(f"plain-{number}"), windows)))
                if name.startswith("lora"):
                    run(treering, "export", f"run-{number}", "--to", "peft", "--out", f"adapter-{number}", "--verify")
                    model = PeftModel.from_pretrained(load("base"), folder / f"adapter-{number}")
                    holds.append(report(f"{kind}: {name}, adapter in peft", ours, logits(model, windows)))

            for name, whole in {"theirs": None, "theirs, embedding whole": ["embed_tokens"]}.items():
                torch.manual_seed(4)
                config = LoraConfig(
                    r=5, lora_alpha=7, target_modules="all-linear", task_type="CAUSAL_LM",
                    modules_to_save=whole, ensure_weight_tying=tied and whole is not None,
                )
                model = get_peft_model(load("base"), config)
                with torch.no_grad():
                    for parameter_name, parameter in model.named_parameters():
                        if "lora_B" in parameter_name or "modules_to_save" in parameter_name:
                            parameter.add_(torch.randn_like(parameter) * 0.1)
                model.save_pretrained(folder / name)
                run(treering, "export", name, "--base", "base", "--out", f"{name} merged", "--verify")
                merged = logits(load(f"{name} merged"), windows)
                holds.append(report(f"{kind}: peft's adapter merged by treering ({name})", merged, logits(model, windows)))
    sys.exit(0 if all(holds) else 1)


if __name__ == "__main__":
    main()
