"""The arms that stand side by side: how they train, what need not be trained twice, and how their effects are told apart."""

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from medexp.arrays import Array
from medexp.config.keys import Role, flat, marked
from medexp.config.shared import Resampling
from medexp.data.volumes.datasets import training_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import to_regions
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.evaluation.segmentation import mean_scores
from medexp.files import filling
from medexp.models.heads import SegmenterWithHeads, SemanticHeads
from medexp.models.lora import MergeCertificate, merge_lora
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import Base
from medexp.phases.phase1.segmentation import DICE, NATIVE, dice_by_patient, draw_overlay, evaluate, score_arm, with_mean_dice
from medexp.phases.shared.context import Context
from medexp.tracking.steps import code_digest
from medexp.training.loop import Batch, FitResult, Group, Objective
from medexp.training.losses import aux_weight, segmentation_loss


@dataclass(frozen=True)
class Arm:
    """An arm.

    Attributes:
        label: What it is.
        metrics: Prefix of its metrics: none of the arm that is registered; others stand behind `train` and `val` in the UI.
        training: What trains, for the progress bar; empty where nothing does.
    """

    label: str
    metrics: str = ""
    training: str = ""


@dataclass(frozen=True)
class Trained:
    """An arm that was trained.

    Attributes:
        net: Its network, with its adapters where it has any.
        fitted: The training.
        adapter: The same network as peft holds it; None for the decoder alone.
        heads: The semantic heads, where there are any.
        scores: What `score_arm` says of the network that is kept, where its last validation said it already.
        beside: Of the arm that is registered, those that stand beside it, by name.
    """

    net: SwinSegmenter
    fitted: FitResult
    adapter: PeftModel | None = None
    heads: SemanticHeads | None = None
    scores: pd.DataFrame | None = None
    beside: Mapping[str, "Trained"] = field(default_factory=dict)

    def merged(self) -> tuple[SwinSegmenter, MergeCertificate]:
        """A copy of the network that has absorbed its adapters."""
        assert self.adapter is not None
        return merge_lora(copy.deepcopy(self.adapter))


ARMS: Mapping[str, Arm] = {
    "mean_mask": Arm("mean mask of the training cases"),
    "baseline": Arm("frozen baseline"),
    "control": Arm("decoder only (control)", "versus/control/", "training the decoder alone"),
    "lora_alone": Arm("LoRA only, frozen decoder", "versus/lora_alone/", "training LoRA alone"),
    "lora": Arm("LoRA + decoder", "", "training LoRA and the decoder"),
}
FACTORIAL = ("baseline", "control", "lora_alone", "lora")
"""Nothing trained, the decoder, LoRA, both: the four cells of a two by two design."""

EFFECTS: Mapping[str, tuple[float, float, float, float]] = {
    "decoder over the frozen base": (-1, 1, 0, 0),
    "LoRA over the frozen base": (-1, 0, 1, 0),
    "LoRA over the decoder alone": (0, -1, 0, 1),
    "decoder over LoRA alone": (0, 0, -1, 1),
    "main effect of the decoder": (-0.5, 0.5, -0.5, 0.5),
    "main effect of LoRA": (-0.5, -0.5, 0.5, 0.5),
    "interaction": (1, -1, -1, 1),
}
"""Weights of the arms of FACTORIAL. The interaction is what LoRA brings with the decoder less what it brings alone."""

# The decoder-only arm has no adapters and no heads, and no bars are asked of it. The base counts by its digest.
_NOT_THE_DECODERS = (
    "features",
    "lora.",
    "aux_heads.",
    "training.lr_lora",
    "training.lr_aux",
    "validation.min_",
    "checkpoint",
    "base.",
)


def crops(ctx: Context[Phase1Config], data: PreparedVolumes, split: str) -> Dataset[Any]:
    """Augmented crops of a split's cases, by (epoch, index)."""
    return training_dataset(data, split, ctx.config.data, ctx.cache, ctx.config.seed)


