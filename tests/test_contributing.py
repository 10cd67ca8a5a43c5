"""The worked example of CONTRIBUTING.md: a phase in four places, added to a copy of the project as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]
PLACES = {"medexp/phases/untrained", "entry_points/untrained.py", "MLproject", "registry/untrained_encoder.yaml"}


def blocks() -> dict[str, str]:
    """What CONTRIBUTING.md says goes into each file."""
    return dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to which the example was added."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("medexp", "entry_points", "registry"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for path, text in blocks().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("a") as file:
            file.write(("\n" if path == "MLproject" else "") + text)
    return folder


def run(project: Path, *command: str, code: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_RUN")}
    environment |= {"PYTHONPATH": str(project), "HOME": str(project), "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_phase_is_four_places() -> None:
    written = set(blocks())
    assert {next(place for place in PLACES if path.startswith(place)) for path in written} == PLACES
    assert all(any(path.startswith(place) for place in PLACES) for path in written)


def test_the_example_runs_registers_its_model_and_is_known_everywhere(project: Path) -> None:
    told = run(project, "mlflow", "run", ".", "-e", "untrained", "-P", "seed=3", "-P", "input_size=[32,32,64]")
    assert "medexp untrained: profile demo, seed 3" in told
    assert "Registered: untrained_encoder version 1 (candidate, champion)" in told
    assert "mlflow run . -e probe -P encoder=models:/untrained_encoder@champion" in told

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (made,) = client.search_runs([client.get_experiment_by_name("untrained").experiment_id])
    assert (made.info.status, made.info.run_name) == ("FINISHED", "untrained 32x32x64 s3")
    assert made.data.tags["medexp.verdict"] == "PASSED"

    loads = "from medexp import registry; print(type(registry.load('models:/untrained_encoder@champion')).__name__)"
    assert "SwinEncoder" in run(project, sys.executable, "-c", loads)
    assert "--network.feature_size" in run(project, sys.executable, "-m", "entry_points.untrained", "--help")
    assert "untrained_encoder" in run(project, "medexp", "models")
    told = run(project, sys.executable, "-m", "entry_points.untrained", "--network.feature_size", "13", code=2)
    assert "network.feature_size: found 13; give a multiple of 12" in told
