#!/usr/bin/env python3
"""How fast training runs are beside one another on a machine whose speed changes from minute to minute.

usage: by-turns.py [--seconds 60] [--slice 1.5] NAME='COMMAND' NAME='COMMAND'...

Each COMMAND is a training run, such as `target/release/treering train RECIPE --set …`, without `--out`; what it is given here is an endless schedule
with nothing measured between. All are started one after the other, and stopped when their second step is done. Then they run by turns, each for a
slice of seconds while the others are stopped (SIGSTOP, SIGCONT), until every one has had its seconds: whatever slows the machine slows all of them alike.
Prints one JSON object a run: its steps, the mean and the median of their seconds (its own turns alone), and its speed as a multiple of the first's.
All runs hold their memory at once.
"""
import argparse, json, os, shlex, signal, statistics, subprocess, sys, tempfile, time

ENDLESS = "train.steps=1000000 train.warmup_steps=2 eval.every_steps=0 data.learn=[] data.forget=[] train.checkpoint_every_steps=0"


class Run:
    def __init__(self, name, command, folder):
        out = os.path.join(folder, name)
        self.name, self.metrics, self.log = name, os.path.join(out, "metrics.jsonl"), out + ".log"
        settings = [part for setting in ENDLESS.split() for part in ("--set", setting)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*shlex.split(command), *settings, "--out", out], stdout=log, stderr=subprocess.STDOUT)
        self.active, self.ends = 0.0, []
        try:
            while self.steps() < 2:
                self.check()
                time.sleep(0.1)
            self.seen = self.steps()
            self.send(signal.SIGSTOP)
        except BaseException:
            self.process.kill()
            raise

    def check(self):
        if self.process.poll() is not None:
            with open(self.log) as log:
                sys.exit(f"{self.name} ended with {self.process.returncode}: {log.read()[-2000:]}")

    def send(self, what):
        self.process.send_signal(what)

    def steps(self):
        try:
            with open(self.metrics) as lines:
                return sum('"kind":"train"' in line.replace(" ", "") for line in lines)
        except FileNotFoundError:
            return 0

    def turn(self, seconds):
        self.send(signal.SIGCONT)
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            time.sleep(0.02)
            if (steps := self.steps()) > self.seen:
                self.check()
                self.seen = steps
                self.ends.append(self.active + time.monotonic() - start)
        self.send(signal.SIGSTOP)
        self.active += time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--slice", type=float, default=1.5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        try:
            for run in args.runs:
                name, equals, command = run.partition("=")
                if not equals or not name.replace("-", "").replace("_", "").isalnum():
                    sys.exit(f"{run!r} is not NAME='COMMAND'")
                runs.append(Run(name, command, folder))
            while min(run.active for run in runs) < args.seconds:
                for run in runs:
                    run.turn(args.slice)
        finally:
            for run in runs:
                run.process.kill()
                run.process.wait()
    first = None
    for run in runs:
        if len(run.ends) < 2:
            sys.exit(f"{run.name} made {len(run.ends)} steps in {run.active:.0f} seconds: --seconds is too few")
        mean = (run.ends[-1] - run.ends[0]) / (len(run.ends) - 1)
        first = first or mean
        between = [after - before for before, after in zip(run.ends, run.ends[1:])]
        found = {"run": run.name, "steps": len(between), "mean_seconds": mean, "median_seconds": statistics.median(between), "speed": first / mean}
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    main()
