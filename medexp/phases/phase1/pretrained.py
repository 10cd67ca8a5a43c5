"""The base that phase 1 adapts: a checkpoint file, a registered model, or a small network pretrained on glioma phantoms."""

import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from medexp import registry
from medexp.config.data import Oddity
from medexp.config.training import TrainingConfig
from medexp.data.manifest import seen_cases
from medexp.data.preprocessing import Preprocessing
from medexp.data.storage import local_file
from medexp.data.volumes.datasets import evaluation_dataset, training_dataset
from medexp.data.volumes.phantoms import PATIENT_PATTERN, ensure_phantoms
from medexp.data.volumes.prepared import prepare_volumes
from medexp.data.volumes.regions import REGIONS, to_regions
from medexp.data.volumes.steps import PadToMultiple, SlidingWindow
from medexp.data.volumes.transforms import preprocessing
from medexp.evaluation.segmentation import evaluate_segmentation, mean_scores, sliding_window
from medexp.files import alone, read_csv, replacing
from medexp.models.checkpoints import load_state, load_weights, save_checkpoint, weights_digest
from medexp.models.heads import SegmenterWithHeads
from medexp.models.kinds import build
from medexp.models.swin.network import DIVISOR, SwinSegmenter
from medexp.phases.phase1.config import Phase1Config
from medexp.registry.package import Parent
from medexp.registry.packages import CASES, weights_file
from medexp.registry.store import Pulled
from medexp.reporting import NullReporter
from medexp.training.loop import Batch, Group, Objective, fit
from medexp.training.losses import segmentation_loss

BASE_MODEL = "bsf_base"
SHIPPED = Path(__file__).with_name("bases")  # as the cache's folder of bases; `python -m benchmarks.demo_base` makes them anew
_SKIPS = ("encoder1", "encoder2", "encoder3", "encoder4")  # from the finest to the coarsest
_VERSION = 2  # of the pretraining below: raise it when its outcome changes, so that cached bases are made anew


@dataclass(frozen=True)
class Base:
    """The weights that are adapted, and where they come from.

    Attributes:
        state: Weights of the whole SwinUNETR, float32.
        source: The file or the models:/ reference.
        digest: sha256 of the weights.
        pulled: Its version in the registry, where it came from there.
        cases: What it was trained and selected on (`medexp.data.manifest.seen_cases`); None where that is not known.
    """

    state: dict[str, Tensor]
    source: str
    digest: str
    pulled: Pulled | None = None
    cases: pd.DataFrame | None = None

    @property
    def parent(self) -> Parent:
        """What it is, for what is made from it."""
        if self.pulled:
            return Parent(self.pulled.name, self.pulled.version, self.pulled.digest, self.digest)
        return Parent(Path(self.source).name, None, None, self.digest)


def architecture(config: Phase1Config) -> dict[str, int | str]:
    """The SwinUNETR of a configuration, as registered packages describe it."""
    shape = asdict(config.network)
    return {"kind": "swin_unetr", "in_channels": 4, "out_channels": len(REGIONS), **shape}


def in_windows(config: Phase1Config) -> Preprocessing:
    """What is done to a case's files before the whole network sees it, window by window."""
    done, size = preprocessing(config.data.spacing, config.data.input_size), config.data.input_size
    return done.then(SlidingWindow(size, config.validation.overlap, "gaussian"))


def as_a_whole(config: Phase1Config) -> Preprocessing:
    """What is done to a case's files before the encoder sees all of it."""
    return preprocessing(config.data.spacing, config.data.input_size).then(PadToMultiple(DIVISOR))


def initial(config: Phase1Config) -> SwinSegmenter:
    """The SwinUNETR of a configuration with initial weights, channels last: its convolutions are faster so."""
    net = build(architecture(config))
    assert isinstance(net, SwinSegmenter)
    net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack this argument alone
    return net


def network(config: Phase1Config, base: Base) -> SwinSegmenter:
    """The SwinUNETR with the base's weights.

    Raises:
        CheckpointError: The weights do not fit, key by key.
    """
    net = initial(config)
    load_weights(net, base.state, base.source)
    return net


def load_base(config: Phase1Config, accelerator: Accelerator, cache: Path) -> Base:
    """The base that the configuration names; without a `checkpoint` it is pretrained once and cached.

    Raises:
        CheckpointError: The file is unsafe, unreadable or does not fit.
        RegistryError: There is no such registered model.
    """
    pulled = None
    if config.checkpoint is not None and config.checkpoint.startswith("models:/"):
        pulled = registry.pull(config.checkpoint)
        source, file, cases = config.checkpoint, weights_file(pulled.folder), pulled.folder / CASES
    else:
        given = config.checkpoint
        file = local_file(given, cache, [CASES]) if given else pretrained(config, accelerator, cache)
        source, cases = given or str(file), file.with_name(CASES)
    net = initial(config)
    load_weights(net, load_state(file), source)  # a base that does not fit is refused before anything is trained
    seen = read_csv(cases) if cases.is_file() else None
    return Base(net.state_dict(), source, weights_digest(net.state_dict()), pulled, seen)


