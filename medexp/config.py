"""Configuration of the phases: frozen dataclasses whose values come from `configs/<phase>/<profile>.yaml`.

A field without a default must stand in the profile: nothing is filled in silently. Each class lists what is wrong with its
values in `problems()`, with the dotted key as a user writes it; `problems_of` collects them over a whole configuration.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class PhantomConfig:
    """The embedded data, used when `data_dir` is not given.

    Args:
        glioma_patients: Patients with a glioma, the domain that the demo base is pretrained on.
        meningioma_patients: Patients with a meningioma, the domain that is adapted to.
        seed: Seed of the phantoms, apart from the training's.
    """

    glioma_patients: int
    meningioma_patients: int
    seed: int

    def problems(self) -> Iterator[str]:
        for key in ("glioma_patients", "meningioma_patients"):
            if getattr(self, key) < 4:
                yield f"{key}: found {getattr(self, key)}; at least 4 patients are needed to fill the splits"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"


@dataclass(frozen=True)
class DataConfig:
    """How cases are read, split and sampled.

    Args:
        label_map: From the labels in the segmentation files to 0 background, 1 necrotic or non-enhancing core, 2 edema,
            3 enhancing tumour. BraTS 2021 and older write 4 for the last. 0 is always background.
        patient_pattern: Regular expression on a case's folder name; its first group is the patient. A case that it does not
            match is a patient of its own.
        exclude: Cases to leave out, by folder name.
        spacing: Voxel spacing that volumes are resampled to, in mm, along R, A, S.
        input_size: Size of the network's input in voxels; multiples of 32.
        val_fraction: Share of the patients that is validated on, 0 to 1.
        test_fraction: Share of the patients that is held back, 0 to 1.
        jobs: Cases read in parallel.
    """

    label_map: dict[int, int]
    patient_pattern: str
    exclude: tuple[str, ...]
    spacing: tuple[float, float, float]
    input_size: tuple[int, int, int]
    val_fraction: float
    test_fraction: float
    jobs: int

    def problems(self) -> Iterator[str]:
        if bad := sorted(set(self.label_map.values()) - {0, 1, 2, 3}):
            yield f"label_map: maps to {bad}; allowed are 0, 1, 2 and 3"
        if min(self.spacing) <= 0:
            yield f"spacing: found {self.spacing}; give three lengths in mm above 0"
        if any(size <= 0 or size % 32 for size in self.input_size) or self.input_size == (32, 32, 32):
            yield f"input_size: found {self.input_size}; give three multiples of 32, at least one of them above 32"
        yield from _fractions(self)
        if self.jobs < 1:
            yield f"jobs: found {self.jobs}; at least 1"


@dataclass(frozen=True)
class ImagePhantomConfig:
    """The embedded 2D images, used when neither `slices_dir` nor `kaggle_dir` is given.

    Args:
        patients: Patients with a meningioma whose volumes are cut into slices.
        yes_images: Images with a tumour in the Kaggle-like folder, exact duplicates included.
        no_images: Images without a tumour in it, exact duplicates included.
        seed: Seed of the phantoms, apart from the training's.
    """

    patients: int
    yes_images: int
    no_images: int
    seed: int

    def problems(self) -> Iterator[str]:
        if self.patients < 4:
            yield f"patients: found {self.patients}; at least 4 are needed to fill the splits"
        for key in ("yes_images", "no_images"):
            if getattr(self, key) < 8:
                yield f"{key}: found {getattr(self, key)}; at least 8 images are needed to fill the splits"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"


@dataclass(frozen=True)
class ImageDataConfig:
    """How 2D images are read, split and sampled.

    Args:
        input_size: Height and width that images are brought to, in pixels; at least 16 each.
        min_tumour_pixels: Mask pixels, before resizing, from which on a slice counts as one with a tumour.
        patient_pattern: Regular expression on the name of the scan that an image comes from (a slice's name without
            `_slice_NNN`, else a file's without its ending); its first group is the patient. A scan that it does not match is a
            patient of its own. Where a file's metadata names the patient, that counts.
        val_fraction: Share that is validated on, 0 to 1: of the patients of slices, of each class of Kaggle images.
        test_fraction: Share that is held back, 0 to 1.
        split_seed: Seed of the splits, apart from the training's: another training is judged on the same cases.
        weights: How often a source (brats, kaggle) is drawn from in training, against the other; above 0.
        jobs: Processes that read images in parallel.
    """

    input_size: tuple[int, int]
    min_tumour_pixels: int
    patient_pattern: str
    val_fraction: float
    test_fraction: float
    split_seed: int
    weights: dict[str, float]
    jobs: int

    def problems(self) -> Iterator[str]:
        if min(self.input_size) < 16:
            yield f"input_size: found {self.input_size}; give a height and a width of at least 16 pixels"
        if self.min_tumour_pixels < 1:
            yield f"min_tumour_pixels: found {self.min_tumour_pixels}; at least 1"
        yield from _fractions(self)
        if self.split_seed < 0:
            yield f"split_seed: found {self.split_seed}; at least 0"
        if set(self.weights) != {"brats", "kaggle"} or not all(0 < weight < math.inf for weight in self.weights.values()):
            yield f"weights: found {self.weights}; give brats and kaggle a number above 0 each"
        if self.jobs < 1:
            yield f"jobs: found {self.jobs}; at least 1"


@dataclass(frozen=True)
class SliceConfig:
    """How volumes are cut into axial slices.

    Args:
        channel: The channel that is cut: t2f, t1c, t1n or t2w.
        every: Every n-th slice is kept.
        min_foreground: Share of a slice, 0 to 1, that brain must fill for it to be kept; blank slices never are.
    """

    channel: Literal["t2f", "t1c", "t1n", "t2w"]
    every: int
    min_foreground: float

    def problems(self) -> Iterator[str]:
        if self.every < 1:
            yield f"every: found {self.every}; at least 1"
        if not 0 <= self.min_foreground < 1:
            yield f"min_foreground: found {self.min_foreground}; 0 to below 1"


@dataclass(frozen=True)
class NetworkConfig:
    """The SwinUNETR. BrainSegFounder-Tiny is feature_size 48, window_size 7.

    Args:
        feature_size: Channels after patch embedding; a multiple of 12. The bottleneck has 16 times as many.
        window_size: Edge of an attention window in tokens.
    """

    feature_size: int
    window_size: int

    def problems(self) -> Iterator[str]:
        if self.feature_size < 12 or self.feature_size % 12:
            yield f"feature_size: found {self.feature_size}; give a multiple of 12"
        if self.window_size < 2:
            yield f"window_size: found {self.window_size}; at least 2 tokens"


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in the SwinViT: W0 + (alpha / rank) B A.

    Args:
        rank: Rank of the update; at least 1.
        alpha: Scale of the update, as alpha / rank.
        target_stages: Stages of the SwinViT that are adapted, 1 to 4.
        target_modules: Linear layers of a block that are adapted: qkv and proj of the attention, linear1, linear2 of the MLP.
        lora_dropout: Dropout on the adapter's input, 0 to below 1.
        mode: lora, or dora for weight-decomposed adapters.
    """

    rank: int
    alpha: float
    target_stages: tuple[int, ...]
    target_modules: tuple[Literal["qkv", "proj", "linear1", "linear2"], ...]
    lora_dropout: float
    mode: Literal["lora", "dora"]

    def problems(self) -> Iterator[str]:
        if self.rank < 1:
            yield f"rank: found {self.rank}; at least 1"
        if self.alpha <= 0:
            yield f"alpha: found {self.alpha}; above 0"
        if not self.target_stages or set(self.target_stages) - {1, 2, 3, 4}:
            yield f"target_stages: found {list(self.target_stages)}; one or more of 1, 2, 3, 4"
        if not self.target_modules:
            yield "target_modules: none given; one or more of qkv, proj, linear1, linear2"
        if not 0 <= self.lora_dropout < 1:
            yield f"lora_dropout: found {self.lora_dropout}; 0 to below 1"


@dataclass(frozen=True)
class TrainingConfig:
    """One training of the fit loop.

    Args:
        epochs: Passes over the training cases.
        optimizer: adamw.
        weight_decay: Decoupled weight decay.
        batch_size: Cases a step and process.
        accumulate: Steps whose gradients are averaged before the optimiser moves.
        scheduler: cosine, down to 0, after the warm-up.
        warmup_epochs: Epochs of linear warm-up of the learning rates.
        grad_clip: Largest norm of all gradients together.
        precision: fp32 or bf16-mixed.
        validate_every: Epochs between validations; the last epoch is always validated.
        patience: Epochs without a better validation score after which training stops; 0 never stops early.
        workers: Processes that load data; 0 loads in the training process.
    """

    epochs: int
    optimizer: Literal["adamw"]
    weight_decay: float
    batch_size: int
    accumulate: int
    scheduler: Literal["cosine"]
    warmup_epochs: int
    grad_clip: float
    precision: Literal["fp32", "bf16-mixed"]
    validate_every: int
    patience: int
    workers: int

    def problems(self) -> Iterator[str]:
        for key in ("epochs", "batch_size", "accumulate", "validate_every"):
            if getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; at least 1"
        for key in ("weight_decay", "warmup_epochs", "patience", "workers"):
            if getattr(self, key) < 0:
                yield f"{key}: found {getattr(self, key)}; at least 0"
        rates = [field.name for field in dataclasses.fields(self) if field.name.startswith("lr_")]
        for key in (*rates, "grad_clip"):
            if not getattr(self, key) > 0:
                yield f"{key}: found {getattr(self, key)}; above 0"
        if self.warmup_epochs >= self.epochs:
            yield f"warmup_epochs: found {self.warmup_epochs}; below epochs ({self.epochs})"


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
class AuxHeadsConfig:
    """Auxiliary regression of volume, location and shape from the bottleneck.

    Args:
        enabled: Whether the heads are trained.
        lambda_aux: Weight of their loss after the warm-up.
        warmup_start_epoch: Epoch before which the weight is 0.
        warmup_duration: Epochs over which it then rises to lambda_aux.
    """

    enabled: bool
    lambda_aux: float
    warmup_start_epoch: int
    warmup_duration: int

    def problems(self) -> Iterator[str]:
        for key in ("lambda_aux", "warmup_start_epoch", "warmup_duration"):
            if getattr(self, key) < 0:
                yield f"{key}: found {getattr(self, key)}; at least 0"


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
class SearchConfig:
    """How a head's hyperparameter is chosen: the least log loss in cross-validation across training patients.

    Args:
        folds: Folds of the cross-validation, by patient; fewer where a class has fewer patients.
        c: Candidates for C, the inverse penalty, of the logistic regression.
        hidden_size: Candidates for the width of the MLP's hidden layer.
        weight_decay: L2 penalty of the MLP's weights.
        iterations: Most steps of the solver.
    """

    folds: int
    c: tuple[float, ...]
    hidden_size: tuple[int, ...]
    weight_decay: float
    iterations: int

    def problems(self) -> Iterator[str]:
        if self.folds < 2:
            yield f"folds: found {self.folds}; at least 2"
        for key in ("c", "hidden_size"):
            if not getattr(self, key) or min(getattr(self, key)) <= 0:
                yield f"{key}: found {list(getattr(self, key))}; one or more values above 0"
        if self.weight_decay < 0:
            yield f"weight_decay: found {self.weight_decay}; at least 0"
        if self.iterations < 1:
            yield f"iterations: found {self.iterations}; at least 1"


@dataclass(frozen=True)
class PrepareConfig:
    """Check a data folder, split it by patient, cache semantic features and write the manifest (Module 0).

    Args:
        profile: demo (embedded phantoms, minutes on two cores) or full (the specification's numbers).
        data_dir: Folder of BraTS-MEN cases; without it the embedded phantoms are used (demo only).
        splits: A data_splits.json to use as it stands; without it patients are split by `seed`.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        slices_dir: Folder that gets the axial slices of all cases, for phase2_1 to phase2_3; without it none are cut.
        seed: Seed of the split.
        data: How cases are read, split and sampled.
        phantoms: The embedded data.
        slices: How volumes are cut into slices.
    """

    profile: str
    data_dir: str | None
    splits: str | None
    output_dir: str
    cache_dir: str | None
    slices_dir: str | None
    seed: int
    data: DataConfig
    phantoms: PhantomConfig
    slices: SliceConfig

    def problems(self) -> Iterator[str]:
        yield from _needs_data(self.profile, self.data_dir)
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"


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
        recover: Whether a failure that the ladder of configs/phase1/recovery.yaml may mend is recovered from at once.
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
        yield from _needs_data(self.profile, self.data_dir)
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
        if self.profile == "full" and self.checkpoint is None:
            yield "checkpoint: profile=full needs the base; give checkpoint=FILE or checkpoint=models:/NAME@alias"
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}; at least 1"


