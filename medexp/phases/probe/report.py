"""What the probe measured on the test cases, and what it leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medexp.evaluation.classification import METRICS, Predictions, confusion, per_case_and_arm, roc_labels, roc_points
from medexp.evaluation.intervals import Interval
from medexp.phases.probe.checks import in_words
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.shared.context import Context
from medexp.phases.shared.labelled_volumes import LabelledVolumes
from medexp.phases.shared.publishing import Summary
from medexp.tracking.figures import confusion_matrix, roc

ARMS = {
    "encoder": "the encoder",
    "unadapted": "the unadapted encoder",
    "random": "random weights",
    "intensity": "intensity statistics",
    "majority": "the majority class",
}
_SHORT = {"encoder": "encoder", "unadapted": "unadapted", "random": "random weights", "intensity": "intensities"} | {
    "majority": "majority class"
}
_WITH_INTERVAL = ("balanced_accuracy", "auroc")  # in the terminal, whose lines are short
_PANELS = 6


@dataclass(frozen=True)
class Judged:
    """What the probe measured on the test cases.

    Attributes:
        predictions: By arm, a key of ARMS.
        scores: By arm, then by metric.
        gains: Balanced accuracy of the encoder minus that of each other arm, paired.
        chosen: The head's hyperparameter by arm.
        left_out: Why there is no row for the unadapted encoder; empty where there is one.
    """

    predictions: Mapping[str, Predictions]
    scores: Mapping[str, Mapping[str, Interval]]
    gains: Mapping[str, Interval]
    chosen: Mapping[str, float]
    left_out: str


def log_judged(ctx: Context[ProbeConfig], volumes: LabelledVolumes, judged: Judged) -> None:
    """Metrics, tables and pictures."""
    reporter, classes, tested = ctx.run.reporter, volumes.table.classes, volumes.data.rows("test")
    for arm, measured in judged.scores.items():
        ctx.intervals("test/" if arm == "encoder" else f"{arm}/", measured)
    ctx.intervals("test/gain_over_", judged.gains)
    reporter.metrics({f"params/hyperparameter_{arm}": value for arm, value in judged.chosen.items()})
    cases, patients = list(tested["case"]), list(tested["patient"])
    reporter.table(per_case_and_arm(judged.predictions, cases, patients, classes), "per_case.csv")
    for arm, predicted in judged.predictions.items():
        counts = confusion(predicted, np.ones((1, len(tested))))[0]
        reporter.figure(confusion_matrix(counts, classes, f"{ARMS[arm]}, test cases"), f"figures/confusion_{arm}.png")
    if drawn := roc_labels(judged.predictions["encoder"])[:_PANELS]:
        panels = {
            classes[label]: {ARMS[arm]: roc_points(predicted, label) for arm, predicted in judged.predictions.items()}
            for label in drawn
        }
        reporter.figure(roc(panels, f"ROC on {len(tested)} test cases"), "figures/roc.png")


def summary(ctx: Context[ProbeConfig], encoder: str, volumes: LabelledVolumes, judged: Judged) -> Summary:
    """The arms, what they say, and what to do next."""
    config, manifest = ctx.config, volumes.data.manifest
    head = ["arm", *(name.replace("_", " ") for name in METRICS)]
    rows, narrow = [], []
    for arm, measured in judged.scores.items():
        chosen = f"{judged.chosen[arm]:g}" if arm in judged.chosen else "-"
        rows.append([ARMS[arm], *(interval.in_a_cell(3) for interval in measured.values()), chosen])
        short = (interval.in_a_cell(2, bounds=name in _WITH_INTERVAL) for name, interval in measured.items())
        narrow.append([_SHORT[arm], *short])
    used = " and ".join(split for split in ("train", "val") if len(volumes.data.rows(split)))
    fitted, tested = manifest[manifest["split"] != "test"], volumes.data.rows("test")
    other = "mlp" if config.head == "logistic" else "logistic"
    again = f"-P table={config.table} -P head={other}" if config.table else "-P table=FILE.tsv"
    return Summary(
        headline=f"probe of {encoder} on {volumes.data.source}",
        title=f"{' or '.join(volumes.table.classes)}, {config.head} head: fitted on {len(fitted)} cases of "
        f"{fitted['patient'].nunique()} patients, tested on {len(tested)} of {tested['patient'].nunique()}",
        head=[*head, "C" if config.head == "logistic" else "hidden size"],
        rows=rows,
        words=[
            f"Intervals of {config.confidence:.0%}, by patient. The head was fitted on {used}, its hyperparameter chosen "
            "across their patients; test judged it once.",
            *(in_words(interval, ARMS[arm]) for arm, interval in judged.gains.items()),
            *([judged.left_out] if judged.left_out else []),
        ],
        narrow=(head, narrow),
        following=[f"Next, another:    mlflow run . -e probe {again}"],
    )
