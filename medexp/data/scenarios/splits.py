"""Splits of scenarios: as their files are called, or two thirds to learn from and one third to judge, family by family."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medexp.data.scenarios.cases import ANSWERS, Scenario
from medexp.data.scenarios.families import members_of
from medexp.data.splits import SPLITS, Splits
from medexp.errors import DataError, all_problems

NAMES = {f"{split}.jsonl": split for split in SPLITS}
"""Names of files that say which split they are."""

_JUDGED = 3  # one of so many is judged


def named(files: Sequence[Path]) -> bool:
    """Whether the files are the splits that their names say; else they are pooled.

    Raises:
        DataError: Some are and others are not, or one of train and val is not there.
    """
    known = [file.name.lower() for file in files if file.name.lower() in NAMES]
    others = [file.name for file in files if file.name.lower() not in NAMES]
    problems = []
    if known and others:
        problems.append(f"{', '.join(known)} beside {', '.join(others)}: some names say a split and others do not")
    elif known:
        problems += [
            f"no {split}.jsonl beside {', '.join(sorted(set(known)))}"
            for split in ("train", "val")
            if f"{split}.jsonl" not in known
        ]
    if problems:
        advice = (
            "Give train.jsonl and val.jsonl, and test.jsonl if there is one; or call none of the files so: they are split then"
        )
        raise DataError(all_problems("scenarios", problems, advice))
    return bool(known)


def named_splits(scenarios: Sequence[Scenario]) -> Splits:
    """The splits that the files' names say."""
    parts = defaultdict[str, list[str]](list)
    for scenario in scenarios:
        parts[NAMES[scenario.file.name.lower()]].append(scenario.id)
    return Splits(*(tuple(sorted(parts[split])) for split in SPLITS))


def draw_splits(scenarios: Sequence[Scenario], seed: int) -> Splits:
    """Draws one third to judge and two thirds to learn from, rounded, by modality and answer as far as families allow.

    How many of each modality and answer are judged is the largest remainder's: of 24, six of each of four modalities, half of
    them errors, 8 are, two of each modality, one of either answer. Families are then taken whole, in an order by `seed`, while
    they fit into those numbers or come nearer to them, at least to those of the answers. The same scenarios in another order
    give the same splits.

    Args:
        scenarios: With family and answer each.
        seed: Seed of the draw.

    Raises:
        DataError: All are of one family.
    """
    rng = np.random.default_rng(seed)
    families = [members for _, members in sorted(members_of(scenarios).items())]
    if len(families) < 2:
        raise DataError(
            f"scenarios: all {len(scenarios)} are one family, by equal images or templates; training and validation need one "
            "each. Add scenarios of other images and texts"
        )
    strata = sorted({_stratum(one) for one in scenarios})
    left = np.array(_wanted(scenarios, rng, strata))
    drawn = [families[place] for place in rng.permutation(len(families))]
    counts = [np.array([sum(_stratum(one) == stratum for one in members) for stratum in strata]) for members in drawn]
    judged: list[int] = []
    each, answers = np.eye(len(strata), dtype=int), np.array([[label == 0, label == 1] for _, label in strata], int)
    for numbers, whole in (
        (each, True),
        (each, False),
        (answers, False),
    ):  # what fits, then what comes nearer, then of answers
        for place, count in enumerate(counts):
            now, then = left @ numbers, (left - count) @ numbers
            fits = (then >= 0).all() if whole else (then**2).sum() < (now**2).sum()
            if fits and place not in judged and len(judged) < len(drawn) - 1:
                judged.append(place)
                left = left - count
    judged = judged or [min(range(len(drawn)), key=lambda place: len(drawn[place]))]
    val = {one.id for place in judged for one in drawn[place]}
    train = {one.id for one in scenarios} - val
    return Splits(tuple(sorted(train)), tuple(sorted(val)), ())


def lacking(scenarios: Mapping[str, Scenario], splits: Splits) -> list[str]:
    """The splits that lack an answer, in words."""
    told = []
    for split in SPLITS:
        ids = getattr(splits, split)
        held = Counter(ANSWERS[scenarios[name].label or 0] for name in ids)
        gone = [answer for answer in ANSWERS if not held[answer]]
        if gone and (ids or split != "test"):
            told.append(f"{split} holds no {' and no '.join(gone)} ({len(ids)} scenarios)")
    return told


def _stratum(scenario: Scenario) -> tuple[str, int]:
    return scenario.modality, scenario.label or 0


def _wanted(scenarios: Sequence[Scenario], rng: np.random.Generator, strata: Sequence[tuple[str, int]]) -> list[int]:
    """How many of each modality and answer are judged: a third of all, shared out among modalities, then among answers."""
    of = Counter(map(_stratum, scenarios))
    modalities = sorted({modality for modality, _ in strata})
    sizes = [sum(of[stratum] for stratum in strata if stratum[0] == modality) for modality in modalities]
    shares = dict(zip(modalities, _shared_out(round(len(scenarios) / _JUDGED), sizes, rng), strict=True))
    found: dict[tuple[str, int], int] = {}
    for modality in modalities:
        mine = [stratum for stratum in strata if stratum[0] == modality]
        found |= dict(zip(mine, _shared_out(shares[modality], [of[one] for one in mine], rng), strict=True))
    return [found[stratum] for stratum in strata]


def _shared_out(total: int, sizes: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Whole numbers that sum to `total`, in proportion to sizes: the largest remainders get one more, drawn among equals."""
    exact = np.array(sizes) * total / sum(sizes)
    whole = np.floor(exact + 1e-9).astype(int)
    rest = sorted(range(len(sizes)), key=lambda place: (-round(exact[place] - whole[place], 9), rng.random()))
    for place in rest[: total - int(whole.sum())]:
        whole[place] += 1
    return whole.tolist()
