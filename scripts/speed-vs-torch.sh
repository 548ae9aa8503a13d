#!/usr/bin/env bash
# Training throughput of Treering beside PyTorch's on this machine, in turn, each run in a process of its own.
# usage: scripts/speed-vs-torch.sh MODEL [--dtype bf16|f32] [--modes forward,full,lora,freeze,llama-pro,preserve,adapt,route] [--rounds 3]
#                                        [--batch 4] [--length 256] [--steps 5] [--threads 2]
# MODEL is a Hugging Face folder or a Llama .gguf. Modes are those of benches/step.rs; route beside adapted, and route-all beside adapted-all, tell
# what the second head costs. Prints one JSON line a mode; numbers are medians over the rounds:
#   {"mode","dtype","ours","torch","ratio","fraction_of_roof","ours_peak_mib","torch_peak_mib"}   (ours, torch: tokens/s)
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
usage() { sed -n '3,4s/^# //p' "$0" >&2; exit 2; }
[[ $# -ge 1 && "$1" != --* ]] || usage
model="$(realpath "$1")"; shift
dtype=bf16 modes=forward,full,lora,freeze,llama-pro,preserve,adapt,route rounds=3 batch=4 length=256 steps=5 threads=2
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || usage
  case "$1" in
    --dtype | --modes | --rounds | --batch | --length | --steps | --threads) declare "${1#--}=$2" ;;
    *) usage ;;
  esac
  shift 2
done

python="$("$root/scripts/setup-peers.sh")"
folder="$("$root/scripts/hugging-face-folder.sh" "$model")"
bench="$(cd "$root" && cargo bench --quiet --locked --bench step --no-run --message-format json |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "step": print(message["executable"])')"
[[ -x "$bench" ]] || { echo "error: the bench did not build" >&2; exit 1; }
results="$(mktemp -d "${TMPDIR:-/tmp}/treering-speed.XXXXXX")"
trap 'rm -rf "$results"' EXIT

shape=(--dtype "$dtype" --batch "$batch" --length "$length" --steps "$steps" --threads "$threads")
for ((round = 1; round <= rounds; round++)); do
  for mode in ${modes//,/ }; do
    echo "round $round of $rounds: $mode $dtype" >&2
    "$bench" --model "$model" --mode "$mode" "${shape[@]}" >>"$results/$mode.ours"
    "$python" "$root/peers/torch_bench.py" "$folder" --mode "$mode" "${shape[@]}" >>"$results/$mode.torch"
  done
done

for mode in ${modes//,/ }; do
  python3 - "$mode" "$dtype" "$results/$mode" <<'PY'
import json, os, statistics, sys
mode, dtype, stem = sys.argv[1:]
def side(name):
    path = f"{stem}.{name}"
    return [json.loads(line) for line in open(path)] if os.path.exists(path) else []
def median(records, key):
    return round(statistics.median(r[key] for r in records), 3) if records else None
ours, torch = side("ours"), side("torch")
a, b = median(ours, "tokens_per_second"), median(torch, "tokens_per_second")
print(json.dumps({"mode": mode, "dtype": dtype, "ours": a, "torch": b, "ratio": round(a / b, 2) if a and b else None,
                  "fraction_of_roof": median(ours, "fraction_of_roof"), "ours_peak_mib": median(ours, "peak_rss_mib"),
                  "torch_peak_mib": median(torch, "peak_rss_mib")}))
PY
done
