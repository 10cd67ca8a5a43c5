"""Configuration of phase7: the keys of docs/requirements/phase7.md, and what judging samples needs beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval, MinLen, doc

from medexp.config.bounds import Count, Natural, Positive, Share, Told
from medexp.config.data import PairDataConfig, PairPhantomConfig
from medexp.config.keys import Role
from medexp.config.networks import FlowLoraConfig
from medexp.config.shared import (
    CacheDir,
    Confidence,
    Device,
    OutputDir,
    Profile,
    Resume,
    Samples,
    Seed,
    SplitsFile,
    Threads,
    Written,
    listed,
    takes_memory,
)
from medexp.config.training import FlowLossConfig, FlowTrainingConfig

UpTo1 = Annotated[float, Interval(ge=0, le=1)]
Pairs = Annotated[
    tuple[str, ...],
    Role.CASES,
    doc(
        "Folders, or s3://bucket/prefix, of pairs with commas between them, laid out as BIDS or as BraTS, or tables with the "
        "columns image and mask; without it the embedded phantoms are used (demo only). Synthetic pairs are trained on alone."
    ),
]


@dataclass(frozen=True)
class FlowNetworkConfig:
    """The U-Net that mode=base trains, or whose weights a file has: MONAI's DiffusionModelUNetMaisi with a second time.

    Args:
        num_channels: Channels of each level.
        attention_levels: Whether each level has attention.
        head_channels: Channels of a head of the attention of each level; 0 where it has none.
        num_res_blocks: Residual blocks of a level.
        norm_groups: Groups of the group norms.
        flash_attention: Has no Jacobian-vector product, and is refused.
        gradient_checkpointing: Likewise.
    """

    num_channels: Annotated[tuple[Count, ...], MinLen(1), Told("one or more values above 0", list)]
    attention_levels: tuple[bool, ...]
    head_channels: tuple[Natural, ...]
    num_res_blocks: Count
    norm_groups: Count
    flash_attention: bool
    gradient_checkpointing: bool

    def problems(self) -> Iterator[str]:
        levels = len(self.num_channels)
        for name in ("attention_levels", "head_channels"):
            if (found := len(getattr(self, name))) != levels:
                yield f"{name}: found {found} values; one for each of the {levels} levels of num_channels"
        for name in ("flash_attention", "gradient_checkpointing"):
            if getattr(self, name):
                yield f"{name}: has no forward derivative, which each step of MeanFlow takes; give false"


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn and judged.

    Args:
        samples: Of each seed, and in each number of steps.
        seeds: Seeds of the noise.
        steps: Numbers of steps in which samples are drawn; those in the first are registered with the adapter's card.
        ring: Width, in voxels, of the ring around a mask that its inside is held against.
        shown: Samples that a picture shows.
    """

    samples: Annotated[int, Ge(4), Role.JUDGING]
    seeds: Annotated[Count, Role.JUDGING]
    steps: Annotated[tuple[Count, ...], MinLen(1), Told("one or more numbers of steps", list), Role.JUDGING]
    ring: Annotated[Count, Role.JUDGING]
    shown: Annotated[Count, Role.JUDGING]


@dataclass(frozen=True)
class TargetConfig:
    """What is to be reached.

    Args:
        mask_dice: Dice of masks after encoding and decoding, above which they are encoded by the VAE.
        trainable: Share of all parameters below which those that train are.
        non_empty: Share of samples whose mask is not empty.
        contrast: Median contrast of the samples, as a share of what real pairs keep of theirs through the VAE.
        coupling: What a sample's own mask has in contrast over another sample's, as a share of what real pairs have.
        dice: Mean Dice of generated with real masks.
        dice_gap: How far that may lie below the mean Dice of real masks with each other, where this is lower than `dice`.
    """

    mask_dice: Annotated[Share, Role.JUDGING]
    trainable: Annotated[Share, Role.JUDGING]
    non_empty: Annotated[UpTo1, Role.JUDGING]
    contrast: Annotated[UpTo1, Role.JUDGING]
    coupling: Annotated[UpTo1, Role.JUDGING]
    dice: Annotated[UpTo1, Role.JUDGING]
    dice_gap: Annotated[UpTo1, Role.JUDGING]


@dataclass(frozen=True)
class AblationConfig:
    """Powers 1.5 and 2 against 2 and 2 (P7-T7), trained with several seeds each.

    Args:
        seeds: Of each; 0 leaves it out.
        epochs: Of each training; those of the phase's own are another number perhaps.
    """

    seeds: Annotated[Natural, Role.JUDGING]
    epochs: Annotated[Count, Role.JUDGING]


