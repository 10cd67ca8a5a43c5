"""Sweeps whose workers, parents, servers and disks fail, and sweeps that share a study."""

import contextlib
import os
import re
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from medexp.errors import MedexpError, StorageError
from medexp.studies.study import recover_dead
from medexp.studies.sweep import search
from medexp.studies.trials import counted
from tests.runs import figures
from tests.studies.cheap import sweep_config, warm_up
from tests.studies.postgres import closed
from tests.studies.sweeping import (
    OBJECTIVE,
    SCORE,
    gate,
    in_a_process,
    parents,
    restarted,
    runs,
    statuses,
    stop,
    study_of,
    until,
    wait_for,
    waiting,
)


@pytest.fixture(params=["journal", "postgres"])
def storage(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("postgres")) if request.param == "postgres" else None


def test_a_worker_that_is_killed_does_not_end_the_sweep(store: MlflowClient, storage: str | None, tmp_path: Path) -> None:
    config = sweep_config(tmp_path, "killed", workers=2, storage=storage)
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


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_a_sweep_that_is_stopped_goes_on_where_it_was(
    store: MlflowClient, tmp_path: Path, capsys: Any, signum: signal.Signals
) -> None:
    outputs = tmp_path / "outputs"
    search(sweep_config(tmp_path, trials=2), OBJECTIVE, warm_up)
    config = sweep_config(tmp_path, workers=2)
    with gate(outputs):
        process = in_a_process(config)
        until(process, lambda: len(list(outputs.glob("waits-*"))) == 2)
        workers = psutil.Process(process.pid).children(recursive=True)
        if signum is signal.SIGKILL:
            os.kill(process.pid, signum)
        else:
            os.killpg(process.pid, signum)  # as a terminal does
        process.join()
        wait_for(workers)
    assert process.exitcode == (-9 if signum is signal.SIGKILL else 128 + signum)
    assert statuses(store)["KILLED"] == 2
    assert statuses(store)["RUNNING"] == 0
    assert parents(store)[0].info.status == ("RUNNING" if signum is signal.SIGKILL else "KILLED")
    (outputs / "gate").unlink()
    capsys.readouterr()
    search(config, OBJECTIVE, warm_up)
    assert "study cheap: 2 of 6 trials are finished and kept" in capsys.readouterr().out
    assert statuses(store) == {"FINISHED": 6, "KILLED": 2}
    assert {run.info.status for run in parents(store)} == {"FINISHED"} | ({"KILLED"})
    assert [trial.state for trial in counted(study_of(config))] == [TrialState.COMPLETE] * 6


def test_a_second_sweep_joins_in_and_both_report_the_same_study(
    store: MlflowClient, storage: str | None, tmp_path: Path
) -> None:
    config = sweep_config(tmp_path, storage=storage, confirm=2)
    outputs = tmp_path / "outputs"
    with gate(outputs) as go:
        first = in_a_process(config, "first.txt")
        until(first, lambda: len(list(outputs.glob("waits-*"))) == 1, "first.txt")
        second = in_a_process(config, "second.txt")
        until(second, lambda: len(list(outputs.glob("waits-*"))) == 2, "second.txt")
        assert statuses(store) == {"RUNNING": 2}
        go()
        for process, told in ((first, "first.txt"), (second, "second.txt")):
            process.join()
            assert process.exitcode == 0, Path(told).read_text()
    assert {name: statuses(store, name) for name in ("trial", "confirm")} == {
        "trial": {"FINISHED": 6},
        "confirm": {"FINISHED": 2},
    }
    assert len({run.data.params["seed"] for run in runs(store, "confirm")}) == 2
    one, other = parents(store)
    assert {run.info.status for run in (one, other)} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(store, "trial")} == {one.info.run_id, other.info.run_id}
    kept = [{key: value for key, value in figures(run).items() if not key.startswith("system/")} for run in (one, other)]
    assert kept[0] == kept[1]
    assert kept[0].items() >= {"trials/complete": 6, "trials/fail": 0, "trials/pruned": 0}.items()
    assert f"confirm/{SCORE}_sd" in kept[0]
    tables = [pd.read_csv(store.download_artifacts(run.info.run_id, "trials.csv")) for run in (one, other)]
    pd.testing.assert_frame_equal(*tables)
    assert sorted(tables[0]["run"]) == sorted(run.info.run_id for run in runs(store, "trial"))


