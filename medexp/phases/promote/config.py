"""Configuration of a promotion."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.bounds import Count
from medexp.config.data import DataConfig, PhantomConfig
from medexp.config.keys import Called, Role
from medexp.config.shared import CacheDir, DataDir, Device, OutputDir, Profile, Samples, Seed, SplitsFile, Threads, needs_data


@dataclass(frozen=True)
class PromoteConfig:
    """Make a version the champion of its model, when the model's policy supports it (registry/<model>.yaml).

    Args:
        profile: demo or full; they say which data the champion is scored on with reevaluate=true.
        model: Name of the registered model.
        version: The version; without it the candidate.
        reevaluate: Whether the champion is scored anew on the version's cases first; for that the data keys below must be
            those of the run that made the version.
        first: Whether the version becomes the first champion of a model whose policy does not give that by itself.
        bootstrap_samples: Resamples of the interval.
        seed: Seed of the split and of the resamples.
        data: How cases are read and split.
        phantoms: The embedded data.
    """

    profile: Profile
    model: Annotated[str, Called("")]
    version: Annotated[Count | None, Called("v")]
    reevaluate: bool
    first: bool
    bootstrap_samples: Samples
    data_dir: DataDir
    splits: SplitsFile
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads
    data: DataConfig
    phantoms: Annotated[PhantomConfig, Role.CASES]

    def problems(self) -> Iterator[str]:
        if self.reevaluate:
            yield from needs_data(self.profile, self.data_dir)
