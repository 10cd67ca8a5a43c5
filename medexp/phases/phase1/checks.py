"""The checks of phase 1: TEST_2.1 to TEST_2.6 of docs/requirements/phase1.md, and ATTRIBUTION.

The first four act on copies of the network; a check that fails returns what it measured, and never raises for it.
"""

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from medexp.checks import Check, Severity
from medexp.config.networks import LoraConfig
from medexp.evaluation.intervals import Interval
from medexp.models.lora import MergeCertificate, add_lora, expected_lora_parameters, lora_parameters
from medexp.models.swin.network import SwinSegmenter, is_encoder_key
from medexp.phases.phase1.config import ValidationConfig
from medexp.training.losses import segmentation_loss

TOLERANCE = 1e-5  # largest absolute difference of logits: the atol of an allclose


def injection(base: SwinSegmenter, lora: LoraConfig, feature_size: int, image: Tensor, regions: Tensor) -> Check:
    """TEST_2.1: the adapters are where they should be, and nothing below or beside them learns.

    Args:
        base: The base network; a copy is adapted.
        lora: The adapters.
        feature_size: Width of the network, for the expected number of parameters.
        image: A batch (B, 4, X, Y, Z).
        regions: Its truth (B, 3, X, Y, Z).
    """
    net = copy.deepcopy(base)
    add_lora(net, lora)
    trainable = sum(parameter.numel() for parameter in lora_parameters(net).values())
    expected = expected_lora_parameters(feature_size, lora)
    logits = net.train()(image)
    segmentation_loss(logits, regions, "dice_bce")["segmentation"].backward()
    below = _largest_gradient(
        parameter for name, parameter in net.named_parameters() if is_encoder_key(name) and "lora_" not in name
    )
    return Check(
        "TEST_2.1",
        "LoRA injection",
        Severity.BLOCKING,
        passed=trainable == expected and below == 0 and logits.shape == regions.shape,
        threshold="LoRA parameters as by arithmetic, no gradient in the encoder's own weights, output of the input's size",
        measured={
            "lora_trainable": trainable,
            "expected": expected,
            "frozen_gradient": below,
            "output_shape": str(tuple(logits.shape)),
            "expected_shape": str(tuple(regions.shape)),
        },
        advice="Verify that the checkpoint's key names match swinViT.layers<stage>.0.blocks.<n>.attn.qkv.",
    )


@torch.no_grad()
def initialisation(base: SwinSegmenter, lora: LoraConfig, image: Tensor) -> Check:
    """TEST_2.2: with B = 0 the adapted network gives the base's output."""
    net = copy.deepcopy(base).eval()
    before = net(image)
    add_lora(net, lora)
    difference = float((net.eval()(image) - before).abs().max())
    return Check(
        "TEST_2.2",
        "LoRA initialisation preserves the output",
        Severity.BLOCKING,
        passed=difference < TOLERANCE,
        threshold=f"largest |y_base - y_lora| < {TOLERANCE:g}",
        measured={"difference": difference},
        advice="Check that the B matrices start at zero.",
    )


def training_step(base: SwinSegmenter, lora: LoraConfig, lr: float, image: Tensor, regions: Tensor) -> Check:
    """TEST_2.3: a step learns, in the adapters and not in the frozen weights.

    B = 0 makes every gradient of A exactly zero in the first step, so A is looked at in the second.

    Args:
        base: The base network; a copy is trained for two steps.
        lora: The adapters.
        lr: Learning rate of the adapters.
        image: A batch (B, 4, X, Y, Z).
        regions: Its truth (B, 3, X, Y, Z).
    """
    net = copy.deepcopy(base)
    add_lora(net, lora)
    net.train()
    adapters = lora_parameters(net)
    optimizer = torch.optim.AdamW(adapters.values(), lr=lr)
    losses, gradients = [], {}
    for matrix in ("lora_B", "lora_A"):
        optimizer.zero_grad()
        loss = segmentation_loss(net(image), regions, "dice_bce")["segmentation"]
        loss.backward()
        losses.append(float(loss.detach()))
        gradients[matrix] = min(_largest_gradient([p]) for name, p in adapters.items() if matrix in name)
        optimizer.step()
    frozen = _largest_gradient(parameter for parameter in net.parameters() if not parameter.requires_grad)
    return Check(
        "TEST_2.3",
        "Training step",
        Severity.BLOCKING,
        passed=all(math.isfinite(loss) and loss > 0 for loss in losses) and min(gradients.values()) > 0 and frozen == 0,
        threshold="loss finite and > 0, every B (step 1) and A (step 2) with a gradient, none in frozen weights",
        measured={
            "loss": losses[0],
            "smallest_gradient_B": gradients["lora_B"],
            "smallest_gradient_A": gradients["lora_A"],
            "frozen_gradient": frozen,
        },
        advice="Check the parameter groups and requires_grad.",
    )


