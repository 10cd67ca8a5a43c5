"""What the probe measured on the test cases, and what it leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

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
    """What the probe measured on the test cases.

    Attributes:
        predictions: Of the encoder's head.
        beside: It beside the unadapted encoder and the controls.
        kinds: It by the other kinds of the encoder's features.
        chosen: The head's hyperparameter by arm; of several seeds the first one's.
        left_out: Why there is no row for the unadapted encoder; empty where there is one.
    """

    predictions: Predictions
    beside: Beside
    kinds: Kinds
    chosen: Mapping[str, float]
    left_out: str

    @property
    def arms(self) -> dict[str, Predictions]:
        """Predictions by arm, the encoder first; of several seeds the first one's."""
        return {"encoder": self.predictions} | {name: one.predictions[0] for name, one in self.beside.controls.items()}


def log_judged(ctx: Context[ProbeConfig], volumes: LabelledVolumes, judged: Judged) -> None:
    """Metrics, tables and pictures."""
    reporter, classes, tested = ctx.run.reporter, volumes.table.classes, volumes.data.rows("test")
    ctx.intervals("test/", judged.beside.scores["model"])
    log_beside(ctx, judged.beside)
    ctx.figures({f"params/hyperparameter_{arm}": value for arm, value in judged.chosen.items()})
    cases, patients = list(tested["case"]), list(tested["patient"])
    reporter.table(per_case_and_arm(judged.arms, cases, patients, classes), "per_case.csv")
    called = CALLED | {name: one.called for name, one in judged.beside.controls.items()}
    for arm, predicted in judged.arms.items():
        counts = confusion(predicted, np.ones((1, len(tested))))[0]
        reporter.figure(confusion_matrix(counts, classes, f"{called[arm]}, test cases"), f"figures/confusion_{arm}.png")
    labels = roc_labels(judged.predictions)
    if drawn := labels[:_PANELS]:
        panels = {
            classes[label]: {called[arm]: roc_points(predicted, label) for arm, predicted in judged.arms.items()}
            for label in drawn
        }
        part = f", {len(drawn)} of {len(labels)} classes" if len(drawn) < len(labels) else ""
        reporter.figure(roc(panels, f"ROC on {len(tested)} test cases{part}"), "figures/roc.png")


def summary(ctx: Context[ProbeConfig], encoder: str, volumes: LabelledVolumes, judged: Judged) -> Summary:
    """The arms, what they say, and what to do next."""
    config, manifest = ctx.config, volumes.data.manifest
    head = ["arm", *(name.replace("_", " ") for name in METRICS)]
    rows, narrow = [], []
    called = {"model": ("encoder", CALLED["encoder"])} | {
        one.name: (one.name, one.called) for one in judged.beside.controls.values()
    }
    for name, (arm, words) in called.items():
        measured, chosen = judged.beside.scores[name], f"{judged.chosen[arm]:g}" if arm in judged.chosen else "-"
        rows.append([words, *(interval.in_a_cell(3) for interval in measured.values()), chosen])
        short = (interval.in_a_cell(2, bounds=metric in _WITH_INTERVAL) for metric, interval in measured.items())
        narrow.append([arm, *short])
    used = " and ".join(split for split in ("train", "val") if len(volumes.data.rows(split)))
    fitted, tested = manifest[manifest["split"] != "test"], volumes.data.rows("test")
    other = "mlp" if config.head == "logistic" else "logistic"
    again = f"-P table={config.table} -P head={other}" if config.table else "-P table=FILE.tsv"
    return Summary(
        headline=f"probe of {encoder} on {volumes.data.source}",
        compared_by=("test/auroc", "AUROC"),
        title=f"{' or '.join(volumes.table.classes)}, {config.features}, {config.head} head: fitted on {len(fitted)} cases of "
        f"{fitted['patient'].nunique()} patients, tested on {len(tested)} of {tested['patient'].nunique()}",
        head=[*head, "C" if config.head == "logistic" else "hidden size"],
        rows=rows,
        words=[
            f"Intervals of {config.confidence:.0%}, by patient. The head was fitted on {used}, its hyperparameter chosen "
            "across their patients; test judged it once.",
            *(in_words(gain["balanced_accuracy"], called[arm][1]) for arm, gain in judged.beside.gains.items()),
            *judged.beside.words,
            *judged.kinds.words,
            *([judged.left_out] if judged.left_out else []),
        ],
        narrow=(head, narrow),
        first=judged.beside.first,
        beside=judged.kinds.table,
        following=[f"Next, another:    mlflow run . -e probe {again}"],
    )
