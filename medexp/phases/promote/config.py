"""Configuration of a promotion."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medexp.config.data import DataConfig, PhantomConfig
from medexp.config.shared import needs_data


@dataclass(frozen=True)
class PromoteConfig:
    """Make a version the champion of its model, when the model's policy supports it (registry/<model>.yaml).

    Args:
        profile: demo or full; they say which data the champion is scored on with reevaluate=true.
        model: Name of the registered model.
        version: The version; without it the candidate.
        reevaluate: Whether a champion that was judged on other cases is scored on the version's first; for that the data keys
            below must be those of the run that made the version.
        first: Whether the version becomes the first champion of a model whose policy does not give that by itself.
        bootstrap_samples: Resamples of the interval.
        data_dir: Folder of BraTS-MEN cases; without it the embedded phantoms are used (demo only).
        splits: A data_splits.json to use as it stands; without it patients are split by `seed`.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the split and of the resamples.
        device: auto, cpu, cuda or mps.
        threads: Threads of torch; without it torch decides.
        data: How cases are read and split.
        phantoms: The embedded data.
    """

    profile: str
    model: str
    version: int | None
    reevaluate: bool
    first: bool
    bootstrap_samples: int
    data_dir: str | None
    splits: str | None
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    data: DataConfig
    phantoms: PhantomConfig

    def problems(self) -> Iterator[str]:
        if self.reevaluate:
            yield from needs_data(self.profile, self.data_dir)
        if self.version is not None and self.version < 1:
            yield f"version: found {self.version}; at least 1"
        if self.bootstrap_samples < 100:
            yield f"bootstrap_samples: found {self.bootstrap_samples}; at least 100"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}; at least 1"
