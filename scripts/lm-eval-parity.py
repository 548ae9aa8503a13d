"""lm-evaluation-harness beside Treering over the same items: every log-likelihood and every metric. Called by lm-eval-parity.sh.

Prompts, examples, requests and scores on one side are lm_eval's own (its task files, samplers and HFLM); only its data sets, which it would fetch
from a hub, are read from local files here. The other side is `treering eval --suite`. Results of lm_eval are kept in --work and used again.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import time

import zstandard

TASKS = ["arc_easy", "arc_challenge", "hellaswag", "winogrande", "truthfulqa_mc1", "truthfulqa_mc2", "mmlu",
         "kobest_boolq", "kobest_copa", "kobest_hellaswag", "kobest_sentineg", "kobest_wic"]
LEADERBOARD = {"arc_easy": 25, "arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "winogrande": 5,
               "kobest_boolq": 5, "kobest_copa": 5, "kobest_hellaswag": 5, "kobest_sentineg": 5, "kobest_wic": 5}
TOLERANCE = 1e-3


# ---------------------------------------------------------------- local data, as `datasets` would give it

class Files:
    """Names (lower case, compression's suffix left out) to bytes, of a folder and the archives in it."""

    def __init__(self, folder):
        self.contents = {}
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                name = str(path.relative_to(folder)).lower()
                if re.search(r"\.(tar|tar\.zst|tar\.gz|tgz)$", name):
                    with tarfile.open(fileobj=io.BytesIO(unpacked(name, path.read_bytes())), mode="r:*") as archive:
                        for member in archive:
                            if member.isfile():
                                self.contents[f"{name}/{member.name.lower()}"] = archive.extractfile(member).read()
                elif re.search(r"\.(jsonl|json|csv|tsv)(\.zst|\.gz)?$", name):
                    self.contents[re.sub(r"\.(zst|gz)$", "", name)] = (name, path)

    def text(self, pattern):
        """The one file whose path ends so; None where there is none."""
        found = [name for name in self.contents if re.search(r"(^|/)" + pattern.lower() + "$", name)]
        if not found:
            return None
        assert len(found) == 1, found
        content = self.contents[found[0]]
        if isinstance(content, tuple):
            content = unpacked(content[0], content[1].read_bytes())
        return content.decode("utf-8-sig")


def unpacked(name, content):
    import gzip

    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content), read_across_frames=True).read()
    return gzip.decompress(content) if name.endswith(".gz") else content


def jsonl(text):
    return [json.loads(line) for line in text.splitlines() if line.strip()] if text else None


def tsv(text):
    """As the loading script of skt/kobest_v1 reads it: pandas, tabs."""
    import pandas

    return pandas.read_csv(io.StringIO(text), sep="\t", keep_default_na=False).to_dict("records") if text else None


def arc(files, name):
    def rows(text):
        return text and [{"id": r["id"], "question": r["question"]["stem"], "answerKey": r["answerKey"],
                          "choices": {"text": [c["text"] for c in r["question"]["choices"]],
                                      "label": [c["label"] for c in r["question"]["choices"]]}} for r in jsonl(text)]
    return {split: rows(files.text(f"{name}-{part}\\.jsonl")) for split, part in
            [("train", "train"), ("validation", "dev"), ("test", "test")]}


def hellaswag(files, _):
    def rows(text):
        # A copy that was rebuilt from text has the context as a whole.
        return text and [{"ind": r["ind"], "activity_label": r["activity_label"], "ctx_a": r.get("ctx_a", r.get("ctx")),
                          "ctx_b": r.get("ctx_b", ""), "endings": r["endings"], "label": str(r["label"])} for r in jsonl(text)]
    return {"train": rows(files.text(r"hellaswag_train\.jsonl")), "validation": rows(files.text(r"hellaswag_val\.jsonl"))}


def winogrande(files, _):
    return {"train": jsonl(files.text(r"(winogrande_1\.1/|winogrande_)train_xl\.jsonl")),
            "validation": jsonl(files.text(r"(winogrande_1\.1/|winogrande_)dev\.jsonl"))}


def truthfulqa(files, _):
    def rows(text):
        return [{"question": r["question"], **{key: {"choices": list(r[key]), "labels": list(r[key].values())}
                                               for key in ("mc1_targets", "mc2_targets")}} for r in json.loads(text)]
    return {"validation": rows(files.text(r"(truthfulqa_)?mc_task[^/]*\.json"))}


def mmlu(files, subject):
    def rows(text):
        return text and [{"question": r[0], "subject": subject, "choices": r[1:5], "answer": "ABCD".index(r[5])}
                         for r in csv.reader(io.StringIO(text))]
    return {split: rows(files.text(f"{split}/{subject}_{split}\\.csv")) for split in ("dev", "test")}


