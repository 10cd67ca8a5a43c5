"""Configuration of oct: the keys of docs/requirements/oct.md, and what the comparison needs beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Predicate

from medexp.config.bounds import Count, Fraction, Natural, NotNegative, Positive, Told
from medexp.config.data import class_names
from medexp.config.keys import Called, Compared, Role, Short, Subject
from medexp.config.shared import (
    CacheDir,
    Confidence,
    Device,
    Folds,
    Jobs,
    OutputDir,
    Profile,
    Resume,
    Samples,
    Threads,
    takes_memory,
)
from medexp.config.training import TrainingConfig

VolumeSize = Annotated[
    tuple[int, int, int],
    Predicate(lambda size: min(size) >= 2),
    Told("give D, H and W, at least 2 each"),
]


@dataclass(frozen=True)
class PathsConfig:
    """What is compared, and on what.

    Args:
        labels_tsv: participants.tsv, a file or s3://bucket/key; without it the one in the data.
        checkpoint_path: The encoders: files, folders as transformers writes them, s3://bucket/key, or models:/NAME@alias;
            several with commas between them. NAME=FILE names one; without it the file's name does. Without any, the demo's.
        data: The volumes: a folder or s3://bucket/prefix; without it s3_bucket and s3_prefix, and without these phantoms
            (demo only).
        s3_bucket: The bucket, where `data` is not given.
        s3_prefix: What the keys of the volumes begin with.
    """

    labels_tsv: Annotated[str | None, Role.CASES, Short("labels")]
    checkpoint_path: Annotated[tuple[str, ...], Short("checkpoints"), Subject()]
    data: Annotated[str | None, Role.CASES, Short("data")]
    s3_bucket: Annotated[str | None, Role.CASES]
    s3_prefix: Annotated[str, Role.CASES]

    @property
    def volumes(self) -> str | None:
        """Where the volumes are; None: phantoms."""
        if self.data is None and self.s3_bucket is not None:
            return f"s3://{self.s3_bucket}/{self.s3_prefix}".rstrip("/")
        return self.data

    @property
    def checkpoints(self) -> list[str]:
        """The encoders, one by one."""
        return [one.strip() for given in self.checkpoint_path for one in given.split(",") if one.strip()]


@dataclass(frozen=True)
class S3Config:
    """Where a bucket answers. Region and credentials are AWS's own variables and files; none is ever a key.

    Args:
        endpoint_env: The environment variable that holds the address of the server.
    """

    endpoint_env: Annotated[str, Role.WHERE]


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to volumes at random while the encoder trains, and the size of all volumes.

    Args:
        flip: Mirror from left to right, half of the times.
        random_crop: Cut a box of 90 to 100 % of each edge, and bring it to the size.
        intensity_jitter: Scale and shift intensities by up to a tenth of their standard deviation.
        resize: D, H and W in voxels, B-scans, rows and columns; without it what each encoder's card says.
    """

    flip: bool
    random_crop: bool
    intensity_jitter: bool
    resize: VolumeSize | None


@dataclass(frozen=True)
class OctDataConfig:
    """How volumes are read.

    Args:
        num_workers: Processes that load volumes while an encoder trains; 0 loads in the training process.
        prefetch_factor: Batches that each of them has ready.
        persistent_workers: Whether they live on from epoch to epoch.
        pin_memory: Whether batches lie in pinned memory, which a GPU reads faster.
        cache_dir: Folder for copies of what was read from a bucket; without it a folder in the cache.
        cache_limit_gb: Most gigabytes in it; what was not used for longest goes first.
        batch_size: Volumes a step.
        val_batch_size: Volumes at a time where nothing is trained.
        refresh: Ask the bucket for its keys anew, instead of going by the list that was kept.
        normalisation: What is done to intensities: card (as the encoder was pretrained, by its card), zscore (mean 0 and
            standard deviation 1 of the volume) or unit (0 to 1 between percentiles 0.5 and 99.5).
        max_failures: Share of the volumes, 0 to 1, that may fail to be read before the run stops.
    """

    num_workers: Annotated[Natural, Role.WHERE]
    prefetch_factor: Annotated[Count, Role.WHERE]
    persistent_workers: Annotated[bool, Role.WHERE]
    pin_memory: Annotated[bool, Role.WHERE]
    cache_dir: CacheDir
    cache_limit_gb: Annotated[Positive | None, Role.WHERE]
    batch_size: Count
    val_batch_size: Annotated[Count, Role.WHERE]
    refresh: Annotated[bool, Role.WHERE]
    normalisation: Literal["card", "zscore", "unit"]
    max_failures: Annotated[Fraction, Role.CASES]
    jobs: Jobs
    augment: AugmentConfig


