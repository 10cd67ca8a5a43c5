import contextlib
import errno
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.client import TrackingServiceClient
from sqlalchemy.exc import OperationalError

from medexp.config.keys import Called
from medexp.errors import CheckFailed, ConfigError, StorageError
from medexp.tracking.processes import this_process
from medexp.tracking.runs import runs_tagged, tracked_run


@dataclass(frozen=True)
class Lora:
    rank: int = 8
    target_stages: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class Config:
    output_dir: str
    profile: str = "demo"
    seed: Annotated[int, Called("s")] = 3
    cache_dir: str | None = None
    label_map: dict[int, int] = field(default_factory=lambda: {1: 1, 4: 3})
    note: str = "x" * 900
    data_dir: str | None = None
    resume: str | None = None
    lora: Lora = Lora()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(str(tmp_path / "outputs"))


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Permissions mean nothing to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def artifacts(store: MlflowClient, run_id: str, folder: str = "") -> set[str]:
    return {item.path for item in store.list_artifacts(run_id, folder)}


def test_a_run_says_what_it_was_made_with(store: MlflowClient, config: Config) -> None:
    with tracked_run("phase1", config) as run:
        run.reporter.metrics({"train/loss": 0.5, "val/dice": float("nan")}, step=4)
    found = store.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert store.get_experiment(found.info.experiment_id).name == "phase1"
    assert found.data.metrics["train/loss"] == 0.5
    assert "val/dice" not in found.data.metrics, "what is no number"
    assert found.data.tags | {"medexp.phase": "phase1", "medexp.profile": "demo", "medexp.seed": "3"} == found.data.tags
    assert found.data.params["lora.rank"] == "8"
    assert found.data.params["label_map"] == "{1: 1, 4: 3}"
    assert len(found.data.params["note"]) == 500
    assert artifacts(store, run.id) >= {"config.yaml", "environment"}
    assert artifacts(store, run.id, "environment") >= {"environment/environment.json", "environment/requirements.txt"}
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert written["lora"] == {"rank": 8, "target_stages": [3, 4]}
    assert written["note"] == config.note
    assert written["data_dir"] is None
    assert run.folder == Path(config.output_dir) / run.id


def test_no_thread_outlives_a_run(store: MlflowClient, config: Config) -> None:
    with tracked_run("phase1", config):
        assert any(thread.name == "SystemMetricsMonitor" for thread in threading.enumerate())
    assert not any(thread.name == "SystemMetricsMonitor" for thread in threading.enumerate())


