"""What the probe measured, and what it leaves behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np
import pandas as pd

from medexp.data.volumes.prepared import PreparedVolumes
from medexp.evaluation.classification import METRICS, Predictions, confusion, per_case_and_arm, roc_labels, roc_points
from medexp.phases.probe.checks import in_words
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.shared.context import Context
from medexp.phases.shared.controls import Beside, log_beside
from medexp.phases.shared.features import Kinds
from medexp.phases.shared.labelled_volumes import LabelledVolumes
from medexp.phases.shared.publishing import Summary
from medexp.tracking.figures import confusion_matrix, roc

CALLED = {"encoder": "the encoder", "unadapted": "the unadapted encoder"}
_WITH_INTERVAL = ("balanced_accuracy", "auroc")  # in the terminal, whose lines are short
_PANELS = 6


@dataclass(frozen=True)
class Judged:
    """What the probe measured on the judged cases.

    Attributes:
        split: Which these are: test, or, where they are judged out of fold, val.
        predictions: Of the encoder's head.
        beside: It beside the unadapted encoder and the controls.
        kinds: It by the other kinds of the encoder's features.
        chosen: The head's hyperparameter by arm, one a fold; of several seeds the first one's.
        left_out: Why there is no row for the unadapted encoder; empty where there is one.
    """

    split: str
    predictions: Predictions
    beside: Beside
    kinds: Kinds
    chosen: Mapping[str, Sequence[float]]
    left_out: str

    @property
    def arms(self) -> dict[str, Predictions]:
        """Predictions by arm, the encoder first; of several seeds the first one's."""
        return {"encoder": self.predictions} | {name: one.predictions[0] for name, one in self.beside.controls.items()}


def log_judged(ctx: Context[ProbeConfig], volumes: LabelledVolumes, judged: Judged) -> None:
    """Metrics, tables and pictures."""
    reporter, classes, tested = ctx.run.reporter, volumes.table.classes, volumes.data.rows(judged.split)
    ctx.intervals(f"{judged.split}/", judged.beside.scores["model"])
    log_beside(ctx, judged.beside)
    ctx.figures({f"params/hyperparameter_{arm}": median_low(values) for arm, values in judged.chosen.items()})
    table = per_case_and_arm(judged.arms, list(tested["case"]), list(tested["patient"]), classes)
    if volumes.data.folds:
        table = table.merge(tested[["case", "fold"]], on="case", validate="m:1")
        reporter.table(by_fold(volumes, judged), "folds.csv")
    reporter.table(table, "per_case.csv")
    on = "out of fold" if volumes.data.folds else "test cases"
    called = CALLED | {name: one.called for name, one in judged.beside.controls.items()}
    for arm, predicted in judged.arms.items():
        counts = confusion(predicted, np.ones((1, len(tested))))[0]
        reporter.figure(confusion_matrix(counts, classes, f"{called[arm]}, {on}"), f"figures/confusion_{arm}.png")
    labels = roc_labels(judged.predictions)
    if drawn := labels[:_PANELS]:
        panels = {
            classes[label]: {called[arm]: roc_points(predicted, label) for arm, predicted in judged.arms.items()}
            for label in drawn
        }
        part = f", {len(drawn)} of {len(labels)} classes" if len(drawn) < len(labels) else ""
        reporter.figure(roc(panels, f"ROC of {len(tested)} cases, {on}{part}"), "figures/roc.png")


def by_fold(volumes: LabelledVolumes, judged: Judged) -> pd.DataFrame:
    """How the encoder's head does in each fold, a row each: fold, cases, patients, its hyperparameter, and every metric."""
    rows = []
    for number, chosen in enumerate(judged.chosen["encoder"], 1):
        inside = (volumes.data.rows("val")["fold"] == number).to_numpy()
        part, every = judged.predictions.of(inside), np.ones((1, inside.sum()))
        sizes = {"fold": number, "cases": inside.sum(), "patients": volumes.data.fold(number).rows("val")["patient"].nunique()}
        scores = {name: float(metric(part, every)[0]) for name, metric in METRICS.items()}
        rows.append(sizes | {"hyperparameter": chosen} | scores)
    return pd.DataFrame(rows)