@dataclass(frozen=True)
class ProbeConfig:
    """What a registered encoder's features tell about a labelled table, beside what simpler sources tell.

    Args:
        profile: demo (embedded phantoms, seconds on two cores) or full (a table of real data).
        encoder: The encoder: models:/NAME@alias or models:/NAME/VERSION.
        table: TSV with the columns id, path (a BraTS case folder or a 4D NIfTI file), label, patient and, where it is split,
            split (train and val fit the head, test judges it). Without it phantoms of meningioma and glioma (demo only).
        head: logistic (logistic regression) or mlp (one hidden layer).
        test_fraction: Share of the patients of each label that is tested on, 0 to 1, where the table has no column split.
        bootstrap_samples: Resamples of an interval.
        confidence: Coverage of an interval, 0 to 1.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the split, the folds, the random encoder, the MLP and the resamples.
        device: auto, cpu, cuda or mps.
        threads: Threads of torch; without it torch decides.
        jobs: Cases read in parallel.
        search: How the head's hyperparameter is chosen.
        phantoms: The embedded data, of a seed that no encoder was trained on.
    """

    profile: str
    encoder: str
    table: str | None
    head: Literal["logistic", "mlp"]
    test_fraction: float
    bootstrap_samples: int
    confidence: float
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    jobs: int
    search: SearchConfig
    phantoms: PhantomConfig

    def problems(self) -> Iterator[str]:
        if self.profile == "full" and self.table is None:
            yield "table: profile=full needs real data; give table=FILE.tsv"
        for key in ("test_fraction", "confidence"):
            if not 0 < getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; above 0 and below 1"
        if self.bootstrap_samples < 100:
            yield f"bootstrap_samples: found {self.bootstrap_samples}; at least 100"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}; at least 1"
        if self.jobs < 1:
            yield f"jobs: found {self.jobs}; at least 1"