def test_inside_a_project_the_run_of_mlflow_is_used_and_its_params_stand(
    store: MlflowClient, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = store.create_experiment("chosen")
    given = store.create_run(experiment).info.run_id
    store.log_param(given, "lora.rank", "'8'")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    with tracked_run("phase1", config) as run:
        pass
    found = store.get_run(given)
    assert run.id == given
    assert found.info.status == "FINISHED"
    assert found.data.params["lora.rank"] == "'8'"
    assert found.data.params["seed"] == "3"
    assert found.info.run_name == "phase1 s3"  # MLflow had drawn one
    assert store.get_experiment_by_name("phase1") is None
    assert os.environ["MLFLOW_EXPERIMENT_ID"] == experiment  # the user's word: it counts for later runs too


def test_what_mlflow_run_chose_counts_for_its_own_run_alone(
    store: MlflowClient, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = store.create_experiment("phase1")
    given = store.create_run(experiment, run_name="bold try 7").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    with tracked_run("phase1", config):
        pass
    with tracked_run("recover", config) as later:
        pass
    assert store.get_run(given).info.run_name == "bold try 7"
    assert store.get_experiment(store.get_run(later.id).info.experiment_id).name == "recover"
    drawn = store.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", drawn)
    with tracked_run("phase1", config) as named:
        pass
    assert (named.id, store.get_run(drawn).info.run_name) == (drawn, "phase1 s3")


@pytest.mark.parametrize(
    ("resumed_from", "words", "name"),
    [
        (None, "", "phase1 s3"),
        ("0" * 32, "", "phase1 s3, resumed"),
        ("0" * 32, "2 longer", "phase1 s3, 2 longer, resumed"),
    ],
)
def test_a_run_is_called_what_it_is(
    store: MlflowClient, config: Config, resumed_from: str | None, words: str, name: str
) -> None:
    with runs_tagged({}, words), tracked_run("phase1", config, resumed_from=resumed_from) as run:
        pass
    with tracked_run("phase1", config) as next_run:
        pass
    assert [store.get_run(one.id).info.run_name for one in (run, next_run)] == [name, "phase1 s3"]


def train(config: Config, error: BaseException) -> None:
    with tracked_run("phase1", config) as run:
        run.reporter.metrics({"train/loss": 0.25})
        raise error


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (CheckFailed("TEST_2.5: Dice WT 0.4"), "FAILED", "TEST_2.5: Dice WT 0.4"),
        (KeyError("fold"), "FAILED", "KeyError: 'fold'"),
        (StorageError("http://me:secret@host/x does not answer"), "FAILED", "http://***@host/x does not answer"),
        (KeyboardInterrupt(), "KILLED", None),
    ],
)
def test_a_run_ends_as_what_it_came_to(
    store: MlflowClient, config: Config, error: BaseException, status: str, told: str | None
) -> None:
    with pytest.raises(type(error)):
        train(config, error)
    (found,) = store.search_runs([store.get_experiment_by_name("phase1").experiment_id])
    assert found.info.status == status
    assert found.data.metrics["train/loss"] == 0.25
    assert (told is None) == ("medexp.error" not in found.data.tags)
    assert found.data.tags.get("medexp.error", "").startswith(told or "")
    assert mlflow.active_run() is None


def test_an_interrupted_run_is_closed_by_the_one_that_goes_on_from_it(store: MlflowClient, config: Config) -> None:
    interrupted = store.create_run("0").info.run_id
    with tracked_run("phase1", config, resumed_from=interrupted) as run:
        pass
    assert store.get_run(interrupted).info.status == "KILLED"
    assert store.get_run(run.id).data.tags["medexp.resumed_from"] == interrupted


def test_a_run_that_ended_or_that_this_store_never_saw_is_left_alone(store: MlflowClient, config: Config) -> None:
    ended = store.create_run("0").info.run_id
    store.set_terminated(ended, "FAILED")
    for before in (ended, "0" * 32):
        with tracked_run("phase1", config, resumed_from=before):
            pass
    assert store.get_run(ended).info.status == "FAILED"


@pytest.mark.parametrize(
    ("status", "by", "told"),
    [
        ("FINISHED", None, "it is FINISHED; there is nothing to go on with"),
        ("RUNNING", None, rf"it still runs: process {os.getpid()} on .*kill {os.getpid()}$"),
        ("KILLED", "FINISHED", "run .* went on from it, and is FINISHED; there is nothing to go on with"),
        ("KILLED", "RUNNING", rf"run .* went on from it, and still runs: process {os.getpid()} on"),
    ],
    ids=["finished", "running", "gone on with, finished", "gone on with, running"],  # a process's number names no test
)
def test_a_run_that_ended_well_or_still_runs_is_not_gone_on_with(
    store: MlflowClient, config: Config, status: str, by: str | None, told: str
) -> None:
    def run(status: str, **tags: str) -> str:
        made = store.create_run("0", tags={"medexp.process": this_process()} | tags).info.run_id
        store.update_run(made, status)
        return str(made)

    before = run(status)
    if by:
        run(by, **{"medexp.resumed_from": before})
    with pytest.raises(ConfigError, match=told), tracked_run("phase1", config, resumed_from=before):
        raise AssertionError("started")
    assert store.get_experiment_by_name("phase1") is None
    assert store.get_run(before).info.status == status


