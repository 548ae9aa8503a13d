"""Routers: which head of a widened model answers, token by token, without any training.

A router gives each head a weight for the next token; the prediction is the mixture of the heads' distributions. The weights for a token know
the tokens before it and the heads' predictions for it, never the token itself. `docs/method.md` of Treering, section 5, has the rules.
"""

import torch

SETTINGS = {
    "preserve": {},
    "adapt": {},
    "cosine": {"threshold": 0.5},
    "confidence": {},
    "bayes": {"share": 1e-3, "prior": 0.5},
    "bayes-confidence": {"share": 1e-3, "prior": 0.5, "margin": 1.0, "trust": 0.9},
}
RANGES = {
    "threshold": (lambda value: -1 <= value <= 1, "a cosine, from -1 to 1"),
    "share": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "margin": (lambda value: 0 <= value < float("inf"), "0 or more"),
    "prior": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "trust": (lambda value: 0 < value < 1, "above 0 and below 1"),
}


def parse_router(text):
    """The name and the settings of a router as it is written: `bayes:share=0.01,prior=0.5`."""
    name, _, given = text.partition(":")
    name = name.strip()
    if name not in SETTINGS:
        raise ValueError(f"router `{name}` is not one of {', '.join(SETTINGS)}")
    settings = dict(SETTINGS[name])
    for item in filter(None, given.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in settings or not equals:
            raise ValueError(f"router `{name}`: expected KEY=VALUE with a key out of {list(settings)}, found `{item}`")
        try:
            settings[key] = float(value)
        except ValueError:
            raise ValueError(f"router `{name}`: {key} must be a number, not `{value}`") from None
        holds, rule = RANGES[key]
        if not holds(settings[key]):
            raise ValueError(f"router `{name}`: {key} must be {rule}, not {value}")
    return name, settings


def surest(largest):
    """The head whose most probable token is the most probable, the first of equals, and by how much (nats) it leads the next."""
    best = largest.argmax(-1)
    ordered = largest.sort(-1, descending=True).values
    return best, ordered[..., 0] - ordered[..., 1]


def mixture(weights, log_probs):
    """What experts with these log-weights together make of log-probabilities that each of them gives."""
    terms = (weights + log_probs).masked_fill(weights == -torch.inf, -torch.inf)
    return torch.logsumexp(terms, -1)


def observe(weights, prior, log_probs, share, seen):
    """The log-weights after something to which the experts had given `log_probs`; the part `share` of them returns to the prior.

    Rows in which nothing was seen stay as they are, and so do those in which no expert thought it possible or one gave no number.
    """
    total = mixture(weights, log_probs)
    seen = seen & total.isfinite() & ~log_probs.isnan().any(-1)
    earned = torch.where(weights == -torch.inf, weights, weights + log_probs - total[..., None])
    if share > 0:
        earned = ((1 - share) * earned.exp() + share * prior).log()
    return torch.where(seen[..., None], earned, weights)


class Route:
    """A router on its way through a batch of documents, one a row. All of it is float64 on the CPU: a few numbers a token.

    Args:
        router: How the heads' shares are decided, see `parse_router`.
        heads: How many there are; the first is the preservation head, the last the adaptation head.
        batch: The number of documents.
    """

    def __init__(self, router, heads, batch):
        self.text, self.heads = router, heads
        self.name, self.settings = parse_router(router)
        self.share = self.settings.get("share", 0.0)
        # Of the last position so far: its most probable tokens, its distributions, and whether it was a token at all.
        self.pending = None
        self.rows = {}
        if self.remembers:
            # Every learnt head against the first as `prior` to the rest of one.
            prior = self.settings["prior"]
            first = torch.tensor([1 - prior] + [prior] * (heads - 1), dtype=torch.float64)
            self.prior = first / first.sum()
            self.rows["overall"] = self.prior.log().repeat(batch, 1)
        if self.name == "bayes-confidence":
            # No head much surer than the others, then each of them surer.
            trust = self.settings["trust"]
            towards = torch.full((heads, heads), (1 - trust) / (heads - 1), dtype=torch.float64).fill_diagonal_(trust)
            self.situation_prior = torch.cat([self.prior[None], towards])
            self.council_prior = torch.full((2,), 0.5, dtype=torch.float64)
            self.rows["situations"] = self.situation_prior.log().repeat(batch, 1, 1)
            self.rows["council"] = self.council_prior.log().repeat(batch, 1)

    @property
    def remembers(self):
        """Whether it learns from the tokens that come."""
        return self.name in ("bayes", "bayes-confidence")

    @property
    def needs_cosine(self):
        """Whether it looks at the cosine of the first and the last head's logits."""
        return self.name == "cosine"

    def select(self, rows):
        """Keeps these rows of the batch, in this order, as beam search does with the keys and values."""
        rows = rows.cpu()
        self.rows = {name: value[rows] for name, value in self.rows.items()}
        if self.pending is not None:
            self.pending = tuple(value[rows.to(value.device)] for value in self.pending)

    def situation(self, largest):
        """For each row 0 where no head is much surer than the others, else the number of the surer head, from 1."""
        best, lead = surest(largest)
        return torch.where(lead > self.settings["margin"], best + 1, torch.zeros_like(best))

    def decide(self, largest, cosine):
        """Log-weights of the heads for the next token, from the log-probability of each head's most probable token and the heads' cosine."""
        if self.remembers:
            weights = self.rows["overall"]
            if self.name == "bayes-confidence":
                index = self.situation(largest)
                here = self.rows["situations"][torch.arange(len(index)), index]
                council = self.rows["council"]
                weights = torch.logaddexp(council[:, :1] + weights, council[:, 1:] + here)
            return weights - torch.logsumexp(weights, -1, keepdim=True)
        if self.name == "preserve":
            speaker = torch.zeros(largest.shape[:-1], dtype=torch.long)
        elif self.name == "adapt":
            speaker = torch.full(largest.shape[:-1], self.heads - 1)
        elif self.name == "confidence":
            speaker = surest(largest)[0]
        else:
            # Something was learnt about this token; of several heads that learn, the surest speaks.
            learnt = 1 + largest[..., 1:].argmax(-1)
            speaker = torch.where(cosine >= self.settings["threshold"], torch.zeros_like(learnt), learnt)
        return torch.full_like(largest, -torch.inf).scatter(-1, speaker[..., None], 0.0)

    def observe(self, largest, log_probs, seen):
        """Takes note of the token that came in each row, to which the heads had given `log_probs`, where it was `seen`."""
        if not self.remembers:
            return
        overall = self.rows["overall"]
        if self.name == "bayes-confidence":
            rows, index = torch.arange(len(seen)), self.situation(largest)
            here = self.rows["situations"][rows, index]
            both = torch.stack([mixture(overall, log_probs), mixture(here, log_probs)], -1)
            self.rows["council"] = observe(self.rows["council"], self.council_prior, both, self.share, seen)
            self.rows["situations"] = self.rows["situations"].clone()
            self.rows["situations"][rows, index] = observe(here, self.situation_prior[index], log_probs, self.share, seen)
        self.rows["overall"] = observe(overall, self.prior, log_probs, self.share, seen)

    def walk(self, tokens, real, largest, next_log_probs, last_log_probs, cosine):
        """Reads on, token by token, and returns the log-weights with which the heads predict what follows each position.

        Args:
            tokens: `[batch, length]`, what is read; `real` says where it is a token and not padding.
            largest: `[batch, length, heads]`, the log-probability of each head's most probable next token.
            next_log_probs: `[batch, length - 1, heads]`, what each head gave the token that does come next.
            last_log_probs: `[batch, heads, vocabulary]`, what each head makes of the token after the last.
            cosine: `[batch, length]` of the first and the last head's logits, or `None` where nobody needs it.
        """
        if self.pending is not None:
            before, distributions, was_real = self.pending
            first = tokens[:, None, :1].expand(-1, self.heads, 1).to(distributions.device)
            given = distributions.gather(2, first)[..., 0].cpu().double()
            self.observe(before, given, was_real & real[:, 0])
        decisions = []
        for at in range(tokens.shape[1]):
            if at > 0:
                self.observe(largest[:, at - 1], next_log_probs[:, at - 1], real[:, at - 1] & real[:, at])
            decisions.append(self.decide(largest[:, at], None if cosine is None else cosine[:, at]))
        self.pending = (largest[:, -1], last_log_probs, real[:, -1])
        return torch.stack(decisions, 1)


def mix(log_weights, logits, normalisers):
    """Logits of the mixture: a head's own where it has all the weight, and otherwise log-probabilities.

    Args:
        log_weights: `[batch, length, heads]` in float64 on the CPU.
        logits: One `[batch, length, vocabulary]` a head, and `normalisers`, `[batch, length]` each, that make log-probabilities of them.
    """
    log_weights = log_weights.to(logits[0].device, torch.float32)
    terms = [row - n[..., None].float() + w[..., None] for row, n, w in zip(logits, normalisers, log_weights.unbind(-1))]
    mixed = torch.logsumexp(torch.stack(terms), 0)
    alone = (log_weights > -torch.inf).sum(-1) == 1
    for head, row in enumerate(logits):
        mixed = torch.where((alone & (log_weights[..., head] > -torch.inf))[..., None], row, mixed)
    return mixed
