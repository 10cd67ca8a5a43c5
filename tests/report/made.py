"""A run as a phase leaves it, made in a second: nothing is trained, all that a report reads is there."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medexp.checks import Check, Severity
from medexp.evaluation.intervals import Interval
from medexp.report.summary import SUMMARY, Summary, as_record
from medexp.report.volumes import keep, log_worst
from medexp.tracking.results import log_checks, log_intervals, log_summary
from medexp.tracking.runs import TrackedRun, tracked_run
from tests.runs import Config

ODD = "a<b>&c $x|y é"
"""A name with all that a page could take for something else."""
CASES = [f"case-{number}" for number in range(12)]


SUMMARY_OF = Summary(
    headline=f"phase 1 of {ODD}",
    title="validation Dice",
    head=["arm", "WT"],
    rows=[["frozen", "0.500"], ["LoRA", "0.612"]],
    words=["LoRA improved Dice: +0.112 [+0.020, +0.204]."],
    first=[f"The control {ODD} is as good."],
)


def per_case(shift: float = 0.0, cases: Sequence[str] = CASES) -> pd.DataFrame:
    """Dice of two arms; the last case is the worst."""
    rows = [
        {"case": case, "arm": arm, "patient": case, "dice_WT": round(0.9 - 0.05 * place + gain, 4), "hd95_WT": 3.5 + place}
        for place, case in enumerate(cases)
        for arm, gain in (("baseline", -0.05), ("lora", shift))
    ]
    return pd.DataFrame(rows)


def made_run(*, volumes: bool = False, summary: Summary | None = SUMMARY_OF, shift: float = 0.0, odd: bool = True) -> str:
    """A run of phase 1 that ended; its id. With `volumes` it kept those of its worst cases."""
    names = [*CASES[:-1], ODD] if odd else CASES
    table = per_case(shift, names)
    with tracked_run("phase1", Config()) as run:
        checks = [
            Check("TEST_2.5", "Segmentation quality", Severity.BLOCKING, True, "Dice WT > 0.5", {"dice_WT": 0.6125}),
            Check("CONTROLS", f"Better than {ODD}", Severity.DIAGNOSTIC, False, "above 0", {"gain": -0.25}, "Train longer."),
        ]
        log_checks(run, checks)
        bounds = {"val/final/dice_WT": Interval(0.6125, 0.5211, 0.7014, 12), "baseline/dice_WT": Interval(0.5, 0.41, 0.59, 12)}
        log_intervals(run, bounds, 0.95)
        run.reporter.table(table, "per_case.csv")
        history = pd.DataFrame(
            {"epoch": [0, 1, 2], "step": [5, 10, 15], "train/loss": [0.9, 0.6, 0.5], "val/dice": [0.3, 0.5, 0.6]}
        )
        run.reporter.table(history, "phase1_training_log.csv")
        run.reporter.table(history.assign(**{"train/loss": [0.8, 0.7, 0.65]}), "control_training_log.csv")
        manifest = pd.DataFrame(
            {"case": names, "patient": names, "split": "val", "sha256": [f"{name}-voxels" for name in names]}
        )
        run.reporter.table(manifest, "manifest.csv")
        log_summary(run, f"**PASSED**: as older versions say it of {ODD}\n\n| arm | WT |\n| --- | --- |\n| old | 0.321 |\n")
        if summary is not None:
            following = ["Next, use it:     mlflow run . -e predict -P model=models:/phase1_segmenter@champion   # masks"]
            run.reporter.text(json.dumps(as_record(summary, following)), SUMMARY)
        if volumes:
            _keep(run, table, names)
    return run.id


def _keep(run: TrackedRun, table: pd.DataFrame, names: Sequence[str]) -> None:
    space = np.indices((40, 48, 24))
    for place, case in enumerate(names):
        distance = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(space, (20, 24, 12), strict=True)))
        image = np.where(distance < 18, 100 + 4 * distance, 0.0)
        truth, predicted = ((distance < radius).astype(np.uint8) for radius in (7, 4 + place % 4))
        keep(run.folder, case, {"image": image, "truth": truth, "prediction": predicted}, (2.0, 2.0, 3.0))
    log_worst(run, table[table["arm"] == "lora"].set_index("case")["dice_WT"])