def test_a_run_whose_process_is_gone_is_gone_on_with_also_when_it_was_before(store: MlflowClient, config: Config) -> None:
    gone = f"{this_process().split()[0]} {2**22 + 1} 1"  # larger than any process id
    before = store.create_run("0", tags={"medexp.process": gone}).info.run_id
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), tracked_run("phase1", config, resumed_from=before):
            with pytest.raises(ConfigError, match="still runs"), tracked_run("phase1", config, resumed_from=before):
                raise AssertionError("started twice")
            raise KeyboardInterrupt


def test_processes_other_than_the_first_write_nothing(store: MlflowClient, config: Config) -> None:
    with tracked_run("phase1", config, is_main=False, run_id="abc") as run:
        run.reporter.metrics({"train/loss": 1.0})
        run.tag({"a": "b"})
    assert (run.id, run.folder) == ("abc", Path(config.output_dir) / "abc")
    assert store.get_experiment_by_name("phase1") is None


@pytest.mark.parametrize("below", ["locked/outputs", "a_file/outputs"])
def test_an_output_folder_that_cannot_be_written_is_named_before_anything_starts(
    store: MlflowClient, tmp_path: Path, below: str, unprivileged: None
) -> None:
    with contextlib.suppress(PermissionError):
        (tmp_path / "locked").mkdir(mode=0o555)
        (tmp_path / "a_file").touch()
    message = r"output_dir .*outputs: cannot be written .*output_dir=FOLDER"
    with pytest.raises(StorageError, match=message), tracked_run("phase1", Config(str(tmp_path / below))):
        raise AssertionError("started")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:secret@127.0.0.1:{port}",
        "sqlite:////dev/null/mlflow.db",
        "postgresql://me:secret@127.0.0.1:{port}/mlflow",
        "files",
    ],
)
def test_a_store_that_does_not_answer_is_named_before_anything_starts(
    store: MlflowClient, config: Config, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    uri = uri.format(port=closed_port())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StorageError, match=r"tracking store .*MLFLOW_TRACKING_URI") as caught, tracked_run("phase1", config):
        raise AssertionError("started")
    assert uri.rpartition("@")[2] in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_full_disk_names_the_path_and_how_to_go_on(store: MlflowClient, config: Config) -> None:
    with (
        pytest.raises(StorageError, match=r"the disk is full.*kept in .*-P resume=") as caught,
        tracked_run("phase1", config) as run,
    ):
        Path("/dev/full").write_text("state")
    assert str(run.folder) in str(caught.value)
    assert store.get_run(run.id).info.status == "FAILED"


def test_a_store_whose_disk_is_full_is_no_store_that_does_not_answer(store: MlflowClient, config: Config) -> None:
    told = r"^tracking store sqlite:///\S+/mlflow.db: the disk is full.*-P resume="
    with pytest.raises(StorageError, match=told), tracked_run("phase1", config) as run:
        store.set_tag(run.id, "before", "all is well")
        try:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
        except OperationalError as error:
            raise MlflowException(str(error)) from error


def test_a_file_of_another_user_is_named(store: MlflowClient, config: Config) -> None:
    told = r"^/theirs/mlruns: cannot be read or written \(Permission denied\)\. .*-P resume="
    with pytest.raises(StorageError, match=told), tracked_run("phase1", config):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/theirs/mlruns")


def test_of_a_store_that_fails_at_the_end_its_own_cause_is_told(
    store: MlflowClient, config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="what ended it"), tracked_run("phase1", config):
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
            database.execute("DROP TABLE runs")
        raise ValueError("what ended it")
    told = [record.getMessage() for record in caplog.records if record.name == "medexp.tracking.runs"]
    assert told and all("no such table: runs" in one and "what ended it" not in one for one in told)


