#!/bin/sh
# What the inputs of fuzzing reach that are kept (scripts/fuzz.sh --replay): lines of each file, and of all that are reached at all. Then one JSON object.
#
#   scripts/fuzz-coverage.sh [--missed SOURCE]
#
# --missed prints the lines of a file, such as src/checkpoint/gguf.rs, that no input reaches.
# Needs the tools of the toolchain's own LLVM (rustup component add llvm-tools), a C++ compiler and xz. It builds in a folder of its own.
set -eu
cd "$(dirname "$0")/../fuzz"
missed=
case ${1-} in
    --missed) missed=$2 ;;
    '') ;;
    *) sed -n '2,7s/^# \{0,1\}//p' ../scripts/fuzz-coverage.sh >&2; exit 2 ;;
esac
tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
if [ ! -x "$tools/llvm-cov" ]; then
    echo "$tools has no llvm-cov" >&2
    echo "  hint: rustup component add llvm-tools" >&2
    exit 1
fi
export CARGO_TARGET_DIR="$PWD/work/coverage"
WATCH=lines RUSTC_WRAPPER=$PWD/own.sh cargo build --locked --release --bins >&2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
LLVM_PROFILE_FILE=$scratch/%m.profraw ../scripts/fuzz.sh --replay --binaries "$CARGO_TARGET_DIR/release" >&2
objects=$(sed -n "s|^name = \"\([a-z_]*\)\"$|-object $CARGO_TARGET_DIR/release/\1|p" Cargo.toml)
"$tools/llvm-profdata" merge -sparse "$scratch"/*.profraw -o "$scratch/all"
"$tools/llvm-cov" export $objects -instr-profile="$scratch/all" -format=lcov > "$scratch/lcov" 2> /dev/null
awk -F'[:,]' -v root="$(cd .. && pwd)/" -v missed="$missed" '
    $1 == "SF" { file = $2; ours = index(file, root "src/") == 1; file = substr(file, length(root) + 1) }
    $1 == "DA" && ours { lines[file]++; if ($3 > 0) reached[file]++; else if (file == missed) print $2 }
    END {
        if (missed != "") exit
        for (file in reached) { all += lines[file]; hit += reached[file]; printf "%5.1f %% of %4d lines  %s\n", 100 * reached[file] / lines[file], lines[file], file | "sort -k6" }
        close("sort -k6")
        printf "{\"files\":%d,\"lines\":%d,\"reached\":%d}\n", length(reached), all, hit
    }' "$scratch/lcov" > "$scratch/out"
if [ -z "$missed" ]; then
    cat "$scratch/out"
else
    while read -r line; do sed -n "${line}s/^/$line: /p" "../$missed"; done < "$scratch/out"
fi
