"""The whole phase on a micro Gemma 3 and a few scenarios, run once: stopped after an epoch, and gone on with."""

import contextlib
import io
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.tracking.reporter import MlflowReporter
from tests.configured import run_phase
from tests.gemma import tiny_gemma
from tests.phases.medgemma.small import SMALL, write_splits
from tests.runs import last_run, store_in


@dataclass(frozen=True)
class Study:
    """A folder with scenarios, the base's folder beside them, and what a run on them came to.

    Attributes:
        folder: The folder; store, cache and outputs are in it.
        stopped: Id of the run that was stopped after its first epoch.
        code: Exit code of the run that went on from there.
        told: What it printed.
    """

    folder: Path
    stopped: str
    code: int
    told: str


@pytest.fixture(scope="session")
def study(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("medgemma")
    tiny_gemma(folder / "base")
    write_splits(folder)
    with pytest.MonkeyPatch.context() as patch:
        client = store_in(folder, empty_database, patch)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            with patch.context() as within:
                flush = MlflowReporter.flush

                def stop(self: MlflowReporter) -> None:
                    flush(self)
                    os.kill(os.getpid(), signal.SIGTERM)

                within.setattr(MlflowReporter, "flush", stop)
                assert run_phase("medgemma", SMALL) == 143, printed.getvalue()
            stopped = last_run(client, "medgemma").info.run_id
            printed.truncate(0)
            code = run_phase("medgemma", resume=stopped)
    return Study(folder, stopped, code, printed.getvalue())


@pytest.fixture
def client(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a copy of the study's store, in the working directory, which has the same scenarios and base: what a test
    adds, no other test sees."""
    assert study.code == 0, study.told
    copy = store_in(tmp_path, study.folder / "mlflow.db", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(study.folder / "cache"))
    for name in ("base", "images", *SMALL["scenarios"].split(",")):
        (tmp_path / name).symlink_to(study.folder / name)
    return copy
