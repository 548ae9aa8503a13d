#!/bin/sh
# Trains a tiny model for very many steps and prints how its memory and its logs grew, as one JSON object; fails where they grow without end.
#
#   scripts/long-run.sh [--steps N] [--profile NAME]
set -eu
cd "$(dirname "$0")/.."
steps=20000 profile=release
while [ $# -gt 0 ]; do
    case $1 in
        --steps) steps=$2; shift 2 ;;
        --profile) profile=$2; shift 2 ;;
        *) sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
TREERING_STEPS=$steps cargo test --profile "$profile" --test crash -- --ignored --nocapture --exact \
    disturbances::memory_stays_flat_and_logs_bounded_over_many_steps > "$log" || status=$?
grep '^{' "$log" || cat "$log" >&2
exit $status
