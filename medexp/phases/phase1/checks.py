"""The checks of phase 1: TEST_2.1 to TEST_2.6 of docs/requirements/phase1.md, and REACH, CONTROLS and ATTRIBUTION.

The first four act on copies of the network; a check that fails returns what it measured, and never raises for it.
"""

import copy
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from medexp.checks import Check, Severity
from medexp.config.networks import LoraConfig
from medexp.data.volumes.regions import REGIONS
from medexp.evaluation.intervals import Interval
from medexp.models.lora import MergeCertificate, add_lora, expected_lora_parameters, lora_parameters
from medexp.models.swin.network import SwinSegmenter, is_encoder_key
from medexp.phases.phase1.config import ValidationConfig
from medexp.phases.phase1.reach import LEAST_DICE, LEAST_LOGITS, Reach
from medexp.training.losses import segmentation_loss

Effects = Mapping[str, Mapping[str, Interval]]
ALONE, ON_TOP = "LoRA over the frozen base", "LoRA over the decoder alone"
_READ = "what a linear probe reads from the encoder's features"
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
    """TEST_2.2: with B = 0 the adapted network gives the base's output.

    Args:
        base: The network without adapters.
        lora: Where they go.
        image: One volume (1, C, D, H, W), float.
    """
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
        advice=_advice("Check that the B matrices start at zero.", difference),
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
        gradients[matrix] = float(np.min([_largest_gradient([p]) for name, p in adapters.items() if matrix in name]))
        optimizer.step()
    frozen = _largest_gradient(parameter for parameter in net.parameters() if not parameter.requires_grad)
    return Check(
        "TEST_2.3",
        "Training step",
        Severity.BLOCKING,
        passed=all(math.isfinite(loss) and loss > 0 for loss in losses)
        and all(one > 0 for one in gradients.values())
        and frozen == 0,
        threshold="loss finite and > 0, every B (step 1) and A (step 2) with a gradient, none in frozen weights",
        measured={
            "loss": losses[0],
            "smallest_gradient_B": gradients["lora_B"],
            "smallest_gradient_A": gradients["lora_A"],
            "frozen_gradient": frozen,
        },
        advice=_advice("Check the parameter groups and requires_grad.", *losses, *gradients.values(), frozen),
    )


def merge(certificate: MergeCertificate, lora_logits: Tensor, merged_logits: Tensor) -> Check:
    """TEST_2.4: the merged network is the adapted one, weight by weight and in its output.

    Args:
        certificate: What merging did to each weight.
        lora_logits: Of the adapted network, (B, R, D, H, W).
        merged_logits: Of the merged one for the same volumes, likewise.
    """
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
        advice=_advice("Verify the merge formula W0 + (alpha / r) B A.", difference, worst),
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
        advice="In this order: half as many training.epochs again; half of training.lr_lora; one more stage in "
        "lora.target_stages. `mlflow run . -e recover -P phase=phase1 -P run=RUN` tries them, each on top of the one before.",
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


def reach(found: Reach) -> Check:
    """REACH: the segmentation depends on what the adapted stages make of a case."""
    row = found.targeted
    return Check(
        "REACH",
        "What the adapted stages carry",
        Severity.DIAGNOSTIC,
        passed=found.any,
        threshold=f"without what stages {row['stages']} tell of a case, Dice of a region changes by {LEAST_DICE:g} or more, "
        f"or logits by {LEAST_LOGITS:.0%} of their spread",
        measured={"stages": row["stages"], "logits": float(row["logits"])}
        | {f"dice_{region}": float(row[f"dice_{region}"]) for region in REGIONS}
        | {"cases": found.cases, "carry": ", ".join(map(str, found.would)) or "none"},
        advice=out_of_reach(found),
    )


def out_of_reach(found: Reach) -> str:
    """That adapters in the chosen stages cannot change the segmentation, and which could; what to do about it."""
    row, adapted = found.targeted, ", ".join(map(str, found.adapted))
    most = max((float(row[f"dice_{region}"]) for region in REGIONS), key=lambda value: -1 if math.isnan(value) else value)
    would = ",".join(map(str, found.would))
    return (
        f"Adapters in stages {adapted} cannot change the segmentation: without what stages {row['stages']} of this base tell "
        f"of a case, Dice changes by {most:.4f} at most, logits by {row['logits']:.2%} of their spread ({found.cases} cases). "
        + (f"Stages that carry something: {would}; -P lora.target_stages=[{would}]" if would else "No stage carries anything.")
    )


def controls(gains: Mapping[str, Interval]) -> Check:
    """CONTROLS: the registered arm is better than what was not trained for it.

    Args:
        gains: In mean Dice per case, paired: over the mean mask of the training cases and over the frozen base.
    """
    measured: dict[str, float | int | str | bool | None] = {}
    for arm, gain in gains.items():
        measured |= {f"over_{arm}": gain.estimate, f"over_{arm}_low": gain.low, f"over_{arm}_high": gain.high}
    return Check(
        "CONTROLS",
        "Better than what was not trained",
        Severity.DIAGNOSTIC,
        passed=all(gain.above for gain in gains.values()),
        threshold="interval above 0 for the gain in Dice over the mean mask of the training cases and over the frozen base",
        measured=measured,
        advice=controls_in_words(gains),
    )


def controls_in_words(gains: Mapping[str, Interval]) -> str:
    """Whether the network is better than each control, plainly."""
    names = {
        "mean_mask": "the mean mask of the training cases, which looks at no image",
        "baseline": "the frozen base",
    }
    return " ".join(
        gain.told(
            few=f"Too few patients to tell the trained network from {names[arm]}",
            better=f"The trained network is better in Dice than {names[arm]}",
            worse=f"The trained network is worse in Dice than {names[arm]}",
            same=f"The trained network is no better in Dice than {names[arm]}, as far as could be measured",
        )
        for arm, gain in gains.items()
    )