def fit_arm(
    ctx: Context[Phase1Config],
    data: PreparedVolumes,
    module: SegmenterWithHeads,
    groups: list[Group],
    arm: str,
    native: bool = False,
) -> tuple[FitResult, pd.DataFrame | None]:
    """Train an arm; the criterion is the mean Dice over regions: one alone may be best in an untrained epoch.

    Returns:
        The training, and the scores of the arm's validation cases (`score_arm`, `native` likewise) where the last epoch's
        validation gave them: the network that is kept is the one that was validated, and need not see the cases again.
    """
    config, scored = ctx.config, None
    last = config.training.epochs - 1 if not (config.training.patience or ctx.fold) else None

    def loss(wrapped: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        logits, semantic = wrapped(batch["image"])
        parts = segmentation_loss(logits, to_regions(batch["label"]), config.training.loss)
        total = parts["segmentation"]
        if module.heads is not None:
            parts["semantic"] = module.heads.loss(semantic, batch["semantic"])
            total = total + aux_weight(epoch, config.aux_heads) * parts["semantic"]
        return {"loss": total} | parts

    def validate(_: nn.Module, epoch: int) -> dict[str, float | pd.Series]:
        nonlocal scored
        draw = partial(draw_overlay, ctx, data, arm, epoch)
        if epoch == last:
            scored = score_arm(ctx, data, module.net, arm, native=native, also=draw)
        scores = evaluate(ctx, data, module.net, "val", hd95=False, on_prediction=draw) if scored is None else scored
        means = {name: value for name, value in mean_scores(scores).items() if not name.startswith(("hd95_", NATIVE))}
        return {**means, "dice": dice_by_patient(scores)}

    goal, about = Objective(loss, validate, "dice", told=("segmentation",) if module.heads is not None else ()), ARMS[arm]
    fitted = ctx.fit(module, groups, crops(ctx, data, "train"), goal, title=about.training, arm=arm, prefix=about.metrics)
    return fitted, scored


def scores_of(
    ctx: Context[Phase1Config], data: PreparedVolumes, trained: Trained, arm: str, split: str, native: bool = False
) -> pd.DataFrame:
    """`score_arm` of a network that was trained, which for validation cases its last epoch may have said."""
    if split == "val" and trained.scores is not None:
        return trained.scores
    return score_arm(ctx, data, trained.net, arm, split, native)


def begin(ctx: Context[Phase1Config], frozen: pd.DataFrame) -> None:
    """Begin each arm's course of validation, step 0, at what all of them start from: the base as it is.

    Args:
        ctx: Where it is logged.
        frozen: The base's scores of the validation cases.
    """
    validated = ("ce", "dice", *DICE)
    scores = {f"val/{name}": value for name, value in with_mean_dice(frozen).items() if name in validated}
    for about in ARMS.values():
        if about.training:
            ctx.run.reporter.metrics({f"{about.metrics}{name}": value for name, value in scores.items()})


@contextmanager
def trained_once(ctx: Context[Phase1Config], data: PreparedVolumes, base: Base, arm: str) -> Iterator[None]:
    """The training in the block is gone on with from the cache, where its end is what this one's would be, and kept there.

    The decoder-only control knows nothing of adapters: runs that differ in these alone (`rank=1`, `rank=32`) have the same.
    What is kept is the state that `fit` resumes from, so that a run which finds it logs the same metrics; pictures of its
    epochs are in the run that trained it.
    """
    state, entry = ctx.state(arm), ctx.cache / "arms" / _key(ctx, data, base, arm)
    main = ctx.accelerator.is_main_process
    if main and entry.is_dir() and not state.exists():
        with filling(state, "output_dir") as folder:
            shutil.copytree(entry, folder, dirs_exist_ok=True)
    ctx.accelerator.wait_for_everyone()
    yield
    if main and not entry.is_dir():
        with filling(entry, "cache_dir") as folder:
            shutil.copytree(state, folder, dirs_exist_ok=True)


def _key(ctx: Context[Phase1Config], data: PreparedVolumes, base: Base, arm: str) -> str:
    """Of all that the decoder-only arm follows from: settings, cases, base, code, and what computes."""
    settings = flat(ctx.config)
    elsewhere = marked(type(ctx.config), Role.WHERE)
    matters = {k: v for k, v in settings.items() if k not in elsewhere and not k.startswith(_NOT_THE_DECODERS)}
    computing = [torch.__version__, ctx.device.type, ctx.accelerator.num_processes, torch.get_num_threads()]
    content = [arm, ctx.until, matters, dict(data.digests), base.digest, code_digest(), computing]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:40]


def effects(
    scores: pd.DataFrame, patients: Sequence[str], resampling: Resampling, wide: float = math.inf
) -> dict[str, Interval]:
    """The effects of EFFECTS, paired by case, with intervals by patient.

    Args:
        scores: A row a case and a column an arm of FACTORIAL; rows with NaN count for nothing.
        patients: Patient of each row.
        resampling: How resamples are drawn.
        wide: How much two scores can differ: 1 for Dice.
    """
    there = scores.notna().all(axis=1).to_numpy()
    if not there.any():
        return dict.fromkeys(EFFECTS, Interval(math.nan, math.nan, math.nan, 0))
    rows, owners = scores.loc[there, list(FACTORIAL)].to_numpy(), np.asarray(patients)[there].tolist()

    def interval(weights: Array) -> Interval:
        most = wide * float(np.abs(weights).sum()) / 2
        return mean_by_patient(rows @ weights, owners, resampling, (-most, most))

    return {name: interval(np.array(weights)) for name, weights in EFFECTS.items()}
