"""A sweep as a user runs it: `mlflow run -e sweep` over phase 1, two workers, small networks and few phantoms."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.configured import run_phase
from tests.runs import figures
from tests.small import ONE_EPOCH, PHASE1

ROOT = Path(__file__).parents[2]
SEARCHED = "rank"
SMALL = {key: value for key, value in PHASE1.items() if key != SEARCHED}
SMALL |= {"phase": "phase1", "trials": "2", "workers": "2", "confirm": "1", "test": "true"}


def call(folder: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    settings = SMALL | {"output_dir": str(folder / "outputs")} | changed
    parameters = [word for key, value in settings.items() for word in ("-P", f"{key}={value}")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment = kept | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "sweep", *parameters]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=3600, check=False)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("sweep")
    done = call(folder, **ONE_EPOCH)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def store_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs(folder: Path) -> dict[str, Run]:
    client = store_of(folder)
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {run.info.run_name.partition(", ")[2] if "mlflow.parentRunId" in run.data.tags else "sweep": run for run in found}


def test_a_sweep_of_phase_1(swept: tuple[Path, str]) -> None:
    folder, printed = swept
    found = runs(folder)
    assert found.keys() == {"sweep", *(f"trial {number}" for number in range(2)), "confirm", "test"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    measured = {name: figures(run, store_of(folder)) for name, run in found.items()}
    metrics = measured["sweep"]
    dice = {name: each["val/final/dice"] for name, each in measured.items() if name.startswith(("trial", "confirm"))}
    best = max((name for name in dice if name.startswith("trial")), key=lambda name: dice[name])
    assert metrics["best/val/final/dice"] == dice[best]
    assert [name for name, run in found.items() if "medexp.best" in run.data.tags] == [best]
    assert metrics["confirm/val/final/dice_mean"] == dice["confirm"]
    assert metrics["test/dice"] == measured["test"]["test/dice"]
    assert not any("test/dice" in each for name, each in measured.items() if name not in ("test", "sweep"))
    drawn = {item.path for item in store_of(folder).list_artifacts(found["sweep"].info.run_id, "figures")}
    assert {"figures/history.png", "figures/study.html"} <= drawn
    assert "best of 2 trials" in printed and "Next, train it whole" in printed
    assert printed.count("epoch 1/2") == 1  # the base is trained once, by nobody but the sweep itself


def test_fresh_seeds_see_the_same_cases(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = runs(folder)
    digests = {
        name: {(given.tags[0].value, given.dataset.digest) for given in client.get_run(run.info.run_id).inputs.dataset_inputs}
        for name, run in found.items()
        if name != "sweep"
    }
    assert all(digest == digests["trial 0"] for digest in digests.values())
    assert len(list((folder / "cache" / "medexp" / "bases").iterdir())) == 1


def test_phase_1_takes_the_chosen_settings(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    best = folder / "outputs" / runs(folder)["sweep"].info.run_id / "best.yaml"
    chosen = yaml.safe_load(best.read_text())
    assert chosen["network.window_size"] == 2 and "lora.rank" in chosen  # what was given to the sweep, and what it found
    done = subprocess.run(
        [sys.executable, "-m", "entry_points.phase1", "--config", str(best), "--lora.rank", "no"],
        cwd=ROOT, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines() == ["medexp phase1: error: lora.rank: found no; expected a whole number"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data_dir": "nowhere"}, "nowhere"),
        ({"phantoms.meningioma_patients": "4"}, "test=true: no case is in the test split: "),
        (
            {"phase": "phase9"},
            "phase: found 'phase9'; medgemma, oct, phase1, phase2_1, phase2_2, phase2_3, phase7 can be searched",
        ),
        ({"trials": "0"}, "trials: found 0; at least 1"),
        ({"training.epochs": "1"}, "phase1.training.warmup_epochs: found 1; below epochs (1)"),
        ({"space": "none.yaml"}, "none.yaml: cannot be read"),
    ],
)
def test_bad_input_ends_it_with_exit_code_2(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], changed: dict[str, str], told: str
) -> None:
    assert run_phase("sweep", SMALL | changed) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error
