import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.mlflow_store import empty_database  # noqa: F401
from tests.phases.shared.image_runs import CONFIGS, Pipeline, run, write_pictures, write_slices


@pytest.fixture(scope="session")
def pipeline(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:  # noqa: F811
    """Phases 2.1, 2.2 and 2.3, run once, pulling from one another by alias."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_slices(folder / "slices")
    write_pictures(folder / "pictures")
    shutil.copy(empty_database, folder / "mlflow.db")
    told, codes = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        _at(folder, patch)
        for phase in CONFIGS:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                codes[phase] = run(phase, folder)
            told[phase] = printed.getvalue()
        for name in ("outputs", "mlruns"):  # nothing in there changes any more
            assert (folder / name).is_dir()
    return Pipeline(folder, told, codes)


@pytest.fixture
def client(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a copy of the pipeline's database: what a test adds or moves, no other test sees."""
    assert set(pipeline.codes.values()) == {0}, pipeline.told
    shutil.copy(pipeline.folder / "mlflow.db", tmp_path / "mlflow.db")
    _at(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(pipeline.folder / "cache"))
    return MlflowClient()


def _at(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Work in a folder, in the store there."""
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        patch.setenv(name, "")
        patch.delenv(name)
    patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
