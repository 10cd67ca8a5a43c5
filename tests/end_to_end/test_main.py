"""The pipeline as a user runs it, in one home: a check that fails, a kill, going on, and nothing to do.

`mlflow run` starts it until it was killed; from then on it is called, which spares the imports of two processes each time.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.browsing import Visit, ui_on
from tests.configured import run_phase
from tests.runs import at_home, figures, until
from tests.small import ONE_EPOCH, PHASE1

ROOT = Path(__file__).parents[2]
SMALL = PHASE1 | ONE_EPOCH | {"probe.phantoms.meningioma_patients": "4", "probe.phantoms.glioma_patients": "4"}
MINUTES = 8
STEPS = ["prepare", "phase1", "promote", "probe"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Path:
    """A folder of a user who has no store yet, and the base in the cache."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(small_base, folder / "cache")
    return folder


@pytest.fixture
def called(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the pipeline there, in this process, to its end; what it tells."""
    at_home(home, monkeypatch)

    def call(**changed: str) -> str:
        assert run_phase("main", settings(home) | changed) == 0
        return capsys.readouterr().out

    return call


def settings(home: Path) -> dict[str, str]:
    return SMALL | {"output_dir": str(home / "outputs")}


def mlflow_run(home: Path, **changed: str) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    parameters = [word for key, value in (settings(home) | changed).items() for word in ("-P", f"{key}={value}")]
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "main", *parameters],
        cwd=home,
        env=kept | {"XDG_CACHE_HOME": str(home / "cache"), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=60 * MINUTES)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out, err


def client(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def all_runs(home: Path) -> list[Run]:
    """The newest first."""
    experiments = [experiment.experiment_id for experiment in client(home).search_experiments()]
    return list(client(home).search_runs(experiments, order_by=["attributes.start_time DESC"]))


def last(home: Path) -> tuple[Run, dict[str, Run]]:
    """The last run of the pipeline, and the steps that it ran."""
    runs = all_runs(home)
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, {run.data.tags["medexp.phase"]: run for run in reversed(children)}


def test_a_failed_blocking_check_stops_the_pipeline(home: Path) -> None:
    out, err = ended(mlflow_run(home, **{"validation.min_dice_wt": "0.999"}), 3)
    assert "BLOCKING check failed: TEST_2.5" in err
    assert "Stopped at phase1" in out
    parent, children = last(home)
    assert {name: run.info.status for name, run in children.items()} == {"prepare": "FINISHED", "phase1": "FAILED"}
    assert parent.info.status == "FAILED"
    assert {run.data.tags["medexp.verdict"] for run in (parent, children["phase1"])} == {"FAILED"}
    assert client(home).get_registered_model("phase1_encoder_merged").aliases == {}


def test_mended_it_goes_on_from_there_and_a_kill_loses_nothing(home: Path, called: Callable[..., str]) -> None:
    before = set((home / "outputs").glob("*/state/lora/last.pt"))
    process = mlflow_run(home)
    trained = until(process, lambda: set((home / "outputs").glob("*/state/lora/last.pt")) - before)
    parent, children = last(home)
    os.kill(int(children["phase1"].data.tags["medexp.process"].split()[1]), signal.SIGTERM)
    ended(process, 143)
    parent, children = last(home)
    assert {name: run.info.status for name, run in children.items()} == {"phase1": "KILLED"}
    assert parent.info.status == "KILLED"
    assert "medexp.reused.prepare" in parent.data.tags
    (killed,) = (path.parents[2].name for path in trained)
    assert killed == children["phase1"].info.run_id

    out = called()
    parent, children = last(home)
    assert list(children) == STEPS[1:]
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert children["phase1"].data.tags["medexp.resumed_from"] == killed
    assert f"going on from run {killed}" in out
    assert "Champion: phase1_encoder_merged version 2" in out
    aliases = client(home).get_registered_model("phase1_encoder_merged").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"candidate": "2", "champion": "2"}
    assert children["probe"].data.tags["medexp.upstream.phase1_encoder_merged"].startswith("2 ")


def test_run_again_nothing_is_left_to_do(home: Path, called: Callable[..., str]) -> None:
    _, before = last(home)
    count = len(all_runs(home))
    out = called()
    parent, children = last(home)
    assert children == {}
    assert len(all_runs(home)) == count + 1
    reused = {step: parent.data.tags[f"medexp.reused.{step}"] for step in STEPS}
    assert {step: reused[step] for step in before} == {step: run.info.run_id for step, run in before.items()}
    assert out.count("reused: its inputs are those of run") == 4
    assert parent.data.tags["mlflow.note.content"].count("| reused |") == 4


def test_another_head_is_probed_on_the_same_encoder(home: Path, called: Callable[..., str]) -> None:
    called(**{"probe.head": "mlp"})
    _, children = last(home)
    assert list(children) == ["probe"]
    assert figures(children["probe"], client(home))["params/embeddings_computed"] == 0


def test_a_browser_finds_each_page(home: Path, visit: Callable[..., Visit]) -> None:
    runs = [run for run in all_runs(home) if run.info.status == "FINISHED"]
    phase1 = next(run for run in runs if run.data.tags["medexp.phase"] == "phase1")
    version = str(client(home).get_model_version_by_alias("phase1_segmenter", "champion").version)
    with ui_on(f"sqlite:///{home / 'mlflow.db'}", home) as (told, server):
        for width in (1400, 900):
            there = visit(width)
            there.open(told.split()[-1])
            there.shows("main s0", "reused", "probe multiscale mlp s0")
            check_pages(there, server, phase1, version)
            assert there.errors == []


def check_pages(there: Visit, server: str, phase1: Run, version: str) -> None:
    """The pages of a run of phase 1 and of what it registered: names, figures and pictures, and no chart of one bar."""
    page = f"{server}/#/experiments/{phase1.info.experiment_id}/runs/{phase1.info.run_id}{{}}?workflowType=machine_learning"
    there.open(page.format(""))
    there.shows(phase1.info.run_name, "validation Dice", phase1.data.tags["medexp.headline"])
    there.open(page.format("/model-metrics"))
    lines, bars = there.charts()
    assert lines and not bars
    there.open(page.format("/artifacts/report.html"))
    report = there.page.frame_locator("iframe")
    report.get_by_role("heading", name="Make it again").wait_for()
    assert report.get_by_text("NaN", exact=True).count() == 0
    there.open(f"{server}/#/models/phase1_segmenter/versions/{version}")
    there.shows("phase1_segmenter", "Made by run", "champion")
    assert there.missing() == []