@dataclass(frozen=True)
class PromoteConfig:
    """Make a version the champion of its model, when the model's policy supports it (registry/<model>.yaml).

    Args:
        profile: demo or full; they say which data the champion is scored on with reevaluate=true.
        model: Name of the registered model.
        version: The version; without it the candidate.
        reevaluate: Whether a champion that was judged on other cases is scored on the version's first; for that the data keys
            below must be those of the run that made the version.
        first: Whether the version becomes the first champion of a model whose policy does not give that by itself.
        bootstrap_samples: Resamples of the interval.
        data_dir: Folder of BraTS-MEN cases; without it the embedded phantoms are used (demo only).
        splits: A data_splits.json to use as it stands; without it patients are split by `seed`.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the split and of the resamples.
        device: auto, cpu, cuda or mps.
        threads: Threads of torch; without it torch decides.
        data: How cases are read and split.
        phantoms: The embedded data.
    """

    profile: str
    model: str
    version: int | None
    reevaluate: bool
    first: bool
    bootstrap_samples: int
    data_dir: str | None
    splits: str | None
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    data: DataConfig
    phantoms: PhantomConfig

    def problems(self) -> Iterator[str]:
        if self.reevaluate:
            yield from _needs_data(self.profile, self.data_dir)
        if self.version is not None and self.version < 1:
            yield f"version: found {self.version}; at least 1"
        if self.bootstrap_samples < 100:
            yield f"bootstrap_samples: found {self.bootstrap_samples}; at least 100"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
        if self.threads is not None and self.threads < 1:
            yield f"threads: found {self.threads}; at least 1"