@dataclass(frozen=True)
class ClassesConfig:
    """The classes.

    Args:
        mapping: From the values of study_group to the number of the class, 0 to K - 1.
    """

    mapping: Annotated[dict[str, int], Role.CASES]

    def problems(self) -> Iterator[str]:
        if sorted(set(self.mapping.values())) != list(range(len(set(self.mapping.values())))) or len(self.mapping) < 2:
            yield f"mapping: found {self.mapping}; give at least two groups, numbered from 0 without gaps"

    @property
    def names(self) -> list[str]:
        """Names of the classes in order; several groups of one class are joined."""
        return class_names(self.mapping)


@dataclass(frozen=True)
class OctHeadConfig:
    """The classification head.

    Args:
        pooling: mean (of all tokens; features are computed once and kept) or attentive (V-JEPA's: one cross-attention over all
            tokens, which are kept).
        hidden: Width of a hidden layer; 0: a linear head.
        dropout: Before the last layer, 0 to below 1.
    """

    pooling: Annotated[Literal["mean", "attentive"], Called("")]
    hidden: Natural
    dropout: Fraction


@dataclass(frozen=True)
class OctModelConfig:
    """Encoder and head.

    Args:
        emb_dim: Width of the features, which is compared with what the encoders give; null: whatever it is.
        freeze_encoder: Whether the encoder stays as it is: a probe. False trains it too.
        unfreeze_at_epoch: Epoch, from 0, from which an encoder that is not frozen trains; -1: never.
    """

    emb_dim: Count | None
    freeze_encoder: bool
    unfreeze_at_epoch: Annotated[int, Ge(-1)]
    head: OctHeadConfig

    @property
    def trains_encoder(self) -> bool:
        return not self.freeze_encoder and self.unfreeze_at_epoch >= 0

    def problems(self) -> Iterator[str]:
        if not self.freeze_encoder and self.unfreeze_at_epoch < 0:
            yield "unfreeze_at_epoch: found -1 with model.freeze_encoder=false; give the epoch from which the encoder trains"


@dataclass(frozen=True)
class TrainConfig:
    """The training of each head, and of the encoder where it trains.

    Args:
        epochs: Passes over the training volumes.
        optim: AdamW.
        sched: cosine, down to 0, after the warm-up.
        lr_head: Learning rate of the head.
        lr_encoder: Learning rate of an encoder that trains.
        weight_decay: Decoupled weight decay.
        lr_head_grid: Rates of heads that are trained side by side on the same batches, of which the best on the validation
            participants is kept; empty: lr_head alone.
        weight_decay_grid: Decays, likewise, each with each of the rates; empty: weight_decay alone.
        warmup_epochs: Epochs of linear warm-up of the learning rates.
        class_weights: auto (the inverse of how often a class is there), none, or a list of one weight a class.
        precision: fp32 or bf16, of what trains. Features of frozen encoders, and what is judged, are computed in fp32, as
            the registered model is used.
        patience: Epochs without a better balanced accuracy on the validation participants after which training stops; 0 never
            stops early, and keeps the last.
        grad_clip: Largest norm of all gradients together.
        accumulate: Steps whose gradients are averaged before the optimiser moves.
        gradient_checkpointing: Whether an encoder that trains computes the inside of its blocks again instead of keeping it:
            less memory, more time.
        deterministic: Whether operations that differ from run to run are refused (torch.use_deterministic_algorithms).
    """

    epochs: Annotated[Count, Compared()]
    optim: Literal["AdamW"]
    sched: Literal["cosine"]
    lr_head: Annotated[Positive, Compared()]
    lr_encoder: Positive
    weight_decay: NotNegative
    lr_head_grid: tuple[Positive, ...]
    weight_decay_grid: tuple[NotNegative, ...]
    warmup_epochs: Natural
    class_weights: Literal["auto", "none"] | tuple[Positive, ...]
    precision: Literal["fp32", "bf16"]
    patience: Annotated[Natural, Role.JUDGING]
    grad_clip: Positive
    accumulate: Count
    gradient_checkpointing: Annotated[bool, Role.WHERE]
    deterministic: bool

    def problems(self) -> Iterator[str]:
        if self.warmup_epochs >= self.epochs:
            yield f"warmup_epochs: found {self.warmup_epochs}; below epochs ({self.epochs})"


