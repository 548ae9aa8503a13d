#!/bin/sh
# Lets every operation on the files of a training run, and of one that goes on, go wrong in seven ways, kills runs at random moments, and resumes:
# all must end with the same bits. Ends with {"fault_points", "survived", "kills", "resumed_identical", ...} and with an error where something was lost.
#
#   scripts/crash-harness.sh [--kills N] [--profile NAME]
#
# Linux; needs cc. About ten minutes on two cores.
set -eu
cd "$(dirname "$0")/.."
kills=500 profile=release
while [ $# -gt 0 ]; do
    case $1 in
        --kills) kills=$2; shift 2 ;;
        --profile) profile=$2; shift 2 ;;
        *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
for part in every_fault_at_every_file_operation kills_at_random_moments; do
    TREERING_KILLS=$kills cargo test --profile "$profile" --test crash -- --ignored --nocapture --exact $part >> "$log" || status=$?
done
# The two objects as one.
result=$(sed -n '/^{/p' "$log" | paste -s -d , - | sed 's/},{/,/')
if [ -n "$result" ]; then echo "$result"; else cat "$log" >&2; fi
exit $status
