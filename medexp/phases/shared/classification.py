"""What a classifier is worth on the validation cases: metrics with intervals, per source too, and pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation.classification import (
    CALIBRATION,
    DIAGNOSTIC,
    Predictions,
    by_source,
    confusion,
    confusion_band,
    cross_entropy,
    reliability,
    roc_band,
    roc_labels,
    roc_points,
)
from medexp.evaluation.intervals import Interval
from medexp.phases.shared.context import Context, JudgedSettings
from medexp.tracking.figures import calibration, confusion_matrix, gallery, roc

SHOWN = {"accuracy": "accuracy", "balanced_accuracy": "balanced acc.", "sensitivity": "sensitivity"}
SHOWN |= {"specificity": "specificity", "auroc": "AUROC", "macro_f1": "macro F1"}
"""Metrics of the table that a phase ends with, and their names there."""
CALIBRATED = {"brier": "Brier score", "ece": "ECE"}


@dataclass(frozen=True)
class Judged:
    """A classifier's answers on the validation cases.

    Attributes:
        rows: One row a case: case, patient, source.
        classes: Names of the classes.
        predictions: Of these cases.
        scores: By "all" and by source, then by metric.
        on: What the cases are, in words.
    """

    rows: pd.DataFrame
    classes: Sequence[str]
    predictions: Predictions
    scores: Mapping[str, Mapping[str, Interval]]
    on: str = "validation"


def calibration_of(judged: Judged, limits: Sequence[str] = ()) -> str:
    """What a classifier's probabilities are worth as such, for its contract; `limits` is what else to know of them."""
    measured = ", ".join(f"{CALIBRATED[name]} {judged.scores['all'][name]}" for name in CALIBRATION)
    return " ".join([f"none: the softmax of the logits as it is; on {judged.on} cases {measured}.", *limits])


def as_table(rows: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """A case's probabilities in a row: `case`, and 0 to K - 1."""
    return pd.DataFrame(predictions.probabilities).assign(case=rows["case"])


def predictions_in(table: pd.DataFrame, rows: pd.DataFrame) -> Predictions:
    """What `as_table` holds of these cases, which are in the same order."""
    assert list(table["case"]) == list(rows["case"])
    columns = [name for name in table if isinstance(name, int)]
    return Predictions(rows["label"].to_numpy(), table[columns].to_numpy())


def judge(
    rows: pd.DataFrame, classes: Sequence[str], predictions: Predictions, resampling: Resampling, on: str = "validation"
) -> Judged:
    """Every metric with its interval by patient, of all cases and of each source's.

    Args:
        rows: One row a case: case, patient, source.
        classes: Names of the classes.
        predictions: Of these cases.
        resampling: How resamples are drawn, and the coverage.
        on: What the cases are, in words.
    """
    patients, sources = list(rows["patient"]), list(rows["source"])
    measured = by_source(predictions, patients, sources, resampling, {**DIAGNOSTIC, **CALIBRATION})
    if len(measured) == 2:  # all of one source: once is enough
        measured = {"all": measured["all"]}
    return Judged(rows, classes, predictions, measured, on)


def per_case(rows: pd.DataFrame, classes: Sequence[str], predictions: Predictions) -> pd.DataFrame:
    """One row a case: case, patient, source, fold (where there are folds), label, predicted, probability (of class 1; of more
    than two classes a column `probability_<class>` each), correct (0 or 1), cross_entropy."""
    names = np.asarray(classes)
    columns = ["probability"] if len(classes) == 2 else [f"probability_{name}" for name in classes]
    return rows[[name for name in ("case", "patient", "source", "fold") if name in rows]].assign(
        label=names[predictions.truth],
        predicted=names[predictions.predicted],
        **dict(zip(columns, predictions.probabilities.T[-len(columns) :], strict=True)),
        correct=(predictions.truth == predictions.predicted).astype(float),
        cross_entropy=cross_entropy(predictions),
    )


def log_judged(ctx: Context[JudgedSettings], judged: Judged, picture: Callable[[str], Array], *, shown: int) -> None:
    """Metrics `val/final/…` and, per source, `val/final/<source>/…`; `per_case.csv`; confusion matrices, ROC, calibration and
    misclassified cases as pictures.

    Args:
        ctx: Where it is logged.
        judged: The classifier's answers.
        picture: From a case to a grey image (H, W), or to one of colours (H, W, 3).
        shown: Misclassified cases in the picture, at most.
    """
    reporter, classes, resampling = ctx.run.reporter, judged.classes, ctx.resampling
    for name, measured in judged.scores.items():
        ctx.intervals("val/final/" if name == "all" else f"val/final/{name}/", measured)
    table = per_case(judged.rows, classes, judged.predictions)
    reporter.table(table, "per_case.csv")

    curves: dict[str, dict[str, Any]] = {}
    bands: dict[str, dict[str, Any]] = {}
    diagrams = {}
    for name in judged.scores:
        rows = (judged.rows["source"] == name).to_numpy() | (name == "all")
        part, patients = judged.predictions.of(rows), list(judged.rows.loc[rows, "patient"])
        title = f"{name}, {rows.sum()} cases, {judged.on}"
        counts, band = confusion(part, np.ones((1, rows.sum())))[0], confusion_band(part, patients, resampling)
        reporter.figure(confusion_matrix(counts, classes, title, band), f"figures/confusion_{name}.png")
        for label in roc_labels(part):
            curve = f"{name}, AUROC {judged.scores[name]['auroc'].estimate:.3f}"
            curves.setdefault(classes[label], {})[curve] = roc_points(part, label)
            bands.setdefault(classes[label], {})[curve] = roc_band(part, label, patients, resampling)
        diagrams[f"{name}, ECE {judged.scores[name]['ece'].estimate:.3f}"] = reliability(part, patients, resampling)
    if curves:
        reporter.figure(roc(curves, f"ROC, {judged.on}, intervals of {resampling.confidence:.0%}", bands), "figures/roc.png")
    positive = classes[1] if judged.predictions.binary else "the predicted class"
    reporter.figure(calibration(diagrams, positive, f"Calibration, {judged.on}"), "figures/calibration.png")

    wrong = table[table["correct"] == 0].sort_values("cross_entropy", ascending=False)
    first = wrong.head(shown)
    captions = []
    for row in first.to_dict("records"):
        told = classes[1] if judged.predictions.binary else row["predicted"]
        chance = row["probability"] if judged.predictions.binary else row[f"probability_{told}"]
        captions.append(f"{row['case']}\nis {row['label']}\n{told}: {chance:.2f}")
    title = f"Misclassified: {len(wrong)} of {len(table)} cases, {judged.on}, the most confident first"
    if len(first):
        images = [picture(case) for case in first["case"]]
        reporter.figure(gallery(images, captions, title, of=len(wrong)), "figures/misclassified.png")


def pooled(judged: Judged) -> list[str]:
    """What to know of figures of several sources together; nothing where there is one."""
    counts = judged.rows["source"].value_counts()
    if len(counts) == 1:
        return []
    told = ", ".join(f"{source} {count} ({count / len(judged.rows):.1%})" for source, count in counts.items())
    return [
        f"The checks go by the {judged.on} cases of all sources together: {told}. A source with few of them "
        "decides little; the metrics val/final/SOURCE/… are of each alone."
    ]


def rows_of(columns: Sequence[Mapping[str, Interval]]) -> list[list[str]]:
    """The rows of a closing table: a metric each, then its figure in each column with its interval.

    Args:
        columns: Scores of what is compared, by metric.
    """
    return [[name, *(scores[metric].in_a_cell(2) for scores in columns)] for metric, name in SHOWN.items()]
