"""Sweeps with real worker processes and a phase that trains nothing: what is kept, what is said, and what a kill leaves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from medexp.errors import ConfigError, DataError, MedexpError
from medexp.studies.sweep import search
from tests.studies.cheap import SPACE, sweep_config, warm_up
from tests.studies.sweeping import OBJECTIVE, SCORE, parents, runs, statuses


def test_a_sweep_from_its_start_to_its_last_line(store: MlflowClient, tmp_path: Path, capsys: Any) -> None:
    config = sweep_config(tmp_path, workers=2, confirm=3, test=True)
    search(config, OBJECTIVE, warm_up)
    (parent,) = parents(store)
    trials, confirmed, tested = (runs(store, name) for name in ("trial", "confirm", "test"))
    assert [len(trials), len(confirmed), len(tested)] == [6, 3, 1]
    assert {run.info.status for run in runs(store)} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in [*trials, *confirmed, *tested]} == {parent.info.run_id}
    assert len({run.data.params["rate"] for run in trials}) == 6  # workers draw different numbers

    best = max(trials, key=lambda run: run.data.metrics[SCORE])
    rate = best.data.metrics[SCORE]
    assert {run.data.params["rate"] for run in [*confirmed, *tested]} == {best.data.params["rate"]}
    seeds = [int(run.data.params["seed"]) for run in [*confirmed, *tested]]
    assert len(set(seeds)) == 4 and config.seed not in seeds
    metrics = parent.data.metrics
    assert metrics[f"best/{SCORE}"] == rate
    again = pd.Series([run.data.metrics[SCORE] for run in confirmed])
    assert metrics[f"confirm/{SCORE}_mean"] == pytest.approx(again.mean())
    assert metrics[f"confirm/{SCORE}_sd"] == pytest.approx(again.std())
    assert metrics["test/score"] == tested[0].data.metrics["test/score"]
    assert not [run for run in [*trials, *confirmed] if "test/score" in run.data.metrics]

    names = {item.path for item in store.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "trials.csv", "best.yaml", "summary.md", "figures"} <= names
    drawn = {Path(item.path).stem for item in store.list_artifacts(parent.info.run_id, "figures")}
    assert drawn == {"history", "importance", "parallel_coordinates", "intermediate_values"}
    table = pd.read_csv(store.download_artifacts(parent.info.run_id, "trials.csv"))
    assert list(table["trial"]) == list(range(6)) and table[SCORE].max() == rate
    folder = Path(config.output_dir) / parent.info.run_id
    assert yaml.safe_load((folder / "best.yaml").read_text())["rate"] == rate
    printed = capsys.readouterr().out
    for words in (
        "study cheap: new, 6 trials",
        "trial 0: val/best/score",
        f"best of 6 trials {rate:.4g}; the same settings with 3 fresh seeds {again.mean():.4g} \u00b1",
        "The test split, scored once after the search: test/score",
        f"mlflow run . -e phase1 -P profile=demo -P config={folder / 'best.yaml'}",
    ):
        assert words in printed
    assert "best of 6 trials" in parent.data.tags["mlflow.note.content"]

    search(config, OBJECTIVE, warm_up)  # nothing is left to do
    assert [len(runs(store, name)) for name in ("trial", "confirm", "test")] == [6, 3, 1]
    assert "study cheap: 6 of 6 trials are finished and kept" in capsys.readouterr().out
    search(replace(config, trials=7, confirm=0, test=False), OBJECTIVE, warm_up)
    assert len(runs(store, "trial")) == 7


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("data", DataError, "case 7: is empty"),
        ("unlogged", ConfigError, f"{SCORE}: no trial logs this metric.*Logged were train/loss, val/score"),
        ("check", MedexpError, r"no trial came to an end. The commonest reason: TEST_0: too shallow \(6 of 6 trials\)"),
    ],
)
def test_what_ends_a_sweep(store: MlflowClient, tmp_path: Path, how: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        search(sweep_config(tmp_path, how), OBJECTIVE, warm_up)
    assert isinstance(caught.value, MedexpError) and caught.value.exit_code == 2
    (parent,) = parents(store)
    assert parent.info.status == "FAILED"
    assert statuses(store) == {"FAILED": 6 if how == "check" else 1}


def test_a_study_is_not_gone_on_with_under_other_settings(store: MlflowClient, tmp_path: Path) -> None:
    config = sweep_config(tmp_path, trials=1)
    search(config, OBJECTIVE, warm_up)
    with pytest.raises(
        ConfigError, match="study cheap was begun with other settings: how: the study has well, given is check"
    ):
        search(sweep_config(tmp_path, "check", trials=1), OBJECTIVE, warm_up)


def test_a_choice_that_fails_with_another_seed_is_said_to(store: MlflowClient, tmp_path: Path, capsys: Any) -> None:
    search(sweep_config(tmp_path, "unlucky", trials=1, confirm=2, test=True), OBJECTIVE, warm_up)
    printed = capsys.readouterr().out
    told = "; ".join(f"{name} failed: TEST_0: too shallow" for name in ("confirm-1", "confirm-2", "test"))
    assert f"Trained again with a fresh seed, {told}." in printed
    assert "there is no score of the test split" in printed


def test_two_goals_give_a_front(store: MlflowClient, tmp_path: Path, capsys: Any) -> None:
    space = SPACE.replace("report: val/score}]", "report: val/score}, {metric: train/loss, direction: minimize}]")
    (tmp_path / "sweep.yaml").write_text(space)
    search(sweep_config(tmp_path, trials=3, confirm=1), OBJECTIVE, warm_up)
    (parent,) = parents(store)
    drawn = {Path(item.path).stem for item in store.list_artifacts(parent.info.run_id, "figures")}
    assert "pareto_front" in drawn
    assert {f"best/{SCORE}", "best/train/loss"} <= parent.data.metrics.keys()