def kobest(files, name):
    truth = lambda value: int(str(value).lower() == "true")
    make = {
        "boolq": lambda r: {"paragraph": r["Text"], "question": r["Question"], "label": truth(r["Answer"])},
        "copa": lambda r: {"premise": r["sentence"], "question": r["question"], "alternative_1": r["1"], "alternative_2": r["2"],
                           "label": int(r["Answer"]) - 1},
        "hellaswag": lambda r: {"context": r["context"], **{f"ending_{i}": r[f"choice{i}"] for i in range(1, 5)}, "label": int(r["label"])},
        "sentineg": lambda r: {"sentence": r["Text"], "label": int(r["Label"])},
        "wic": lambda r: {"word": r["Target"], "context_1": r["SENTENCE1"], "context_2": r["SENTENCE2"], "label": truth(r["ANSWER"])},
    }[name]
    rows = lambda text: text and [make(r) for r in tsv(text)]
    return {split: rows(files.text(f"{name}/{part}\\.tsv")) for split, part in [("train", "train"), ("validation", "dev"), ("test", "test")]}


READERS = {"allenai/ai2_arc": arc, "Rowan/hellaswag": hellaswag, "allenai/winogrande": winogrande,
           "truthfulqa/truthful_qa": truthfulqa, "cais/mmlu": mmlu, "skt/kobest_v1": kobest}


def local_datasets(files):
    """Puts local files in the place of `datasets.load_dataset`."""
    import datasets

    known = {}

    def load(path, name=None, **_):
        if (path, name) not in known:
            splits = {split: rows for split, rows in READERS[path](files, name).items() if rows}
            known[path, name] = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
        return known[path, name]

    datasets.load_dataset = load
    return load


# ---------------------------------------------------------------- the two sides

def members(task):
    """lm_eval's names of a task's parts: MMLU has 57."""
    if task != "mmlu":
        return [task]
    import lm_eval

    folder = pathlib.Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    return sorted(path.stem for path in folder.glob("mmlu_*.yaml"))


def task_file(name):
    """Where lm_eval keeps the definition of a task."""
    import lm_eval

    folders = {"arc": "arc/{}", "hellaswag": "hellaswag/{}", "mmlu": "mmlu/default/{}", "truthfulqa": "truthfulqa/{}", "kobest": "kobest/{}",
               "winogrande": "winogrande/default"}
    return pathlib.Path(lm_eval.__file__).parent / "tasks" / f"{folders[name.split('_')[0]].format(name)}.yaml"


def limit_of(task, limit):
    """Items of each part, so that the whole has as many as any other task."""
    return limit and math.ceil(limit / len(members(task)))