@dataclass(frozen=True)
class MainConfig:
    """The pipeline: prepare, phase1, promote and probe, one after another; a step whose inputs are unchanged is not run again.

    Args:
        profile: demo (embedded phantoms, minutes on two cores) or full (the specification's numbers), of all steps.
        data_dir: Folder of BraTS-MEN cases; without it the embedded phantoms are used (demo only).
        splits: A data_splits.json to use as it stands; without it patients are split by `seed`.
        checkpoint: The base of phase1: a BrainSegFounder checkpoint file or models:/NAME@alias; without it a small base is
            pretrained on glioma phantoms (demo only).
        table: The labelled table of probe; without it meningioma is told from glioma on phantoms (demo only).
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of all steps.
        device: auto, cpu, cuda or mps; without it each step's own.
        threads: Threads of torch a process; without it each step's own.
        prepare: Configuration of prepare.
        phase1: Configuration of phase1.
        promote: Configuration of promote; the version is the one that phase1 registers.
        probe: Configuration of probe.
    """

    apart: ClassVar[tuple[str, ...]] = ("probe.phantoms.",)
    """Keys of a step that are given by its own name alone: no encoder may be probed on what it was trained on."""

    profile: str
    data_dir: str | None
    splits: str | None
    checkpoint: str | None
    table: str | None
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"] | None
    threads: int | None
    prepare: PrepareConfig
    phase1: Phase1Config
    promote: PromoteConfig
    probe: ProbeConfig

    def problems(self) -> Iterator[str]:
        steps = {name: getattr(self, name) for name in ("prepare", "phase1", "promote", "probe")}
        for key in (field.name for field in dataclasses.fields(self) if field.name not in steps):
            for step, block in steps.items():
                value, own = getattr(self, key), getattr(block, key, None)
                if value is not None and hasattr(block, key) and own != value:
                    yield f"{key} and {step}.{key}: found {value!r} and {own!r}; give {key} alone, it is for all steps"
        theirs = _data_keys(self.phase1)
        for step in ("prepare", "promote"):
            for key, own in _data_keys(steps[step]).items():
                if own != theirs[key]:
                    yield f"{step}.{key} and phase1.{key}: found {own!r} and {theirs[key]!r}; give {key}, it is one data set"
        if self.phase1.resume is not None:
            yield f"phase1.resume: found {self.phase1.resume}; leave it out: main goes on by itself when it is run again"
        if self.promote.model != "phase1_encoder_merged" or self.promote.version is not None:
            yield "promote.model and promote.version: leave them out; main promotes the phase1_encoder_merged that it made"
        if self.probe.encoder != "models:/phase1_encoder_merged@champion":
            yield f"probe.encoder: found {self.probe.encoder}; leave it out: main probes the champion that it made"


