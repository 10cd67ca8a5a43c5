"""The encoders on the judged participants, beside what needs no encoder: the leaderboard, checks, and which one is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medexp.arrays import Array
from medexp.checks import Check
from medexp.data.oct.facts import header_of
from medexp.data.prepared import Prepared
from medexp.evaluation.classification import METRICS
from medexp.evaluation.collapse import Spread, spread_of
from medexp.evaluation.controls import Control, Source, control, majority, of_headers
from medexp.evaluation.leaderboard import PRIMARY, Entry, Leaderboard, leaderboard
from medexp.phases.oct import checks
from medexp.phases.oct.config import OctConfig
from medexp.phases.oct.encoders import RANDOM, Encoder
from medexp.phases.oct.heads import Features, of_participants, spoken
from medexp.phases.shared.context import Context
from medexp.phases.shared.controls import Beside, Known, compared, log_beside


@dataclass(frozen=True)
class Compared:
    """What the comparison came to.

    Attributes:
        people: The judged participants, a row each.
        board: The leaderboard.
        by_split: The entries that have heads, by split.
        chosen: Name of the encoder that is registered: the best on the validation participants.
        on_validation: Its balanced accuracy there, and that of the others, by name.
        beside: It beside the controls, on the judged participants.
        checks: OCT-MAJORITY, SHORTCUT and CONTROLS.
    """

    people: pd.DataFrame
    board: Leaderboard
    by_split: Mapping[str, Sequence[Entry]]
    chosen: str
    on_validation: Mapping[str, float]
    beside: Beside
    checks: Sequence[Check]


def compare(
    ctx: Context[OctConfig],
    encoders: Sequence[Encoder],
    data: Prepared[Any, Any],
    features: Features,
    told: Mapping[str, pd.DataFrame],
    judged: str,
) -> Compared:
    """The leaderboard of the judged split.

    Args:
        ctx: Where it is logged, and the cache of what controls were fitted.
        encoders: All that have heads.
        data: The volumes, split or in folds.
        features: Of all of them.
        told: The logits of the participants by split, as the recipe's `answer` gives them.
        judged: The split that is ranked on.
    """
    spreads = {encoder.name: spread_of(features.pooled[encoder.name]) for encoder in encoders}
    by_split = {split: _entries(encoders, table, data, spreads, split) for split, table in told.items()}
    on_validation = {entry.name: float(np.mean(list(entry.by_seed.values()))) for entry in by_split["val"]}
    chosen = max((one.name for one in by_split["val"] if one.kind == "checkpoint"), key=lambda name: on_validation[name])
    people = of_participants(data.manifest, data.ids(judged))
    known = _known(data, judged)
    controls = _controls(ctx, known, judged)
    ranked = [
        *by_split[judged],
        *(Entry(one.name, one.called, "control", dict(enumerate(one.predictions))) for one in controls),
    ]
    board = leaderboard(ranked, list(people["patient"]), ctx.config.classes.names, ctx.resampling)
    entry = next(one for one in ranked if one.name == chosen)
    initial = next(one for one in ranked if one.name == RANDOM).control
    rivals = [replace(initial, name="untrained"), *controls]
    first, owners = next(iter(entry.predictions.values())), list(people["patient"])
    beside = compared(f"the head on {chosen}", first, rivals, owners, ctx.resampling, METRICS, ctx.phase.units[1])
    log_beside(ctx, beside)
    own = [checks.better_than_majority(beside.gains["majority"][PRIMARY], chosen), *beside.checks]
    return Compared(people, board, by_split, chosen, on_validation, beside, own)


def _entries(
    encoders: Sequence[Encoder], told: pd.DataFrame, data: Prepared[Any, Any], spreads: Mapping[str, Spread], split: str
) -> list[Entry]:
    """An entry for each encoder, and one for all networks with initial weights, whose seeds are those of the weights."""
    people = of_participants(data.manifest, data.ids(split))
    found: dict[str, Entry] = {}
    for encoder in encoders:
        of_encoder = told[told["arm"] == encoder.name]
        by_seed = {int(str(seed)): spoken(rows, people) for seed, rows in of_encoder.groupby("seed")}
        if encoder.is_random:
            before = found.get(RANDOM)
            number = len(before.predictions) if before else 0
            drawn = {**(before.predictions if before else {}), number: next(iter(by_seed.values()))}
            spread = before.spread if before else spreads[encoder.name]
            found[RANDOM] = Entry(RANDOM, "an encoder with initial weights", "random", drawn, "", spread)
        else:
            spread, digest = spreads[encoder.name], encoder.digest
            found[encoder.name] = Entry(encoder.name, encoder.called, "checkpoint", by_seed, digest, spread)
    return list(found.values())


def _known(data: Prepared[Any, Any], judged: str) -> Known:
    """What is known of all participants that are learned from or judged without any encoder."""
    splits = ("train", "val") if judged == "val" else ("train", "val", "test")
    cases = [case for split in splits for case in data.ids(split)]
    people = of_participants(data.manifest, set(cases))
    rows = data.manifest[data.manifest["case"].isin(set(cases))].reset_index(drop=True)
    facts = [data.facts[case] for case in rows["case"]]

    def mean(values: Sequence[Sequence[float]]) -> Array:
        table = np.asarray(values)
        return np.stack([table[places].mean(axis=0) for places in people["volumes"]])

    intensity, layers = mean([fact.intensity for fact in facts]), mean([fact.layers for fact in facts])
    headers = [
        {**header_of([facts[place] for place in places]), "site": site, "volumes": float(len(places))}
        for places, site in zip(people["volumes"], people["site"], strict=True)
    ]
    sources = [
        Source("intensity", "statistics of intensities", "logistic", intensity.tolist(), lambda: [intensity]),
        Source("layers", "the thickness of layers", "logistic", layers.tolist(), lambda: [layers]),
    ]
    columns = ["case", "patient", *(["fold"] if "fold" in people else ["split"])]
    return Known(people[columns].assign(label=people["target"]), headers, sources)


def _controls(ctx: Context[OctConfig], known: Known, judged: str) -> list[Control]:
    """What needs no encoder, fitted on all that is not judged, or out of fold."""
    task = known.task(judged)
    found = [control(source, task, ctx.cache) for source in known.sources]
    return [*found, of_headers(known.headers, task, ctx.cache), majority(task)]
