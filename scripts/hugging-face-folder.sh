#!/usr/bin/env bash
# Prints a Hugging Face folder for MODEL: the folder itself, or for a .gguf a converted copy in target/peers/models, made once.
# usage: scripts/hugging-face-folder.sh MODEL
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
model="${1:?usage: scripts/hugging-face-folder.sh MODEL}"
if [[ -d "$model" ]]; then
  realpath "$model"
  exit
fi
[[ -f "$model" ]] || { echo "error: $model: no such file or folder" >&2; exit 1; }
folder="$root/target/peers/models/$(basename "${model%.gguf}")"
# The configuration is written last: a folder with a configuration newer than the model is whole.
if [[ ! "$folder/config.json" -nt "$model" ]]; then
  mkdir -p "$(dirname "$folder")"
  "$("$root/scripts/setup-peers.sh")" "$root/scripts/gguf-to-hf.py" "$model" "$folder" >&2
fi
echo "$folder"
