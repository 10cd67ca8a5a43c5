"""Losses of the phases."""

from typing import Literal

from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from medexp.config import AuxHeadsConfig

_DICE = DiceLoss(sigmoid=True)
_DICE_CE = DiceCELoss(sigmoid=True)


def segmentation_loss(logits: Tensor, regions: Tensor, kind: Literal["dice_bce", "dice_ce"]) -> dict[str, Tensor]:
    """Segmentation loss with its parts.

    Args:
        logits: (B, 3, X, Y, Z); taken to float32, since Dice sums over a volume are beyond bf16.
        regions: 0 or 1 (B, 3, X, Y, Z).
        kind: dice_bce adds Dice and binary cross-entropy per region. dice_ce is the specification's literal
            `DiceCELoss(sigmoid=True)`, which takes a softmax over the three overlapping regions.

    Returns:
        `segmentation`, the sum, and for dice_bce its parts `dice_loss` and `ce`.
    """
    logits = logits.float()
    if kind == "dice_ce":
        return {"segmentation": _DICE_CE(logits, regions)}
    dice, ce = _DICE(logits, regions), binary_cross_entropy_with_logits(logits, regions)
    return {"segmentation": dice + ce, "dice_loss": dice.detach(), "ce": ce.detach()}


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
