"""The adapter on the judged scenarios, beside the base, itself asked otherwise, and what needs no model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from medexp.arrays import Array
from medexp.checks import Check
from medexp.config.shared import Resampling
from medexp.data.pictures import read_rgb
from medexp.data.scenarios.cases import ANSWERS
from medexp.data.scenarios.facts import token_headers
from medexp.data.scenarios.prepared import PreparedScenarios
from medexp.evaluation.classification import METRICS, Predictions, accuracy, gain, sensitivity, specificity
from medexp.evaluation.classification import scores as scores_of
from medexp.evaluation.controls import Control, Source, control, majority, of_headers
from medexp.evaluation.intervals import Interval
from medexp.evaluation.proportions import mcnemar, modality_spread, proportion
from medexp.evaluation.rules import keyword_rule
from medexp.phases.medgemma import PHASE, checks
from medexp.phases.medgemma.arms import ADAPTER, BASE, BLIND, OTHER, arms
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.shared.classification import Judged, judge
from medexp.phases.shared.context import Context
from medexp.phases.shared.controls import Beside, Known, compared, hog_of, log_beside

SHARES = {"accuracy": "accuracy", "true_positive": "CORRECT said CORRECT", "true_negative": "ERROR said ERROR"}
"""What is told of each model, and what it is."""
OVERALL = "all"

Shares = Mapping[str, Interval]


@dataclass(frozen=True)
class Answered:
    """What models said of scenarios.

    Attributes:
        rows: One row a scenario: case, patient (its family), label, modality.
        called: The models in words, by name.
        predictions: Of each.
        shares: Accuracy, true-positive and true-negative rate of each, by OVERALL and by modality.
    """

    rows: pd.DataFrame
    called: Mapping[str, str]
    predictions: Mapping[str, Predictions]
    shares: Mapping[str, Mapping[str, Shares]]

    @property
    def table(self) -> pd.DataFrame:
        """One row a model, modality and share: model, modality, metric, estimate, low, high, right, of."""
        truth, modality, found = self.rows["label"].to_numpy(), self.rows["modality"].to_numpy(), []
        chosen = {"accuracy": truth >= 0, "true_positive": truth == 1, "true_negative": truth == 0}
        for name, by_modality in self.shares.items():
            right = self.predictions[name].predicted == truth
            for where, shares in by_modality.items():
                here = (modality == where) | (where == OVERALL)
                for metric, share in shares.items():
                    among = here & chosen[metric]
                    counted = {"right": int(right[among].sum()), "of": int(among.sum())}
                    bounds = {"estimate": share.estimate, "low": share.low, "high": share.high}
                    found.append({"model": name, "modality": where, "metric": metric, **bounds, **counted})
        return pd.DataFrame(found)


@dataclass(frozen=True)
class Compared:
    """What the comparison came to.

    Attributes:
        judged: The adapter's answers on the judged scenarios, with every metric.
        answered: All models on them.
        beside: The adapter beside what needs no language model.
        gains: Its accuracy minus that of the base, without the image, and with another image, paired, by family.
        chance: Of the base's difference, if both were as good (exact McNemar test).
        wording: One row a way of asking: arm, called, accuracy, low, high, changed (share of the answers).
        replies: One row a model that was asked to reply: arm, called, accuracy (of replies), low, high, unparsed (share).
        few: The models on the test split, where there is one beside the judged one.
        checks: What it is judged by.
    """

    judged: Judged
    answered: Answered
    beside: Beside
    gains: Mapping[str, Interval]
    chance: float
    wording: pd.DataFrame
    replies: pd.DataFrame
    few: Answered | None
    checks: Sequence[Check]


def predictions_of(told: pd.DataFrame, arm: str, rows: pd.DataFrame) -> Predictions:
    """What a way of asking gave, of these scenarios in their order."""
    table = told[told["arm"] == arm].set_index("case").loc[list(rows["case"])]
    return Predictions(rows["label"].to_numpy(), table[[0, 1]].to_numpy(np.float64))


def shares_of(predictions: Predictions, families: Sequence[str], resampling: Resampling) -> dict[str, Interval]:
    """Accuracy, true-positive and true-negative rate, with exact intervals; out of fold with those of the folds."""
    if resampling.folds:
        named = {"accuracy": accuracy, "true_positive": sensitivity, "true_negative": specificity}
        return scores_of(predictions, families, resampling, named)
    right, owners = predictions.predicted == predictions.truth, np.asarray(families)
    among = {
        "accuracy": predictions.truth >= 0,
        "true_positive": predictions.truth == 1,
        "true_negative": predictions.truth == 0,
    }
    return {name: proportion(right[rows], owners[rows].tolist(), resampling.confidence) for name, rows in among.items()}


def with_shares(scores: Mapping[str, Interval], shares: Mapping[str, Interval]) -> dict[str, Interval]:
    """Scores in which shares of right answers have the intervals of `shares_of`: a figure has one, wherever it is told."""
    called = {"accuracy": "accuracy", "sensitivity": "true_positive", "specificity": "true_negative"}
    return {**scores, **{name: shares[of] for name, of in called.items()}}


def answered(rows: pd.DataFrame, models: Mapping[str, tuple[str, Predictions]], resampling: Resampling) -> Answered:
    """What models said, with the shares that are right, in all and by modality.

    Args:
        rows: One row a scenario: case, patient, label, modality.
        models: By name, what it is in words and what it says.
        resampling: Coverage of the intervals, and folds.
    """
    parts = {OVERALL: np.full(len(rows), True)}
    parts |= {str(one): (rows["modality"] == one).to_numpy() for one in sorted(set(rows["modality"]))}
    shares = {
        name: {
            where: shares_of(found.of(part), rows.loc[part, "patient"].tolist(), resampling) for where, part in parts.items()
        }
        for name, (_, found) in models.items()
    }
    return Answered(
        rows,
        {name: called for name, (called, _) in models.items()},
        {name: found for name, (_, found) in models.items()},
        shares,
    )


def compare(ctx: Context[MedgemmaConfig], data: PreparedScenarios, told: Mapping[str, pd.DataFrame], on: str) -> Compared:
    """All of it; adds nothing to the run but the controls' own table.

    Args:
        ctx: Where it is logged, and the cache of what controls were fitted.
        data: The scenarios.
        told: What the arms said, by split (`medexp.phases.medgemma.asking.answers`).
        on: What the judged scenarios are, in words.
    """
    config, split = ctx.config, ctx.config.judged
    resampling = ctx.resampling if split == "val" else replace(ctx.resampling, folds=0)
    rows, owners = data.rows(split), list(data.rows(split)["patient"])
    found = {arm.name: predictions_of(told[split], arm.name, rows) for arm in arms(config)}
    task = (known := known_of(data, split)).task(split)
    controls = [control(source, task, ctx.cache) for source in known.sources]
    controls += [
        of_headers(known.headers, task, ctx.cache),
        *_tokens(data, known, split, ctx),
        _rule(data, rows),
        majority(task),
    ]
    rivals = [Control(BASE, "the base without the adapter", [found[BASE]]), *controls]
    beside = compared("the adapter", found[ADAPTER], rivals, owners, resampling, METRICS, PHASE.units[1])
    log_beside(ctx, beside)
    models = {arm.name: (arm.called, found[arm.name]) for arm in arms(config) if arm.name in (ADAPTER, BASE, BLIND, OTHER)}
    models |= {one.name: (one.called, one.predictions[0]) for one in controls if one.name in ("rule", "words", "majority")}
    whole = answered(rows, models, resampling)
    judged, shares = judge(rows, ANSWERS, found[ADAPTER], resampling, on), whole.shares[ADAPTER]
    judged = replace(judged, scores={where: with_shares(of, shares[where]) for where, of in judged.scores.items()})
    gains = {name: gain(accuracy, found[ADAPTER], found[name], owners, resampling) for name in (BASE, BLIND, OTHER)}
    right = {name: one.predicted == one.truth for name, one in found.items()}
    chance = mcnemar(right[ADAPTER], right[BASE])
    spread = modality_spread(right[ADAPTER], list(rows["modality"]), owners, resampling, config.target.modalities)
    own, count = shares[OVERALL], {"accuracy": len(rows)}
    count |= {"true_positive": int((rows["label"] == 1).sum()), "true_negative": int((rows["label"] == 0).sum())}
    target = {"accuracy": config.target.accuracy, "true_positive": config.target.true_positive}
    target |= {"true_negative": config.target.true_negative}
    ids = {"accuracy": "MEDGEMMA-ACCURACY", "true_positive": "MEDGEMMA-POSITIVE", "true_negative": "MEDGEMMA-NEGATIVE"}
    images = told[split].groupby("arm")["images"].agg(["min", "max"])
    verdicts = [
        checks.images({str(arm): (int(low), int(high)) for arm, low, high in images.itertuples()}, len(told[split])),
        *(checks.reached(ids[name], SHARES[name], own[name], target[name], count[name]) for name in SHARES),
        checks.modalities(spread.found, spread.largest, spread.pair, config.target.modalities, len(rows)),
        checks.better_than_base(gains[BASE], chance, len(rows)),
        checks.image_used(gains[OTHER], gains[BLIND]),
        *beside.checks,
    ]
    return Compared(
        judged,
        whole,
        beside,
        gains,
        chance,
        _wording(config, found, owners, resampling),
        _replies(told[split], rows, resampling),
        _beside_it(data, told, split, ctx),
        verdicts,
    )


def known_of(data: PreparedScenarios, judged: str) -> Known:
    """What controls know of the scenarios that are learned from or judged: headers, statistics of intensities, and shapes in
    the image and words together."""
    splits = ("train", "val") if judged == "val" else ("train", "val", "test")
    rows = data.by_owner[data.by_owner["split"].isin(splits)].reset_index(drop=True)
    facts = [data.facts[case] for case in rows["case"]]

    def pictures() -> Iterator[Array]:
        return (np.asarray(read_rgb(data.cases[case].image), np.float32) for case in rows["case"])

    def described() -> list[Array]:
        shapes = np.stack([hog_of(torch.from_numpy(one.mean(axis=2))[None]) for one in pictures()])
        words = pd.DataFrame([dict(row) for row in token_headers(facts, "words")]).to_numpy(np.float64)
        return [np.concatenate([shapes, words], axis=1)]

    def measured() -> list[Array]:
        """Mean, SD and percentiles 1, 50 and 99 of each colour: what a brightness that tells the answer shows in."""
        ends = (1, 50, 99)
        return [
            np.stack(
                [
                    np.concatenate([one.mean((0, 1)), one.std((0, 1)), *np.percentile(one, ends, axis=(0, 1))])
                    for one in pictures()
                ]
            )
        ]

    seen = [fact.sha256 for fact in facts]
    sources = [
        Source("classical", "HOG and words and an SVM", "svm", ["hog and words", seen], described),
        Source("intensity", "statistics of intensities", "logistic", ["intensities", seen], measured),
    ]
    return Known(rows, [fact.header for fact in facts], sources)


def _tokens(data: PreparedScenarios, known: Known, split: str, ctx: Context[MedgemmaConfig]) -> list[Control]:
    """What words alone, and the names of files alone, tell of the answer."""
    facts, task = [data.facts[case] for case in known.rows["case"]], known.task(split)
    words, names = token_headers(facts, "words"), token_headers(facts, "names")
    return [
        of_headers(words, task, ctx.cache, "words", "the words of the prompts alone"),
        of_headers(names, task, ctx.cache, "names", "the names of the image files alone"),
    ]


def _rule(data: PreparedScenarios, rows: pd.DataFrame) -> Control:
    """The keyword rule of the described project."""
    scenarios = [data.cases[case] for case in rows["case"]]
    said = np.array([keyword_rule(f"{one.instruction}\n{one.input}") for one in scenarios])
    return Control("rule", "the keyword rule", [Predictions(rows["label"].to_numpy(), np.eye(2)[said])])


def _wording(
    config: MedgemmaConfig, found: Mapping[str, Predictions], owners: Sequence[str], resampling: Resampling
) -> pd.DataFrame:
    """What another wording, and the other order of both answers, change."""
    own, table = found[ADAPTER].predicted, []
    for arm in arms(config):
        if arm.adapted and arm.image == "own":
            share = shares_of(found[arm.name], owners, resampling)["accuracy"]
            changed = float((found[arm.name].predicted != own).mean())
            row = {"arm": arm.name, "called": arm.called, "accuracy": share.estimate, "low": share.low, "high": share.high}
            table.append(row | {"changed": changed})
    return pd.DataFrame(table)


def _replies(told: pd.DataFrame, rows: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """What replies come to: a reply with both words, or with neither, is wrong."""
    table = []
    for arm in (ADAPTER, BASE):
        said = told[told["arm"] == arm].set_index("case").loc[list(rows["case"]), "said"]
        if said.notna().all():
            right = said.to_numpy() == rows["label"].to_numpy()
            share = proportion(right, list(rows["patient"]), resampling.confidence)
            row = {"arm": arm, "accuracy": share.estimate, "low": share.low, "high": share.high}
            table.append(row | {"unparsed": float((said == -1).mean())})
    return pd.DataFrame(table, columns=["arm", "accuracy", "low", "high", "unparsed"])


def _beside_it(
    data: PreparedScenarios, told: Mapping[str, pd.DataFrame], split: str, ctx: Context[MedgemmaConfig]
) -> Answered | None:
    """The models on the other split that was answered, where there is one."""
    other = next((name for name in told if name != split), None)
    if other is None or other == "val":
        return None
    rows = data.rows(other)
    every = [arm for arm in arms(ctx.config) if arm.name in (ADAPTER, BASE, BLIND, OTHER)]
    models = {arm.name: (arm.called, predictions_of(told[other], arm.name, rows)) for arm in every}
    rule = _rule(data, rows)
    models |= {"rule": (rule.called, rule.predictions[0])}
    return answered(rows, models, replace(ctx.resampling, folds=0))
