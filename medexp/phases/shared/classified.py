"""What a classifier of two classes is worth on the validation cases: metrics with intervals, per source too, and pictures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    roc_points,
)
from medexp.evaluation.intervals import Interval
from medexp.tracking.figures import calibration, confusion_matrix, gallery, roc
from medexp.tracking.results import log_intervals
from medexp.tracking.runs import TrackedRun

SHOWN = {"accuracy": "accuracy", "balanced_accuracy": "balanced acc.", "sensitivity": "sensitivity"}
SHOWN |= {"specificity": "specificity", "auroc": "AUROC", "macro_f1": "macro F1"}
"""Metrics of the table that a phase ends with, and their names there."""


@dataclass(frozen=True)
class Judged:
    """A classifier's answers on the validation cases.

    Attributes:
        rows: One row a case: case, patient, source.
        predictions: Of these cases.
        scores: By "all" and by source, then by metric.
    """

    rows: pd.DataFrame
    predictions: Predictions
    scores: Mapping[str, Mapping[str, Interval]]


def judge(rows: pd.DataFrame, predictions: Predictions, resampling: Resampling) -> Judged:
    """Every metric with its interval by patient, of all cases and of each source's.

    Args:
        rows: One row a case: case, patient, source.
        predictions: Of these cases.
        resampling: How resamples are drawn, and the coverage.
    """
    patients, sources = list(rows["patient"]), list(rows["source"])
    measured = by_source(predictions, patients, sources, resampling, {**DIAGNOSTIC, **CALIBRATION})
    if len(measured) == 2:  # all of one source: once is enough
        measured = {"all": measured["all"]}
    return Judged(rows, predictions, measured)


def per_case(judged: Judged, classes: Sequence[str]) -> pd.DataFrame:
    """One row a case: case, patient, source, label, predicted, probability of class 1, correct (0 or 1), cross_entropy."""
    predictions = judged.predictions
    names = np.asarray(classes)
    return judged.rows[["case", "patient", "source"]].assign(
        label=names[predictions.truth],
        predicted=names[predictions.predicted],
        probability=predictions.probabilities[:, 1],
        correct=(predictions.truth == predictions.predicted).astype(float),
        cross_entropy=cross_entropy(predictions),
    )


def log_judged(
    judged: Judged,
    classes: Sequence[str],
    run: TrackedRun,
    picture: Callable[[str], Array],
    resampling: Resampling,
    *,
    shown: int,
) -> None:
    """Metrics `val/best/…` and, per source, `val/best/<source>/…`, with intervals; `per_case.csv`; as pictures confusion
    matrices, ROC, calibration and misclassified cases.

    Args:
        judged: The classifier's answers.
        classes: Names of the classes 0 and 1.
        run: The run.
        picture: From a case to a grey image (H, W).
        resampling: How the intervals in the pictures are drawn.
        shown: Misclassified cases in the picture, at most.
    """
    for name, measured in judged.scores.items():
        prefix = "val/best/" if name == "all" else f"val/best/{name}/"
        log_intervals(run, {f"{prefix}{metric}": interval for metric, interval in measured.items()}, resampling.confidence)
    table = per_case(judged, classes)
    run.reporter.table(table, "per_case.csv")

    curves, bands, diagrams = {}, {}, {}
    for name in judged.scores:
        rows = (judged.rows["source"] == name).to_numpy() | (name == "all")
        part, patients = judged.predictions.of(rows), list(judged.rows.loc[rows, "patient"])
        title = f"{name}, {rows.sum()} validation cases"
        counts, band = confusion(part, np.ones((1, rows.sum())))[0], confusion_band(part, patients, resampling)
        run.reporter.figure(confusion_matrix(counts, classes, title, band), f"figures/confusion_{name}.png")
        if len(set(part.truth)) == 2:
            area = judged.scores[name]["auroc"]
            label = f"{name}, AUROC {area.estimate:.3f}"
            curves[label] = roc_points(part, 1)
            bands[label] = roc_band(part, 1, patients, resampling)
        error = judged.scores[name]["ece"].estimate
        diagrams[f"{name}, ECE {error:.3f}"] = reliability(part, patients, resampling)
    if curves:
        figure = roc({classes[1]: curves}, f"ROC, validation, intervals of {resampling.confidence:.0%}", {classes[1]: bands})
        run.reporter.figure(figure, "figures/roc.png")
    run.reporter.figure(calibration(diagrams, classes[1], "Calibration, validation"), "figures/calibration.png")

    wrong = table[table["correct"] == 0].sort_values("cross_entropy", ascending=False)
    first = wrong.head(shown)
    captions = [f"{row.case}\nis {row.label}\n{classes[1]}: {row.probability:.2f}" for row in first.itertuples()]
    title = f"Misclassified: {len(wrong)} of {len(table)} validation cases, the most confident first"
    if len(first):
        run.reporter.figure(gallery([picture(case) for case in first["case"]], captions, title), "figures/misclassified.png")


def pooled(judged: Judged) -> list[str]:
    """What to know of figures of several sources together; nothing where there is one."""
    counts = judged.rows["source"].value_counts()
    if len(counts) == 1:
        return []
    told = ", ".join(f"{source} {count} ({count / len(judged.rows):.1%})" for source, count in counts.items())
    return [
        f"The checks and the best epoch go by the validation cases of all sources together: {told}. A source with few of them "
        "decides little; the metrics val/best/SOURCE/… are of each alone."
    ]


def rows_of(columns: Sequence[Mapping[str, Interval]]) -> list[list[str]]:
    """The rows of a closing table: a metric each, then its figure in each column with its interval.

    Args:
        columns: Scores of what is compared, by metric.
    """
    return [[name, *(brief(scores[metric]) for scores in columns)] for metric, name in SHOWN.items()]


def brief(interval: Interval) -> str:
    """A figure with its interval, in two digits."""
    if math.isnan(interval.estimate):
        return "-"
    bounds = "" if math.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.estimate:.2f}{bounds}"
