"""What the configurations of the phases on 2D images share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.bounds import Natural
from medexp.config.data import ImageDataConfig, ImagePhantomConfig
from medexp.config.keys import Role
from medexp.config.networks import UNetConfig
from medexp.config.shared import (
    CacheDir,
    Confidence,
    Device,
    Folds,
    OutputDir,
    Profile,
    Resume,
    Samples,
    Seed,
    Threads,
    takes_memory,
)
from medexp.config.training import TrainingConfig


@dataclass(frozen=True)
class ImagePhaseConfig:
    """What the phases on 2D images have in common.

    Args:
        slices_dir: Folder or s3://bucket/prefix of slices, as prepare cuts them with its own slices_dir; without any folder
            the embedded phantoms are used (demo only).
        seed: Seed of the initial weights, of sampling and of augmentation.
        shown: Images that a picture of examples shows.
        data: How images are read, split and sampled.
        phantoms: The embedded images.
        training: The training.
    """

    profile: Profile
    slices_dir: Annotated[str | None, Role.CASES]
    resume: Resume
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads
    bootstrap_samples: Samples
    confidence: Confidence
    shown: Annotated[Natural, Role.JUDGING]
    folds: Folds
    data: ImageDataConfig
    phantoms: Annotated[ImagePhantomConfig, Role.CASES]
    training: Annotated[TrainingConfig, Role.MENDS]

    @property
    def memory(self) -> str:
        """What takes a training's memory, and which keys make it less."""
        return takes_memory(self.training.batch_size, self.data.input_size)

    def problems(self) -> Iterator[str]:
        folders = {key: getattr(self, key) for key in ("slices_dir", "kaggle_dir", "table") if hasattr(self, key)}
        if self.profile == "full" and not any(folders.values()):
            yield f"{' or '.join(folders)}: profile=full needs real data; give {next(iter(folders))}=FOLDER"


def fits_depth(network: UNetConfig, input_size: tuple[int, int]) -> Iterator[str]:
    """What is wrong where a network halves images more often than they can be."""
    step = 2**network.depth
    if any(size % step for size in input_size):
        yield f"data.input_size: found {input_size}; multiples of {step}, which is 2 ** network.depth"
    elif max(input_size) == step:  # batch norm takes more than one value
        yield f"network.depth: found {network.depth}; it leaves one pixel of {input_size}: lower it"
