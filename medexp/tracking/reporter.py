"""The Reporters that write: to an MLflow run, and to a folder."""

import hashlib
import io
import math
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image

from medexp.files import replacing
from medexp.reporting import NullReporter
from medexp.secrets import masked

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_BATCH = 1000  # the most metrics that MLflow takes in one call
_TEXTS = (".csv", ".html", ".json", ".log", ".md", ".tsv", ".txt", ".yaml")


class MlflowReporter:
    """Implements `medexp.reporting.Reporter`: metrics wait with the time they were measured at, the rest is written at once.

    What is no number is in tables alone: to MLflow's filters NaN is 0, so that `metrics.loss < 0.1` finds the runs that
    diverged, and its database keeps an infinity as 1.8e308.

    One call of MLflow for 100 steps costs a hundredth of a call a step; what waits is written at `flush`, and as soon as there
    is a full batch of it.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._waiting: list[Metric] = []

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = time.time_ns() // 1_000_000
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items() if math.isfinite(value)]
        if len(self._waiting) >= _BATCH:
            self.flush()

    def figure(self, figure: "Figure", path: str) -> None:
        self._client.log_figure(self._run_id, _as_written(figure), path)
        _close(figure)

    def image(self, figure: "Figure", key: str, step: int) -> None:
        drawn = io.BytesIO()
        _as_written(figure).savefig(drawn)
        with Image.open(drawn) as picture:
            self._client.log_image(self._run_id, picture, key=_as_key(key), step=step)
        _close(figure)

    def table(self, table: "pd.DataFrame", path: str) -> None:
        self.text(table.to_csv(index=False), path)

    def text(self, text: str, path: str) -> None:
        self._client.log_text(self._run_id, _may_be_read(text, path), path)

    def file(self, file: Path, folder: str = "") -> None:
        if file.suffix in _TEXTS and file.is_file():
            self.text(file.read_text(encoding="utf-8", errors="replace"), f"{folder}/{file.name}".removeprefix("/"))
        else:
            self._client.log_artifact(self._run_id, str(file), folder or None)

    def flush(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run_id, metrics=self._waiting[:_BATCH])
            del self._waiting[:_BATCH]


class FolderReporter(NullReporter):
    """Implements `medexp.reporting.Reporter` in a folder of this machine, which needs no run: it keeps all but metrics.

    Raises:
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def figure(self, figure: "Figure", path: str) -> None:
        with replacing(self._folder / path) as temporary:
            _as_written(figure).savefig(temporary, format="png")
        _close(figure)

    def table(self, table: "pd.DataFrame", path: str) -> None:
        self.text(table.to_csv(index=False), path)

    def text(self, text: str, path: str) -> None:
        with replacing(self._folder / path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def file(self, file: Path, folder: str = "") -> None:
        with replacing(self._folder / folder / file.name) as temporary:
            shutil.copyfile(file, temporary)


def _as_key(key: str) -> str:
    """A key that MLflow takes; a case may be called as it likes, and two that differ in what it refuses stay two series."""
    taken = re.sub(r"[^\w\-./ ]", "_", key, flags=re.ASCII)
    return taken if taken == key else f"{taken} {hashlib.sha256(key.encode()).hexdigest()[:6]}"


def _may_be_read(text: str, path: str) -> str:
    """A text without secrets, which are told of; what is read back keeps the paths in it."""
    done = masked(text, home=not path.endswith((".yaml", ".json")))
    if done.found:
        print(f"{path} of the run: *** in the place of {', '.join(done.found)}", file=sys.stderr, flush=True)
    return done.text


def _as_written(figure: "Figure") -> "Figure":
    from medexp.tracking.figures import as_written  # brings matplotlib along, which a run without pictures has no use for

    return as_written(figure)


def _close(figure: "Figure") -> None:
    figure.clear()
    if pyplot := sys.modules.get("matplotlib.pyplot"):  # it holds on to the figures that it made
        pyplot.close(figure)
