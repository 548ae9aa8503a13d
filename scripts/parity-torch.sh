#!/usr/bin/env bash
# Compares Treering with PyTorch in f32 on a real model: logits of the base (transformers and peers/scale_torch.py), both heads after
# widening with every block random, and gradients and weights of one AdamW step for preserve, adapt and full.
# usage: scripts/parity-torch.sh MODEL     (a Hugging Face folder or a Llama .gguf)
# Prints one JSON object of largest differences; exits with 3 where one exceeds its tolerance.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
[[ $# -eq 1 ]] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
model="$(realpath "$1")"
python="$("$root/scripts/setup-peers.sh")"
folder="$("$root/scripts/hugging-face-folder.sh" "$model")"
case="$(mktemp -d "${TMPDIR:-/tmp}/treering-parity.XXXXXX")"
trap 'rm -rf "$case"' EXIT
(cd "$root" && cargo run --quiet --release --locked --example parity -- "$model" "$case") >&2
"$python" "$root/peers/parity.py" "$folder" "$case"
