"""Configuration of phase 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medexp.config.data import DataConfig, PhantomConfig
from medexp.config.networks import LoraConfig, NetworkConfig
from medexp.config.shared import needs_data
from medexp.config.training import AuxHeadsConfig, TrainingConfig


@dataclass(frozen=True)
class LoraTrainingConfig(TrainingConfig):
    """The training of the adapted arm and of the decoder-only control.

    Args:
        lr_lora: Learning rate of the adapters.
        lr_decoder: Learning rate of the segmentation decoder.
        lr_aux: Learning rate of the auxiliary heads.
        loss: dice_bce, or dice_ce for the specification's literal DiceCELoss (a softmax over overlapping regions).
    """

    lr_lora: float
    lr_decoder: float
    lr_aux: float
    loss: Literal["dice_bce", "dice_ce"]


@dataclass(frozen=True)
class ValidationConfig:
    """How a network is judged.

    Args:
        overlap: Overlap of neighbouring windows of the sliding window, 0 to below 1.
        overlays: Cases drawn at each validation, prediction against truth.
        bootstrap_samples: Resamples of an interval.
        confidence: Coverage of an interval, 0 to 1.
        min_dice_wt: TEST_2.5's bar for the validation Dice of the whole tumour.
        min_dice_gain: TEST_2.5's bar for the gain over the frozen baseline.
    """

    overlap: float
    overlays: int
    bootstrap_samples: int
    confidence: float
    min_dice_wt: float
    min_dice_gain: float

    def problems(self) -> Iterator[str]:
        if not 0 <= self.overlap < 1:
            yield f"overlap: found {self.overlap}; 0 to below 1"
        if self.overlays < 0:
            yield f"overlays: found {self.overlays}; at least 0"
        if self.bootstrap_samples < 100:
            yield f"bootstrap_samples: found {self.bootstrap_samples}; at least 100"
        if not 0 < self.confidence < 1:
            yield f"confidence: found {self.confidence}; above 0 and below 1"


@dataclass(frozen=True)
class BaseConfig:
    """The embedded base: a SwinUNETR pretrained on glioma phantoms when `checkpoint` is not given.

    Args:
        epochs: Passes over the glioma phantoms.
        lr: Learning rate.
        batch_size: Cases a step.
    """

    epochs: int
    lr: float
    batch_size: int

    def problems(self) -> Iterator[str]:
        for key in ("epochs", "batch_size"):
            if getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; at least 1"
        if not self.lr > 0:
            yield f"lr: found {self.lr}; above 0"


@dataclass(frozen=True)
class Phase1Config:
    """Adapt a SwinUNETR encoder with LoRA, merge it, check it and register it (specification 000).

    Args:
        profile: demo (embedded phantoms, minutes on two cores) or full (the specification's numbers).
        data_dir: Folder of BraTS-MEN cases; without it the embedded phantoms are used (demo only).
        splits: A data_splits.json to use as it stands; without it patients are split by `seed`.
        checkpoint: The base: a BrainSegFounder checkpoint file or models:/NAME@alias; without it a small base is pretrained on
            glioma phantoms (demo only).
        resume: Run id of an interrupted run to go on from.
        recover: Whether a failure that the phase's ladder (profiles/recovery.yaml) may mend is recovered from at once.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the split, the initial weights, sampling and dropout.
        device: auto, cpu, cuda or mps.
        threads: Threads of torch a process; without it torch decides.
        data: How cases are read, split and sampled.
        phantoms: The embedded data.
        network: The SwinUNETR.
        base: The embedded base.
        lora: The adapters.
        training: The training of the adapted arm and of the decoder-only control.
        aux_heads: Auxiliary regression heads.
        validation: How a network is judged.
    """

    profile: str
    data_dir: str | None
    splits: str | None
    checkpoint: str | None
    resume: str | None
    recover: bool
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    data: DataConfig
    phantoms: PhantomConfig
    network: NetworkConfig
    base: BaseConfig
    lora: LoraConfig
    training: LoraTrainingConfig
    aux_heads: AuxHeadsConfig
    validation: ValidationConfig

    def problems(self) -> Iterator[str]:
        yield from needs_data(self.profile, self.data_dir)
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
        if self.profile == "full" and self.checkpoint is None:
            yield "checkpoint: profile=full needs the base; give checkpoint=FILE or checkpoint=models:/NAME@alias"
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}; at least 1"