@dataclass(frozen=True)
class SweepConfig:
    """Search the settings of a phase with Optuna; what is searched stands in configs/<phase>/sweep.yaml.

    Args:
        profile: demo (embedded phantoms) or full, of the sweep and of the phase.
        phase: The phase whose settings are searched; its keys can be given as they are, such as training.epochs=4.
        study: Name of the study; the same name joins in or goes on. Without it one is made of phase and space.
        storage: Where the study lives: a journal file or a database's URL; without it a journal file in output_dir/studies.
        space: A YAML file to search instead of configs/<phase>/sweep.yaml.
        trials: Trials of the study, those of earlier calls and of other workers included.
        workers: Processes of this call that run trials.
        confirm: Fresh seeds that the chosen configuration is trained with again, for the mean and spread that are reported.
        test: Whether the chosen configuration is scored on the test split, once, at the end.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the sampler, and of every trial's training.
        device: auto, cpu, cuda or mps; without it the phase's own.
        threads: Threads of torch a process; without it the phase's own.
    """

    apart: ClassVar[tuple[str, ...]] = ()

    profile: str
    phase: str
    study: str | None
    storage: str | None
    space: str | None
    trials: int
    workers: int
    confirm: int
    test: bool
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"] | None
    threads: int | None

    def problems(self) -> Iterator[str]:
        for key in ("trials", "workers"):
            if getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; at least 1"
        if self.phase not in STUDIED:
            yield f"phase: found {self.phase!r}; {', '.join(STUDIED)} can be searched"
        elif not hasattr(self, self.phase):
            yield f"phase: found {self.phase!r} in a file; which phase is searched is said as a flag, phase={self.phase}"
        else:
            settings = getattr(self, self.phase)
            if getattr(settings, "resume", None) is not None:
                yield f"resume: found {settings.resume}; leave it out: a sweep goes on by itself when it is run again"
            if getattr(settings, "recover", False):
                yield "recover: found true; leave it out: a trial that fails is one of the study's trials"
        if self.confirm < 0:
            yield f"confirm: found {self.confirm}; at least 0"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"


