"""Configuration of phase 2.2."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from medexp.config.bounds import Positive
from medexp.config.data import ImageDataConfig, PhantomConfig, Suffixes, suffix_problems
from medexp.config.keys import Role, Subject
from medexp.config.networks import FeatureKind, UNetConfig
from medexp.config.training import TrainingConfig
from medexp.phases.shared.config import ImagePhaseConfig, fits_depth


@dataclass(frozen=True)
class HeadTrainingConfig(TrainingConfig):
    """The training of the classification head.

    Args:
        lr_head: Learning rate.
        class_weights: balanced weighs classes by the inverse of how often training draws them; none weighs all cases alike.
        cache_features: Whether the frozen encoder sees each image once; false computes its features anew in every step, for
            the same result in far more time.
    """

    lr_head: Positive
    class_weights: Literal["balanced", "none"]
    cache_features: bool


@dataclass(frozen=True)
class LabelledDataConfig(ImageDataConfig):
    """How 2D images are read, split and sampled, and how the files of a table's volumes are found."""

    suffixes: Suffixes

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from suffix_problems(self.suffixes)


@dataclass(frozen=True)
class Phase2_2Config(ImagePhaseConfig):
    """Train a classification head on a frozen encoder (docs/requirements/phase2.md).

    Args:
        encoder: models:/NAME@alias or models:/NAME/VERSION of a multi-task U-Net or of an encoder of volumes, or a multi-task
            U-Net's checkpoint file.
        kaggle_dir: Folder with yes/ and no/, or those that `data.classes` names, of JPEG, PNG or npz files.
        table: For an encoder of volumes: TSV with the columns id, path, label, patient and, where it is split, split, as probe
            takes it; without it glioma is told from meningioma on phantoms (demo only).
        features: Of an encoder of volumes, what is pooled from its maps and the head stands on: gap10 (the average of the
            bottleneck), multiscale (averages and maxima of encoder1 to encoder4) or tumour_weighted (the hidden states where
            the network sees tumour; takes its decoder). A U-Net's are the average of its bottleneck, whatever is said here.
        min_accuracy: P2_2-ACCURACY's bar for the validation accuracy.
        network: The multi-task U-Net of a checkpoint file; a registered one brings its own.
        volumes: Phantoms that an encoder of volumes is given, of a seed that no encoder was trained on.
    """

    encoder: Annotated[str, Subject()]
    kaggle_dir: Annotated[str | None, Role.CASES]
    table: Annotated[str | None, Role.CASES]
    features: FeatureKind
    min_accuracy: Annotated[float, Role.JUDGING]
    data: LabelledDataConfig
    network: UNetConfig
    training: Annotated[HeadTrainingConfig, Role.MENDS]
    volumes: Annotated[PhantomConfig, Role.CASES]

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from fits_depth(self.network, self.data.input_size)
