"""The project plug-in, on real `mlflow run`s of small projects, with a stand-in for conda and without."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.cli import cli
from mlflow.exceptions import ExecutionException

from medexp.tracking.processes import PROCESS, this_process
from medexp.tracking.runs import DRAWN_NAME
from tests.runs import until

MLPROJECT = """
name: {name}
conda_env: conda.yaml
entry_points:
  job:
    parameters: {{profile: {{type: string, default: demo}}}}
    command: python job.py --profile {{profile}}
"""
JOB = """
import os, signal, sys
with open("told", "w") as told:
    for line in (sys.prefix, " ".join(sys.argv[1:]), os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_RUN_ID"],
                 os.environ.get("MEDEXP_PARENT")):
        print(line, file=told)
if "--code" in sys.argv:
    sys.exit(int(sys.argv[sys.argv.index("--code") + 1]))
if "--ends_as" in sys.argv:
    if "--wait" in sys.argv:  # blocked before there are threads, so that none is lost
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    from mlflow import MlflowClient
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # MLflow sends it after Ctrl-C; a tracked run ends first
    if "--wait" in sys.argv:
        open("ready", "w").close()
        signal.sigwait([signal.SIGINT])  # of the terminal; mlflow's own may come later, and a tracked run ends first
    MlflowClient().set_terminated(os.environ["MLFLOW_RUN_ID"], sys.argv[sys.argv.index("--ends_as") + 1])
    sys.exit(130)
if "--kills" in sys.argv:
    from mlflow import MlflowClient
    while "mlflow.project.backend" not in MlflowClient().get_run(os.environ["MLFLOW_RUN_ID"]).data.tags:
        os.sched_yield()  # the last that mlflow writes before it waits for the command
    os.killpg(int(sys.argv[sys.argv.index("--kills") + 1]), signal.SIGKILL)
    sys.exit(4)
if "--parent" in sys.argv:
    signum = int(sys.argv[sys.argv.index("--parent") + 1])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
    os.kill(int(os.environ["MEDEXP_PARENT"].split()[1]), signum)
    signal.sigwait([signum])
    open("came", "w").close()
    sys.exit(100)
if "--signal" in sys.argv:
    os.kill(os.getpid(), int(sys.argv[sys.argv.index("--signal") + 1]))
