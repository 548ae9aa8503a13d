#!/bin/sh
# As RUSTC_WRAPPER: coverage in our own crates alone, so that dependencies need not be built again (scripts/fuzz.sh --own).
compiler=$1
shift
for argument in "$@"; do
    case $previous$argument in
        --crate-name=treering | --crate-name=treering_fuzz)
            level=-Cllvm-args=-sanitizer-coverage
            exec "$compiler" "$@" --cfg fuzzing -Cpasses=sancov-module $level-level=4 $level-inline-8bit-counters $level-pc-table $level-trace-compares
            ;;
    esac
    previous=
    [ "$argument" = --crate-name ] && previous=--crate-name=
done
exec "$compiler" "$@"
