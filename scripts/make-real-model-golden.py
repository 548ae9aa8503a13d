#!/usr/bin/env python3
"""Writes tests/fixtures/real-model.json: log-probabilities that transformers gives SmolLM2-135M-Instruct (f32), for tests/real_model.rs.

    "$(scripts/setup-peers.sh)" scripts/make-real-model-golden.py "$(scripts/hugging-face-folder.sh "$(scripts/get-smollm2.sh)")"
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM

if len(sys.argv) != 2:
    sys.exit(__doc__)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
stream = torch.randint(0, model.config.vocab_size, (2, 33), generator=torch.Generator().manual_seed(3))
with torch.no_grad():
    logits = model(stream[:, :-1]).logits
log_probs = logits.log_softmax(-1).gather(-1, stream[:, 1:, None])[..., 0]
golden = {
    "model": "SmolLM2-135M-Instruct.Q4_1.gguf", "parameters": sum(p.numel() for p in model.parameters()),
    "tokens": stream[:, :-1].tolist(), "targets": stream[:, 1:].tolist(),
    "log_probs": [[round(x, 5) for x in row] for row in log_probs.tolist()], "most_probable_last": logits[:, -1].argmax(-1).tolist(),
}
path = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/real-model.json"
path.write_text(json.dumps(golden) + "\n")
print(path)