def attribution(effects: Effects, probes: Mapping[str, float]) -> Check:
    """ATTRIBUTION: what LoRA added, alone and on top of the decoder, to Dice and to the features that later phases use.

    What is demanded is asked of LoRA and decoder together, whose encoder is registered: a gain in Dice over the decoder alone,
    which is thrown away, and one in what a probe reads.

    Args:
        effects: By measure and effect, as `medexp.phases.phase1.features.Attribution` has them.
        probes: Mean R2 by source: unadapted, lora_alone, adapted, random encoder, intensity statistics; and of the other kinds
            of features.
    """
    dice, features = effects["dice"], effects["probe_r2"]
    with_bounds = {"dice_gain": dice[ON_TOP], "probe_r2_gain": features[ON_TOP], "dice_gain_alone": dice[ALONE]}
    measured: dict[str, float | int | str | bool | None] = {}
    for name, one in with_bounds.items():
        measured |= {name: one.estimate, f"{name}_low": one.low, f"{name}_high": one.high}
    measured |= {"dice_interaction": dice["interaction"].estimate, "probe_r2_gain_alone": features[ALONE].estimate}
    return Check(
        "ATTRIBUTION",
        "What LoRA added",
        Severity.DIAGNOSTIC,
        passed=dice[ON_TOP].above and features[ON_TOP].above,
        threshold="interval above 0 for the gain in Dice over the decoder-only control and for the gain in probe R2",
        measured=measured
        | {"patients": dice[ON_TOP].patients}
        | {f"probe_r2_{name}": value for name, value in probes.items()},
        advice=in_words(effects),
    )


def in_words(effects: Effects) -> str:
    """What the effects say, plainly; of Dice also each region's, for a mean can hide that one gains and another loses."""

    def said(interval: Interval, who: str, to_what: str) -> str:
        return interval.told(
            few=f"Too few patients to tell what {who} did to {to_what}",
            better=f"{who} improved {to_what}",
            worse=f"{who} made {to_what} worse",
            same=f"{who} changed nothing that could be measured in {to_what}",
        )

    def of_dice(effect: str, who: str, to_what: str) -> str:
        of = {region: effects[f"dice_{region}"][effect] for region in REGIONS}
        regions = ", ".join(f"{region} {gain.as_gain}" for region, gain in of.items() if not math.isnan(gain.estimate))
        return f"{said(effects['dice'][effect], who, to_what)} By region: {regions or 'none is held'}."

    dice, features = effects["dice"], effects["probe_r2"]
    interaction = dice["interaction"].told(
        few="Too few patients to tell whether they need each other",
        better="Together they bring more than the sum of both",
        worse="Together they bring less than the sum of both",
        same="That they add up could not be refuted",
    )
    return " ".join(
        [
            of_dice(ALONE, "LoRA alone", "mean Dice over the frozen base"),
            of_dice(ON_TOP, "LoRA with the decoder", "mean Dice over training the decoder alone"),
            interaction,
            said(features[ALONE], "LoRA alone", _READ),
            said(features[ON_TOP], "LoRA with the decoder", _READ),
        ]
    )


def to_heed(effects: Effects) -> list[str]:
    """What of the effects comes first: that LoRA is not seen to add anything to what is registered, and what it made worse."""
    measures, arms = {"dice": "mean Dice", "probe_r2": _READ}, {ALONE: "LoRA alone", ON_TOP: "LoRA with the decoder"}
    added = {what: effects[measure][ON_TOP] for measure, what in measures.items()}
    told, no_worse = [], {what: gain for what, gain in added.items() if not gain.below}
    if no_worse and not any(gain.above for gain in added.values()):
        figures = "; ".join(f"{what} {gain.as_gain}" for what, gain in no_worse.items() if not math.isnan(gain.estimate))
        told.append(f"LoRA is not seen to add anything to training the decoder alone: {figures or 'too few patients'}.")
    return told + [
        f"{who} made {what} worse: {effects[measure][effect].as_gain}."
        for effect, who in arms.items()
        for measure, what in measures.items()
        if effects[measure][effect].below
    ]


def other_features_in_words(others: Mapping[str, Mapping[str, float]], gains: Mapping[str, Interval]) -> list[str]:
    """What probes read from kinds of features that were not asked for, plainly; arguments as `Attribution` has them."""
    read = "what a linear probe reads from them"
    return [
        f"Of {kind} features: mean R2 {others[kind]['unadapted']:.2f} unadapted, {others[kind]['adapted']:.2f} adapted. "
        + gain.told(
            few=f"Too few patients to tell what the adaptation did to {read}",
            better=f"The adaptation improved {read}",
            worse=f"The adaptation made {read} worse",
            same=f"The adaptation changed nothing that could be measured in {read}",
        )
        for kind, gain in gains.items()
        if not math.isnan(others[kind]["adapted"])  # of one case there is no R2
    ]


def _advice(usual: str, *measured: float) -> str:
    """What to do about figures that do not hold; where they are no figures, the adapters are not at fault."""
    if all(map(math.isfinite, measured)):
        return usual
    return (
        "The network computes NaN or infinity: look for values that are not finite in the training cases, and for an overflow "
        "in training.precision (fp32 has the widest range); the adapters come after that."
    )


def _largest_gradient(parameters: Iterable[nn.Parameter]) -> float:
    """Largest absolute gradient; 0 where there is none at all."""
    return float(np.max([float(p.grad.abs().max()) for p in parameters if p.grad is not None], initial=0.0))  # NaN stays NaN
