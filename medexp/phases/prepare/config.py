"""Configuration of prepare."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.data import DataConfig, PhantomConfig, SliceConfig
from medexp.config.keys import Role
from medexp.config.shared import (
    CacheDir,
    DataDir,
    ImageDir,
    Modalities,
    OutputDir,
    Profile,
    Scenarios,
    Seed,
    SplitsFile,
    Written,
    listed,
    needs_data,
)


@dataclass(frozen=True)
class PrepareConfig:
    """Check a data folder, split it by patient, cache semantic features and write the manifest (docs/requirements/phase1.md);
    or check scenarios and split them by family (docs/requirements/medgemma.md).

    Args:
        slices_dir: Folder that gets the axial slices of all cases, for phase2_1 to phase2_3; without it none are cut.
        scenarios_dir: Folder that gets scenarios for medgemma, train.jsonl, val.jsonl and dataset_stats.json, of `scenarios`,
            or without these of the 24 embedded ones (demo only); with it no volume is looked at.
        modalities: The modalities that a scenario may be of.
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
    scenarios: Scenarios
    image_dir: ImageDir
    scenarios_dir: Annotated[Written | None, Role.CASES]
    modalities: Modalities
    seed: Seed
    data: DataConfig
    phantoms: Annotated[PhantomConfig, Role.CASES]
    slices: SliceConfig

    @property
    def files(self) -> list[str]:
        """The files of scenarios, one by one."""
        return listed(self.scenarios)

    def problems(self) -> Iterator[str]:
        if self.scenarios_dir is None:
            if self.files:
                yield "scenarios_dir: scenarios are given; give scenarios_dir=FOLDER, which gets train.jsonl and val.jsonl"
            else:
                yield from needs_data(self.profile, self.data_dir)
        elif self.profile == "full" and not self.files:
            yield "scenarios: profile=full needs real data; give scenarios=FILE.jsonl and image_dir=FOLDER"
        for key in ("data_dir", "splits", "slices_dir"):
            if self.scenarios_dir is not None and (value := getattr(self, key)) is not None:
                yield f"{key}: found {value} with scenarios_dir; that is of volumes: prepare one after the other"
        if self.image_dir is not None and not self.files:
            yield f"image_dir: found {self.image_dir} without scenarios; give scenarios=FILE.jsonl"
