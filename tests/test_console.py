"""The command `medexp` on a real store: what it prints, one line for what is wrong, exit codes."""

import contextlib
import json
import platform
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

import medexp
from medexp.console import main
from medexp.registry import promotion
from medexp.registry import registration as registered
from medexp.registry.definitions import load_definition
from medexp.tracking.processes import PROCESS, this_process
from tests.packages import scores

ROOT = Path(__file__).parents[1]
NAME = "phase1_encoder_merged"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDEXP_DEBUG", "before")  # so that what the command line sets is undone
    monkeypatch.delenv("MEDEXP_DEBUG")


@pytest.fixture
def register(store: MlflowClient, written: Callable[..., Path]) -> Callable[[int], str]:
    """Register a version as its phase does; its number. The first one becomes the champion."""

    def make(seed: int) -> str:
        run = store.create_run("0").info.run_id
        definition = load_definition(NAME)
        made = registered.register(run, written(seed=seed), definition, "PASSED")
        promotion.nominate(made, definition, "PASSED", run)
        store.set_terminated(run)
        return made.version

    return make


def printed(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(argv) == code
    told = capsys.readouterr()
    return told.err or told.out


def test_help_imports_neither_torch_nor_mlflow() -> None:
    program = """
import sys
from medexp.console import main
for argv in (["--help"], [], ["audit", "--help"], ["promote", "--help"], ["pull"]):
    print("exit code", main(argv))
print("imported", {"torch", "mlflow", "monai", "numpy", "rich"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported set()"
    assert [line[-1] for line in done.stdout.splitlines() if line.startswith("exit code")] == ["0", "0", "0", "0", "2"]
    for command in ("pull", "promote", "rollback", "audit", "lineage", "impact", "models", "doctor"):
        assert f"\n  {command} " in done.stdout


BAD = {
    "no such command": (["pul"], "medexp: error: No such command 'pul'."),
    "no argument": (["pull"], "medexp pull: error: Missing argument 'MODEL'."),
    "no reason": (["rollback", NAME], "medexp rollback: error: Missing option '--reason'."),
    "an empty reason": (["rollback", NAME, "--reason", " "], "medexp rollback: error: --reason: is empty"),
    "an unknown option": (["models", "--jsn"], "medexp models: error: No such option '--jsn'. Did you mean '--json'?"),
    "no such model": (["pull", "models:/nobody@champion"], "medexp pull: error: models:/nobody@champion: no model nobody"),
    "no reference": (["lineage", "nobody"], "medexp lineage: error: models:/nobody: is no reference to a registered model"),
    "nothing built on it": (["impact", "nobody/3"], "medexp impact: error: models:/nobody/3: no model nobody"),
    "an unknown model": (["audit", "nobody"], "medexp audit: error: nobody: no such model"),
    "no champion": (["rollback", "nobody", "--reason", "x"], "medexp rollback: error: nobody"),
    "a flag of the phase": (["promote", "--modl", "x"], "medexp promote: error: --modl: no such flag; did you mean --model?"),
    "flags before the model": (
        ["predict", "--output=x", "--seed", "3", "a@b", "CASE", "--modl", "x"],
        "medexp predict: error: --modl:",
    ),
    "paths twice": (
        ["predict", "a@b", "ONE", "--input", "TWO"],
        "medexp predict: error: --input: given twice; several values",
    ),
    "an option of mlflow": (
        ["predict", "a@b", "-P", "input=x"],
        "medexp predict: error: -P: found on its own; flags are --key",
    ),
    "no definition": (["promote", "--model", "nobody"], "medexp promote: error: model 'nobody': has no definition"),
}


@pytest.mark.parametrize(("argv", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_exit_code_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, *argv, code=2)
    assert told.startswith(message)
    assert told.count("\n") == 1


@pytest.mark.parametrize("command", [["models"], ["audit"], ["pull", "models:/x@y"], ["impact", "x/1"]])
def test_looking_makes_no_store(command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr()
    assert "tracking store sqlite:///mlflow.db: there is none yet." in told.out + told.err
    assert list((tmp_path / "empty").iterdir()) == []


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDEXP_DEBUG", "1")
    assert "Traceback" in printed(capsys, "pull", "models:/nobody@champion", code=2)


def test_predict_tells_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "predict", "--help").startswith("usage: medexp predict MODEL PATH... [--output FOLDER]")


def test_models_lists_what_is_registered(register: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "No model is registered" in printed(capsys, "models")
    assert printed(capsys, "models", "--json") == "[]\n"
    register(0), register(1)
    (found,) = json.loads(printed(capsys, "models", "--json"))
    assert (found["name"], found["aliases"], found["version"]) == (NAME, {"candidate": "2", "champion": "1"}, "2")
    assert found["verdict"] == "PASSED"
    shown = printed(capsys, "models")
    for words in (NAME, "candidate 2, champion 1", found["digest"][:12], found["run"]):
        assert words in shown


def test_looking_imports_nothing_that_computes(register: Callable[[int], str]) -> None:
    """A question to the registry costs the import of mlflow and the store's answer: torch alone would double that."""
    register(0)
    uri = f"{NAME}@champion"
    program = f"""
import sys
from medexp.console import main
for argv in (["models"], ["lineage", "{uri}"], ["impact", "{NAME}/1"], ["audit", "--every-byte"], ["pull", "{uri}"]):
    assert main(argv) == 0, argv
heavy = {{"torch", "monai", "peft", "accelerate", "safetensors", "sklearn", "matplotlib", "transformers", "optuna"}}
print("imported", heavy & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported set()"


def test_a_version_of_another_program_is_listed(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    store.create_registered_model("theirs")
    store.create_registered_model("empty")
    store.create_model_version("theirs", "file:///nowhere")
    found = json.loads(printed(capsys, "models", "--json"))
    assert [(model["name"], model["version"], model["digest"]) for model in found] == [
        ("empty", None, None),
        ("theirs", "1", None),
    ]
    assert "theirs" in printed(capsys, "models")


def test_other_programs_names_and_numbers_are_answered_in_a_line(
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.create_registered_model("it's")
    store.create_model_version("it's", "file:///nowhere")
    assert "it's" in printed(capsys, "models")
    assert "has no champion before this one" in printed(capsys, "rollback", "it's", "--reason", "x", code=2)
    assert "it's has no version 2; it has: 1" in printed(capsys, "pull", "it's/2", code=2)
    assert "holds both kinds of quotation marks" in printed(capsys, "rollback", '"it\'s"', "--reason", "x", code=2)
    assert "is no reference to a registered model" in printed(capsys, "pull", f"it's/{10**20}", code=2)


def test_a_model_is_named_with_or_without_what_mlflow_puts_before_it(
    register: Callable[[int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    register(0)
    for command in ("pull", "lineage"):
        assert printed(capsys, command, f"{NAME}@champion") == printed(capsys, command, f"models:/{NAME}@champion")


def test_pull_says_where_the_verified_package_is(register: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    version = register(0)
    told = dict(line.split(":", 1) for line in printed(capsys, "pull", f"models:/{NAME}@champion").splitlines())
    told = {key: value.strip() for key, value in told.items()}
    assert (told["model"], told["version"]) == (NAME, version)
    assert json.loads((Path(told["folder"]) / "manifest.json").read_text())["digest"] == told["digest"]


def test_a_hand_moved_alias_is_found_and_rolled_back(
    register: Callable[[int], str],
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register(0), register(1)
    assert printed(capsys, "audit").endswith("no drift\n")
    store.set_registered_model_alias(NAME, "champion", "2")
    assert "DRIFT" in printed(capsys, "audit", code=3)
    found = json.loads(printed(capsys, "audit", NAME, "--every-byte", "--json", code=3))
    assert [drift["model"] for drift in found["drifts"]] == [NAME]
    assert len(found["verified"]) == 2
    assert "rollback champion 2 -> 1" in printed(capsys, "rollback", NAME, "--reason", "moved by hand")
    assert printed(capsys, "audit").endswith("no drift\n")


def test_promote_hands_its_flags_to_the_phase(register: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    register(0)
    assert main(["promote", "--model", NAME, "--version=1"]) == 0
    assert f"{NAME} version 1 is the champion already" in capsys.readouterr().out


def test_lineage_and_impact(register: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    register(0)
    uri = f"models:/{NAME}@champion"
    assert printed(capsys, "lineage", uri).startswith(f"{NAME} version 1")
    assert json.loads(printed(capsys, "lineage", uri, "--json"))["origin"]["model"]["version"] == "1"
    assert printed(capsys, "impact", f"{NAME}/1").startswith(f"{NAME} version 1")
    assert json.loads(printed(capsys, "impact", f"{NAME}/1", "--json"))["model"]["name"] == NAME


def test_power_answers_in_words_and_for_programs(publish: Callable[..., object], capsys: pytest.CaptureFixture[str]) -> None:
    table = scores(dice=0.3)
    publish(seed=0, per_case=table.assign(**{name: 4 * table[name] - 0.9 for name in table if name.startswith("dice")}))
    told = printed(capsys, "power", f"{NAME}@champion", "--gain", "0.02")
    assert told.startswith(f"{NAME}/1, mean of dice_TC, dice_WT, dice_ET: a difference of 0.02 takes ")
    assert "scores of version 1" in told
    found = json.loads(printed(capsys, "power", f"{NAME}/1", "--gain", "0.02", "--metric", "dice_TC", "--json"))
    assert (found["metric"], found["spread"]["patients"]) == ("dice_TC", 12) and found["patients"] > 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--gain", "0"], "--gain"),
        ([], "Missing option '--gain'"),
        (["--gain", "0.02", "--metric", "auroc"], "--metric=auroc"),
    ],
)
def test_power_says_in_a_line_what_it_cannot_do(
    register: Callable[[int], str], capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    register(0)
    line = printed(capsys, "power", f"{NAME}/1", *flags, code=2)
    assert told in line and line.count("\n") == 1


def test_doctor_finds_nothing_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = printed(capsys, "doctor")
    for words in ("torch:", "mlflow:", "device:", str(tmp_path / "mlflow.db"), str(tmp_path / "cache"), "Nothing is wrong."):
        assert words in told
    found = json.loads(printed(capsys, "doctor", "--json"))
    assert found["problems"] == []
    assert found["facts"]["models defined"].split(", ") == sorted(path.stem for path in (ROOT / "registry").glob("*.yaml"))
    assert not (tmp_path / "cache").exists()


def test_doctor_before_the_first_run(capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/mlflow.db")
    told = printed(capsys, "doctor")
    assert f"nothing here yet; the first run makes {tmp_path}/none/mlflow.db: mlflow run . -e main" in told
    assert "Nothing is wrong." in told
    assert not (tmp_path / "none").exists()


def test_doctor_ends_the_runs_whose_process_is_gone_and_no_others(
    capsys: pytest.CaptureFixture[str], store: MlflowClient
) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        killed = f"{platform.node()} {other.pid} {psutil.Process(other.pid).create_time():.0f}"
        other.kill()
    long_ago = int((time.time() - 2 * 3600) * 1000)

    def run(start: int | None = None, **tags: str) -> str:
        return str(store.create_run("0", start, {"medexp.phase": "phase1"} | tags).info.run_id)

    here, there, silent = this_process(), "elsewhere 7 7", run(long_ago, **{PROCESS: "elsewhere 7 7"})
    left = {run(**{PROCESS: killed}), silent, run(long_ago)}
    measured = run(long_ago, **{PROCESS: there})
    store.log_metric(measured, "system/cpu_utilization_percentage", 50.0)
    kept = {run(**{PROCESS: here}), run(**{PROCESS: there}), measured, store.create_run("0", long_ago).info.run_id}
    kept |= {run(long_ago, **{"mlflow.parentRunId": measured, "medexp.study": "s"})}  # it measures no machine of its own
    wrong = [line for line in printed(capsys, "doctor", code=2).splitlines() if line.startswith("WRONG")]
    assert {line.split()[2] for line in wrong} == left
    assert any(f"process {other.pid} on {platform.node()} is gone. medexp doctor --fix" in line for line in wrong)
    assert any("process 7 on elsewhere gave no sign of life for 2 hours" in line for line in wrong)
    assert {store.get_run(one).info.status for one in left | kept} == {"RUNNING"}
    assert "runs ended:" in printed(capsys, "doctor", "--fix")
    assert {store.get_run(one).info.status for one in left} == {"KILLED"}
    assert {store.get_run(one).info.status for one in kept} == {"RUNNING"}
    assert "Nothing is wrong." in printed(capsys, "doctor")


def test_doctor_names_all_that_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:1/mlflow")
    told = printed(capsys, "doctor", code=2)
    wrong = [line for line in told.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 2
    assert "tracking store postgresql://***@127.0.0.1:1/mlflow: does not answer" in wrong[0]
    assert f"cache {tmp_path / 'cache' / 'medexp'}: cannot be written" in wrong[1]
    assert "secret" not in told


def test_a_database_that_fails_is_told_in_a_line_and_not_in_mlflows_tracebacks(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    store.create_registered_model("net")
    with contextlib.closing(sqlite3.connect("mlflow.db")) as database:
        database.execute("DROP TABLE registered_model_tags")
    told = printed(capsys, "audit", code=2)
    assert "no such table: registered_model_tags" in told and "Traceback" not in told and len(told.splitlines()) == 1


def test_doctor_names_quarantined_packages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "cache" / "medexp" / "quarantine" / "d1-x").mkdir(parents=True)
    assert "WRONG  quarantine" in printed(capsys, "doctor", code=2)


def test_doctor_names_a_definition_that_does_not_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "registry", tmp_path / "registry")
    with (tmp_path / "registry" / "bsf_base.yaml").open("a") as file:
        file.write("titel: x\n")
    monkeypatch.setattr(medexp, "__file__", str(tmp_path / "medexp" / "__init__.py"))
    told = printed(capsys, "doctor", code=2)
    assert "WRONG  " in told
    assert "bsf_base.yaml: unknown key titel" in told


def test_doctor_says_that_runs_and_models_are_in_two_stores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path / 'models.db'}")
    assert "WRONG  stores: runs and models are in two" in printed(capsys, "doctor", code=2)
