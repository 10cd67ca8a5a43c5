"""A study of OCT, run once from its folder; and a smaller one whose files a test spoils."""

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.configured import run_phase
from tests.phases.oct.small import SMALL, participants, write_encoder, write_study
from tests.runs import store_in

CHECKPOINTS = ("a.pt", "b.pt", "c.pt")


@dataclass(frozen=True)
class Study:
    """A folder with volumes in `data` and checkpoints beside it, and what a run on it came to.

    Attributes:
        folder: The folder; store, cache and outputs are in it.
        code: Exit code of the run.
        told: What it printed.
    """

    folder: Path
    code: int
    told: str


@pytest.fixture(scope="session")
def study(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Encoders a, its copy b and c of other weights, compared on people of whom two have a file that cannot be read."""
    folder = tmp_path_factory.mktemp("oct")
    write_study(folder / "data")
    spoil(folder / "data")
    write_encoder(folder / "a.pt", people=frozenset({"elsewhere"}))
    for ending in (".pt", ".card.yaml"):
        shutil.copy(folder / f"a{ending}", folder / f"b{ending}")
    write_encoder(folder / "c.pt", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        store_in(folder, empty_database, patch)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = run_phase("oct", SMALL, paths__data="data", paths__checkpoint_path=",".join(CHECKPOINTS))
    return Study(folder, code, printed.getvalue())


def spoil(data: Path) -> None:
    """Cut one file of a participant who has another, and empty the only one of another participant."""
    files = sorted(data.rglob("*.npy"))
    left = next(file for file in files if file.stem.endswith("_L"))
    left.write_bytes(left.read_bytes()[:200])
    alone = next(file for file in files if not file.with_name(file.name.replace("_R", "_L")).exists())
    alone.write_bytes(b"")


@pytest.fixture
def client(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a copy of the study's store: what a test adds, no other test sees."""
    assert study.code == 0, study.told
    copy = store_in(tmp_path, study.folder / "mlflow.db", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(study.folder / "cache"))
    return copy


@pytest.fixture
def little(tmp_path: Path, store: MlflowClient) -> Path:
    """24 people, a volume each, and an encoder `a.pt`, in the working directory of an empty store."""
    write_study(tmp_path / "data", participants(24), both_eyes=100)
    write_encoder(tmp_path / "a.pt")
    return tmp_path
