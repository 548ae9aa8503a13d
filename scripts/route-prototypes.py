#!/usr/bin/env python3
"""Tries routers on a trace of `treering eval --trace FILE`, without running the model again.

    scripts/route-prototypes.py TRACE.jsonl… [--answers TOKEN] [--own NEW.jsonl OLD.jsonl] [--only TEXT]

One row a router: on each corpus the perplexity and the share of tokens on which the adaptation head spoke: of the heads' favourite tokens,
its own was the more probable in the mixture. With --answers every document is a question, and its answer begins after the last TOKEN: also
the shares of first answer tokens and of whole answers that were the favourites of the heads that spoke, and routers that forget their evidence there.
--own names traces of text that each head is at home with, what was trained on and what the base says by itself: then also confidence measured by each
head's own habit. What was kept is in src/route/; what was tried, in docs/routers.md. The router `gate` is not here: it looks at more than a trace holds.
"""

import argparse
import json
import math
from collections import defaultdict


def log_add(a, b):
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


def weights(log_odds):
    """Logarithms of the weights of the preservation and the adaptation head from the log-odds of the latter."""
    return -log_add(0.0, log_odds), -log_add(0.0, -log_odds)


def share_back(log_odds, share):
    if share == 0:
        return log_odds
    w = 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
    w = (1 - share) * w + share / 2
    return math.log(w) - math.log1p(-w)


class Bayes:
    """Evidence so far; `bias(token)` adds to the log-odds of the adaptation head for one token only."""

    def __init__(self, share=1e-3, bias=None):
        self.share, self.bias = share, bias

    def restart(self):
        self.odds = 0.0

    def decide(self, token):
        return self.odds + (self.bias(token) if self.bias else 0.0)

    def observe(self, token):
        self.odds = share_back(self.odds + token["log_probs"][1] - token["log_probs"][0], self.share)


class Contextual:
    """Evidence apart for each kind of situation: which head is the more confident, by how much. `lean` is the prior log-odds towards that head."""

    def __init__(self, share=1e-3, edges=(-1.0, 1.0), lean=1.0, measure=None, shared=0.0):
        self.share, self.edges, self.lean, self.shared = share, edges, lean, shared
        self.measure = measure or (lambda t: t["largest"][1] - t["largest"][0])

    def restart(self):
        middle = len(self.edges) / 2
        self.prior = [self.lean * (i - middle) / middle if middle else 0.0 for i in range(len(self.edges) + 1)]
        self.odds = list(self.prior)
        self.all = 0.0

    def bucket(self, token):
        return sum(self.measure(token) > edge for edge in self.edges)

    def decide(self, token):
        return self.odds[self.bucket(token)] + self.shared * self.all

    def observe(self, token):
        ratio = token["log_probs"][1] - token["log_probs"][0]
        here = self.bucket(token)
        moved = self.odds[here] + ratio
        # The share returns to the situation's own prior.
        if self.share:
            prior = 1 / (1 + math.exp(-self.prior[here]))
            w = 1 / (1 + math.exp(-moved)) if moved > -700 else 0.0
            w = (1 - self.share) * w + self.share * prior
            moved = math.log(w) - math.log1p(-w)
        self.odds[here] = moved
        self.all = share_back(self.all + ratio, self.share)


class Forgetful(Bayes):
    """Evidence that is forgotten at a marker: what led up to an answer says nothing about who knows it."""

    def __init__(self, marker, share=1e-3, bias=None):
        super().__init__(share, bias)
        self.marker = marker

    def observe(self, token):
        super().observe(token)
        if token["token"] == self.marker:
            self.odds = 0.0


class Fixed:
    def __init__(self, decide):
        self.rule = decide

    def restart(self):
        pass

    def decide(self, token):
        return self.rule(token)

    def observe(self, token):
        pass


