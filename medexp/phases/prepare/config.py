"""Configuration of prepare."""

from collections.abc import Iterator
from dataclasses import dataclass

from medexp.config.data import DataConfig, PhantomConfig, SliceConfig
from medexp.config.shared import needs_data


@dataclass(frozen=True)
class PrepareConfig:
    """Check a data folder, split it by patient, cache semantic features and write the manifest (Module 0).

    Args:
        profile: demo (embedded phantoms, minutes on two cores) or full (the specification's numbers).
        data_dir: Folder of BraTS-MEN cases; without it the embedded phantoms are used (demo only).
        splits: A data_splits.json to use as it stands; without it patients are split by `seed`.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        slices_dir: Folder that gets the axial slices of all cases, for phase2_1 to phase2_3; without it none are cut.
        seed: Seed of the split.
        data: How cases are read, split and sampled.
        phantoms: The embedded data.
        slices: How volumes are cut into slices.
    """

    profile: str
    data_dir: str | None
    splits: str | None
    output_dir: str
    cache_dir: str | None
    slices_dir: str | None
    seed: int
    data: DataConfig
    phantoms: PhantomConfig
    slices: SliceConfig

    def problems(self) -> Iterator[str]:
        yield from needs_data(self.profile, self.data_dir)
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
