#!/usr/bin/env python3
"""The comparisons of scripts/hub-parity.sh, which says what they are and runs them."""

import argparse
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

# Code that comes with a folder is copied here, not among the user's own.
os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="treering-hf-"))

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.utils.logging.disable_progress_bar()
LIMIT, WORDS = 1e-4, 62
ROUTERS = ["cosine:threshold=0.9", "confidence", "bayes", "bayes:share=0.05,prior=0.3", "bayes-confidence", "bayes-confidence:margin=0.3,trust=0.7,share=0.02"]
SUBJECTS = ["The small cat", "A tired farmer", "My brother", "The old clock", "Our neighbour", "The green boat", "A quiet child", "The busy baker"]
VERBS = ["likes", "finds", "carries", "forgets", "sees", "hides", "paints", "brings"]
OBJECTS = ["a red apple", "the long rope", "some warm bread", "a paper hat", "the blue stone", "two wooden spoons", "a bright lamp", "the last letter"]
PLACES = ["in the morning", "after the rain", "near the river", "at the market", "before dinner", "under the bridge", "every winter", "on the hill"]


class Comparisons:
    """What was compared, printed line by line."""

    def __init__(self):
        self.all = []

    def add(self, model, case, holds, **numbers):
        self.all.append({"model": model, "case": case, "holds": bool(holds), **numbers})
        print(json.dumps(self.all[-1], ensure_ascii=False), flush=True)

    def tensors(self, model, case, ours, theirs):
        difference, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
        self.add(
            model, case, difference <= LIMIT * largest, compared=ours.numel(), largest_logit=round(largest, 4), max_difference=difference,
            limit=LIMIT * largest,
        )


def sentences(count, seed):
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.choice(PLACES)}." for _ in range(count))


def words(count, seed):
    draw, word, text = random.Random(seed), seed % WORDS, []
    for _ in range(count):
        text.append(f"w{word}")
        word = (word * 5 + 1 + draw.randrange(3)) % WORDS
    return " ".join(text)


def families(folder):
    """Small random models, one of each kind of layer: name, folder."""
    sizes = {
        "vocab_size": WORDS + 2, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": WORDS + 1, "pad_token_id": None,
    }
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    llama3 = {"rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    kinds = {
        "llama": ("Llama", {"head_dim": 8, "tie_word_embeddings": True}),
        "llama, biases, llama3": ("Llama", {"head_dim": 8, "attention_bias": True, "mlp_bias": True, "rope_parameters": llama3}),
        "mistral": ("Mistral", {"head_dim": 8, "sliding_window": 8}),
        "qwen2": ("Qwen2", {"tie_word_embeddings": True, **windows}),
        "qwen3": ("Qwen3", {"head_dim": 16, **windows}),
        "olmo2": ("Olmo2", {"attention_bias": True}),
    }
    for name, (family, more) in kinds.items():
        torch.manual_seed(1)
        config = getattr(transformers, f"{family}Config")(**sizes | more)
        model = getattr(transformers, f"{family}ForCausalLM")(config).float()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)  # norms and biases start away from one and zero
        out = folder / name.replace(", ", "-")
        model.save_pretrained(out)
        vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<unk>": WORDS, "<|endoftext|>": WORDS + 1}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        tokenizer.save(str(out / "tokenizer.json"))
        names = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "<|endoftext|>"}
        (out / "tokenizer_config.json").write_text(json.dumps(names))
        yield name, out