def merge(certificate: MergeCertificate, lora_logits: Tensor, merged_logits: Tensor) -> Check:
    """TEST_2.4: the merged network is the adapted one, weight by weight and in its output."""
    difference = float((merged_logits - lora_logits).abs().max())
    worst = max(certificate.tensors.values(), default=math.nan)
    return Check(
        "TEST_2.4",
        "LoRA merge",
        Severity.BLOCKING,
        passed=difference < TOLERANCE
        and worst < TOLERANCE
        and not certificate.left_over
        and not certificate.changed_elsewhere,
        threshold=f"largest |y_merged - y_lora| and |W - (W0 + (alpha/r) B A)| < {TOLERANCE:g}, no other weight changed",
        measured={
            "difference": difference,
            "weights_difference": worst,
            "merged_tensors": len(certificate.tensors),
            "adapters_left": len(certificate.left_over),
            "changed_elsewhere": len(certificate.changed_elsewhere),
        },
        advice="Verify the merge formula W0 + (alpha / r) B A.",
    )


def segmentation(
    lora: Mapping[str, float], baseline: Mapping[str, float], validation: ValidationConfig, cases: int, of: int
) -> Check:
    """TEST_2.5: the adapted network segments well, and better than the frozen base.

    Args:
        lora: Mean scores of the adapted network.
        baseline: Those of the frozen base.
        validation: The bars.
        cases: Validation cases that hold a tumour on the network's grid, of which the means are.
        of: All validation cases.
    """
    dice, gain = lora["dice_WT"], lora["dice_WT"] - baseline["dice_WT"]
    return Check(
        "TEST_2.5",
        "Segmentation quality",
        Severity.BLOCKING,
        passed=dice > validation.min_dice_wt and gain > validation.min_dice_gain,
        threshold=f"Dice WT > {validation.min_dice_wt:g}, gain over the frozen baseline > {validation.min_dice_gain:g}",
        measured={"dice_WT": dice, "baseline_dice_WT": baseline["dice_WT"], "gain": gain, "cases": cases, "of": of},
        advice="In this order: training.epochs=150; training.lr_lora=5e-5; lora.target_stages=[2,3,4].",
    )


def semantic_heads(scores: Mapping[str, float]) -> Check:
    """TEST_2.6: the auxiliary heads predict volume and location better than a constant.

    Args:
        scores: `r2_vol` and `r2_loc` on validation cases; NaN where too few cases define no R2.
    """
    return Check(
        "TEST_2.6",
        "Semantic heads",
        Severity.DIAGNOSTIC,
        passed=scores["r2_vol"] > 0 and scores["r2_loc"] > 0,
        threshold="validation R2 of volume > 0 and of location > 0",
        measured=dict(scores),
        advice="The encoder's features may be less useful to later phases; it blocks nothing.",
    )


def attribution(dice: Interval, features: Interval, probes: Mapping[str, float]) -> Check:
    """ATTRIBUTION: what LoRA added, to Dice over the decoder-only control and to the features that later phases use.

    Args:
        dice: Difference in mean Dice per case, LoRA minus control, paired by case.
        features: Difference in the mean R2 of linear probes on held-out cases, adapted minus unadapted encoder.
        probes: Mean R2 by source: unadapted, adapted, random encoder, intensity statistics.
    """
    measured: dict[str, float | int | str | bool | None] = {
        "dice_gain": dice.estimate,
        "dice_gain_low": dice.low,
        "dice_gain_high": dice.high,
        "probe_r2_gain": features.estimate,
        "probe_r2_gain_low": features.low,
        "probe_r2_gain_high": features.high,
        "patients": dice.patients,
    }
    return Check(
        "ATTRIBUTION",
        "What LoRA added",
        Severity.DIAGNOSTIC,
        passed=dice.above and features.above,
        threshold="interval above 0 for the gain in Dice over the decoder-only control and for the gain in probe R2",
        measured=measured | {f"probe_r2_{name}": value for name, value in probes.items()},
        advice=in_words(dice, features),
    )


def in_words(dice: Interval, features: Interval) -> str:
    """What the two intervals say, plainly."""

    def said(interval: Interval, to_what: str) -> str:
        return interval.told(
            few=f"Too few patients to tell what LoRA did to {to_what}",
            better=f"LoRA improved {to_what}",
            worse=f"LoRA made {to_what} worse",
            same=f"LoRA changed nothing that could be measured in {to_what}",
        )

    read = said(features, "what a linear probe reads from the encoder's features")
    return f"{said(dice, 'Dice over training the decoder alone')} {read}"


def _largest_gradient(parameters: Iterable[nn.Parameter]) -> float:
    """Largest absolute gradient; 0 where there is none at all."""
    return max((float(p.grad.abs().max()) for p in parameters if p.grad is not None), default=0.0)