def test_where_one_of_two_sweeps_is_killed_the_other_ends_the_study(
    store: MlflowClient, storage: str | None, tmp_path: Path
) -> None:
    config = sweep_config(tmp_path, storage=storage)
    outputs = tmp_path / "outputs"
    with gate(outputs) as go:
        killed, other = (in_a_process(config, told) for told in ("killed.txt", "other.txt"))
        until(other, lambda: len(list(outputs.glob("waits-*"))) == 2, "other.txt")
        os.kill(killed.pid, signal.SIGSTOP)  # or it would start others
        for worker in psutil.Process(killed.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        killed.kill()
        go()
        killed.join()
        other.join()
    assert other.exitcode == 0, Path("other.txt").read_text()
    assert statuses(store) == {"FINISHED": 6, "KILLED": 1}
    assert [trial.state for trial in counted(study_of(config))] == [TrialState.COMPLETE] * 6


def test_workers_whose_trials_another_process_takes_up_did_not_end_before_they_began(
    store: MlflowClient, tmp_path: Path
) -> None:
    config, over = sweep_config(tmp_path, "killed_always", trials=3), threading.Event()

    def takes_up() -> None:
        study = study_of(config)
        while not over.wait(0.001):
            recover_dead(study)

    other = threading.Thread(target=takes_up)
    other.start()
    try:
        with pytest.raises(MedexpError, match=r"its worker was killed \(3 of 3"):
            search(config, OBJECTIVE, warm_up)
    finally:
        over.set()
        other.join()
    assert statuses(store) == {"KILLED": 6}


def test_a_tracking_server_that_is_restarted_is_survived(
    server: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    with waiting(sweep_config(tmp_path)) as (process, go):
        stop(server)
        go()
        with restarted(server):
            process.join()
            assert process.exitcode == 0, Path("err.txt").read_text()
            assert statuses(MlflowClient()) == {"FINISHED": 6}


def test_a_tracking_server_that_stays_away_ends_the_sweep_which_then_goes_on(
    server: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with waiting(sweep_config(tmp_path)) as (process, go):
        stop(server)
        go()
        process.join()
    assert re.search("tracking store http.* does not answer .*Finished trials are kept", Path("err.txt").read_text())
    with restarted(server):
        store = MlflowClient()
        assert statuses(store) == {"RUNNING": 1}
        search(sweep_config(tmp_path), OBJECTIVE, warm_up)
        assert statuses(store) == {"FINISHED": 6, "KILLED": 1}
        assert [run.info.status for run in parents(store)] == ["FINISHED", "KILLED"]
    assert "0 of 6 trials are finished and kept; 2 runs that nobody had ended are KILLED now" in capsys.readouterr().out


def test_a_tracking_server_that_stands_still_for_a_while_is_waited_for(
    server: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with waiting(sweep_config(tmp_path)) as (process, go):
        os.killpg(server.pid, signal.SIGSTOP)
        go()
        process.join(3)  # what it asks is asked again meanwhile
        os.killpg(server.pid, signal.SIGCONT)
        process.join()
    assert process.exitcode == 0, Path("err.txt").read_text()
    store = MlflowClient()
    assert (statuses(store)["FINISHED"], statuses(store)["RUNNING"]) == (6, 0)
    assert len({run.data.tags["medexp.trial"] for run in runs(store, "trial") if run.info.status == "FINISHED"}) == 6


@pytest.mark.parametrize("how", ["well", "goes_on"])  # a file of the trial's own does not fit, or what the study is told
def test_a_full_disk_ends_the_sweep_which_goes_on_when_there_is_room(
    store: MlflowClient, small_disk: Path, capsys: Any, how: str
) -> None:
    config = sweep_config(small_disk, how)
    outputs = Path(config.output_dir)
    search(replace(config, trials=2), OBJECTIVE, warm_up)
    (outputs / "fills").touch()
    with pytest.raises(StorageError, match="(disk is full|No space left on device).*inished trials are kept"):
        search(config, OBJECTIVE, warm_up)
    (outputs / "fills").unlink()
    (outputs / "full").unlink()
    kept = sum(trial.state is TrialState.COMPLETE for trial in study_of(config).get_trials())
    assert 2 <= kept < 6
    assert statuses(store)["FINISHED"] >= kept and statuses(store)["RUNNING"] == 0
    capsys.readouterr()
    search(config, OBJECTIVE, warm_up)
    assert f"study cheap: {kept} of 6 trials are finished and kept" in capsys.readouterr().out
    assert [run.info.status for run in parents(store)] == ["FINISHED", "FAILED", "FINISHED"]
    assert statuses(store)["RUNNING"] == 0
    assert [trial.state for trial in counted(study_of(config))] == [TrialState.COMPLETE] * 6


def test_a_database_that_goes_away_is_named_without_its_credentials(
    store: MlflowClient, postgres: str, tmp_path: Path, capsys: Any
) -> None:
    config = sweep_config(tmp_path, storage=postgres)
    with waiting(config) as (process, go), closed(postgres):
        go()
        process.join()
    told = Path("err.txt").read_text()
    assert ": storage postgresql://127.0.0.1" in told.splitlines()[-1]
    assert "s3cret-word" not in told
    capsys.readouterr()
    search(config, OBJECTIVE, warm_up)
    assert "study cheap: 0 of 6 trials are finished and kept" in capsys.readouterr().out
    assert statuses(store)["FINISHED"] == 6 and statuses(store)["RUNNING"] == 0
