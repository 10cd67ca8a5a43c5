"""Configuration of phase 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from medexp.config.bounds import Count, Fraction, Natural, Positive, Share
from medexp.config.data import DataConfig, PhantomConfig
from medexp.config.keys import Compared, Role
from medexp.config.networks import FeatureKind, LoraConfig, NetworkConfig
from medexp.config.shared import (
    CacheDir,
    Confidence,
    DataDir,
    Device,
    Folds,
    OutputDir,
    Profile,
    Resume,
    Samples,
    Seed,
    SplitsFile,
    Threads,
    needs_data,
    takes_memory,
)
from medexp.config.training import AuxHeadsConfig, TrainingConfig


@dataclass(frozen=True)
class LoraTrainingConfig(TrainingConfig):
    """The training of the three arms that train: LoRA alone, the decoder alone, both.

    Args:
        lr_lora: Learning rate of the adapters.
        lr_decoder: Learning rate of the segmentation decoder.
        lr_aux: Learning rate of the auxiliary heads.
        loss: dice_bce, or dice_ce for MONAI's DiceCELoss as it stands (a softmax over overlapping regions).
    """

    lr_lora: Annotated[Positive, Compared()]
    lr_decoder: Annotated[Positive, Compared()]
    lr_aux: Positive
    loss: Literal["dice_bce", "dice_ce"]


@dataclass(frozen=True)
class ValidationConfig:
    """How a network is judged.

    Args:
        overlap: Overlap of neighbouring windows of the sliding window, 0 to below 1.
        overlays: Cases drawn at each validation, prediction against truth.
        min_dice_wt: TEST_2.5's bar for the validation Dice of the whole tumour.
        min_dice_gain: TEST_2.5's bar for the gain over the frozen baseline.
    """

    overlap: Annotated[Fraction, Role.JUDGING]
    overlays: Annotated[Natural, Role.JUDGING]
    bootstrap_samples: Samples
    confidence: Confidence
    min_dice_wt: Annotated[float, Role.JUDGING]
    min_dice_gain: Annotated[float, Role.JUDGING]


@dataclass(frozen=True)
class BaseConfig:
    """The embedded base: a SwinUNETR pretrained on glioma phantoms when `checkpoint` is not given.

    Args:
        epochs: Passes over the glioma phantoms.
        lr: Learning rate.
        batch_size: Cases a step.
        val_fraction: Share of the glioma patients that it is judged on, above 0 and below 1.
        seed: Of its phantoms and of its training, apart from the run's.
    """

    epochs: Count
    lr: Positive
    batch_size: Count
    val_fraction: Share
    seed: Natural


@dataclass(frozen=True)
class Phase1Config:
    """Adapt a SwinUNETR encoder with LoRA, merge it, check it and register it (docs/requirements/phase1.md).

    Args:
        checkpoint: The base: a BrainSegFounder checkpoint file or models:/NAME@alias; without it a small base that was
            pretrained on glioma phantoms (demo only).
        recover: Whether a failure that the phase's ladder (profiles/recovery.yaml) may mend is recovered from at once.
        features: What ATTRIBUTION's probes read from the encoder's maps: gap10 (the average of the bottleneck), multiscale
            (averages and maxima of encoder1 to encoder4) or tumour_weighted (the hidden states where the network sees tumour);
            what they read from the others is told beside it. Semantic heads train on gap10.
        folds: Folds of a cross-validation by patient over training and validation together: their cases are judged out of
            fold, and what is registered is trained on all of them; 0 judges the one validation split. A fold costs the
            training of all three arms.
        seed: Seed of the split and of the folds, the initial weights, sampling and dropout; with splits=FILE the folds follow
            from the cases alone.
        data: How cases are read, split and sampled.
        phantoms: The embedded data.
        network: The SwinUNETR.
        base: The embedded base.
        lora: The adapters.
        training: The training of the three arms that train: LoRA alone, the decoder alone, both.
        aux_heads: Auxiliary regression heads.
        validation: How a network is judged.
    """

    profile: Profile
    data_dir: DataDir
    splits: SplitsFile
    folds: Folds
    features: Annotated[FeatureKind, Role.JUDGING]
    checkpoint: str | None
    resume: Resume
    recover: Annotated[bool, Role.WHERE]
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads
    data: DataConfig
    phantoms: Annotated[PhantomConfig, Role.CASES]
    network: NetworkConfig
    base: BaseConfig
    lora: Annotated[LoraConfig, Role.MENDS]
    training: Annotated[LoraTrainingConfig, Role.MENDS]
    aux_heads: Annotated[AuxHeadsConfig, Role.MENDS]
    validation: ValidationConfig

    @property
    def bootstrap_samples(self) -> int:
        """As the other phases call it."""
        return self.validation.bootstrap_samples

    @property
    def confidence(self) -> float:
        """As the other phases call it."""
        return self.validation.confidence

    @property
    def memory(self) -> str:
        """What takes a training's memory, and which keys make it less."""
        return takes_memory(self.training.batch_size, self.data.input_size)

    def problems(self) -> Iterator[str]:
        yield from needs_data(self.profile, self.data_dir)
        if self.profile == "full" and self.checkpoint is None:
            yield "checkpoint: profile=full needs the base; give checkpoint=FILE or checkpoint=models:/NAME@alias"