@dataclass(frozen=True)
class UtilityConfig:
    """The segmenter of mode=utility, which is trained on real pairs, on synthetic ones, on both, and on twice the real ones.

    Args:
        seeds: Trainings of each.
        synthetic: Synthetic pairs, as a multiple of the real ones.
        steps: Steps of each training, whatever it is trained on.
        batch_size: Pairs a step.
        lr: Learning rate.
        channels: Channels of the network's levels.
    """

    seeds: Annotated[Count, Role.JUDGING]
    synthetic: Annotated[Positive, Role.JUDGING]
    steps: Count
    batch_size: Count
    lr: Positive
    channels: Annotated[tuple[Count, ...], MinLen(2), Told("two or more values above 0", list)]


@dataclass(frozen=True)
class Phase7Config:
    """LoRA on a MeanFlow U-Net that draws FLAIR volumes with their lesion masks (docs/requirements/phase7.md).

    Args:
        mode: adapt; base: train a base on healthy volumes (data_dir) and register it; sample: draw from `adapter`; utility:
            train a segmenter with synthetic pairs and without, and compare.
        base: models:/NAME@ALIAS, or a file of weights of `network` on latents of `vae`; without it the embedded one.
        vae: File of the weights of MAISI's autoencoder (mode=base, or a base by its file); without it the embedded one.
        vae_scale: Scale factor of its latents.
        adapter: What mode=sample draws from.
        augment: Synthetic pairs that are written as a data set, for `prepare` and for training; 0 writes none.
        augment_dir: Folder that gets them, which is not there yet; without it `augmented` in the run's.
        seed: Seed of the adapter's initial weights, of noise and times, of the order of cases and of their split.
        data: How pairs are read, split and made latents of.
        network: The U-Net of mode=base, or of a base by its file.
        lora: The adapter.
        loss: The loss.
        training: The training.
        sampling: How samples are drawn and judged.
        target: What is to be reached.
        ablation: The powers of the loss, compared.
        utility: The segmenter of mode=utility.
    """

    profile: Profile
    mode: Annotated[Literal["adapt", "base", "sample", "utility"], Role.WHERE]
    resume: Resume
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads
    bootstrap_samples: Samples
    confidence: Confidence
    data_dir: Pairs
    splits: SplitsFile
    base: str | None
    vae: str | None
    vae_scale: Positive
    adapter: Annotated[str, Role.WHERE]
    augment: Annotated[Natural, Role.WHERE]
    augment_dir: Annotated[Written | None, Role.WHERE]
    data: PairDataConfig
    network: FlowNetworkConfig
    lora: Annotated[FlowLoraConfig, Role.MENDS]
    loss: Annotated[FlowLossConfig, Role.MENDS]
    training: Annotated[FlowTrainingConfig, Role.MENDS]
    sampling: SamplingConfig
    target: TargetConfig
    ablation: AblationConfig
    utility: UtilityConfig
    phantoms: Annotated[PairPhantomConfig, Role.CASES]

    @property
    def folders(self) -> list[str]:
        """The folders and tables of pairs, one by one."""
        return listed(self.data_dir)

    @property
    def memory(self) -> str:
        """What takes a training's memory, and which keys make it less."""
        return takes_memory(self.training.batch_size, self.data.input_size)

    def problems(self) -> Iterator[str]:
        if self.profile == "full" and not self.folders and self.mode != "sample":
            yield "data_dir: profile=full needs real data; give data_dir=FOLDER of FLAIR volumes and masks"
        if self.profile == "full" and self.mode in ("adapt", "utility") and self.base is None:
            yield "base: profile=full needs a base; give base=models:/meanflow_base/VERSION, or train one with mode=base"
        if self.profile == "full" and self.mode == "base" and self.vae is None:
            yield "vae: profile=full needs a VAE; give vae=FILE, the weights of MAISI's autoencoder"
        by_file = self.base is not None and not self.base.startswith("models:/")
        if self.mode == "adapt" and self.vae is not None and not by_file:
            yield f"vae: found {self.vae} with a base that comes with its own VAE; it is for mode=base, and for base=FILE"
        if by_file and self.vae is None and self.mode in ("adapt", "utility"):
            yield f"base: found {self.base}, a file of the U-Net alone; give vae=FILE too, and vae_scale"
        if self.mode == "sample" and self.resume:
            yield "resume: is of a training; mode=sample trains nothing"
        if self.ablation.seeds and self.ablation.epochs <= self.training.warmup_epochs:
            warm_up = self.training.warmup_epochs
            yield f"ablation.epochs: found {self.ablation.epochs}; above training.warmup_epochs ({warm_up})"
        if self.augment_dir is not None and not self.augment:
            yield f"augment_dir: found {self.augment_dir} without pairs to write; give augment=N"
        if self.augment and self.mode not in ("adapt", "sample"):
            yield f"augment: found {self.augment} with mode={self.mode}; it is for mode=adapt and mode=sample"
