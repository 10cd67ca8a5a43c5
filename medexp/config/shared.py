"""What the configurations of all phases share."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Resampling:
    """How the intervals of a run are drawn, by bootstrap of patients.

    Attributes:
        samples: Resamples.
        confidence: Coverage, above 0 and below 1.
        seed: Seed of the resamples: the same patients and seed give the same resamples to every statistic.
    """

    samples: int
    confidence: float
    seed: int


def cache_root(cache_dir: str | None) -> Path:
    """The folder for what is computed once: `cache_dir`, else $XDG_CACHE_HOME/medexp, else ~/.cache/medexp."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute()  # the processes that read cases may have another working directory
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "medexp"


def data_keys(config: Any) -> dict[str, Any]:
    """What says which cases a phase reads, by dotted key."""
    blocks = {f"{name}.{key}": value for name in ("data", "phantoms") for key, value in vars(getattr(config, name)).items()}
    return {"data_dir": config.data_dir, "splits": config.splits} | blocks


def needs_data(profile: str, data_dir: str | None) -> Iterator[str]:
    if profile == "full" and data_dir is None:
        yield "data_dir: profile=full needs real data; give data_dir=FOLDER of BraTS-MEN cases"
