"""Entries of a leaderboard, drawn so that it is known which is better."""

import numpy as np

from medexp.evaluation.classification import Predictions
from medexp.evaluation.leaderboard import Entry, Kind

CLASSES = ("healthy", "pre-diabetes", "oral", "insulin")


def people(count: int) -> list[str]:
    return [f"p{number:03}" for number in range(count)]


def truth_of(count: int) -> np.ndarray:
    return np.arange(count) % len(CLASSES)


def entry(
    name: str,
    truth: np.ndarray,
    skill: float,
    seed: int,
    *,
    kind: Kind = "checkpoint",
    called: str = "",
    seeds: int = 3,
    digest: str = "",
) -> Entry:
    """Right the more often the larger `skill`; 0 is chance. Seeds are trainings of one encoder, which mostly agree."""
    made = {}
    common = np.random.default_rng(seed).normal(size=(len(truth), len(CLASSES)))
    for number in range(seeds):
        logits = common + 0.3 * np.random.default_rng([seed, number]).normal(size=common.shape)
        logits[np.arange(len(truth)), truth] += skill
        shares = np.exp(logits)
        made[number] = Predictions(truth, shares / shares.sum(axis=1, keepdims=True))
    return Entry(name, called or name, kind, made, digest)


def board_entries(count: int) -> list[Entry]:
    """One that is better, one twice under two names, one that is like random weights, and controls."""
    truth = truth_of(count)
    return [
        entry("layers_supervised", truth, 2.0, 1, digest="a"),
        entry("multi_domain", truth, 0.5, 2, digest="b"),
        entry("again", truth, 0.5, 2, digest="b"),
        entry("single", truth, 0.4, 3, digest="c"),
        entry("random", truth, 0.3, 4, kind="random", called="random weights"),
        entry("headers", truth, 0.5, 5, kind="control", called="the files' headers alone", seeds=1),
        Entry("majority", "the majority class", "control", {0: Predictions(truth, np.full((count, 4), 0.25))}),
    ]
