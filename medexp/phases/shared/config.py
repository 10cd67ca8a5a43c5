"""What the configurations of the phases on 2D images share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medexp.config.data import ImageDataConfig, ImagePhantomConfig
from medexp.config.networks import UNetConfig
from medexp.config.training import TrainingConfig


@dataclass(frozen=True)
class ImagePhaseConfig:
    """What the phases on 2D images have in common.

    Args:
        profile: demo (embedded phantoms, minutes on two CPU cores) or full (the specification's numbers).
        slices_dir: Folder of slices, as prepare cuts them with its own slices_dir; without any folder the embedded phantoms
            are used (demo only).
        resume: Run id of an interrupted run to go on from.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the initial weights, of sampling and of augmentation.
        device: auto, cpu, cuda or mps.
        threads: Threads of torch; without it torch decides.
        bootstrap_samples: Resamples of an interval.
        confidence: Coverage of an interval, 0 to 1.
        shown: Images that a picture of examples shows.
        data: How images are read, split and sampled.
        phantoms: The embedded images.
        training: The training.
    """

    profile: str
    slices_dir: str | None
    resume: str | None
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    bootstrap_samples: int
    confidence: float
    shown: int
    data: ImageDataConfig
    phantoms: ImagePhantomConfig
    training: TrainingConfig

    def problems(self) -> Iterator[str]:
        folders = {key: getattr(self, key) for key in ("slices_dir", "kaggle_dir", "table") if hasattr(self, key)}
        if self.profile == "full" and not any(folders.values()):
            yield f"{' or '.join(folders)}: profile=full needs real data; give {next(iter(folders))}=FOLDER"
        if self.bootstrap_samples < 100:
            yield f"bootstrap_samples: found {self.bootstrap_samples}; at least 100"
        if not 0 < self.confidence < 1:
            yield f"confidence: found {self.confidence}; above 0 and below 1"
        for key in ("shown", "seed"):
            if getattr(self, key) < 0:
                yield f"{key}: found {getattr(self, key)}; at least 0"
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}; at least 1"


def fits_depth(network: UNetConfig, input_size: tuple[int, int]) -> Iterator[str]:
    """What is wrong where a network halves images more often than they can be."""
    step = 2**network.depth
    if any(size % step for size in input_size):
        yield f"data.input_size: found {input_size}; multiples of {step}, which is 2 ** network.depth"
    elif max(input_size) == step:  # batch norm takes more than one value
        yield f"network.depth: found {network.depth}; it leaves one pixel of {input_size}: lower it"
