#!/usr/bin/env python3
"""Makes tests/fixtures/suite: a tiny random model with a tokenizer, and what lm-evaluation-harness makes of the items in tests/fixtures/suite/data.

    "$(scripts/setup-peers.sh)" scripts/make-suite-golden.py        (needs lm_eval, pandas, scikit-learn, zstandard)

The items are ours, written in each set's own format. The expected numbers are lm_eval's, with its own prompts, examples and scores.
"""

import importlib.util
import json
import pathlib

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
HERE = ROOT / "tests/fixtures/suite"
CASES = [("arc_challenge", 0), ("arc_challenge", 2), ("arc_easy", 0), ("arc_easy", 2), ("hellaswag", 0), ("hellaswag", 2), ("mmlu_anatomy", 0),
         ("mmlu_anatomy", 2), ("winogrande", 0), ("winogrande", 2), ("truthfulqa_mc1", 0), ("truthfulqa_mc2", 0), ("kobest_boolq", 0),
         ("kobest_boolq", 1), ("kobest_copa", 0), ("kobest_copa", 2), ("kobest_hellaswag", 0), ("kobest_hellaswag", 1), ("kobest_sentineg", 0),
         ("kobest_sentineg", 2), ("kobest_wic", 0), ("kobest_wic", 2)]


def make_model(folder):
    texts = ["Question: what is the answer? Answer: A. B. C. D.", "the following are multiple choice questions (with answers)"]
    texts += [path.read_text() for path in sorted((HERE / "data").rglob("*")) if path.is_file()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>")])
    # It begins every text with a token of its own, so that both settings of it differ.
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **named}, indent=2) + "\n")
    torch.manual_seed(0)
    # A context that some of the prompts with examples are longer than.
    model = LlamaForCausalLM(LlamaConfig(vocab_size=420, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.4, tie_word_embeddings=True,
                                         bos_token_id=0, eos_token_id=1))
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def main():
    spec = importlib.util.spec_from_file_location("parity", ROOT / "scripts/lm-eval-parity.py")
    parity = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parity)
    make_model(HERE / "model")
    load = parity.local_datasets(parity.Files(HERE / "data"))
    from lm_eval.models.huggingface import HFLM

    golden = []
    for bos in (None, False):
        lm = HFLM(pretrained=str(HERE / "model"), dtype="float32", device="cpu", batch_size=4, **({} if bos is None else {"add_bos_token": bos}))
        for task, shots in CASES if bos is None else CASES[:1]:
            found = parity.of_lm_eval(lm, load, task, shots, None)
            items = [found["items"][f"{task}/{i}"] for i in range(len(found["items"]))]
            metrics = {key: value for key, value in found["metrics"][task].items() if isinstance(value, float)}
            golden.append({"task": task, "few_shot": shots, "bos": "tokenizer" if bos is None else "none", "metrics": metrics,
                           "log_likelihoods": [[round(ll, 5) for ll in item["lls"]] for item in items]})
    (HERE / "golden.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in golden) + "\n]\n")


if __name__ == "__main__":
    main()
