#!/usr/bin/env python3
"""What all recorded fuzzing (scripts/fuzz.sh --keep) comes to, as a Markdown table: for each target how long a core worked for it, how many inputs it
tried and how many runs a finding ended. docs/reliability.md has this table.

    python3 scripts/fuzz-record.py
"""

import collections
import json
import pathlib

fuzz = pathlib.Path(__file__).parent.parent / "fuzz"
sums = collections.defaultdict(lambda: [0, 0, 0])
for line in (fuzz / "record.jsonl").read_text().splitlines():
    run = json.loads(line)
    of = sums[run["target"]]
    of[0] += run["cpu_seconds"]
    of[1] += run["inputs"]
    of[2] += run["findings"] > 0
targets = sorted(target.stem for target in (fuzz / "fuzz_targets").glob("*.rs"))
print("| target | minutes of a core | inputs | runs that a finding ended |\n|---|---:|---:|---:|")
for name, (seconds, inputs, findings) in [*((target, sums[target]) for target in targets), ("all", map(sum, zip(*sums.values())))]:
    print(f"| {name if name == 'all' else f'`{name}`'} | {seconds / 60:.1f} | {inputs:,} | {findings} |")
