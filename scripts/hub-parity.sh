#!/usr/bin/env bash
# Whether transformers, peft and lm_eval compute from what `treering export` writes what Treering computes, and whether `treering import` takes it back.
# usage: scripts/hub-parity.sh [MODEL|RUN] [--steps N] [--families NAMES] [--keep DIR]
#   without MODEL: small random models of every family that can be read, made here; --families llama,qwen3: of those only
#   MODEL: a Hugging Face folder or a .gguf; a few steps are trained on text made here: two rings, and LoRA, LLaMA Pro and Freeze beside them
#   RUN: a widened run or expansion, as it is
# Prints a JSON line for each comparison and one JSON object at the end; exits with 3 where one does not hold.
# TREERING_BIN=DIR uses the binaries in DIR (treering, examples/logits) and builds none.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
bin="${TREERING_BIN:-}"
if [[ -z "$bin" ]]; then
  (cd "$root" && cargo build --quiet --release --locked --bin treering --example logits) >&2
  bin="${CARGO_TARGET_DIR:-$root/target}/release"
fi
# Threads that wait must not take the processors from the other side.
export OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TQDM_DISABLE=1
exec "$("$root/scripts/setup-peers.sh")" "$root/scripts/hub-parity.py" --bin "$(realpath "$bin")" "$@"
