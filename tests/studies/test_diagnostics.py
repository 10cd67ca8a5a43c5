"""What a recovery that failed shows of a phase's runs is what the phase's record says."""

from pathlib import Path

import pandas as pd
from mlflow import MlflowClient

from medexp.phases import Diagnosis
from medexp.studies.diagnostics import diagnose
from medexp.studies.ladder import read_ladder
from medexp.tracking.past import past_run
from medexp.tracking.runs import tracked_run
from tests.configured import configured


def test_a_phase_that_scores_and_draws_something_else_has_its_own_worst_cases(store: MlflowClient, tmp_path: Path) -> None:
    ladder = read_ladder("phase1")
    config = configured("phase1", output_dir=str(tmp_path))
    with tracked_run("phase1", config) as failed:
        failed.reporter.metrics({"train/loss": 0.5, ladder.goal: 0.25}, 1)
        cases = {"case": ["a", "b"], "patient": ["a", "b"], "accuracy_left": [1.0, 0.0], "accuracy_right": [1.0, 0.5]}
        failed.reporter.table(pd.DataFrame(cases), "per_case.csv")
    shown = Diagnosis(curves=("train/loss",), scores="accuracy_")
    with tracked_run("recover", config) as tracked:
        report = diagnose(tracked, past_run(failed.id), [], ladder, shown, None)
    worst = pd.read_csv(store.download_artifacts(tracked.id, "worst_cases.csv")).to_dict("list")
    mean = "mean Accuracy, failed run"
    assert worst == {"case": ["b", "a"], "Accuracy left": [0.0, 1.0], "Accuracy right": [0.5, 1.0], mean: [0.25, 1.0]}
    assert "The cases that failed run does worst" in report and "drawn" not in report
    assert "worst" not in {item.path for item in store.list_artifacts(tracked.id)}
