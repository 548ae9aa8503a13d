#!/bin/sh
# Fuzzes every reader of files and text for M minutes each, N at a time, and prints one JSON object: per target how long it ran, how many inputs it tried,
# how many of them it kept, and how many findings there are. Exit code 3 where there are any; the inputs then lie in fuzz/artifacts.
#
#   scripts/fuzz.sh [--minutes M] [--jobs N] [--own] [--profile NAME] [TARGET ...]
#
# --own measures coverage in our own crates alone, and builds dependencies as they are: a quicker build where they are there already (CARGO_TARGET_DIR).
# Needs a C++ compiler (for libFuzzer). `cargo fuzz run TARGET --sanitizer none` works as well where cargo-fuzz is installed.
set -eu
cd "$(dirname "$0")/../fuzz"
minutes=60 jobs=2 own= profile=release targets=
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --profile) profile=$2; shift 2 ;;
        --own) own=yes; shift ;;
        -*) sed -n '2,8s/^# \{0,1\}//p' ../scripts/fuzz.sh >&2; exit 2 ;;
        *) targets="$targets $1"; shift ;;
    esac
done
[ -n "$targets" ] || targets=$(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' Cargo.toml)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
if [ -n "$own" ]; then
    RUSTC_WRAPPER=$PWD/own.sh cargo build --profile "$profile" --bins >&2
    binaries=$CARGO_TARGET_DIR/$profile
else
    triple=$(rustc -vV | sed -n 's/^host: //p')
    level=-Cllvm-args=-sanitizer-coverage
    # With --target, so that build scripts are left alone.
    RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $level-level=4 $level-inline-8bit-counters $level-pc-table $level-trace-compares" \
        cargo build --profile "$profile" --target "$triple" --bins >&2
    binaries=$CARGO_TARGET_DIR/$triple/$profile
fi

run() {
    mkdir -p "work/$1" "artifacts/$1"
    # New inputs go to work/, which git ignores; corpus/ is what is kept, and larger examples lie among the fixtures of the tests.
    case $1 in
        gguf) cp -n ../tests/fixtures/tiny.gguf work/gguf/ ;;
        safetensors) cp -n ../tests/fixtures/llama-gqa-tied/model.safetensors work/safetensors/ ;;
        config) for family in ../tests/fixtures/llama-*; do cp -n "$family/config.json" "work/config/$(basename "$family")"; done ;;
    esac
    nice -n 19 "$binaries/$1" "work/$1" "corpus/$1" -artifact_prefix="artifacts/$1/" -max_total_time=$((minutes * 60)) \
        -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 > "work/$1.log" 2>&1 || true
}

# N workers: the k-th takes the k-th target, the (k + N)-th and so on.
worker=0
while [ $worker -lt "$jobs" ]; do
    (
        index=0
        for target in $targets; do
            [ $((index % jobs)) -ne $worker ] || run "$target"
            index=$((index + 1))
        done
    ) &
    worker=$((worker + 1))
done
wait
rm -rf /dev/shm/treering-fuzz-*

found=0 separator=
printf '{"targets":['
for target in $targets; do
    log=work/$target.log
    inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    seconds=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
    # A target that finds something stops there and says neither.
    [ -n "$inputs" ] || inputs=$(sed -n 's/^#\([0-9]*\).*/\1/p' "$log" | tail -1)
    artifacts=$(find "artifacts/$target" -type f | wc -l)
    found=$((found + artifacts))
    printf '%s{"target":"%s","seconds":%s,"inputs":%s,"kept":%s,"findings":%s}' \
        "$separator" "$target" "${seconds:-null}" "${inputs:-0}" "$(find "work/$target" -type f | wc -l)" "$artifacts"
    separator=,
done
printf '],"findings":%s}\n' "$found"
[ "$found" -eq 0 ] || exit 3