class Council:
    """Fixed share over several routers: each earns weight by the probability its own mixture gave to the tokens so far."""

    def __init__(self, members, share=1e-3, prior=None):
        self.members, self.share = members, share
        self.prior = prior or [1 / len(members)] * len(members)

    def restart(self):
        self.log_weights = [math.log(p) for p in self.prior]
        for member in self.members:
            member.restart()

    def decide(self, token):
        self.decisions = [weights(m.decide(token)) for m in self.members]
        total = [-math.inf, -math.inf]
        for w, decision in zip(self.log_weights, self.decisions):
            total = [log_add(t, w + d) for t, d in zip(total, decision)]
        return total[1] - total[0] if total[0] > -math.inf else math.inf

    def observe(self, token):
        earned = [
            w + log_add(d[0] + token["log_probs"][0], d[1] + token["log_probs"][1])
            for w, d in zip(self.log_weights, self.decisions)
        ]
        top = max(earned)
        linear = [math.exp(e - top) for e in earned]
        total = sum(linear)
        self.log_weights = [
            math.log((1 - self.share) * w / total + self.share * p) for w, p in zip(linear, self.prior)
        ]
        for member in self.members:
            member.observe(token)


def confidence(token, beta):
    return beta * (token["largest"][1] - token["largest"][0])


def log_odds(log_p):
    return log_p - math.log(max(-math.expm1(log_p), 1e-9))


def certainty(token, beta):
    return beta * (log_odds(token["largest"][1]) - log_odds(token["largest"][0]))


def sure(token, least, other, gain):
    """The more confident head, where it is nearly certain and the other is not."""
    base, adapted = (math.exp(v) for v in token["largest"])
    if adapted >= least and base <= other:
        return gain
    if base >= least and adapted <= other:
        return -gain
    return 0.0


def habits(new, old):
    """Mean and deviation of how sure the preservation head is on its own text, and the adaptation head on its own."""
    found = []
    for head, path in ((0, old), (1, new)):
        sure = [token["largest"][head] for texts in documents(path).values() for text in texts for token in text]
        mean = sum(sure) / len(sure)
        found.append((mean, math.sqrt(sum((s - mean) ** 2 for s in sure) / len(sure)) + 1e-6))
    return found


def routers(marker=None, own=None):
    hard = 1e9
    all_routers = {
        "preserve": Fixed(lambda t: -hard),
        "adapt": Fixed(lambda t: hard),
        "confidence": Fixed(lambda t: hard if t["largest"][1] > t["largest"][0] else -hard),
    }
    for share in (0, 1e-4, 1e-3, 1e-2, 0.05):
        all_routers[f"bayes {share}"] = Bayes(share)
    for threshold in (0.5, 0.8, 0.9, 0.95, 0.98):
        all_routers[f"cosine {threshold}"] = Fixed(
            lambda t, th=threshold: -hard if t.get("cosine", 0) >= th else hard
        )
    for share in (1e-3, 1e-2):
        for beta in (1, 2, 4):
            all_routers[f"bayes {share} × confidence^{beta}"] = Bayes(share, lambda t, b=beta: confidence(t, b))
        for beta in (0.5, 1, 2):
            all_routers[f"bayes {share} × odds^{beta}"] = Bayes(share, lambda t, b=beta: certainty(t, b))
        for least, other in ((0.9, 0.5), (0.95, 0.7), (0.8, 0.5)):
            all_routers[f"bayes {share}, sure {least}/{other}"] = Bayes(
                share, lambda t, le=least, ot=other: sure(t, le, ot, 6.0)
            )
    odds_gap = lambda t: log_odds(t["largest"][1]) - log_odds(t["largest"][0])
    for measure_name, measure, edges in (
        ("p", None, ((0.0,), (-1.0, 1.0), (-0.5, 0.5), (-0.2, 0.2), (-1.5, -0.3, 0.3, 1.5))),
        ("odds", odds_gap, ((-1.0, 1.0), (-2.0, 2.0), (-4.0, -1.0, 1.0, 4.0))),
    ):
        for edge in edges:
            for lean in (1.0, 2.0, 3.0):
                for share in (0, 1e-3):
                    name = f"contextual {measure_name} {edge} lean {lean} {share}"
                    all_routers[name] = Contextual(share, edge, lean, measure)
    for lean in (1.0, 2.0, 3.0):
        for edge in ((-1.0, 1.0), (-0.5, 0.5)):
            member = lambda: Contextual(1e-3, edge, lean)
            all_routers[f"council of bayes and contextual {edge} lean {lean}"] = Council([Bayes(1e-3), member()], 1e-3)
            all_routers[f"mean of bayes and contextual {edge} lean {lean}"] = Council([Bayes(1e-3), member()], 0.2)
    for beta in (0.5, 1, 2):
        for share in (1e-3, 1e-2):
            all_routers[f"council of both heads and odds^{beta}, {share}"] = Council(
                [Fixed(lambda t: -hard), Fixed(lambda t: hard), Bayes(share, lambda t, b=beta: certainty(t, b))], share
            )
    if marker is not None:
        for name, bias in (("", None), (" × confidence^2", lambda t: confidence(t, 2)), (" × odds^1", lambda t: certainty(t, 1))):
            all_routers[f"bayes that forgets at the answer{name}"] = Forgetful(marker, bias=bias)
    if own:
        of = habits(*own)
        score = lambda t: (t["largest"][1] - of[1][0]) / of[1][1] - (t["largest"][0] - of[0][0]) / of[0][1]
        all_routers["confidence by habit"] = Fixed(lambda t: hard if score(t) > 0 else -hard)
        for beta in (1, 3):
            all_routers[f"bayes × habit^{beta}"] = Bayes(1e-3, lambda t, b=beta: b * score(t))
    all_routers["council of both heads and confidence"] = Council(
        [Fixed(lambda t: -hard), Fixed(lambda t: hard), all_routers["confidence"]], 1e-3
    )
    return all_routers


