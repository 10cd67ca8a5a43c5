"""The whole phase on a few phantoms, run once."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.configured import run_phase
from tests.phases.phase7.small import LOW, SMALL
from tests.runs import store_in


@dataclass(frozen=True)
class Study:
    """A folder with store, cache and outputs, and what a run in it came to.

    Attributes:
        folder: The folder.
        code: The run's exit code.
        told: What it printed.
    """

    folder: Path
    code: int
    told: str


@pytest.fixture(scope="session")
def study(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("phase7")
    with pytest.MonkeyPatch.context() as patch:
        store_in(folder, empty_database, patch)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = run_phase("phase7", {**SMALL, **LOW})
    return Study(folder, code, printed.getvalue())


@pytest.fixture
def client(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a copy of the study's store, in the working directory: what a test adds, no other test sees."""
    assert study.code in (0, 3), study.told
    copy = store_in(tmp_path, study.folder / "mlflow.db", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(study.folder / "cache"))
    return copy
