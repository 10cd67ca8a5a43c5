"""Sweeps with real worker processes and a phase that trains nothing: what is kept, what is said, and what a kill leaves."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from medexp.errors import ConfigError, DataError, MedexpError
from medexp.studies.space import read_space
from medexp.studies.study import open_study
from medexp.studies.sweep import search
from medexp.studies.trials import counted
from tests.studies.cheap import SPACE, objective, search_apart, sweep_config, warm_up

OBJECTIVE = f"{objective.__module__}:objective"
SCORE = "val/best/score"


def runs(store: MlflowClient, name: str = "") -> list[Run]:
    """Runs whose name starts so, the newest first."""
    experiment = store.get_experiment_by_name("sweep")
    found = store.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]) if experiment else []
    return [run for run in found if run.info.run_name.startswith(name)]


def parents(store: MlflowClient) -> list[Run]:
    return [run for run in runs(store) if "mlflow.parentRunId" not in run.data.tags]


def statuses(store: MlflowClient, name: str = "trial") -> Counter[str]:
    return Counter(run.info.status for run in runs(store, name))


def study_of(config: Any, name: str = "cheap") -> Any:
    space = read_space(Path(config.space), {"output_dir", "seed", "how", "rate", "depth"})
    return open_study(name, config.storage, config.phase, space, 0, Path(config.output_dir))


def in_a_process(config: Any) -> Any:
    """The sweep as a process of its own."""
    context = multiprocessing.get_context("forkserver")  # begins at once, as workers do
    arguments = (dict(os.environ), str(Path.cwd()), config.phase1.how, config.workers)
    process = context.Process(target=search_apart, args=arguments)
    process.start()
    return process


def until(process: Any, there: Callable[[], Any]) -> None:
    while not there():
        process.join(0.05)  # it ends or it does not: the test goes on with what is there
        assert process.is_alive(), Path("err.txt").read_text()


def with_gate(outputs: Path) -> None:
    outputs.mkdir()
    os.mkfifo(outputs / "gate")


def wait_for(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=60)
    assert not left


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


def test_a_worker_that_is_killed_does_not_end_the_sweep(store: MlflowClient, tmp_path: Path) -> None:
    config = sweep_config(tmp_path, "killed", workers=2)
    search(config, OBJECTIVE, warm_up)
    assert statuses(store) == {"FINISHED": 6, "KILLED": 1}
    trials = counted(study_of(config))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert len({run.data.params["rate"] for run in runs(store, "trial")}) == 6  # the killed one was tried again
    assert parents(store)[0].info.status == "FINISHED"


def test_a_trial_that_always_kills_its_worker_is_tried_twice(store: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(MedexpError, match=r"commonest reason: its worker was killed \(1 of 1"):
        search(sweep_config(tmp_path, "killed_always", trials=1), OBJECTIVE, warm_up)
    assert statuses(store) == {"KILLED": 2}
    assert parents(store)[0].info.status == "FAILED"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on_where_it_was(
    store: MlflowClient, tmp_path: Path, capsys: Any, signum: signal.Signals
) -> None:
    outputs = tmp_path / "outputs"
    with_gate(outputs)
    (outputs / "go").touch()
    search(sweep_config(tmp_path, "waits", trials=2), OBJECTIVE, warm_up)
    (outputs / "go").unlink()
    config = sweep_config(tmp_path, "waits", workers=2)
    process = in_a_process(config)
    until(process, lambda: len(list(outputs.glob("waits-*"))) == 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    if signum is signal.SIGINT:
        os.killpg(process.pid, signum)  # as a terminal does
    else:
        os.kill(process.pid, signum)
    process.join()
    wait_for(workers)
    assert process.exitcode == {signal.SIGKILL: -9, signal.SIGINT: 1}[signum]
    assert statuses(store)["KILLED"] == 2
    assert statuses(store)["RUNNING"] == 0
    assert parents(store)[0].info.status == ("RUNNING" if signum is signal.SIGKILL else "KILLED")
    (outputs / "go").touch()
    capsys.readouterr()
    search(config, OBJECTIVE, warm_up)
    assert "study cheap: 2 of 6 trials are finished and kept" in capsys.readouterr().out
    assert statuses(store) == {"FINISHED": 6, "KILLED": 2}
    assert {run.info.status for run in parents(store)} == {"FINISHED"} | ({"KILLED"})
    assert [trial.state for trial in counted(study_of(config))] == [TrialState.COMPLETE] * 6


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


def test_a_tracking_server_that_is_restarted_is_survived(
    server: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    outputs = tmp_path / "outputs"
    with_gate(outputs)
    process = in_a_process(sweep_config(tmp_path, "waits"))
    until(process, lambda: list(outputs.glob("waits-*")))
    stop(server)
    go(outputs)
    with restarted(server):
        process.join()
        assert process.exitcode == 0, Path("err.txt").read_text()
        assert statuses(MlflowClient()) == {"FINISHED": 6}


def test_a_tracking_server_that_stays_away_ends_the_sweep_which_then_goes_on(
    server: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    outputs = tmp_path / "outputs"
    with_gate(outputs)
    process = in_a_process(sweep_config(tmp_path, "waits"))
    until(process, lambda: list(outputs.glob("waits-*")))
    stop(server)
    go(outputs)
    process.join()
    assert "StorageError: trial 0: the tracking store does not answer" in Path("err.txt").read_text()
    with restarted(server):
        store = MlflowClient()
        assert statuses(store) == {"RUNNING": 1}
        search(sweep_config(tmp_path, "waits"), OBJECTIVE, warm_up)
        assert statuses(store) == {"FINISHED": 6, "KILLED": 1}
        assert [run.info.status for run in parents(store)] == ["FINISHED", "KILLED"]
    assert "0 of 6 trials are finished and kept; 2 runs that nobody had ended are KILLED now" in capsys.readouterr().out


def go(outputs: Path) -> None:
    """Let the one worker that waits go on."""
    (outputs / "go").touch()
    (outputs / "gate").write_text("go")


def stop(server: subprocess.Popen[str]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextlib.contextmanager
def restarted(server: subprocess.Popen[str]) -> Iterator[None]:
    again = subprocess.Popen(
        server.args,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert any("Uvicorn running" in line for line in again.stdout or ())
        yield
    finally:
        os.killpg(again.pid, signal.SIGKILL)
        again.communicate()
