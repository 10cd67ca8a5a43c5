"""What a wheel holds is enough: installed into an empty folder, it runs where there is no checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
PHASES = sorted(path.stem for path in (ROOT / "entry_points").glob("[!_]*.py"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content and nothing else, built by the project's own backend without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    built = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*PIP, *built], check=True)
    (wheel,) = folder.glob("medexp-*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder of a user, who has no store and no cache yet."""
    return tmp_path_factory.mktemp("home")


def told(installed: Path, home: Path, *command: str) -> str:
    """What a command writes that runs in `home`, with the wheel's code before any other."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "XDG_"))}
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, *command], cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_tells_its_keys_with_the_values_of_its_profile(installed: Path, home: Path, phase: str) -> None:
    help_text = told(installed, home, "-m", f"entry_points.{phase}", "--help")
    assert "--output_dir" in help_text and "default: outputs" in help_text


@pytest.mark.parametrize("folder", ["phases/phase1/bases", "phases/medgemma/bases", "report"])
def test_the_demos_bases_and_what_reports_are_made_of_come_along(installed: Path, folder: str) -> None:
    shipped = [path for path in (ROOT / "medexp" / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files = {path.relative_to(ROOT): path.read_bytes() for path in shipped}
    assert files and {name: (installed / name).read_bytes() for name in files} == files


def test_a_phase_runs_and_doctor_finds_nothing_wrong(installed: Path, home: Path) -> None:
    small = ["--phantoms.meningioma_patients", "4", "--slices_dir", "slices"]
    assert "Next: mlflow run . -e phase2_1" in told(installed, home, "-m", "entry_points.prepare", *small)
    assert any((home / "slices").glob("*.npz"))
    found = json.loads(told(installed, home, str(installed / "bin" / "medexp"), "doctor", "--json"))
    assert found["facts"]["code"].startswith(str(installed / "medexp"))
    assert found["facts"]["models defined"].split(", ") == sorted(path.stem for path in (ROOT / "registry").glob("*.yaml"))
