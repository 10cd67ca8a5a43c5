"""What the benchmarks share: sides measured in turns, a place that leaves no trace, and the line that says what came out."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

ROOT = Path(__file__).parents[1]


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each side measured: A B A B ..., so that a machine that slows down slows both."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            measured[name].append(measure())
    return measured


def told(ours: Sequence[float], plain: Sequence[float], unit: str = "s") -> str:
    """The ratio of two medians, and in brackets the range of the ratio from round to round."""
    paired = [a / b for a, b in zip(ours, plain, strict=True)]
    spread = f"{min(paired):.3f} to {max(paired):.3f} in {len(paired)} rounds"
    return f"ratio {median(ours) / median(plain):.3f} ({spread}), {median(ours):.3g} {unit} against {median(plain):.3g} {unit}"


def mlflow_run(entry_point: str, settings: Mapping[str, object]) -> None:
    """`mlflow run . -e ENTRY_POINT -P KEY=VALUE ...`; a run that fails ends the benchmark with the last of what it printed."""
    given = [part for key, value in settings.items() for part in ("-P", f"{key}={value}")]
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", entry_point, *given]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603  # ours
    if done.returncode:
        sys.exit(f"not measured, {' '.join(command)} ended with exit code {done.returncode}:\n{done.stdout[-3000:]}")


def verdict(holds: bool) -> str:
    return "met" if holds else "MISSED"


def _home(folder: Path) -> dict[str, str]:
    """An environment whose MLflow store and cache are in `folder`, whatever the user's own names."""
    kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")}
    return kept | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


@contextmanager
def empty_home() -> Iterator[Path]:
    """A temporary working folder with its own MLflow store and cache, for this process and those that it starts."""
    with tempfile.TemporaryDirectory(prefix="medexp-benchmark-") as name, chdir(name):
        folder = Path(name)
        with patch.dict(os.environ, _home(folder), clear=True):
            yield folder
