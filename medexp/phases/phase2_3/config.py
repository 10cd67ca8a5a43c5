"""Configuration of phase 2.3."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from medexp.config.bounds import NotNegative, Positive
from medexp.config.keys import Role
from medexp.config.training import TrainingConfig
from medexp.phases.shared.config import ImagePhaseConfig


@dataclass(frozen=True)
class JointTrainingConfig(TrainingConfig):
    """The training of both tasks in alternating batches.

    Args:
        lr_encoder: Learning rate of the encoder; below those of decoder and head.
        lr_decoder: Learning rate of the segmentation decoder.
        lr_head: Learning rate of the classification head.
        class_weights: As in phase2_2.
    """

    lr_encoder: Positive
    lr_decoder: Positive
    lr_head: Positive
    class_weights: Literal["balanced", "none"]

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for key in ("lr_decoder", "lr_head"):
            if self.lr_encoder >= getattr(self, key):
                yield f"lr_encoder: found {self.lr_encoder:g}; below {key} ({getattr(self, key):g})"


@dataclass(frozen=True)
class Phase2_3Config(ImagePhaseConfig):
    """Train encoder, decoder and classification head together, in alternating batches (docs/requirements/phase2.md).

    Args:
        multitask: The network of phase 2.1: models:/NAME@alias or models:/NAME/VERSION.
        classifier: The head of phase 2.2, trained on that network's encoder: models:/NAME@alias or models:/NAME/VERSION.
        kaggle_dir: Folder with yes/ and no/, or those that `data.classes` names, of JPEG, PNG or npz files.
        margin: Largest loss of Dice, and of balanced accuracy, against phases 2.1 and 2.2 that counts as none.
    """

    multitask: str
    classifier: str
    kaggle_dir: Annotated[str | None, Role.CASES]
    margin: Annotated[NotNegative, Role.JUDGING]
    training: Annotated[JointTrainingConfig, Role.MENDS]