"""
# What MLflow asks of conda: the list of environments, a new environment, and its activation.
FAKE_CONDA = """#!/bin/sh
echo "$*" >> {log}
[ "$*" = "env list --json" ] && echo '{{"envs": []}}'
exit 0
"""


@pytest.fixture
def bare_path(store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with no python and no conda on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "git"):
        (folder / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CONDA_EXE", "MLFLOW_CONDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def conda(bare_path: Path, tmp_path: Path) -> Path:
    """A conda installation of scripts; what it was asked for is in `log`."""
    home = tmp_path / "conda"
    (home / "bin").mkdir(parents=True)
    (home / "etc" / "profile.d").mkdir(parents=True)
    (home / "bin" / "conda").write_text(FAKE_CONDA.format(log=home / "log"))
    (home / "bin" / "conda").chmod(0o755)
    (home / "bin" / "activate").write_text("")
    (home / "etc" / "profile.d" / "conda.sh").write_text("conda() { :; }\n")
    (home / "bin" / "python").symlink_to(sys.executable)
    return home


def project(folder: Path, name: str = "medexp") -> Path:
    folder.mkdir()
    (folder / "MLproject").write_text(MLPROJECT.format(name=name))
    (folder / "conda.yaml").write_text("dependencies: [python=3.11]")
    (folder / "job.py").write_text(JOB)
    return folder


def mlflow_run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["run", str(folder), "-e", "job", *options])


def told(folder: Path) -> list[str]:
    return (folder / "told").read_text().splitlines()


def test_without_conda_the_current_environment_runs_the_command(bare_path, store, tmp_path):
    folder = project(tmp_path / "project")
    result = mlflow_run(folder, "-P", "rank=8", "-P", "data_dir=a b")
    assert result.exit_code == 0, result.output
    prefix, flags, uri, run_id, _ = told(folder)
    assert prefix == sys.prefix  # though there is no python on PATH
    assert flags == "--profile demo --rank 8 --data_dir a b"
    assert uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert store.get_run(run_id).info.status == "FINISHED"
    assert os.environ["PATH"] == str(bare_path)


@pytest.mark.parametrize("found_by", ["PATH", "MLFLOW_CONDA_HOME", "CONDA_EXE"])
def test_with_conda_the_command_runs_in_its_environment(found_by, conda, bare_path, tmp_path, monkeypatch):
    value = {
        "PATH": f"{bare_path}{os.pathsep}{conda / 'bin'}",
        "MLFLOW_CONDA_HOME": conda,
        "CONDA_EXE": conda / "bin" / "conda",
    }
    monkeypatch.setenv(found_by, str(value[found_by]))
    if found_by != "PATH":  # an activated environment has its python there
        (bare_path / "python").symlink_to(sys.executable)
    folder = project(tmp_path / "project")
    result = mlflow_run(folder)
    assert result.exit_code == 0, result.output
    assert any(line.startswith("env create ") for line in (conda / "log").read_text().splitlines())
    assert told(folder)[1] == "--profile demo"


@pytest.mark.parametrize(
    ("options", "environment", "name"),
    [
        ((), {}, "job"),
        (("--experiment-name", "mine"), {}, "mine"),
        (("--experiment-id", "0"), {}, "Default"),
        ((), {"MLFLOW_EXPERIMENT_NAME": "mine"}, "mine"),
        ((), {"MLFLOW_EXPERIMENT_ID": "0"}, "Default"),
    ],
)
def test_a_run_is_in_the_experiment_of_its_phase_unless_the_user_names_one(
    options, environment, name, bare_path, store, tmp_path, monkeypatch
):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    folder = project(tmp_path / "project")
    monkeypatch.chdir(folder)  # files lie beside the database, whoever makes the experiment
    assert mlflow_run(folder, *options).exit_code == 0
    run = store.get_run(told(folder)[3])
    experiment = store.get_experiment(run.info.experiment_id)
    assert (experiment.name, Path(experiment.artifact_location).parent) == (name, tmp_path / "mlruns")


def test_an_experiment_that_was_deleted_is_told_in_a_line(bare_path, store, tmp_path):
    store.delete_experiment(store.create_experiment("job"))
    result = mlflow_run(project(tmp_path / "project"))
    assert result.exit_code == 2
    assert "experiment 'job' was deleted; bring it back" in result.output


def test_a_store_that_was_left_half_made_is_told_in_a_line(bare_path, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")  # which MLflow looks up first of all
    (tmp_path / "mlflow.db").unlink()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        made.execute("CREATE TABLE runs (run_uuid VARCHAR)")
    result = mlflow_run(project(tmp_path / "project"))
    assert result.exit_code == 2
    assert "is half made, and holds nothing yet" in result.output


def test_two_that_are_the_first_in_an_empty_folder_both_work(bare_path, tmp_path):
    folders, empty = [project(tmp_path / name) for name in ("a", "b")], tmp_path / "empty"
    empty.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    commands = [[sys.executable, "-m", "mlflow", "run", str(folder), "-e", "job"] for folder in folders]
    started = [subprocess.Popen(one, cwd=empty, env=kept, stderr=subprocess.PIPE, text=True) for one in commands]
    errors = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    assert not any("Traceback" in one or "already exists" in one for one in errors)
    client = MlflowClient(f"sqlite:///{empty / 'mlflow.db'}")
    runs = [client.get_run(told(folder)[3]).info for folder in folders]
    assert {(run.status, client.get_experiment(run.experiment_id).name) for run in runs} == {("FINISHED", "job")}


def test_a_run_that_has_ended_is_not_written_to(bare_path, store, tmp_path):
    ended = store.create_run("0").info.run_id
    store.set_terminated(ended, "FINISHED")
    result = mlflow_run(project(tmp_path / "project"), "--run-id", ended)
    assert result.exit_code == 2
    assert f"run {ended} is FINISHED; a run that has ended is not written to" in result.output


def test_a_name_that_the_user_gives_is_no_name_that_mlflow_draws(bare_path, store, tmp_path):
    folder = project(tmp_path / "project")
    names = []
    for options in ((), ("--run-name", "try again-7")):
        assert mlflow_run(folder, *options).exit_code == 0
        names.append(store.get_run(told(folder)[3]).info.run_name)
    assert [bool(DRAWN_NAME.fullmatch(name)) for name in names] == [True, False]


def test_an_explicit_environment_manager_stands(conda, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_CONDA_HOME", str(conda))
    folder = project(tmp_path / "project")
    assert mlflow_run(folder, "--env-manager", "local").exit_code == 0
    assert not (conda / "log").exists()
    assert told(folder)[0] == sys.prefix


def test_other_projects_are_left_to_mlflow(bare_path, tmp_path):
    folder = project(tmp_path / "project", name="another")
    result = mlflow_run(folder)
    assert result.exit_code == 1
    assert not (folder / "told").exists()
    (bare_path / "python").symlink_to(sys.executable)
    assert mlflow_run(folder, "--env-manager", "local", "-P", "code=3").exit_code == 1


@pytest.mark.parametrize(
    ("cause", "code"), [("code=2", 2), ("code=3", 3), ("code=1", 1), ("signal=15", 143), ("signal=9", 137)]
)
def test_the_exit_code_of_the_command_is_handed_on(cause, code, bare_path, store, tmp_path):
    folder = project(tmp_path / "project")
    assert mlflow_run(folder, "-P", cause).exit_code == code
    assert store.get_run(told(folder)[3]).info.status == ("FAILED" if code < 128 else "KILLED")


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_a_run_that_the_command_ended_stays_as_it_is(status, bare_path, store, tmp_path):
    folder = project(tmp_path / "project")
    assert mlflow_run(folder, "-P", f"ends_as={status}").exit_code == 130
    assert store.get_run(told(folder)[3]).info.status == status


def test_where_the_store_went_away_it_ends_with_the_command(bare_path, server, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "60")  # asked again, it would wait for minutes
    folder = project(tmp_path / "project")
    assert mlflow_run(folder, "-P", f"kills={server.pid}").exit_code == 4
    assert time.time() - (folder / "told").stat().st_mtime < 60
    assert f"How run {told(folder)[3]} ended cannot be told" in caplog.text


def test_ctrl_c_reaches_the_command_and_its_word_stands(bare_path, store, tmp_path):
    folder = project(tmp_path / "project")
    command = [sys.executable, "-m", "mlflow", "run", str(folder), "-e", "job", "-P", "ends_as=KILLED", "-P", "wait=true"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        until(process, (folder / "ready").exists)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        _, errors = process.communicate(timeout=600)  # a hang ends; how long it takes is no matter
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert store.get_run(told(folder)[3]).info.status == "KILLED"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("shell", ["", "trap true USR1 && "])
def test_a_signal_goes_on_to_the_command_whose_end_is_waited_for(shell, signum, bare_path, store, tmp_path):
    """A shell that waits for the command, as after conda's activation, would end of the signal and leave it behind."""
    folder, before = project(tmp_path / "project"), signal.getsignal(signum)
    (folder / "MLproject").write_text((folder / "MLproject").read_text().replace("command: ", f"command: {shell}"))
    result = mlflow_run(folder, "-P", f"parent={signum.value}")
    assert result.exit_code == 128 + signum
    assert signal.getsignal(signum) is before
    assert (folder / "came").exists()
    assert store.get_run(told(folder)[3]).info.status == "KILLED"