def test_what_a_lower_floor_says_of_storage_gets_the_way_to_go_on(store: MlflowClient, config: Config) -> None:
    with pytest.raises(StorageError, match=r"last.pt: cannot be written.*-P resume="), tracked_run("phase1", config):
        raise StorageError("last.pt: cannot be written")


def test_a_server_that_goes_away_while_training(
    config: Config, server: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(StorageError, match=r"127.0.0.1:\d+: does not answer .*-P resume=") as caught:
        train_until_the_server_dies(config, server)
    (folder,) = Path(config.output_dir).iterdir()
    assert f"resume={folder.name}" in str(caught.value)
    assert (folder / "last.pt").read_text() == "state"
    assert mlflow.active_run() is None
    # What the store knew last: the run that goes on from this one closes it.
    assert MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(folder.name).info.status == "RUNNING"


def train_until_the_server_dies(config: Config, server: subprocess.Popen[str]) -> None:
    with tracked_run("phase1", config) as run:
        (run.folder / "last.pt").write_text("state")
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        run.reporter.metrics({"train/loss": 1.0})
        run.reporter.flush()


TRAINING = """
import os
from dataclasses import dataclass
from medexp.tracking.runs import tracked_run

@dataclass(frozen=True)
class Config:
    output_dir: str = "outputs"
    profile: str = "demo"
    seed: int = 0

with tracked_run("phase1", Config()) as run:
    run.reporter.metrics({"train/loss": 0.125}, step=7)
    started, tell = os.pipe()
    if worker := os.fork():  # a data loader's worker
        os.read(started, 1)  # a signal that comes before the fork is complete is lost
        print(run.id, worker, flush=True)
    else:
        os.write(tell, b".")
    while True:
        sum(range(1000))
"""


@pytest.mark.parametrize(
    ("sent", "code", "status", "kept"),
    [(signal.SIGTERM, 143, "KILLED", {"train/loss": 0.125}), (signal.SIGKILL, -9, "RUNNING", {})],
)
def test_a_process_that_is_ended_from_outside(
    store: MlflowClient, sent: signal.Signals, code: int, status: str, kept: dict[str, float]
) -> None:
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    run_id, worker = process.stdout.readline().split()
    os.kill(int(worker), signal.SIGTERM)  # ends the worker alone
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(sent)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    found = store.get_run(run_id)
    assert found.info.status == status
    assert found.data.metrics == kept


def test_a_run_is_in_its_experiment_though_another_process_makes_that_meanwhile(
    store: MlflowClient, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, find, looked = store.create_experiment("phase1"), TrackingServiceClient.get_experiment_by_name, []

    def not_yet(client: TrackingServiceClient, name: str) -> Any:
        looked.append(name)
        return find(client, name) if len(looked) > 1 else None

    monkeypatch.setattr(TrackingServiceClient, "get_experiment_by_name", not_yet)
    with tracked_run("phase1", config) as run:
        pass
    assert looked == ["phase1", "phase1"]
    assert store.get_run(run.id).info.experiment_id == made


def nest(config: Config, error: BaseException | None = None) -> tuple[str, str]:
    with tracked_run("main", config) as parent:
        with runs_tagged({"medexp.step_key": "k"}), tracked_run("prepare", config) as child:
            child.reporter.metrics({"train/loss": 0.5})
            if error:
                raise error
        parent.tag({"after": "the child"})
    return parent.id, child.id


def test_a_run_in_a_run_is_its_child_in_the_same_experiment(store: MlflowClient, config: Config) -> None:
    parent, child = (store.get_run(run_id) for run_id in nest(config))
    assert [run.info.status for run in (parent, child)] == ["FINISHED", "FINISHED"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.run_name, child.data.tags["medexp.phase"]) == ("prepare s3", "prepare")
    assert child.info.experiment_id == parent.info.experiment_id == store.get_experiment_by_name("main").experiment_id
    assert (child.data.tags["medexp.step_key"], parent.data.tags.get("medexp.step_key")) == ("k", None)
    assert parent.data.tags["after"] == "the child"
    assert (child.data.metrics["train/loss"], "train/loss" in parent.data.metrics) == (0.5, False)
    assert mlflow.active_run() is None


@pytest.mark.parametrize(
    ("error", "status"),
    [(CheckFailed("TEST_2.5: low"), "FAILED"), (StorageError("last.pt: full"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_what_ends_a_run_in_a_run_ends_both(store: MlflowClient, config: Config, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)) as caught:
        nest(config, error)
    runs = {run.info.run_name: run for run in store.search_runs([store.get_experiment_by_name("main").experiment_id])}
    assert len(runs) == 2
    assert {run.info.status for run in runs.values()} == {status}
    assert str(caught.value).count("resume=") == isinstance(error, StorageError)  # how to go on is told once
    assert mlflow.active_run() is None


NESTED = """
import os, signal, sys, threading
import mlflow
from medexp.tracking.runs import tracked_run
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    output_dir: str = "outputs"
    profile: str = "demo"
    seed: int = 0

when, signum = sys.argv[1], int(sys.argv[2])

def terminate(*_, **__):
    os.kill(os.getpid(), signum)
    sum(range(10))

def wait():
    for _ in range(60_000):  # short: a signal that comes just before a wait is heeded when it is over
        threading.Event().wait(0.01)

with tracked_run("main", Config()) as parent:
    start, end = mlflow.start_run, mlflow.end_run
    if when == "starting":
        mlflow.start_run = lambda *a, **k: (start(*a, **k), terminate())[0]
    with tracked_run("prepare", Config()) as child:
        mlflow.start_run = start
        if when == "ending":
            mlflow.end_run = lambda *a: (terminate(), end(*a))
        if when == "working":
            terminate()
        if when == "destroying":
            dying = type("Dying", (), {"__del__": terminate})()
            del dying
            wait()
        if when == "importing":
            lock = threading.Lock()
            steps = "def find():\\n lock.acquire()\\n kill(getpid(), signum)\\n sum(range(10))\\n lock.release()"
            space = vars(os) | {"lock": lock, "signum": signum}
            exec(compile(steps, "<frozen importlib._bootstrap>", "exec"), space)  # as Python locks a module that it imports
            try:
                space["find"]()
                wait()
            finally:
                print("left a lock taken" * lock.locked(), end="")
    print("went on after SIGTERM")
"""


@pytest.mark.parametrize(
    ("when", "signum", "child"),
    [
        ("starting", signal.SIGHUP, "KILLED"),
        ("working", signal.SIGINT, "KILLED"),
        ("destroying", signal.SIGTERM, "KILLED"),
        ("importing", signal.SIGTERM, "KILLED"),
        ("ending", signal.SIGTERM, "FINISHED"),
    ],
)
def test_a_signal_ends_a_run_in_a_run_whenever_it_comes(
    store: MlflowClient, when: str, signum: signal.Signals, child: str
) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", NESTED, when, str(signum.value)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (128 + signum, ""), done.stderr
    assert "Traceback" not in done.stderr
    runs = store.search_runs([store.get_experiment_by_name("main").experiment_id])
    statuses = {run.data.tags.get("mlflow.parentRunId", ""): run for run in runs}
    assert statuses.pop("").info.status == "KILLED"
    assert [run.info.status for run in statuses.values()] == [child]


def test_what_a_first_run_leaves_in_a_checkout_is_no_change_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every run of who follows the README is tagged as made by code that is not committed."""
    (tmp_path / ".gitignore").write_text((Path(__file__).parents[2] / ".gitignore").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with tracked_run("phase1", Config("outputs")):
        pass
    subprocess.run(["git", "init", "-q"], check=True)
    left = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
    assert left == "?? .gitignore\n"
    assert {"mlflow.db", "outputs"} <= {path.name for path in tmp_path.iterdir()}