class Case:
    """One model in a folder of its own."""

    def __init__(self, bin, folder, name, base, comparisons, small, steps):
        self.bin, self.folder, self.name, self.base, self.comparisons, self.small, self.steps = bin, folder, name, base, comparisons, small, steps
        text = words if small else sentences
        self.prompts = [words(9, 3), words(40, 8)] if small else ["The small cat likes", sentences(8, 99) + " A quiet child"]
        folder.mkdir(parents=True)
        with open(folder / "corpus.jsonl", "w") as out:
            for seed in range(80):
                print(json.dumps({"text": text(40 if small else 12, seed)}), file=out)

    def treering(self, *arguments):
        done = subprocess.run([self.bin / "treering", *map(str, arguments)], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"treering {' '.join(map(str, arguments))}\n{done.stderr}")
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def train(self, out, on, method):
        rate = 1e-2 if self.small else 1e-3
        (self.folder / f"{out}.toml").write_text(
            f'[model]\npath = "{on}"\ndtype = "f32"\n[method]\n{method}[data]\ntrain = "corpus.jsonl"\nsequence_length = {32 if self.small else 64}\n'
            f"[train]\nsteps = {20 if self.small else self.steps}\nbatch_size = 4\nlearning_rate = {rate}\n"
        )
        self.treering("train", f"{out}.toml", "--out", out)

    def logits(self, run, windows):
        (self.folder / "tokens.json").write_text(json.dumps(windows.tolist()))
        subprocess.run([self.bin / "examples" / "logits", run, "tokens.json", "logits.safetensors"], cwd=self.folder, check=True)
        return load_file(self.folder / "logits.safetensors")

    def load(self, folder, **more):
        return AutoModelForCausalLM.from_pretrained(self.folder / folder, trust_remote_code=True, dtype=torch.float32, **more).eval()

    def windows(self, vocabulary):
        generator = torch.Generator().manual_seed(3)
        return torch.randint(0, vocabulary, (2, 24), generator=generator)

    def widened(self, run, label):
        """Everything about a widened run."""
        compare, name = self.comparisons, f"{self.name}: {label}"
        out = f"{label}-hf"
        report = self.treering("export", run, "--out", out, "--verify", "--json")
        compare.add(name, "export --verify, bit for bit", report["verification"]["holds"], compared=report["verification"]["compared"])
        back = self.treering("import", out, "--out", f"{label}-back", "--json")
        compare.add(name, "import, every ring unchanged", all(ring["unchanged"] for ring in back["rings"]), rings=len(back["rings"]))

        model = self.load(out)
        newest = f".ring_{len(model.config.rings)}."
        learns = {n for n, p in model.named_parameters() if p.requires_grad}
        compare.add(name, "only the newest ring requires grad", learns == {n for n, _ in model.named_parameters() if newest in n}, tensors=len(learns))
        windows = self.windows(model.config.vocab_size)
        ours = self.logits(run, windows)
        with torch.no_grad():
            theirs = model(windows, output_heads=True).head_logits
        assert set(theirs) == set(ours), (set(theirs), set(ours))
        for head in model.config.heads:
            compare.tensors(name, f"logits, {head}", ours[head], theirs[head])
        if (self.base / "config.json").exists():
            base = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32).eval()
            with torch.no_grad():
                compare.tensors(name, f"the preservation head, {type(base).__name__} of transformers", theirs["preservation"], base(windows).logits)
        self.generation(model, run, out, name)
        self.reload(run, out, label, name, model)

    def generation(self, model, run, out, name):
        """Greedy generation of every head and router, token for token; left-padded batches; with and without a cache."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder / out, trust_remote_code=True, padding_side="left")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        length = 24
        new = lambda inputs, **speaker: model.generate(**inputs, max_new_tokens=length, **speaker)[:, inputs["input_ids"].shape[1] :]
        ends = {token for token in [tokenizer.eos_token_id, *torch.tensor(model.generation_config.eos_token_id or []).flatten().tolist()] if token is not None}

        def cut(tokens):
            end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
            return tokens[:end]

        for kind, speaker in [("head", head) for head in model.config.heads] + [("router", router) for router in ROUTERS]:
            equal, total, alone = 0, 0, []
            for prompt in self.prompts:
                ours = self.treering("generate", run, "--prompt", prompt, f"--{kind}", speaker, "--max-new-tokens", length, "--dtype", "f32", "--json")["tokens"]
                inputs = tokenizer(prompt, return_tensors="pt")
                theirs = cut(new(inputs, **{kind: speaker})[0].tolist())
                equal += sum(a == b for a, b in zip(ours, theirs)) if len(ours) == len(theirs) else 0
                total += max(len(ours), len(theirs))
                alone.append(theirs)
            batch = tokenizer(self.prompts, return_tensors="pt", padding=True)
            padded = [cut(row) for row in new(batch, **{kind: speaker}).tolist()]
            uncached = [cut(row) for row in new(batch, use_cache=False, **{kind: speaker}).tolist()]
            self.comparisons.add(
                name, f"generation, {kind} {speaker}", equal == total and padded == alone and uncached == alone, tokens=total, equal=equal,
                padded_batch=padded == alone, without_cache=uncached == alone,
            )

    def reload(self, run, out, label, name, model):
        """A step of transformers' Trainer, and the way back."""
        compare = self.comparisons
        tokenizer = AutoTokenizer.from_pretrained(self.folder / out, trust_remote_code=True)
        rows = [tokenizer(prompt, return_tensors="pt")["input_ids"][0] for prompt in self.prompts] * 2
        data = [{"input_ids": row, "labels": row} for row in rows]
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        arguments = transformers.TrainingArguments(
            output_dir=str(self.folder / "trainer"), max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=2, learning_rate=1e-2,
            report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True, logging_strategy="no", lr_scheduler_type="constant",
        )
        loss = transformers.Trainer(model=model, args=arguments, train_dataset=data).train().training_loss
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        learns = {n for n, p in model.named_parameters() if p.requires_grad}
        compare.add(name, "a step of Trainer changes the newest ring and nothing else", changed and changed <= learns, loss=round(loss, 4), changed=len(changed), trainable=len(learns))
        trained = f"{label}-trained"
        model.eval().save_pretrained(self.folder / trained)
        tokenizer.save_pretrained(self.folder / trained)
        again = self.load(trained)
        windows = self.windows(model.config.vocab_size)
        with torch.no_grad():
            theirs = model(windows, output_heads=True).head_logits
            compare.add(name, "saved by transformers and loaded again, the same logits", torch.equal(again(windows).logits, theirs["adaptation"]))
        del again
        back = self.treering("import", trained, "--out", f"{trained}-back", "--json")
        unchanged = [ring["unchanged"] for ring in back["rings"]]
        compare.add(name, "trained further and imported", unchanged == [True] * (len(unchanged) - 1) + [False], unchanged=unchanged)
        ours = self.logits(f"{trained}-back", windows)
        for head in model.config.heads:
            compare.tensors(name, f"trained further and imported, {head}", ours[head], theirs[head])

    def lm_eval(self, out, label):
        """lm_eval on a task of our own: it runs, and its log-likelihoods are those of the logits."""
        import lm_eval
        from lm_eval.tasks import TaskManager

        folder = self.folder / "tasks"
        folder.mkdir(exist_ok=True)
        text = words if self.small else sentences
        items = [{"context": text(12 if self.small else 2, seed), "choices": [text(3 if self.small else 1, seed + k) for k in (1, 2)], "gold": 0} for seed in range(6)]
        (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (folder / "treering_smoke.yaml").write_text(
            "task: treering_smoke\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: " + str(folder / "items.jsonl") + "\ntest_split: test\n"
            "output_type: multiple_choice\ndoc_to_text: '{{context}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: gold\nmetric_list:\n  - metric: acc\n"
        )
        for kind, speaker in [("head", "preservation"), ("head", "adaptation"), ("router", "bayes")]:
            arguments = f"pretrained={self.folder / out},trust_remote_code=True,dtype=float32,{kind}={speaker}"
            found = lm_eval.simple_evaluate(
                model="hf", model_args=arguments, tasks=["treering_smoke"], device="cpu", batch_size=4, bootstrap_iters=0,
                task_manager=TaskManager(include_path=str(folder)),
            )
            model = self.load(out, **{kind: speaker})
            tokenizer = AutoTokenizer.from_pretrained(self.folder / out, trust_remote_code=True)
            largest, count = 0.0, 0
            for sample in found["samples"]["treering_smoke"]:
                item = sample["doc"]
                for choice, response in zip(item["choices"], sample["filtered_resps"]):
                    context = tokenizer(item["context"])["input_ids"]
                    whole = tokenizer(f"{item['context']} {choice}")["input_ids"]
                    with torch.no_grad():
                        log_probs = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), -1)
                    ours = sum(log_probs[at - 1, whole[at]].item() for at in range(len(context), len(whole)))
                    largest, count = max(largest, abs(ours - float(response[0]))), count + 1
            accuracy = found["results"]["treering_smoke"]["acc,none"]
            self.comparisons.add(
                f"{self.name}: {label}", f"lm_eval, {kind} {speaker}", count == 12 and largest < 1e-3 and math.isfinite(accuracy), loglikelihoods=count,
                largest_difference=largest, acc=accuracy,
            )

    def baselines(self):
        """What is no widened model: plain folders in transformers, adapters in peft, and peft's own adapter back."""
        from peft import LoraConfig, PeftModel, get_peft_model

        self.treering("export", self.base, "--out", "base-hf", "--verify")
        windows = None
        for kind, method in [
            ("lora", 'kind = "lora"\nr = 4\nlora_alpha = 16\n'),
            ("llama-pro", 'kind = "llama-pro"\ngroups = 2\n'),
            ("freeze", 'kind = "freeze"\nfrozen_layers = 2\n'),
        ]:
            self.train(kind, self.base, method)
            self.treering("export", kind, "--out", f"{kind}-hf", "--verify")
            model = self.load(f"{kind}-hf")
            windows = self.windows(model.config.vocab_size)
            ours = self.logits(kind, windows)["base"]
            with torch.no_grad():
                self.comparisons.tensors(f"{self.name}: {kind}", f"logits, {type(model).__name__} of {model.config.num_hidden_layers} layers", ours, model(windows).logits)
                del model
                if kind == "lora":
                    self.treering("export", kind, "--to", "peft", "--out", "adapter", "--verify")
                    model = PeftModel.from_pretrained(self.load("base-hf"), self.folder / "adapter")
                    self.comparisons.tensors(f"{self.name}: {kind}", "logits, the adapter in peft", ours, model(windows).logits)
                    del model
            shutil.rmtree(self.folder / f"{kind}-hf")
        torch.manual_seed(4)
        model = get_peft_model(self.load("base-hf"), LoraConfig(r=5, lora_alpha=7, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(std=0.02)
            theirs = model(windows).logits
        model.save_pretrained(self.folder / "theirs")
        del model
        report = self.treering("import", "theirs", "--base", self.base, "--out", "ours", "--json")
        self.treering("export", "ours", "--out", "ours-hf", "--verify")
        with torch.no_grad():
            self.comparisons.tensors(f"{self.name}: peft's adapter", f"imported ({report['parameter_count']} values), merged, in transformers", self.load("ours-hf")(windows).logits, theirs)


def method(kind, head_dim_heads, more=""):
    heads, keys = head_dim_heads
    return (
        f'kind = "{kind}"\nhidden_size = 16\nnum_attention_heads = {heads}\nnum_key_value_heads = {keys}\nintermediate_size = 24\ninit = "svd,random"\n{more}'
    )


def main():
    parser = argparse.ArgumentParser(description="Exported models in transformers, peft and lm_eval.")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder with treering and examples/logits")
    parser.add_argument("model", nargs="?", type=pathlib.Path, help="a model, or a widened run or expansion")
    parser.add_argument("--families", help="without MODEL: only these, separated by commas, such as llama,qwen3")
    parser.add_argument("--steps", type=int, default=6, help="steps to train on MODEL")
    parser.add_argument("--keep", type=pathlib.Path, help="a new folder for everything that is made")
    arguments = parser.parse_args()
    folder = arguments.keep or pathlib.Path(tempfile.mkdtemp(prefix="treering-hub-"))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    compare = Comparisons()
    try:
        if arguments.model is None:
            torch.set_num_threads(1)
            for name, base in families(folder):
                if arguments.families and base.name not in arguments.families.split(","):
                    continue
                case = Case(arguments.bin, folder / f"case-{base.name}", name, base, compare, True, 0)
                case.train("one", base, method("scale-adapt", (3, 1), 'preserved_layers = 1\nsink_layers = 2\nr = 2\nmodules = ["attention", "ffn"]\n'))
                case.train("two", case.folder / "one", method("scale-preserve", (6, 2)))
                case.train("alone", base, method("scale-preserve", (3, 1)))
                case.widened("alone", "preserve")
                case.widened("two", "adapt and a ring around it")
                if name == "llama":
                    case.lm_eval("preserve-hf", "preserve")
                    case.baselines()
        else:
            model = arguments.model.absolute()
            is_run = (model / "recipe.toml").exists() or (model / "treering.json").exists()
            case = Case(arguments.bin, folder / "case", model.name, model, compare, False, arguments.steps)
            run = model
            if not is_run:
                config = case.treering("inspect", model, "--json")["config"]
                group = config["num_attention_heads"] // config["num_key_value_heads"]
                case.train("one", model, method("scale-adapt", (group, 1), 'modules = ["attention"]\n'))
                case.train("two", case.folder / "one", method("scale-preserve", (group, 1)))
                run = "two"
            case.widened(run, "rings")
            case.lm_eval("rings-hf", "rings")
            if not is_run:
                case.baselines()
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        if os.environ["HF_HOME"].startswith(os.path.join(tempfile.gettempdir(), "treering-hf-")):
            shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    failed = [f"{c['model']}, {c['case']}" for c in compare.all if not c["holds"]]
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    differences = [c["max_difference"] / c["largest_logit"] for c in compare.all if "max_difference" in c]
    tokens = [(c["equal"], c["tokens"]) for c in compare.all if "equal" in c]
    print(json.dumps({
        "comparisons": len(compare.all), "failed": failed, "largest_relative_logit_difference": max(differences, default=0.0),
        "generated_tokens": sum(t for _, t in tokens), "equal_tokens": sum(e for e, _ in tokens), "versions": versions, "holds": not failed,
    }))
    sys.exit(0 if not failed else 3)


if __name__ == "__main__":
    main()