def summary(ctx: Context[ProbeConfig], encoder: str, volumes: LabelledVolumes, judged: Judged) -> Summary:
    """The arms, what they say, and what to do next."""
    config = ctx.config
    head = ["arm", *(name.replace("_", " ") for name in METRICS)]
    rows, narrow = [], []
    called = {"model": ("encoder", CALLED["encoder"])} | {
        one.name: (one.name, one.called) for one in judged.beside.controls.values()
    }
    for name, (arm, words) in called.items():
        measured, values = judged.beside.scores[name], judged.chosen.get(arm, ())
        chosen = " to ".join(dict.fromkeys(f"{value:g}" for value in (min(values), max(values)))) if values else "-"
        rows.append([words, *(interval.in_a_cell(3) for interval in measured.values()), chosen])
        short = (interval.in_a_cell(2, bounds=metric in _WITH_INTERVAL) for metric, interval in measured.items())
        narrow.append([arm, *short])
    other = "mlp" if config.head == "logistic" else "logistic"
    again = f"-P table={config.table} -P head={other}" if config.table else "-P table=FILE.tsv"
    return Summary(
        headline=f"probe of {encoder} on {volumes.data.source}",
        compared_by=(f"{judged.split}/auroc", "AUROC"),
        title=f"{' or '.join(volumes.table.classes)}, {config.features}, {config.head} head: {_on_whom(volumes.data)}",
        head=[*head, "C" if config.head == "logistic" else "hidden size"],
        rows=rows,
        words=[
            f"Intervals of {config.confidence:.0%}, by patient. {_how(volumes, judged)}",
            *(in_words(gain["balanced_accuracy"], called[arm][1]) for arm, gain in judged.beside.gains.items()),
            *judged.beside.words,
            *judged.kinds.words,
            *_of_several_seeds(judged),
            *([judged.left_out] if judged.left_out else []),
        ],
        narrow=(head, narrow),
        first=judged.beside.first,
        beside=judged.kinds.table,
        following=[f"Next, another:    mlflow run . -e probe {again}"],
    )


def _of_several_seeds(judged: Judged) -> list[str]:
    """What tables and pictures show of a control that is the mean of several networks: rows of cases have no mean."""
    several = {name: one for name, one in judged.beside.controls.items() if len(one.predictions) > 1}
    return [
        f"Figures of {one.called} are means of {len(one.predictions)} seeds; its rows in per_case.csv, and so what medexp "
        f"compare says of the arm {name}, and its pictures are of the first seed alone."
        for name, one in several.items()
    ]


def _on_whom(data: PreparedVolumes) -> str:
    """How many cases of how many patients judged, and how many others the head was fitted on."""
    if data.folds:
        rows = data.rows("val")
        return f"{len(rows)} cases of {rows['patient'].nunique()} patients, judged out of fold, {data.folds} folds"
    fitted, tested = data.manifest[data.manifest["split"] != "test"], data.rows("test")
    sizes = f"{len(fitted)} cases of {fitted['patient'].nunique()} patients, tested on {len(tested)}"
    return f"fitted on {sizes} of {tested['patient'].nunique()}"


def _how(volumes: LabelledVolumes, judged: Judged) -> str:
    """What the head was fitted on, and what is to be known of figures that were judged so."""
    data = volumes.data
    if not data.folds:
        used = " and ".join(split for split in ("train", "val") if len(data.rows(split)))
        return f"The head was fitted on {used}, its hyperparameter chosen across the patients of {used}; test judged it once."
    found = by_fold(volumes, judged)["auroc"]
    return (
        "Each case was judged by a head that was fitted on the other folds, its hyperparameter chosen across their patients. "
        f"From fold to fold AUROC went from {found.min():.3f} to {found.max():.3f}, which is no interval: folds share their "
        "training cases. The intervals are wider for that (Nadeau and Bengio, 2003)."
    )
