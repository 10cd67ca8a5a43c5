"""Losses of the phases."""

from typing import Literal

import numpy as np
import torch
from monai.losses import DiceCELoss, DiceLoss
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from medexp.config.training import AuxHeadsConfig
from medexp.errors import ConfigError

_DICE = DiceLoss(sigmoid=True)
_BATCH_DICE = DiceLoss(sigmoid=True, batch=True)
_DICE_CE = DiceCELoss(sigmoid=True)


def segmentation_loss(
    logits: Tensor, regions: Tensor, kind: Literal["dice_bce", "batch_dice_bce", "dice_ce"]
) -> dict[str, Tensor]:
    """Segmentation loss with its parts.

    Args:
        logits: (B, R, ...); taken to float32, since Dice sums over a volume are beyond bf16.
        regions: 0 or 1 (B, R, ...).
        kind: dice_bce adds Dice and binary cross-entropy per region. batch_dice_bce takes the Dice of a batch as a whole: most
            slices have no tumour, and the Dice of an empty one is near 0 whatever is predicted, so that nothing is learned
            from it. dice_ce is MONAI's `DiceCELoss(sigmoid=True)`, whose cross-entropy takes a softmax over the regions,
            although they overlap.

    Returns:
        `segmentation`, the sum, and for the others its parts `dice` and `ce`.
    """
    logits = logits.float()
    if kind == "dice_ce":
        return {"segmentation": _DICE_CE(logits, regions)}
    overlap = _BATCH_DICE if kind == "batch_dice_bce" else _DICE
    dice, ce = overlap(logits, regions), binary_cross_entropy_with_logits(logits, regions)
    return {"segmentation": dice + ce, "dice": dice.detach(), "ce": ce.detach()}


def aux_weight(epoch: int, aux: AuxHeadsConfig) -> float:
    """Weight of the auxiliary loss: 0 before warmup_start_epoch, then a linear rise over warmup_duration epochs.

    Args:
        epoch: Epoch, from 0.
        aux: Start, duration and the weight that is reached.
    """
    if not aux.enabled or epoch < aux.warmup_start_epoch:
        return 0.0
    rise = (epoch - aux.warmup_start_epoch + 1) / max(aux.warmup_duration, 1)
    return aux.lambda_aux * min(rise, 1.0)


def class_weights(labels: ArrayLike, draws: ArrayLike, classes: int, kind: Literal["balanced", "none"]) -> Tensor:
    """Weights of the classes in cross-entropy (K,), of mean 1 over what an epoch draws.

    Args:
        labels: Class of each training case (N,), 0 to K - 1.
        draws: How often an epoch draws each case, on average (N,).
        classes: Their number K.
        kind: balanced: the inverse of how often a class is drawn; none: all alike.

    Raises:
        ConfigError: A class is never drawn.
    """
    counts = np.bincount(labels, weights=draws, minlength=classes)
    if not counts.all():
        some, others = "one class", "the other's source"
        if classes > 2:
            some, others = f"{np.count_nonzero(counts)} of {classes} classes", "the others' sources"
        raise ConfigError(f"data.weights: training would draw cases of {some} alone; raise the weight of {others}")
    if kind == "none":
        return torch.ones(classes)
    return torch.tensor(counts.sum() / (classes * counts), dtype=torch.float32)