def pretrained(config: Phase1Config, accelerator: Accelerator, cache: Path) -> Path:
    """The embedded base, in BrainSegFounder's own file layout: shipped, or trained on first use and then read from the cache.

    The base of the demo's own settings is shipped, for its training takes longer than the demo. Of several launches that want
    another one at once, one trains it and the others wait for it.
    """
    shipped = _file(SHIPPED, config)
    if _is_whole(shipped):
        return shipped
    file = _file(cache / "bases", config)
    waiting = "waiting for the base, which another process is pretraining"
    trains = accelerator.is_main_process and not _is_whole(file)
    with alone(file.with_name("lock"), waiting=waiting) if trains else nullcontext():
        accelerator.wait_for_everyone()  # from here on all processes of a launch find the same
        if not _is_whole(file):
            pretrain(config, accelerator, cache, file)
    return file


def key(config: Phase1Config) -> str:
    """Of the settings that the embedded base follows from alone: a run's own seed, splits and cases need no other base."""
    grid = [config.data.spacing, config.data.input_size]
    parts = [_VERSION, asdict(config.base), asdict(config.network), config.phantoms.glioma_patients, *grid]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _file(bases: Path, config: Phase1Config) -> Path:
    return bases / key(config) / "finetuned_model_fold_0.pt"


def _is_whole(file: Path) -> bool:
    return file.is_file() and file.with_name(CASES).is_file()


def pretrain(config: Phase1Config, accelerator: Accelerator, cache: Path, file: Path) -> None:
    """Train the base on glioma phantoms, and write it, rounded to float16, with the cases that it saw.

    In each step the finest skip connections, none to all but the last, carry nothing: a SwinUNETR on a few dozen phantoms
    learns to segment by them alone, and then nothing depends on the stages that adapters change (docs/demo.md).
    """
    training = TrainingConfig(
        epochs=config.base.epochs,
        optimizer="adamw",
        weight_decay=0.01,
        batch_size=config.base.batch_size,
        accumulate=1,
        scheduler="cosine",
        warmup_epochs=1,
        grad_clip=1.0,
        precision="fp32",
        validate_every=config.base.epochs,
        patience=0,
        workers=config.training.workers,
    )
    # The user's own cases are not among these.
    own = replace(config.data, labels="brats2023", label_map=None, suffixes={}, patient_pattern=PATIENT_PATTERN)
    settings = replace(own, exclude=(), meant=get_args(Oddity), val_fraction=config.base.val_fraction, test_fraction=0.0)
    seed = config.base.seed
    with accelerator.main_process_first():
        phantoms = ensure_phantoms("glioma", config.phantoms.glioma_patients, seed, cache)
        data = prepare_volumes(replace(config, data_dir=str(phantoms), splits=None, data=settings, seed=seed))
    torch.manual_seed(seed)
    net = initial(config)
    drop_skips(net)
    module = SegmenterWithHeads(net)
    held_out = evaluation_dataset(data, "val", settings, cache)

    def loss(module: torch.nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        losses = segmentation_loss(module(batch["image"])[0], to_regions(batch["label"]), "dice_bce")
        return {"loss": losses.pop("segmentation")} | losses

    predict = sliding_window(net, config.data.input_size, config.validation.overlap, accelerator)

    def validate(module: torch.nn.Module, epoch: int) -> dict[str, float]:
        return mean_scores(
            evaluate_segmentation(predict, held_out, spacing=config.data.spacing, accelerator=accelerator, hd95=False)
        )

    result = fit(
        module,
        [Group("network", config.base.lr, list(net.parameters()), key="base.lr")],
        training_dataset(data, "train", settings, cache, seed),
        Objective(loss, validate, "dice_WT"),
        training,
        seed=seed,
        accelerator=accelerator,
        reporter=NullReporter(),  # a run that finds the base in the cache has the same metrics as the one that made it
        folder=file.with_name("state"),
        title="pretraining the base on glioma phantoms",
    )
    if accelerator.is_main_process:
        with replacing(file.with_name(CASES)) as temporary:
            seen_cases(data.manifest, data.facts.values()).to_csv(temporary, index=False)
        state = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
        content = {"epoch": config.base.epochs, "best_acc": np.float64(result.best_value), "state_dict": state}
        save_checkpoint(content, file)
    accelerator.wait_for_everyone()


def drop_skips(net: SwinSegmenter) -> None:
    """Set the finest skip connections to zero in each training step, none to all four that pass a convolution, drawn
    anew. The coarsest map's way to the decoder is always there, and in eval mode nothing is dropped."""
    dropped = 0

    def draw(module: torch.nn.Module, _: object) -> None:
        nonlocal dropped
        dropped = int(torch.randint(len(_SKIPS) + 1, ())) if module.training else 0

    def drop(place: int, output: Tensor) -> Tensor:
        return output * 0 if place < dropped else output  # parameters keep a gradient, which several processes wait for

    net.swinViT.register_forward_pre_hook(draw)  # of what makes the skips it runs first
    for place, name in enumerate(_SKIPS):
        net.get_submodule(name).register_forward_hook(lambda module, given, output, place=place: drop(place, output))
