#!/bin/sh
# Fuzzes every reader of files and text for M minutes each, N at a time, and prints one JSON object: per target how long it ran, for how long a core
# worked for it, how many inputs it tried, how many are kept, and how many findings there are. Exit code 3 where there are any; the inputs then lie in
# fuzz/artifacts.
#
#   scripts/fuzz.sh [--minutes M | --replay] [--jobs N] [--own | --binaries DIR] [--keep] [--profile NAME] [TARGET ...]
#
# --own measures coverage in our own crates alone, and builds dependencies as they are: a quicker build where they are there already (CARGO_TARGET_DIR).
# --binaries takes the targets that were built in a folder (an absolute path), and builds nothing.
# --keep then puts the fewest inputs that reach all that was reached into fuzz/kept, and writes down in fuzz/record.jsonl what was done.
# --replay tries nothing new: only what is kept is read again (.ci/run).
# Needs a C++ compiler (for libFuzzer) and xz. `cargo fuzz run TARGET --sanitizer none` works as well where cargo-fuzz is installed.
set -eu
cd "$(dirname "$0")/../fuzz"
minutes=60 jobs=2 own= binaries= keep= replay= profile=release targets=
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --profile) profile=$2; shift 2 ;;
        --own) own=yes; shift ;;
        --binaries) binaries=$2; shift 2 ;;
        --keep) keep=yes; shift ;;
        --replay) replay=yes; shift ;;
        -*) sed -n '2,12s/^# \{0,1\}//p' ../scripts/fuzz.sh >&2; exit 2 ;;
        *) targets="$targets $1"; shift ;;
    esac
done
# No time at all would be no limit to libFuzzer.
case $minutes in
    '' | *[!0-9]* | 0*)
        echo "--minutes $minutes: a whole number from 1 was expected" >&2
        exit 2
        ;;
esac
# The longest input, and what one may take: seconds, and MiB in all.
bounds="-max_len=65536 -timeout=20 -rss_limit_mb=2048"
[ -n "$targets" ] || targets=$(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' Cargo.toml)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
if [ -n "$binaries" ]; then
    :
elif [ -n "$own" ]; then
    RUSTC_WRAPPER=$PWD/own.sh cargo build --locked --profile "$profile" --bins >&2
    binaries=$CARGO_TARGET_DIR/$profile
else
    triple=$(rustc -vV | sed -n 's/^host: //p')
    level=-Cllvm-args=-sanitizer-coverage
    # With --target, so that build scripts are left alone.
    RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $level-level=4 $level-inline-8bit-counters $level-pc-table $level-trace-compares" \
        cargo build --locked --profile "$profile" --target "$triple" --bins >&2
    binaries=$CARGO_TARGET_DIR/$triple/$profile
fi

# Names that a target's reader knows, as a dictionary of libFuzzer's: strings and fields of its source, and keys of files that it reads.
dictionary() {
    case $1 in
        safetensors | index) set -- ../src/checkpoint/*.rs ../tests/fixtures/*/model.safetensors ;;
        gguf) set -- ../src/checkpoint/*.rs ../src/tokenizer/gguf.rs ../tests/fixtures/tiny.gguf ;;
        config) set -- ../src/checkpoint/*.rs ../tests/fixtures/*/config.json ;;
        tokenizer) set -- ../src/tokenizer.rs ../tests/fixtures/tokenizer-*.json corpus/tokenizer/* ;;
        recipe) set -- ../src/recipe/*.rs ../src/grow/*.rs ../src/baseline/*.rs ../recipes/*.toml ;;
        study) set -- ../src/study/*.rs ../src/recipe/*.rs ../studies/*.toml corpus/study/* ;;
        aids) set -- ../src/route/*.rs ;;
        router) set -- ../src/route/*.rs ../src/recipe/*.rs ../src/grow/*.rs ../src/model/head.rs ../src/eval/suite/task.rs ;;
        corpus) set -- ../src/data/*.rs ;;
        parquet | token_cache) return ;;
        checkpoint | metrics) set -- ../src/train/*.rs corpus/"$1"/* ;;
        expansion) set -- ../src/grow/*.rs ../src/checkpoint/*.rs corpus/expansion/* ;;
        adapter) set -- ../src/baseline/*.rs corpus/adapter/* ;;
        widened) set -- ../src/export/*.rs ../src/checkpoint/*.rs ../src/grow/*.rs corpus/widened/* ;;
        samples) set -- ../src/eval/suite/samples.rs ../src/eval/suite/metric.rs corpus/samples/* ;;
        comparison) set -- ../src/train/*.rs ../src/report/comparison/*.rs corpus/comparison/* ;;
        suite) set -- ../src/eval/suite/*.rs corpus/suite/* ;;
        dataset) set -- ../src/data/biography/*.rs ../src/biography/*.rs corpus/dataset/* ;;
        hub) set -- ../src/hub/*.rs corpus/hub/* ;;
        run) set -- ../src/train/*.rs ../src/recipe/*.rs ../src/study/variants.rs ../src/biography/routers.rs corpus/run/* ;;
    esac
    cat "$@" | LC_ALL=C grep -aoE '"[A-Za-z_][A-Za-z0-9_.<>|/-]{1,40}"|^ *(pub |pub\(crate\) )?[a-z_0-9]{2,40}: |^[a-z_0-9]+ =' |
        sed 's/^ *pub //; s/^ *pub(crate) //; s/[":= ]//g' | sort -u | sed 's/.*/"&"/'
}

