"""Configuration of prepare."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.data import DataConfig, PairDataConfig, PhantomConfig, SliceConfig
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
    or check scenarios and split them by family (docs/requirements/medgemma.md), or pairs of a FLAIR volume and its lesion mask
    and split them by patient (docs/requirements/phase7.md).

    Args:
        slices_dir: Folder that gets the axial slices of all cases, for phase2_1 to phase2_3; without it none are cut.
        scenarios_dir: Folder that gets scenarios for medgemma, train.jsonl, val.jsonl and dataset_stats.json, of `scenarios`,
            or without these of the 24 embedded ones (demo only); with it no volume is looked at.
        modalities: The modalities that a scenario may be of.
        pairs: Folders, or s3://bucket/prefix, of pairs for phase7 with commas between them, laid out as BIDS or as BraTS, or
            tables with the columns image and mask; with it no other volume is looked at.
        seed: Seed of the split.
        data: How cases are read, split and sampled.
        pair_data: How pairs are read and split, as phase7's `data` is.
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
    pairs: Annotated[tuple[str, ...], Role.CASES]
    seed: Seed
    data: DataConfig
    pair_data: PairDataConfig
    phantoms: Annotated[PhantomConfig, Role.CASES]
    slices: SliceConfig

    @property
    def files(self) -> list[str]:
        """The files of scenarios, one by one."""
        return listed(self.scenarios)

    @property
    def folders(self) -> list[str]:
        """The folders and tables of pairs, one by one."""
        return listed(self.pairs)

    def problems(self) -> Iterator[str]:
        if self.scenarios_dir is None:
            if self.files:
                yield "scenarios_dir: scenarios are given; give scenarios_dir=FOLDER, which gets train.jsonl and val.jsonl"
            elif not self.folders:
                yield from needs_data(self.profile, self.data_dir)
        elif self.profile == "full" and not self.files:
            yield "scenarios: profile=full needs real data; give scenarios=FILE.jsonl and image_dir=FOLDER"
        for key in ("data_dir", "splits", "slices_dir"):
            if self.scenarios_dir is not None and (value := getattr(self, key)) is not None:
                yield f"{key}: found {value} with scenarios_dir; that is of volumes: prepare one after the other"
        for key in ("data_dir", "slices_dir", "scenarios_dir"):
            if self.folders and (value := getattr(self, key)) is not None:
                yield f"{key}: found {value} with pairs; prepare one after the other"
        if self.image_dir is not None and not self.files:
            yield f"image_dir: found {self.image_dir} without scenarios; give scenarios=FILE.jsonl"
