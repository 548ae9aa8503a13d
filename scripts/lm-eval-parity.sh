#!/usr/bin/env bash
# Compares `treering eval --suite` with lm-evaluation-harness (`lm_eval` from PyPI) over the same items in f32: every log-likelihood and every metric.
# usage: scripts/lm-eval-parity.sh --data DIR [--model MODEL] [--limit N] [--tasks TASK,…] [--few-shot zero|leaderboard|both] [--batch-size N] [--work DIR] [--requests]
#   --data   the folder of the tasks' data (docs/evaluation.md#data)
#   --model  a Hugging Face folder or a Llama .gguf [default: SmolLM2-135M-Instruct, fetched where it is not there]
#   --limit  items a task, of MMLU so many over all its subjects [default: 200; 0: all]
#   --requests  compares the tokens of every request alone, without running a model: all items of all tasks in minutes
#   --work   keeps lm_eval's results, and uses those that are there
# Prints one JSON object: task → items, equal decisions, largest log-likelihood difference, metrics on both sides (lm_eval first), items/s on both sides.
# Exits with 3 where a decision differs, or a log-likelihood by more than 1e-3 and, computed once more in float64 by transformers, ours is the one that is off.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
usage() { sed -n '2,10s/^# //p' "$0" >&2; exit 2; }
model="" data="" work="" rest=()
requests=""
while [[ $# -gt 0 ]]; do
  if [[ "$1" == --requests ]]; then
    requests=1
    shift
    continue
  fi
  [[ $# -ge 2 ]] || usage
  case "$1" in
    --model) model="$2" ;;
    --data) data="$2" ;;
    --work) work="$2" ;;
    --limit | --tasks | --few-shot | --batch-size) rest+=("$1" "$2") ;;
    *) usage ;;
  esac
  shift 2
done
[[ -d "$data" ]] || usage
python="$("$root/scripts/setup-peers.sh")"
for package in lm_eval pandas sklearn zstandard; do
  "$python" -c "import $package" 2>/dev/null || "$python" -m pip install --quiet --disable-pip-version-check 'lm_eval[hf]' pandas scikit-learn zstandard >&2
done
[[ -n "$model" ]] || model="$("$root/scripts/get-smollm2.sh")"
folder="$("$root/scripts/hugging-face-folder.sh" "$model")"
[[ -f "$folder/tokenizer.json" ]] || { echo "error: $folder has no tokenizer.json; name a Hugging Face folder with --model" >&2; exit 1; }
if [[ -z "$work" ]]; then
  work="$(mktemp -d "${TMPDIR:-/tmp}/treering-lm-eval.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
fi
if [[ -n "$requests" ]]; then
  rest+=(--requests)
  (cd "$root" && cargo build --quiet --release --locked --example suite_requests) >&2
  TREERING_BIN="$root/target/release/examples/suite_requests"
elif [[ -z "${TREERING_BIN:-}" ]]; then
  (cd "$root" && cargo build --quiet --release --locked --bin treering) >&2
  TREERING_BIN="$root/target/release/treering"
fi
HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false "$python" "$root/scripts/lm-eval-parity.py" --model "$folder" --data "$(realpath "$data")" --binary "$TREERING_BIN" --work "$work" "${rest[@]}"