@dataclass(frozen=True)
class LogConfig:
    """Where results go.

    Args:
        wandb: Read and answered: runs go to MLflow, and nowhere else.
        ckpt_dir: A folder that gets, for each encoder, copies of best.ckpt, val_preds.parquet and what belongs to them, beside
            the run's own.
    """

    wandb: Annotated[bool, Role.WHERE]
    ckpt_dir: Annotated[str | None, Role.WHERE]


@dataclass(frozen=True)
class OctPhantomConfig:
    """The embedded data, used when no data are given.

    Args:
        participants: People, of four groups at three sites.
        seed: Seed of the phantoms, apart from the training's.
    """

    participants: Annotated[int, Ge(24), Told("at least 24 people are needed to fill groups and splits")]
    seed: Natural


@dataclass(frozen=True)
class OctConfig:
    """Compare pretrained 3D OCT encoders on one classification task (docs/requirements/oct.md).

    Args:
        project_name: Name of the study, a tag of the run.
        seed: Seed of the first training of each encoder; the others have the next ones.
        seeds: Trainings of each encoder.
        judged: The split that the leaderboard is of: test, or val, by which epochs are chosen. With folds it is training and
            validation together, out of fold.
    """

    profile: Profile
    project_name: Annotated[str, Role.WHERE]
    resume: Resume
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Annotated[Natural, Called("s", last=True)]
    seeds: Annotated[int, Ge(1), Le(100), Role.JUDGING]
    device: Device
    threads: Threads
    bootstrap_samples: Samples
    confidence: Confidence
    judged: Annotated[Literal["test", "val"], Role.JUDGING]
    folds: Folds
    paths: PathsConfig
    s3: S3Config
    data: OctDataConfig
    classes: ClassesConfig
    model: OctModelConfig
    train: Annotated[TrainConfig, Role.MENDS]
    log: LogConfig
    phantoms: Annotated[OctPhantomConfig, Role.CASES]

    @property
    def memory(self) -> str:
        """What takes a training's memory, and which keys make it less."""
        return takes_memory(self.data.batch_size, self.data.augment.resize or ("the encoder's size",), ("data", "train"))

    @property
    def training(self) -> TrainingConfig:
        """The training as the fit loop takes it; out of fold no epoch is chosen."""
        train = self.train
        return TrainingConfig(
            epochs=train.epochs,
            optimizer="adamw",
            weight_decay=train.weight_decay,
            batch_size=self.data.batch_size,
            accumulate=train.accumulate,
            scheduler="cosine",
            warmup_epochs=train.warmup_epochs,
            grad_clip=train.grad_clip,
            precision="bf16-mixed" if train.precision == "bf16" else "fp32",
            validate_every=1,
            patience=0 if self.folds else train.patience,
            workers=self.data.num_workers if self.model.trains_encoder else 0,
        )

    @property
    def told(self) -> Iterator[str]:
        """What is asked for and comes to nothing, or is not seen in results, in lines."""
        if self.log.wandb:
            yield "log.wandb is read, and not used: runs go to MLflow alone"
        augment = self.data.augment
        if not self.model.trains_encoder and (augment.flip or augment.random_crop or augment.intensity_jitter):
            yield "data.augment is not used: features of a frozen encoder are computed once, of volumes as they are"
        if self.train.deterministic:
            yield "train.deterministic: operations that differ from run to run are refused while heads and encoders train"

    def problems(self) -> Iterator[str]:
        weights, count = self.train.class_weights, len(self.classes.names)
        if isinstance(weights, tuple) and len(weights) != count:
            yield f"train.class_weights: found {len(weights)} weights; one for each of the {count} classes"
        if self.profile == "full" and self.paths.volumes is None:
            yield "paths.data: profile=full needs real data; give data=FOLDER or data=s3://BUCKET/PREFIX"
        if self.profile == "full" and not self.paths.checkpoints:
            yield "paths.checkpoint_path: profile=full needs encoders; give checkpoints=FILE,FILE"
        if self.folds and (self.train.lr_head_grid or self.train.weight_decay_grid):
            yield "train.lr_head_grid: heads of a grid are chosen on the validation participants, whom folds judge; folds=0"
