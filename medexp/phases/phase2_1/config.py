"""Configuration of phase 2.1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.bounds import Positive
from medexp.config.keys import Role
from medexp.config.networks import UNetConfig
from medexp.config.training import TrainingConfig
from medexp.phases.shared.config import ImagePhaseConfig, fits_depth


@dataclass(frozen=True)
class WarmUpTrainingConfig(TrainingConfig):
    """The training of encoder and segmentation decoder.

    Args:
        lr_network: Learning rate.
    """

    lr_network: Positive


@dataclass(frozen=True)
class Phase2_1Config(ImagePhaseConfig):
    """Train the multi-task U-Net's encoder and segmentation decoder on slices (docs/requirements/phase2.md).

    Args:
        min_dice: P2_1-DICE's bar for the mean validation Dice of a scan's slices together.
        network: The multi-task U-Net.
    """

    min_dice: Annotated[float, Role.JUDGING]
    network: UNetConfig
    training: Annotated[WarmUpTrainingConfig, Role.MENDS]

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from fits_depth(self.network, self.data.input_size)