def documents(path):
    corpora = defaultdict(list)
    last = None
    with open(path) as file:
        for line in file:
            token = json.loads(line)
            key = (token["corpus"], token["document"])
            if key != last:
                corpora[token["corpus"]].append([])
                last = key
            corpora[token["corpus"]][-1].append(token)
    return corpora


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="+")
    parser.add_argument("--answers", type=int, metavar="TOKEN", help="the token after which a question's answer begins")
    parser.add_argument("--own", nargs=2, metavar=("NEW", "OLD"), help="traces of text that the adaptation and the preservation head are at home with")
    parser.add_argument("--only", default="", help="routers whose name contains this")
    args = parser.parse_args()
    corpora = {}
    for path in args.trace:
        corpora.update(documents(path))
    print("router".ljust(42), *(f"{name:>26}" for name in corpora))
    for name, router in routers(args.answers, args.own).items():
        if args.only not in name:
            continue
        cells = []
        for texts in corpora.values():
            nll = count = adapted = right = whole = 0
            for text in texts:
                router.restart()
                starts = [i for i, t in enumerate(text) if t["token"] == args.answers]
                answer = starts[-1] + 1 if starts else len(text)
                said = []
                for index, token in enumerate(text):
                    odds = router.decide(token)
                    preserve, adapt = weights(odds)
                    nll -= log_add(preserve + token["log_probs"][0], adapt + token["log_probs"][1])
                    count += 1
                    speaker = int(adapt + token["largest"][1] > preserve + token["largest"][0])
                    adapted += speaker
                    if index >= answer:
                        said.append(token["log_probs"][speaker] >= token["largest"][speaker] - 1e-6)
                    router.observe(token)
                right += bool(said) and said[0]
                whole += bool(said) and all(said)
            cell = f"{math.exp(nll / count):.3f} {100 * adapted / count:.0f}%"
            if args.answers is not None:
                cell += f" {100 * right / len(texts):.1f}% {100 * whole / len(texts):.1f}%"
            cells.append(f"{cell:>26}")
        print(name.ljust(42), *cells)


if __name__ == "__main__":
    main()