def test_a_command_ends_with_the_process_that_started_it(bare_path, store, tmp_path):
    folder = project(tmp_path / "project")
    assert mlflow_run(folder).exit_code == 0
    assert told(folder)[4] == this_process()  # what medexp.cli looks at, and ends with
    assert store.get_run(told(folder)[3]).data.tags[PROCESS] == this_process()


def test_from_python_a_failure_is_mlflows_exception(bare_path, tmp_path):
    with pytest.raises(ExecutionException):
        mlflow.run(str(project(tmp_path / "project")), "job", parameters={"code": 3})


def test_import_mlflow_brings_the_plug_in_and_nothing_heavy():
    program = """
import sys, mlflow
from mlflow.projects.backend.loader import load_backend
print(type(load_backend("local")).__module__, {"torch", "monai", "medexp.tracking.runs"} & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "medexp.tracking.project_backend set()\n"
    assert "medexp" not in done.stderr


def test_called_by_its_path_from_another_folder(bare_path, tmp_path, monkeypatch):
    """The command and MLflow write to one store, the caller's, though the command runs in the project's folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder = project(tmp_path / "project")
    caller = tmp_path / "caller"
    caller.mkdir()
    shutil.copy(tmp_path / "mlflow.db", caller)
    done = subprocess.run(
        [Path(sys.executable).with_name("mlflow"), "run", "../project", "-e", "job", "-P", "code=3"], cwd=caller, check=False
    )
    assert done.returncode == 3
    assert told(folder)[2] == f"sqlite:///{caller / 'mlflow.db'}"
    assert not (folder / "mlflow.db").exists()
