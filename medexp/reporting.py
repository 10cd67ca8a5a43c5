"""What training and evaluation know of tracking: a Reporter takes figures in; where they go is not their business."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Reporter(Protocol):
    """Takes what a run produces. Metrics are `train/…`, `val/…`, `params/…`, and of other arms `baseline/…`, `control/…`."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Take scalars of one step; they may wait in a buffer until `flush`. What is no finite number is none."""

    def figure(self, figure: "Figure", path: str) -> None:
        """Take a matplotlib figure as the picture `path` (ends in .png); the figure is closed."""

    def image(self, figure: "Figure", key: str, step: int) -> None:
        """Take a matplotlib figure as the picture of one step: those of a key are one series; the figure is closed."""

    def table(self, table: "pd.DataFrame", path: str) -> None:
        """Take a table as the file `path` (ends in .csv)."""

    def text(self, text: str, path: str) -> None:
        """Take a text file."""

    def file(self, file: Path, folder: str = "") -> None:
        """Take a file, or a folder with all that is in it, under `folder`."""

    def flush(self) -> None:
        """Write what waits. Called at the end of every epoch."""


class NullReporter:
    """Takes everything and keeps nothing: for processes other than the first, and for tests of training alone."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...
    def figure(self, figure: "Figure", path: str) -> None: ...
    def image(self, figure: "Figure", key: str, step: int) -> None: ...
    def table(self, table: "pd.DataFrame", path: str) -> None: ...
    def text(self, text: str, path: str) -> None: ...
    def file(self, file: Path, folder: str = "") -> None: ...
    def flush(self) -> None: ...
