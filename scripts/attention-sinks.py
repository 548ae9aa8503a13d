#!/usr/bin/env python3
"""For which tokens the first token of a window is still the attention sink that the base made of it, in the adapted copy of the base stream.

usage: attention-sinks.py FOLDER --corpora CORPUS... [--tokens 600] [--documents 60]

FOLDER is what `treering export RUN --to hf` writes of a run with two heads; a CORPUS is JSON lines with a field "text" (.zst too), of whose first documents
the most frequent tokens are taken. Each is read alone, as the first token of a window that it would be, by either head; the largest value of the base
stream behind the layer where the base's own is largest is compared. Prints one JSON object: how many tokens keep less than a tenth of it under the
adaptation head, their share of the text, and each with its text and both values. Needs torch, transformers and zstandard (scripts/setup-peers.sh and
`pip install zstandard`).
"""
import argparse, collections, json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus_lines import lines


def largest(model, tokens, head):
    """The largest value of the base stream behind every layer, for each token alone: `[layers, tokens]`."""
    found = []
    hooks = [layer.register_forward_hook(lambda _module, _input, out: found.append(out[0][:, 0].abs().amax(-1))) for layer in model.model.layers]
    with torch.no_grad():
        model(torch.tensor(tokens)[:, None], head=head, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--corpora", nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--documents", type=int, default=60)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(options.folder, trust_remote_code=True, dtype=torch.float32).eval()
    counts = collections.Counter()
    for path in options.corpora:
        for _, line in zip(range(options.documents), lines(path)):
            counts.update(tokenizer(json.loads(line)["text"])["input_ids"])
    tokens = [token for token, _ in counts.most_common(options.tokens)]
    base, adapted = (torch.cat([largest(model, tokens[at : at + 100], head) for at in range(0, len(tokens), 100)], 1) for head in ("preservation", "adaptation"))
    layer = int(base.median(1).values.argmax())
    lost = [index for index in range(len(tokens)) if adapted[layer, index] < 0.1 * base[layer, index]]
    share = sum(counts[tokens[index]] for index in lost) / counts.total()
    each = [{"token": tokens[i], "text": tokenizer.convert_ids_to_tokens(tokens[i]), "share": round(counts[tokens[i]] / counts.total(), 5),
             "base": round(float(base[layer, i])), "adapted": round(float(adapted[layer, i]))} for i in lost]
    print(json.dumps({"layer": layer, "tokens": len(tokens), "lost": len(lost), "share_of_text": round(share, 5), "each": each}, ensure_ascii=False))


if __name__ == "__main__":
    main()
