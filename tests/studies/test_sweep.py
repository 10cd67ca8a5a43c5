"""Sweeps with real worker processes and a phase that trains nothing: what is kept, what is said, and what a kill leaves."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.offline
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import create_trial

from medexp.errors import ConfigError, DataError, MedexpError
from medexp.studies.space import Goal, read_space
from medexp.studies.study import open_study
from medexp.studies.sweep import Repeated, in_words, luck, search
from medexp.tracking.killed import end_run
from tests.runs import figures, history, without_course
from tests.studies.cheap import SPACE, Cheap, sweep_config, warm_up
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
    rate, in_order = best.data.metrics[SCORE], sorted(trials, key=lambda run: int(run.data.tags["medexp.trial"]))
    assert {run.data.params["rate"] for run in [*confirmed, *tested]} == {best.data.params["rate"]}
    seeds = [int(run.data.params["seed"]) for run in [*confirmed, *tested]]
    assert len(set(seeds)) == 4 and config.seed not in seeds
    metrics = figures(parent)
    assert metrics[f"best/{SCORE}"] == rate
    again = pd.Series([run.data.metrics[SCORE] for run in confirmed])
    assert metrics[f"confirm/{SCORE}_mean"] == pytest.approx(again.mean())
    assert metrics[f"confirm/{SCORE}_sd"] == pytest.approx(again.std())
    assert parent.data.tags["medexp.headline"] == f"score with fresh seeds {again.mean():.3f}"
    assert (
        [value for _, value in history(store, parent, f"best/{SCORE}")]
        == sorted(  # the best so far, trial by trial
            max(one.data.metrics[SCORE] for one in in_order[:count]) for count in range(1, 7)
        )
    )
    assert without_course(store, parent) == []
    assert metrics["test/score"] == tested[0].data.metrics["test/score"]
    assert not [run for run in [*trials, *confirmed] if "test/score" in run.data.metrics]

    names = {item.path for item in store.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "trials.csv", "best.yaml", "summary.md", "figures"} <= names
    drawn = {Path(item.path).stem for item in store.list_artifacts(parent.info.run_id, "figures")}
    assert drawn == {"history", "parallel_coordinates", "intermediate_values", "study"}
    table = pd.read_csv(store.download_artifacts(parent.info.run_id, "trials.csv"))
    assert list(table["trial"]) == list(range(6)) and table[SCORE].max() == rate
    folder = Path(config.output_dir) / parent.info.run_id
    assert yaml.safe_load((folder / "best.yaml").read_text())["rate"] == rate
    page = Path(store.download_artifacts(parent.info.run_id, "figures/study.html")).read_text()
    assert plotly.offline.get_plotlyjs() in page, "nothing of the script is taken for a secret"
    printed, complained = capsys.readouterr()
    assert "in the place of" not in complained
    for words in (
        "study cheap: new, 6 trials",
        "trial 0: val/final/score",
        f"best of 6 trials {rate:.4g}; the same settings with 3 fresh seeds {again.mean():.4g} \u00b1",
        "The test split, scored once after the search: test/score",
        f"mlflow run . -e phase1 -P profile=demo -P config={folder / 'best.yaml'}",
    ):
        assert words in printed
    assert "best of 6 trials" in parent.data.tags["mlflow.note.content"]
    kept = json.loads(Path(store.download_artifacts(parent.info.run_id, "summary.json")).read_text())
    assert kept["following"] == [line for line in printed.splitlines() if line.startswith("Next, train it whole:")]

    search(config, OBJECTIVE, warm_up)  # nothing is left to do
    assert [len(runs(store, name)) for name in ("trial", "confirm", "test")] == [6, 3, 1]
    assert "study cheap: 6 of 6 trials are finished and kept" in capsys.readouterr().out
    search(replace(config, trials=7, confirm=0, test=False), OBJECTIVE, warm_up)
    assert len(runs(store, "trial")) == 7


def said(value: float, fresh: Sequence[float], direction: Literal["maximize", "minimize"] = "maximize") -> list[str]:
    """What is said of a winner with this value, its settings having these values with fresh seeds."""
    chosen = create_trial(params={}, distributions={}, value=value)
    again = Repeated(list(range(len(fresh))), np.array(fresh)[:, None], {}, math.nan, [], [])
    return in_words([Goal("val/final/x", direction)], 9, chosen, again)


def test_a_winner_that_fresh_seeds_do_not_give_is_said_to_be_luck_first() -> None:
    words = said(0.61, [0.74, 0.70, 0.78, 0.75], "minimize")
    assert words[0].startswith("val/final/x: the winner's own validation figure 0.61 lies outside what fresh seeds give, 0.62")
    assert words[0].endswith("by the spread of 4: it was luck.") and "best of 9 trials 0.61" in words[1]
    assert "it was luck" in said(0.9, [0.74, 0.70, 0.78, 0.75])[0]
    assert "it was luck" in said(0.9, [0.8, 0.8])[0]


@pytest.mark.parametrize(
    ("value", "fresh"), [(0.79, [0.74, 0.70, 0.78, 0.75]), (0.5, [0.74, 0.70, 0.78, 0.75]), (0.8, [0.8, 0.8]), (0.9, [0.8])]
)
def test_one_that_they_could_give_or_that_was_unlucky_is_not(value: float, fresh: Sequence[float]) -> None:
    assert not any("it was luck" in line for line in said(value, fresh))


def test_of_settings_that_only_their_seed_tells_apart_luck_is_said_of_one_in_twenty() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 4))
    alarms = [luck(Goal("x", "maximize"), row[0], row[1:]) is not None for row in draws]
    assert 0.01 < np.mean(alarms) < 0.04  # 2.5 %: of luck, and not of its opposite


@pytest.mark.parametrize(
    ("how", "told"),
    [("noise", "chosen for its luck too, it is expected to be"), ("well", "which the choice did not flatter")],
)
def test_what_choosing_the_best_trial_made_of_its_figure_is_said(
    store: MlflowClient, tmp_path: Path, capsys: Any, how: str, told: str
) -> None:
    search(sweep_config(tmp_path, how), OBJECTIVE, warm_up)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Chosen by validation cases, trial"))
    assert told in line
    best = figures(parents(store)[0])[f"best/{SCORE}"]
    assert f"has {SCORE} {best:.3f}" in line
    if how == "noise":
        assert float(line.split(" on new patients")[0].rpartition(" ")[2]) < best - 0.1


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("data", DataError, "case 7: is empty"),
        ("unlogged", ConfigError, f"{SCORE}: the trial did not log this metric.*Logged were train/loss, val/score"),
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


def test_a_study_that_held_where_its_first_sweep_ran_is_gone_on_with_elsewhere(store: MlflowClient, tmp_path: Path) -> None:
    """An earlier version may have kept keys that are compared no more."""
    config = sweep_config(tmp_path, trials=1)
    search(config, OBJECTIVE, warm_up)
    study = open_study("cheap", None, "phase1", read_space(tmp_path / "sweep.yaml", Cheap), 0, Path(config.output_dir))
    study.set_user_attr("settings", study.user_attrs["settings"] | {"output_dir": "another folder"})
    search(replace(config, trials=2), OBJECTIVE, warm_up)
    assert len(runs(store, "trial")) == 2


def test_a_choice_that_fails_with_another_seed_is_said_to(store: MlflowClient, tmp_path: Path, capsys: Any) -> None:
    search(sweep_config(tmp_path, "unlucky", trials=1, confirm=2, test=True), OBJECTIVE, warm_up)
    printed = capsys.readouterr().out
    told = "; ".join(f"{name} failed: TEST_0: too shallow" for name in ("confirm-1", "confirm-2", "test"))
    assert f"Trained again with a fresh seed, {told}." in printed
    assert "there is no score of the test split" in printed


def test_two_goals_give_a_front(store: MlflowClient, tmp_path: Path, capsys: Any) -> None:
    space = SPACE.replace("maximize}]", "maximize}, {metric: train/loss, direction: minimize}]")
    (tmp_path / "sweep.yaml").write_text(space)
    search(sweep_config(tmp_path, trials=3, confirm=1), OBJECTIVE, warm_up)
    (parent,) = parents(store)
    drawn = {Path(item.path).stem for item in store.list_artifacts(parent.info.run_id, "figures")}
    assert "pareto_front" in drawn
    assert {f"best/{SCORE}", "best/train/loss"} <= parent.data.metrics.keys()


GRID = SPACE.replace("name: random", "name: grid").replace("low: 0.0, high: 1.0}", "low: 0.0, high: 1.0, step: 0.5}")
GRID = GRID.replace("low: 1, high: 4", "low: 1, high: 2")


def test_a_grid_is_tried_to_its_end_though_a_worker_is_killed(store: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(GRID)
    search(sweep_config(tmp_path, "killed", workers=2), OBJECTIVE, warm_up)
    assert statuses(store) == {"FINISHED": 6, "KILLED": 1}
    ended = [run for run in runs(store, "trial") if run.info.status == "FINISHED"]
    assert len({(run.data.params["rate"], run.data.params["depth"]) for run in ended}) == 6


def test_a_grid_has_so_many_trials_and_no_more(store: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(GRID)
    with pytest.raises(ConfigError, match=r"trials: found 7; the grid of .*sweep.yaml has 6 combinations"):
        search(sweep_config(tmp_path, trials=7), OBJECTIVE, warm_up)
    assert not runs(store)


def test_a_pruned_trial_has_no_value(store: MlflowClient, tmp_path: Path, capsys: Any) -> None:
    # the random sampler's rates with seed 0 fall below the median of those before at least once in 6
    text = SPACE.replace("pruner: {name: none}", "pruner: {name: median, arguments: {n_startup_trials: 1}}")
    (tmp_path / "sweep.yaml").write_text(text)
    search(sweep_config(tmp_path), OBJECTIVE, warm_up)
    (parent,) = parents(store)
    table = pd.read_csv(store.download_artifacts(parent.info.run_id, "trials.csv"))
    pruned = table["state"] == "PRUNED"
    assert figures(parent)["trials/pruned"] == pruned.sum() > 0
    assert table.loc[pruned, SCORE].isna().all() and table.loc[~pruned, SCORE].notna().all()
    assert set(table.loc[pruned, "outcome"]) == {"pruned at step 10"}
    assert "pruned at step 10; best so far" in capsys.readouterr().out


def test_a_test_split_that_is_scored_for_a_second_choice_is_no_longer_blind(
    store: MlflowClient, tmp_path: Path, capsys: Any
) -> None:
    search(sweep_config(tmp_path, trials=1, test=True), OBJECTIVE, warm_up)
    assert "The test split, scored once after the search" in capsys.readouterr().out
    search(sweep_config(tmp_path, trials=6, test=True), OBJECTIVE, warm_up)
    assert len(runs(store, "test")) == 2  # a better one was found
    assert "It was scored for trial 0 of this study before" in capsys.readouterr().out


def test_a_run_that_was_deleted_meanwhile_stops_nobody(store: MlflowClient, tmp_path: Path) -> None:
    """Nor does one that is in another store. A deleted run stays what it was; one that is there is ended."""
    search(sweep_config(tmp_path, "killed", trials=2), OBJECTIVE, warm_up)
    left = {name: store.create_run(parents(store)[0].info.experiment_id).info.run_id for name in ("deleted", "there")}
    for run_id in (left["deleted"], *(run.info.run_id for run in runs(store, "trial"))):
        store.delete_run(run_id)
    for run_id in (left["deleted"], "0" * 32, left["there"]):
        end_run(run_id)
    ended = {name: store.get_run(run_id).info for name, run_id in left.items()}
    assert {name: info.status for name, info in ended.items()} == {"deleted": "RUNNING", "there": "KILLED"}
    assert ended["deleted"].lifecycle_stage == "deleted"
    search(sweep_config(tmp_path, "killed", trials=3), OBJECTIVE, warm_up)
    assert statuses(store) == {"FINISHED": 1}
