#!/usr/bin/env python3
"""Choosing one of many heads by how sure they are (docs/experiments.md, routers for many rings). Needs numpy.

  many-rings.py decoys QUESTIONS.jsonl OUT.jsonl COUNT     questions about names that nobody in QUESTIONS has, answered at random
  many-rings.py calibrate CONFIDENCE.jsonl                 what `--example answer_confidence -- RUN task-0.questions.jsonl task-1.questions.jsonl …` wrote
"""

import json
import random
import re
import sys


def decoys(source, out, count):
    forms, names = {}, set()
    for line in open(source, encoding="utf-8"):
        asked, answer = json.loads(line)["text"].split("\nAnswer: ")
        name = re.search(r"([A-Z][\w'-]+ [A-Z][\w'-]+ [A-Z][\w'-]+)( [a-z ]+)?\?$", asked).group(1)
        names.add(name)
        forms.setdefault(asked.replace(name, "{}"), []).append(answer)
    parts = [sorted(part) for part in zip(*(name.split() for name in names), strict=True)]
    draw, kinds = random.Random(1), sorted(forms)
    with open(out, "w", encoding="utf-8") as file:
        for index in range(count):
            name = next(iter(names))
            while name in names:
                name = " ".join(draw.choice(part) for part in parts)
            form = kinds[index % len(kinds)]
            file.write(json.dumps({"text": f"{form.format(name)}\nAnswer: {draw.choice(forms[form])}"}) + "\n")


def calibrate(path):
    import numpy as np

    rows = [json.loads(line) for line in open(path, encoding="utf-8")]
    heads = len(rows[0]["largest"])
    of = lambda key, task: np.array([row[key] for row in rows if row["file"] == task])
    # ln(1 − p): the lower, the surer.
    unsure = [np.log(-np.expm1(of("largest", task)) + 1e-7) for task in range(heads)]
    correct = [of("correct", task) for task in range(heads)]
    strangers = [np.concatenate([unsure[task][:, head] for task in range(heads) if task != head]) for head in range(heads)]

    def accuracy(score):
        return [round(100 * float(np.mean(correct[t][np.arange(len(correct[t])), score(unsure[t]).argmax(1)])), 1) for t in range(heads)]

    def ratio(values):
        density = lambda x, among: -0.5 * ((x - among.mean()) / among.std()) ** 2 - np.log(among.std())
        return np.stack([density(values[:, h], unsure[h][:, h]) - density(values[:, h], strangers[h]) for h in range(heads)], 1)

    deviations = lambda values: -np.stack([(values[:, h] - strangers[h].mean()) / strangers[h].std() for h in range(heads)], 1)
    print(json.dumps({
        "confidence": accuracy(lambda values: -values),
        "deviations from strangers": accuracy(deviations),
        "ratio of densities": accuracy(ratio),
        "median probability, own people": [round(1 - float(np.exp(np.median(unsure[h][:, h]))), 4) for h in range(heads)],
        "median probability, strangers": [round(1 - float(np.exp(np.median(strangers[h]))), 2) for h in range(heads)],
        "strangers surer than 2 % of own people": [round(100 * float(np.mean(strangers[h] < np.quantile(unsure[h][:, h], 0.98))), 1) for h in range(heads)],
    }, indent=1))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["decoys", source, out, count]:
            decoys(source, out, int(count))
        case ["calibrate", path]:
            calibrate(path)
        case _:
            sys.exit(__doc__)