# kept/NAME.tar.xz has what earlier runs found, corpus/NAME what was written by hand or stopped a run, each under a name of its own.
unpack() {
    mkdir -p "work/$1" "corpus/$1" "artifacts/$1"
    rm -rf "work/$1.kept" && mkdir "work/$1.kept"
    [ ! -f "kept/$1.tar.xz" ] || tar xJf "kept/$1.tar.xz" -C "work/$1.kept"
}

keep() {
    rm -rf "work/$1.fewest" && mkdir "work/$1.fewest"
    nice -n 19 "$binaries/$1" -set_cover_merge=1 $bounds \
        "work/$1.fewest" "work/$1.kept" "work/$1" "corpus/$1" > "work/$1.merge" 2>&1 || return 0
    # The same inputs make the same file. Many are like one another, also far apart, and xz sees it.
    (cd "work/$1.fewest" && find . -type f | LC_ALL=C sort | tar c --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -T -) | xz -9 -T1 > "work/$1.tar.xz"
    mv "work/$1.tar.xz" "kept/$1.tar.xz"
}

run() {
    unpack "$1"
    # New inputs go to work/, which git ignores; larger examples lie among the fixtures of the tests.
    case $1 in
        gguf) cp -n ../tests/fixtures/tiny.gguf work/gguf/ ;;
        safetensors) cp -n ../tests/fixtures/llama-gqa-tied/model.safetensors work/safetensors/ ;;
        comparison)
            cp -n corpus/metrics/* work/comparison/
            tar xJf kept/metrics.tar.xz -C work/comparison
            ;;
        tokenizer) cp -n ../tests/fixtures/tokenizer-*.json work/tokenizer/ ;;
        config) for family in ../tests/fixtures/llama-* ../tests/fixtures/family-*; do cp -n "$family/config.json" "work/config/$(basename "$family")"; done ;;
    esac
    dictionary "$1" > "work/$1.dict"
    limit=-max_total_time=$((minutes * 60)) words=
    [ -z "$replay" ] || limit=-runs=0
    [ ! -s "work/$1.dict" ] || words="-dict=work/$1.dict"
    # Weighing inputs by how rare it is what they reach takes longer than what they do, where they reach as much as here.
    [ "$1" != run ] || words="$words -entropic=0"
    # In a shell of its own, so that `times` is of this target alone.
    (
        nice -n 19 "$binaries/$1" "work/$1" "work/$1.kept" "corpus/$1" $words -artifact_prefix="artifacts/$1/" $limit \
            $bounds -print_final_stats=1 > "work/$1.log" 2>&1 || true
        times > "work/$1.times"
    )
    [ -z "$keep" ] || keep "$1"
}

# Inputs are handed over as files, in memory where there is room for them.
shm=/dev/shm
[ -d $shm ] || shm=${TMPDIR:-/tmp}
TREERING_FUZZ_FOLDER=$(mktemp -d $shm/treering-fuzz-XXXXXX)
export TREERING_FUZZ_FOLDER
trap 'rm -rf "$TREERING_FUZZ_FOLDER"' EXIT

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

found=0 broken= separator=
printf '{"targets":['
for target in $targets; do
    log=work/$target.log
    inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    seconds=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
    # A target that finds something stops there and says neither.
    [ -n "$inputs" ] || inputs=$(sed -n 's/^#\([0-9]*\).*/\1/p' "$log" | tail -1)
    artifacts=$(find "artifacts/$target" -type f | wc -l)
    found=$((found + artifacts))
    [ -n "$seconds" ] || [ "$artifacts" -gt 0 ] || broken="$broken $target"
    # The second line of `times` is the children's: minutes and seconds of work for the program, and for the system.
    cpu=$(sed -n '2s/[ms]/ /gp' "work/$target.times" | awk '{ printf "%.0f", $1 * 60 + $2 + $3 * 60 + $4 }')
    entry=$(printf '"target":"%s","seconds":%s,"cpu_seconds":%s,"inputs":%s,"kept":%s,"findings":%s' \
        "$target" "${seconds:-null}" "${cpu:-null}" "${inputs:-0}" "$(tar tJf "kept/$target.tar.xz" 2> /dev/null | wc -l)" "$artifacts")
    printf '%s{%s}' "$separator" "$entry"
    [ -z "$keep" ] || echo "{\"date\":\"$(date -u +%F)\",$entry}" >> record.jsonl
    separator=,
done
printf '],"findings":%s}\n' "$found"
if [ -n "$broken" ]; then
    echo "did not run to the end, and found nothing either (see fuzz/work/NAME.log):$broken" >&2
    exit 1
fi
[ "$found" -eq 0 ] || exit 3