@dataclass(frozen=True)
class RecoverConfig:
    """Climb a phase's recovery ladder, configs/<phase>/recovery.yaml, from a run that failed, until its BLOCKING checks pass.

    Args:
        profile: demo (embedded phantoms) or full, of the run that failed.
        phase: The phase that failed.
        run: Id of the run that failed; its configuration is where the ladder stands on.
        ladder: A YAML file to climb instead of configs/<phase>/recovery.yaml.
        search: Trials around the best rung when no rung passed; 0: none.
        study: Name of the study that the rungs are kept in; the same name goes on. Without it one is made of the run.
        storage: Where the study lives: a journal file or a database's URL; without it a journal file in output_dir/studies.
        output_dir: Folder that gets one folder a run, named by its run id; the failed run's folder is in it.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the sampler of the search.
    """

    profile: str
    phase: str
    run: str | None
    ladder: str | None
    search: int
    study: str | None
    storage: str | None
    output_dir: str
    cache_dir: str | None
    seed: int

    def problems(self) -> Iterator[str]:
        if self.phase not in RECOVERED:
            yield f"phase: found {self.phase!r}; {', '.join(RECOVERED)} can recover"
        if self.run is None:
            yield "run: not given; give the id of the run that failed, run=RUN_ID"
        if self.search < 0:
            yield f"search: found {self.search}; at least 0"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"


@dataclass(frozen=True)
class UNetConfig:
    """The multi-task U-Net. The specification's has base_filters 32 and depth 3: 2,014,019 parameters.

    Args:
        base_filters: Channels at full resolution; each level below has twice as many.
        depth: How often the resolution is halved; data.input_size is a multiple of 2 ** depth.
    """

    base_filters: int
    depth: int

    def problems(self) -> Iterator[str]:
        for key in ("base_filters", "depth"):
            if getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; at least 1"


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


@dataclass(frozen=True)
class WarmUpTrainingConfig(TrainingConfig):
    """The training of encoder and segmentation decoder.

    Args:
        lr_network: Learning rate.
    """

    lr_network: float


@dataclass(frozen=True)
class Phase2_1Config(ImagePhaseConfig):
    """Train the multi-task U-Net's encoder and segmentation decoder on slices (specification 003, Phase 2.1).

    Args:
        min_dice: P2_1-DICE's bar for the mean validation Dice of a scan's slices together.
        network: The multi-task U-Net.
    """

    min_dice: float
    network: UNetConfig
    training: WarmUpTrainingConfig

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _fits_depth(self)


@dataclass(frozen=True)
class HeadTrainingConfig(TrainingConfig):
    """The training of the classification head.

    Args:
        lr_head: Learning rate.
        class_weights: balanced weighs classes by the inverse of how often training draws them; none weighs all cases alike.
        cache_features: Whether the frozen encoder sees each image once; false computes its features anew in every step, for
            the same result in far more time.
    """

    lr_head: float
    class_weights: Literal["balanced", "none"]
    cache_features: bool


@dataclass(frozen=True)
class Phase2_2Config(ImagePhaseConfig):
    """Train a classification head on a frozen encoder (specification 003, Phase 2.2).

    Args:
        encoder: models:/NAME@alias or models:/NAME/VERSION of a multi-task U-Net or of an encoder of volumes, or a multi-task
            U-Net's checkpoint file.
        kaggle_dir: Folder with yes/ and no/, of JPEG, PNG or npz files.
        table: For an encoder of volumes: TSV with the columns id, path, label, patient and, where it is split, split, as probe
            takes it; without it glioma is told from meningioma on phantoms (demo only).
        min_accuracy: P2_2-ACCURACY's bar for the validation accuracy.
        network: The multi-task U-Net of a checkpoint file; a registered one brings its own.
        volumes: Phantoms that an encoder of volumes is given, of a seed that no encoder was trained on.
    """

    encoder: str
    kaggle_dir: str | None
    table: str | None
    min_accuracy: float
    network: UNetConfig
    training: HeadTrainingConfig
    volumes: PhantomConfig

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _fits_depth(self)


