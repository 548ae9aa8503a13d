#!/bin/sh
# As RUSTC_WRAPPER: our own crates alone are watched, so that dependencies need not be built again. Which branches an input takes, for libFuzzer
# (scripts/fuzz.sh --own); or where WATCH is `lines`, which lines run (scripts/fuzz-coverage.sh).
compiler=$1
shift
for argument in "$@"; do
    case $WATCH$previous$argument in
        --crate-name=treering | --crate-name=treering_fuzz)
            level=-Cllvm-args=-sanitizer-coverage
            exec "$compiler" "$@" --cfg fuzzing -Cpasses=sancov-module $level-level=4 $level-inline-8bit-counters $level-pc-table $level-trace-compares
            ;;
        # A target as well, so that it is linked with what writes the counts down.
        lines--crate-name=treering | lines--crate-name=treering_fuzz | linesfuzz_targets/*)
            exec "$compiler" "$@" --cfg fuzzing -Cinstrument-coverage
            ;;
    esac
    previous=
    [ "$argument" = --crate-name ] && previous=--crate-name=
done
exec "$compiler" "$@"
