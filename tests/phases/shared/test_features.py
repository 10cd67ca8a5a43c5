"""Kinds of features side by side: one that tells more is found, one that tells as much is not, and one that tells less is."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medexp.evaluation.classifiers import folds_by_patient
from medexp.evaluation.controls import Task
from medexp.phases.probe import PHASE
from medexp.phases.shared.context import context
from medexp.phases.shared.features import Kinds, side_by_side
from medexp.reporting import NullReporter
from medexp.tracking.runs import TrackedRun
from tests.configured import configured


class Tables(NullReporter):
    """Keeps the tables."""

    def __init__(self) -> None:
        self.kept: dict[str, pd.DataFrame] = {}

    def table(self, table: pd.DataFrame, path: str) -> None:
        self.kept[path] = table


def told(folder: Path, patients: int, noise: dict[str, float]) -> tuple[Kinds, Tables]:
    """Of features that hold the label beneath so much noise."""
    labels, rng, tables = np.arange(patients) % 2, np.random.default_rng(0), Tables()
    found = {kind: (labels[:, None] + rng.normal(0, sd, (patients, 3))).astype(np.float32) for kind, sd in noise.items()}
    owners = [f"p{number}" for number in range(patients)]
    task = Task(labels, owners, 2, folds_by_patient(labels, owners, 4, 0))
    with context(PHASE, configured("probe", cache_dir=folder), TrackedRun("", folder, tables)) as ctx:
        return side_by_side(ctx, found, task), tables  # type: ignore[arg-type]


def test_what_tells_more_what_tells_less_and_what_tells_as_much(tmp_path: Path) -> None:
    kinds, tables = told(tmp_path, 80, {"multiscale": 1.0, "gap10": 0.1, "tumour_weighted": 30.0})
    asked, more, less = kinds.words
    scores = kinds.scores["gap10"]
    assert (
        f"multiscale features, by the same kind of head as the others: AUROC {kinds.scores['multiscale']['auroc']}," in asked
    )
    assert more.startswith(f"The encoder's gap10 features: AUROC {scores['auroc']}, balanced accuracy ")
    assert "They tell more than multiscale in AUROC" in more and "They tell less than multiscale in AUROC" in less
    logged = tables.kept["features.csv"].set_index(["features", "metric"])["estimate"]
    assert logged["gap10", "auroc_gain"] == pytest.approx(logged["gap10", "auroc"] - logged["multiscale", "auroc"])

    _, same = told(tmp_path, 80, {"gap10": 1.0, "multiscale": 1.0})[0].words
    assert "They tell no more than gap10 in AUROC, as far as can be measured" in same
    _, few = told(tmp_path, 8, {"gap10": 1.0, "multiscale": 1.0})[0].words
    assert "Too few cases to tell them from gap10 in AUROC" in few


def test_the_table_names_the_kind_that_was_asked_for(tmp_path: Path) -> None:
    _, head, rows = told(tmp_path, 40, {"multiscale": 0.1, "gap10": 1.0})[0].table
    assert head == ["features", "AUROC", "balanced accuracy", "gain in AUROC"]
    assert [row[0] for row in rows] == ["multiscale, asked for", "gap10"]
    assert rows[0][1].startswith("1.00") and rows[0][3] == "-" and rows[1][3].startswith("-0.")