def of_lm_eval(lm, load, task, shots, limit):
    """The log-likelihoods, by (part, item), and the metrics, with the time that making and scoring requests took."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    # Its index of all its tasks takes longer to make than a short comparison.
    manager = TaskManager(include_defaults=False)
    specs = []
    for name in members(task):
        config = load_yaml(task_file(name))
        spec = {key: value for key, value in config.items() if key != "tag"}
        splits = load(config["dataset_path"], config.get("dataset_name"))
        for key in ("training_split", "validation_split"):
            if config.get(key) and config[key] not in splits:
                spec[key] = None
        evaluated = config.get("test_split") or config.get("validation_split")
        pool = config.get("fewshot_split") or next((config[k] for k in ("training_split", "validation_split") if config.get(k) in splits), evaluated)
        if shots and pool == evaluated and config.get("test_split"):
            # Examples come from what is measured: told so, lm_eval takes the item itself out.
            spec["fewshot_split"] = pool
        specs.append(spec)
    spent = {"seconds": 0.0, "cpu": 0.0}
    loglikelihood = lm.loglikelihood

    def timed(*args, **kwargs):
        start = time.perf_counter(), time.process_time()
        result = loglikelihood(*args, **kwargs)
        spent["seconds"] += time.perf_counter() - start[0]
        spent["cpu"] += time.process_time() - start[1]
        return result

    lm.loglikelihood = timed
    try:
        # What lm_eval prints belongs to progress.
        with contextlib.redirect_stdout(sys.stderr):
            found = lm_eval.simple_evaluate(lm, tasks=specs, num_fewshot=shots, limit=limit_of(task, limit), bootstrap_iters=100, log_samples=True, task_manager=manager)
    finally:
        lm.loglikelihood = loglikelihood
    items = {}
    for name, samples in found["samples"].items():
        for sample in samples:
            items[f"{name}/{sample['doc_id']}"] = {"lls": [r[0] for r in sample["filtered_resps"]], "acc": float(sample["acc"]),
                                                   **({"acc_norm": float(sample["acc_norm"])} if "acc_norm" in sample else {})}
    metrics = {name: {key.split(",")[0]: value for key, value in values.items() if key.endswith(",none") and isinstance(value, (int, float))}
               for name, values in found["results"].items()}
    return {"items": items, "metrics": metrics, **spent}


def of_treering(binary, model, task, shots, limit, data, work):
    samples = work / "treering.jsonl"
    command = [binary, "eval", model, "--suite", task, "--suite-data", data, "--few-shot", str(shots), "--samples", str(samples),
               "--dtype", "f32", "--json"] + (["--limit", str(limit_of(task, limit))] if limit else [])
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}\n{done.stderr}")
    suite = json.loads(done.stdout)["suite"]
    lines = [json.loads(line) for line in samples.read_text().splitlines()[1:]]
    items = {f"{line['task']}/{line['index']}": {"lls": line["results"][0]["log_likelihoods"], **line["results"][0]} for line in lines}
    metrics = {part["task"]: part["results"][0] for part in suite["tasks"]} | {g["group"]: g["results"][0] for g in suite.get("groups", [])}
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"items": items, "metrics": metrics, "seconds": sum(part["seconds"] for part in suite["tasks"]), "cpu": cpu}


def requests_of_lm_eval(lm, load, task, shots, limit):
    """What lm_eval would score, by (part, item), without scoring it: of every request the tokens, and how many of them are the continuation's."""
    seen, score = [], lm._loglikelihood_tokens

    def note(requests, **_):
        for _, context, continuation in requests:
            seen.append(((context + continuation)[-(lm.max_length + 1):], len(continuation)))
        return [(-float(number), False) for number in range(len(requests))]

    lm._loglikelihood_tokens = note
    try:
        found = of_lm_eval(lm, load, task, shots, limit)
    finally:
        lm._loglikelihood_tokens = score
    # What comes back of a request is its number, which says where it went.
    return {key: [seen[int(-ll)] for ll in item["lls"]] for key, item in found["items"].items()}


def without_model(path):
    """lm_eval's model of which nothing is asked but how much it takes, and how it writes text in tokens."""
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    config = transformers.AutoConfig.from_pretrained(path)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.head_dim = config.num_attention_heads * 2, 8, 1, 2
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return HFLM(pretrained=model.to_empty(device="cpu"), tokenizer=transformers.AutoTokenizer.from_pretrained(path), batch_size=1)


