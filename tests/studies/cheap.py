"""A phase that trains nothing, for tests of studies: what it does is in its configuration."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from medexp.config.shared import OutputDir, Seed
from medexp.errors import CheckFailed, DataError
from medexp.phases.sweep.config import SweepConfig
from medexp.tracking.runs import TrackedRun

SPACE = """
goals: [{metric: val/final/score, direction: maximize}]
sampler: {name: random}
pruner: {name: none}
parameters:
  rate: {type: float, low: 0.0, high: 1.0}
  depth: {type: int, low: 1, high: 4}
"""


@dataclass(frozen=True)
class Cheap:
    """Settings of the phase.

    Args:
        how: What befalls a trial: well, noise (its score is chance alone), check, data, defect, unlogged, infinite,
            unlucky (with another seed), killed (once), killed_always, goes_on (though the disk is full). All wait where
            there is a `gate` in the outputs, until there is a `go`, and all fill the disk where there is a `fills`.
    """

    output_dir: OutputDir
    seed: Seed
    how: str
    rate: float
    depth: int

    bootstrap_samples: ClassVar[int] = 200
    confidence: ClassVar[float] = 0.95

    def problems(self) -> Iterator[str]:
        if self.depth > 4:
            yield f"depth: found {self.depth}; at most 4"


CheapSweep = make_dataclass(
    "CheapSweep", [("phase1", Cheap)], bases=(SweepConfig,), frozen=True, namespace={"__module__": __name__}
)


def sweep_config(folder: Path, how: str = "well", **changed: Any) -> Any:
    """A sweep of six trials with one worker in `folder`."""
    space = folder / "sweep.yaml"
    if not space.exists():
        space.write_text(SPACE)
    outputs = str(folder / "outputs")
    values: dict[str, Any] = {
        "profile": "demo",
        "phase": "phase1",
        "study": "cheap",
        "storage": None,
        "space": str(space),
        "trials": 6,
        "workers": 1,
        "confirm": 0,
        "test": False,
        "output_dir": outputs,
        "cache_dir": None,
        "seed": 0,
        "device": None,
        "threads": 1,
    }
    return CheapSweep(**values | changed, phase1=Cheap(outputs, 0, how, 0.5, 2))


def warm_up(config: Cheap, folder: Path, *, test: bool = False) -> Cheap:
    return config


def objective(config: Cheap, run: TrackedRun, *, test: bool = False) -> None:
    """Three epochs whose score follows from rate and seed."""
    of_cases = np.random.default_rng(int(config.rate * 1e9)).normal(size=12)
    score = float(of_cases.mean()) if config.how == "noise" else config.rate + config.seed / 1000
    outputs = Path(config.output_dir)
    if config.how == "check" or (config.how == "unlucky" and config.seed):
        raise CheckFailed("TEST_0: too shallow\nand more")
    if config.how == "data":
        raise DataError("case 7: is empty")
    if (outputs / "fills").exists():
        with (outputs / "full").open("wb", buffering=0) as file:
            for size in (2**12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"." * size)
            if config.how != "goes_on":
                file.write(b".")
    if config.how == "defect":
        raise KeyError("fold")
    for epoch in range(1, 4):
        run.reporter.metrics({"val/score": score * epoch / 3, "train/loss": 1 / epoch}, epoch * 10)
        run.reporter.flush()
        if config.how == "killed_always" or (config.how == "killed" and _first(outputs / "killed")):
            os.kill(os.getpid(), signal.SIGKILL)
        if (outputs / "gate").exists() and not (outputs / "go").exists():
            _first(outputs / f"waits-{os.getpid()}")
            with (outputs / "gate").open("rb", buffering=0) as gate:
                gate.read(1)  # of a pipe: until the test writes to it
    if config.how != "unlogged":
        found = float("nan") if config.how == "infinite" else score
        spread = 1 if config.how == "noise" else 1e-6
        of_cases = score + spread * (of_cases - of_cases.mean())
        names = [f"p{index}" for index in range(len(of_cases))]
        run.reporter.table(pd.DataFrame({"case": names, "patient": names, "score": of_cases}), "per_case_val.csv")
        run.reporter.metrics({"val/final/score": found, "val/final/once": found, "final": found})
    if test:
        run.reporter.metrics({"test/score": score - 0.1})


def _first(marker: Path) -> bool:
    """Whether this is the first time, in all processes."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def search_apart(environment: dict[str, str], folder: str, config: Any, told: str) -> None:
    """A sweep as a process of its own, in a group of its own; what it says of its end is in the file `told`."""
    from medexp.studies.sweep import search

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.setpgid(0, 0)
    with Path(told).open("w") as file:
        os.dup2(file.fileno(), 2)
    search(config, f"{__name__}:objective", warm_up)
