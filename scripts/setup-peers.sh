#!/usr/bin/env bash
# Makes the Python environment that the comparisons with PyTorch run in, and prints its interpreter on stdout.
# TREERING_PEERS=FOLDER uses (or makes) an environment elsewhere; the default is target/peers/venv, which git ignores.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
venv="${TREERING_PEERS:-$root/target/peers/venv}"
python="$venv/bin/python"
packages=(torch transformers accelerate peft lm_eval safetensors gguf tokenizers numpy)

complete() {
  [[ -x "$python" ]] && "$python" - "${packages[@]}" <<'PY' 2>/dev/null
import importlib.util, sys
sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))
PY
}

if ! complete; then
  echo "setting up $venv (about 2 GB of downloads, once)" >&2
  [[ -x "$python" ]] || python3 -m venv "$venv" >&2
  "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" >&2
  complete || { echo "error: $venv still lacks one of: ${packages[*]}" >&2; exit 1; }
fi
echo "$python"