def in_float64(path, requests):
    """Their log-likelihoods in float64."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    found = []
    for tokens, scored in requests:
        with torch.no_grad():
            log_probs = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
        places = range(len(tokens) - 1 - scored, len(tokens) - 1)
        found.append(sum(log_probs[place, tokens[place + 1]].item() for place in places))
    return found


def who_is_off(args, load, task, shots, theirs, ours):
    """Where the sides differ by more than they may: how far each lies from float64. Nothing where they do not."""
    far = [(key, choice) for key, item in theirs["items"].items()
           for choice, (x, y) in enumerate(zip(item["lls"], ours["items"][key]["lls"], strict=True)) if abs(x - y) > TOLERANCE]
    if not far:
        return {}
    requests = requests_of_lm_eval(without_model(args.model), load, task, shots, args.limit)
    exact = in_float64(args.model, [requests[key][choice] for key, choice in far])
    off = lambda side: max(abs(side["items"][key]["lls"][choice] - value) for (key, choice), value in zip(far, exact, strict=True))
    return {"beyond_tolerance": len(far), "of_these_from_float64": [off(theirs), off(ours)]}


def compare_requests(args, settings, load):
    import hashlib
    import struct

    lm = without_model(args.model)
    summary = {}
    for task, shots in settings:
        noted = lambda tokens, scored: [len(tokens), scored, hashlib.sha256(struct.pack(f"<{len(tokens)}I", *tokens)).hexdigest()]
        theirs = {key: [noted(*request) for request in requests]
                  for key, requests in requests_of_lm_eval(lm, load, task, shots, args.limit).items()}
        command = [args.binary, args.model, args.data, str(limit_of(task, args.limit) or 0), f"{task}:{shots}"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        ours = {f"{line['task']}/{line['index']}": line["requests"] for line in map(json.loads, lines)}
        if theirs.keys() != ours.keys():
            sys.exit(f"error: {task}: the sides have different items: {sorted(theirs.keys() ^ ours.keys())[:5]}")
        name = task + (f" ({shots} shots)" if shots else "")
        equal = sum(theirs[key] == ours[key] for key in theirs)
        summary[name] = {"items": len(theirs), "equal_items": equal, "requests": sum(map(len, theirs.values())),
                         "tokens": sum(request[0] for requests in theirs.values() for request in requests)}
        if equal < len(theirs):
            summary[name]["first_different"] = next(key for key in theirs if theirs[key] != ours[key])
        print(f"{name}: {json.dumps(summary[name])}", file=sys.stderr, flush=True)
    print(json.dumps(summary))
    if any(s["equal_items"] != s["items"] for s in summary.values()):
        sys.exit(3)


def compare(task, theirs, ours):
    if theirs["items"].keys() != ours["items"].keys():
        sys.exit(f"error: {task}: the sides have different items: {sorted(theirs['items'].keys() ^ ours['items'].keys())[:5]}")
    largest, equal, values = 0.0, 0, {}
    for key, a in theirs["items"].items():
        b = ours["items"][key]
        assert len(a["lls"]) == len(b["lls"]), key
        largest = max([largest, *(abs(x - y) for x, y in zip(a["lls"], b["lls"], strict=True))])
        # What is decided; mc2's "acc" is a probability, which is compared as one.
        decided = lambda side: [side["acc"] if task != "truthfulqa_mc2" else 0.0, side.get("acc_norm"), max(range(len(side["lls"])), key=side["lls"].__getitem__)]
        equal += decided(a) == decided(b)
    for name, metrics in theirs["metrics"].items():
        for metric, value in metrics.items():
            if metric in ("acc", "acc_norm", "f1", "acc_stderr", "acc_norm_stderr") and name in ours["metrics"] and ours["metrics"][name].get(metric) is not None:
                values[f"{name}/{metric}"] = [value, ours["metrics"][name][metric]]
    items = len(theirs["items"])
    if task == "mmlu":
        values["mmlu/acc"] = [sum(item["acc"] for item in side["items"].values()) / items for side in (theirs, ours)]
    main = "mmlu" if task == "mmlu" else task
    return {
        "items": items,
        "log_likelihoods": sum(len(a["lls"]) for a in theirs["items"].values()),
        "equal_decisions": equal,
        "largest_difference": largest,
        "metrics": {key.split("/")[1]: pair for key, pair in values.items() if key.split("/")[0] == main and not key.endswith("stderr")},
        "largest_metric_difference": max((abs(a - b) for a, b in values.values()), default=0.0),
        "items_per_second": [round(items / theirs["seconds"], 3), round(items / ours["seconds"], 3)],
        "processor_seconds": [round(theirs["cpu"], 1), round(ours["cpu"], 1)],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--binary")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--few-shot", choices=["zero", "leaderboard", "both"], default="zero")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--only", choices=["lm_eval"])
    parser.add_argument("--requests", action="store_true")
    args = parser.parse_args()
    tasks = args.tasks.split(",")
    if unknown := [task for task in tasks if task not in TASKS]:
        sys.exit(f"error: {', '.join(unknown)}: the tasks compared are {', '.join(TASKS)}")
    settings = [(task, 0) for task in tasks if args.few_shot != "leaderboard"]
    settings += [(task, LEADERBOARD[task]) for task in tasks if args.few_shot != "zero" and task in LEADERBOARD]
    load, lm, summary = local_datasets(Files(args.data)), None, {}
    if args.requests:
        return compare_requests(args, settings, load)
    for task, shots in settings:
        name = f"{task}" + (f" ({shots} shots)" if shots else "")
        folder = args.work / f"{task}-{shots}-{args.limit}"
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "lm_eval.json"
        if not kept.exists():
            if lm is None:
                import torch
                from lm_eval.models.huggingface import HFLM

                torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
                lm = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=args.batch_size)
            print(f"lm_eval: {name}", file=sys.stderr, flush=True)
            result = of_lm_eval(lm, load, task, shots, args.limit)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(result))
            part.rename(kept)
        if args.only:
            continue
        print(f"treering: {name}", file=sys.stderr, flush=True)
        theirs, ours = json.loads(kept.read_text()), of_treering(args.binary, args.model, task, shots, args.limit, args.data, folder)
        summary[name] = compare(task, theirs, ours) | who_is_off(args, load, task, shots, theirs, ours)
        print(f"{name}: {json.dumps(summary[name])}", file=sys.stderr, flush=True)
    if args.only:
        return
    print(json.dumps(summary))
    bad = [name for name, s in summary.items() if s["equal_decisions"] != s["items"] or s.get("of_these_from_float64", [0, 0])[1] > TOLERANCE]
    if bad:
        print(f"error: not alike: {', '.join(bad)}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
