"""What the probe measures on the test cases, and what it leaves behind."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from medexp.checks import Check, verdict
from medexp.config.data import DataConfig
from medexp.config.shared import Resampling
from medexp.data.splits import SPLITS
from medexp.data.volumes.facts import CaseFacts
from medexp.data.volumes.tables import LabelledTable
from medexp.evaluation.classification import (
    METRICS,
    Predictions,
    confusion,
    gain,
    per_case_and_arm,
    roc_labels,
    roc_points,
    scores,
)
from medexp.evaluation.intervals import Interval
from medexp.phases.probe import checks as probe_checks
from medexp.phases.probe.config import ProbeConfig
from medexp.registry.store import Pulled
from medexp.tracking.figures import confusion_matrix, roc
from medexp.tracking.results import log_checks, log_intervals, log_summary
from medexp.tracking.runs import TrackedRun
from medexp.tracking.ui import next_line

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
class Data:
    """A labelled table whose every volume was read and found good.

    Attributes:
        table: The table.
        facts: By case.
        manifest: `medexp.data.volumes.tables.table_manifest`: one row a case; the order of all features.
        source: What it is in words: the file, or which phantoms.
        settings: How the encoder wants its volumes.
    """

    table: LabelledTable
    facts: Mapping[str, CaseFacts]
    manifest: pd.DataFrame
    source: str
    settings: DataConfig

    def of(self, split: str) -> pd.DataFrame:
        """The rows of a split."""
        return self.manifest[self.manifest["split"] == split]


@dataclass(frozen=True)
class Results:
    """What the probe measured on the test cases.

    Attributes:
        predictions: By arm, a key of ARMS.
        scores: By arm, then by metric.
        gains: Balanced accuracy of the encoder minus that of each other arm, paired.
        chosen: The head's hyperparameter by arm.
        left_out: Why there is no row for the unadapted encoder; empty where there is one.
        checks: All checks.
    """

    predictions: Mapping[str, Predictions]
    scores: Mapping[str, Mapping[str, Interval]]
    gains: Mapping[str, Interval]
    chosen: Mapping[str, float]
    left_out: str
    checks: Sequence[Check]


def judge(
    config: ProbeConfig,
    data: Data,
    predictions: Mapping[str, Predictions],
    chosen: Mapping[str, float],
    left_out: str,
    checks: Sequence[Check],
) -> Results:
    """Metrics with their intervals, the gains of the encoder over the other arms, and the checks on them."""
    resampling = Resampling(config.bootstrap_samples, config.confidence, config.seed)
    patients = list(data.of("test")["patient"])
    measured = {arm: scores(predicted, patients, resampling) for arm, predicted in predictions.items()}
    gains = {
        arm: gain(METRICS["balanced_accuracy"], predictions["encoder"], reference, patients, resampling)
        for arm, reference in predictions.items()
        if arm != "encoder"
    }
    majority = probe_checks.better_than_majority(gains["majority"])
    attribution = probe_checks.attribution(gains.get("unadapted"), left_out)
    return Results(predictions, measured, gains, chosen, left_out, [*checks, majority, attribution])


def report(run: TrackedRun, data: Data, results: Results, confidence: float) -> None:
    """Metrics, tables, pictures and checks."""
    reporter, classes, tested = run.reporter, data.table.classes, data.of("test")
    intervals = {
        f"{'test' if arm == 'encoder' else arm}/{name}": interval
        for arm, measured in results.scores.items()
        for name, interval in measured.items()
    }
    intervals |= {f"test/gain_over_{arm}": interval for arm, interval in results.gains.items()}
    log_intervals(run, intervals, confidence)
    for split in SPLITS:
        rows = data.of(split)
        reporter.metrics({f"params/{split}_cases": len(rows), f"params/{split}_patients": rows["patient"].nunique()})
    reporter.metrics({f"params/hyperparameter_{arm}": value for arm, value in results.chosen.items()})
    cases, patients = list(tested["case"]), list(tested["patient"])
    reporter.table(per_case_and_arm(results.predictions, cases, patients, classes), "per_case.csv")
    for arm, predicted in results.predictions.items():
        counts = confusion(predicted, np.ones((1, len(tested))))[0]
        reporter.figure(confusion_matrix(counts, classes, f"{ARMS[arm]}, test cases"), f"figures/confusion_{arm}.png")
    if drawn := roc_labels(results.predictions["encoder"])[:_PANELS]:
        panels = {
            classes[label]: {ARMS[arm]: roc_points(predicted, label) for arm, predicted in results.predictions.items()}
            for label in drawn
        }
        reporter.figure(roc(panels, f"ROC on {len(tested)} test cases"), "figures/roc.png")
    log_checks(run, results.checks)


def show(config: ProbeConfig, pulled: Pulled, data: Data, results: Results, run: TrackedRun) -> None:
    """The run's description and the end of the terminal's output: arms, what they say, checks, and what to do next."""
    hyperparameter = "C" if config.head == "logistic" else "hidden size"
    head = ["arm", *(name.replace("_", " ") for name in METRICS), hyperparameter]
    rows = [
        [
            ARMS[arm],
            *(_shown(interval) for interval in measured.values()),
            f"{results.chosen[arm]:g}" if arm in results.chosen else "-",
        ]
        for arm, measured in results.scores.items()
    ]
    used = " and ".join(split for split in ("train", "val") if len(data.of(split)))
    splits = f"The head was fitted on {used}, its hyperparameter chosen across their patients; test judged it once."
    fitted, tested = data.manifest[data.manifest["split"] != "test"], data.of("test")
    title = (
        f"{' or '.join(data.table.classes)}, {config.head} head: fitted on {len(fitted)} cases of "
        f"{fitted['patient'].nunique()} patients, tested on {len(tested)} of {tested['patient'].nunique()}"
    )
    words = [probe_checks.in_words(interval, ARMS[arm]) for arm, interval in results.gains.items()]
    words += [results.left_out] if results.left_out else []
    encoder = f"{pulled.name} version {pulled.version}"
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    verdicts = "\n".join(f"- {check.id} {check.title}: **{check.outcome}**" for check in results.checks)
    log_summary(
        run,
        f"**{verdict(results.checks)}**: probe of {encoder} on {data.source}\n\n{title}:\n\n" + "\n".join(lines) + "\n\n"
        f"Intervals of {config.confidence:.0%}, by patient. {splits}\n\n" + "\n\n".join(words) + f"\n\n{verdicts}\n",
    )

    console = Console(soft_wrap=True)
    table = Table(*head[:-1], title=title)
    for arm, measured in results.scores.items():
        row = [_shown(interval, 2, whole=name in _WITH_INTERVAL) for name, interval in measured.items()]
        table.add_row(_SHORT[arm], *row)
    console.print(table)
    print(f"Probed {encoder} on {data.source}. Intervals of {config.confidence:.0%}, by patient.")
    print(splits)
    for line in words:
        print(line)
    for check in results.checks:
        colour = "green" if check.passed else "red" if check.blocks else "yellow"
        console.print(f"[{colour}]{check.outcome}[/] {check.id} {check.title} ({check.severity.lower()})", highlight=False)
    print(f"Run: {run.id}, files in {run.folder}")
    print(f"Next, browse it:  {next_line(run)}")
    other = "mlp" if config.head == "logistic" else "logistic"
    table_flag = f"-P table={config.table}" if config.table else "-P table=FILE.tsv"
    print(f"Next, another:    mlflow run . -e probe {table_flag}" + (f" -P head={other}" if config.table else ""))


def _shown(interval: Interval, digits: int = 3, *, whole: bool = True) -> str:
    bounds = f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if whole and not math.isnan(interval.low) else ""
    return f"{interval.estimate:.{digits}f}{bounds}"
