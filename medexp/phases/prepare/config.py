"""Configuration of prepare."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.data import DataConfig, PhantomConfig, SliceConfig
from medexp.config.keys import Role
from medexp.config.shared import CacheDir, DataDir, OutputDir, Profile, Seed, SplitsFile, Written, needs_data


@dataclass(frozen=True)
class PrepareConfig:
    """Check a data folder, split it by patient, cache semantic features and write the manifest (docs/requirements/phase1.md).

    Args:
        slices_dir: Folder that gets the axial slices of all cases, for phase2_1 to phase2_3; without it none are cut.
        seed: Seed of the split.
        data: How cases are read, split and sampled.
        phantoms: The embedded data.
        slices: How volumes are cut into slices.
    """

    profile: Profile
    data_dir: DataDir
    splits: SplitsFile
    output_dir: OutputDir
    cache_dir: CacheDir
    slices_dir: Annotated[Written | None, Role.CASES]
    seed: Seed
    data: DataConfig
    phantoms: Annotated[PhantomConfig, Role.CASES]
    slices: SliceConfig

    def problems(self) -> Iterator[str]:
        yield from needs_data(self.profile, self.data_dir)