@dataclass(frozen=True)
class JointTrainingConfig(TrainingConfig):
    """The training of both tasks in alternating batches.

    Args:
        lr_encoder: Learning rate of the encoder; below those of decoder and head.
        lr_decoder: Learning rate of the segmentation decoder.
        lr_head: Learning rate of the classification head.
        class_weights: As in phase2_2.
    """

    lr_encoder: float
    lr_decoder: float
    lr_head: float
    class_weights: Literal["balanced", "none"]

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for key in ("lr_decoder", "lr_head"):
            if self.lr_encoder >= getattr(self, key):
                yield f"lr_encoder: found {self.lr_encoder:g}; below {key} ({getattr(self, key):g})"


@dataclass(frozen=True)
class Phase2_3Config(ImagePhaseConfig):
    """Train encoder, segmentation decoder and classification head together, in alternating batches (specification 003).

    Args:
        multitask: The network of phase 2.1: models:/NAME@alias or models:/NAME/VERSION.
        classifier: The head of phase 2.2, trained on that network's encoder: models:/NAME@alias or models:/NAME/VERSION.
        kaggle_dir: Folder with yes/ and no/, of JPEG, PNG or npz files.
        margin: Largest loss of Dice, and of balanced accuracy, against phases 2.1 and 2.2 that counts as none.
    """

    multitask: str
    classifier: str
    kaggle_dir: str | None
    margin: float
    training: JointTrainingConfig

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.margin >= 0:
            yield f"margin: found {self.margin}; at least 0"


STUDIED: dict[str, type] = {
    "phase1": Phase1Config,
    "phase2_1": Phase2_1Config,
    "phase2_2": Phase2_2Config,
    "phase2_3": Phase2_3Config,
}
"""Phases whose settings can be searched, those with a `sweep.yaml`, and their configurations."""

RECOVERED = ("phase1",)
"""Those of them that recover from a failed check: those with a `recovery.yaml`."""


def problems_of(config: Any, prefix: str = "") -> list[str]:
    """All problems of a configuration and of the blocks in it, each with its dotted key first."""
    found = [f"{prefix}{problem}" for problem in config.problems()]
    for field in dataclasses.fields(config):
        block = getattr(config, field.name)
        if dataclasses.is_dataclass(block):
            found += problems_of(block, f"{prefix}{field.name}.")
    return found


def cache_root(cache_dir: str | None) -> Path:
    """The folder for what is computed once: `cache_dir`, else $XDG_CACHE_HOME/medexp, else ~/.cache/medexp."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute()  # the processes that read cases may have another working directory
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "medexp"


def _fractions(data: DataConfig | ImageDataConfig) -> Iterator[str]:
    val, test = data.val_fraction, data.test_fraction
    if val <= 0 or test < 0 or val + test >= 1:
        yield f"val_fraction and test_fraction: found {val} and {test}; the first is above 0, their sum below 1"


def _data_keys(config: Any) -> dict[str, Any]:
    """What says which cases a phase reads, by dotted key."""
    blocks = {f"{name}.{key}": value for name in ("data", "phantoms") for key, value in vars(getattr(config, name)).items()}
    return {"data_dir": config.data_dir, "splits": config.splits} | blocks


def _needs_data(profile: str, data_dir: str | None) -> Iterator[str]:
    if profile == "full" and data_dir is None:
        yield "data_dir: profile=full needs real data; give data_dir=FOLDER of BraTS-MEN cases"


def _fits_depth(config: Phase2_1Config | Phase2_2Config) -> Iterator[str]:
    step = 2**config.network.depth
    if any(size % step for size in config.data.input_size):
        yield f"data.input_size: found {config.data.input_size}; multiples of {step}, which is 2 ** network.depth"
    elif max(config.data.input_size) == step:  # batch norm takes more than one value
        yield f"network.depth: found {config.network.depth}; it leaves one pixel of {config.data.input_size}: lower it"
