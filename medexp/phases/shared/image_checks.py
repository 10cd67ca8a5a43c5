"""The checks of phases 2.1 to 2.3: the success criteria of specification 003, without ids there, with DESIGN's errata."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from medexp.checks import Check, Severity
from medexp.config.networks import UNetConfig
from medexp.errors import CheckpointError
from medexp.evaluation.intervals import Interval
from medexp.models.checkpoints import load_state, load_weights
from medexp.models.heads import HIDDEN
from medexp.models.unet.network import MultiTaskModel


def expected_parameters(network: UNetConfig, classes: int = 2) -> dict[str, int]:
    """Parameters of each part of the multi-task U-Net, by arithmetic; base_filters 32 and depth 3 give 2,014,019 in all."""
    widths = [network.base_filters * 2**level for level in range(network.depth + 1)]

    def block(entry: int, out: int) -> int:
        return 9 * entry * out + 9 * out * out + 4 * out  # two convolutions without bias, two batch norms

    encoder = sum(block(entry, out) for entry, out in itertools.pairwise([1, *widths]))
    decoder = sum(block(low + high, low) for low, high in itertools.pairwise(widths)) + widths[0] + 1
    return {"encoder": encoder, "seg_decoder": decoder, "cls_head": head_parameters(widths[-1], classes)}


def head_parameters(features: int, classes: int = 2) -> int:
    """Parameters of a classification head, by arithmetic; 256 features and two classes give 66,306."""
    return (features + 1) * HIDDEN + (HIDDEN + 1) * classes


def parameters(net: MultiTaskModel, network: UNetConfig) -> Check:
    """P2_1-PARAMETERS: the network is the one that the specification describes.

    Args:
        net: The network.
        network: Its size.
    """
    found = {name: sum(p.numel() for p in getattr(net, name).parameters()) for name in ("encoder", "seg_decoder", "cls_head")}
    expected = expected_parameters(network)
    return Check(
        "P2_1-PARAMETERS",
        "Parameters of the multi-task U-Net",
        Severity.BLOCKING,
        passed=found == expected,
        threshold=", ".join(f"{name} {count:,}" for name, count in expected.items()) + f": {sum(expected.values()):,}",
        measured={**found, "total": sum(found.values())},
        advice="The network was changed: compare medexp/models/unet/network.py with specification 003.",
    )


def segmentation(interval: Interval, whole_brain: float, bar: float) -> Check:
    """P2_1-DICE: the warm-up learned to segment. Specification 003 has no bar for it; the bar is the configuration's.

    Args:
        interval: Mean validation Dice over scans.
        whole_brain: The same of calling all of the brain a tumour, which takes no learning.
        bar: What the mean must exceed.
    """
    return Check(
        "P2_1-DICE",
        "Validation Dice",
        Severity.BLOCKING,
        passed=interval.estimate > max(bar, whole_brain),
        threshold=f"mean Dice over scans > {bar:g}, and above that of calling all of the brain a tumour",
        measured={"dice": interval.estimate, "low": interval.low, "high": interval.high, "patients": interval.patients}
        | {"whole_brain": whole_brain},
        advice="More epochs (training.epochs), a lower rate (training.lr_network), or look at figures/segmentations.png.",
    )


def accuracy(found: float, bar: float) -> Check:
    """P2_2-ACCURACY: specification 003, "Validation Acc > 0.70"."""
    return Check(
        "P2_2-ACCURACY",
        "Validation accuracy",
        Severity.BLOCKING,
        passed=found > bar,
        threshold=f"accuracy > {bar:g}",
        measured={"accuracy": found},
        advice="More epochs (training.epochs=30), another encoder, or look at figures/misclassified.png for wrong labels.",
    )


def majority(gain: Interval, found: float, constant: float) -> Check:
    """P2_2-MAJORITY: better than always saying the validation cases' most frequent class; no constant answer does better.

    Args:
        gain: Accuracy minus that of the constant answer, paired.
        found: The accuracy.
        constant: That of the constant answer.
    """
    return Check(
        "P2_2-MAJORITY",
        "Better than the majority class",
        Severity.BLOCKING,
        passed=found > constant,
        threshold="accuracy above that of the majority class",
        measured={"accuracy": found, "majority": constant, "gain_low": gain.low, "gain_high": gain.high},
        advice="The head learned nothing from the features: look at labels and splits, or train it on another encoder.",
    )


def frozen(before: Mapping[str, Tensor], after: Mapping[str, Tensor], trained: int, expected: int) -> Check:
    """P2_2-FROZEN: only the head was trained. Specification 003 says 263,170 parameters, which is of another size: with 256
    features and two classes the head has 66,306 (DESIGN, errata).

    Args:
        before: All tensors but the head's before training, batch norm's statistics included.
        after: The same after training.
        trained: Parameters that got gradients, or that the optimiser had.
        expected: Parameters of the head, by arithmetic.
    """
    changed = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
    return Check(
        "P2_2-FROZEN",
        "Only the head was trained",
        Severity.BLOCKING,
        passed=bool(before) and not changed and before.keys() == after.keys() and trained == expected,
        threshold=f"{expected:,} parameters train, every other tensor is the same bit for bit",
        measured={"trainable": trained, "compared": len(before), "changed": ", ".join(changed[:5]) or "none"},
        advice="Something besides the head was trained; nothing after it can be trusted.",
    )


def checkpoints(files: Mapping[str, Path], net: nn.Module, registered: Mapping[str, Tensor]) -> Check:
    """P2_2-CHECKPOINTS: the best and the last epoch were written, load with every key, and the best is what is registered.

    Args:
        files: `best` and `last`.
        net: A network of their architecture; its weights are overwritten.
        registered: The weights that are registered.
    """
    measured: dict[str, float | int | str | bool | None] = {}
    for name, path in files.items():
        try:
            load_weights(net, load_state(path), str(path))
            measured[name] = "loads"
            if name == "best":
                same = all(torch.equal(value.cpu(), registered[key].cpu()) for key, value in net.state_dict().items())
                measured["best_is_registered"] = same
        except CheckpointError as error:
            measured[name] = str(error).partition("\n")[0]
    return Check(
        "P2_2-CHECKPOINTS",
        "Best and last checkpoint",
        Severity.BLOCKING,
        passed=all(measured.get(name) == "loads" for name in ("best", "last")) and measured.get("best_is_registered") is True,
        threshold="both load with every key, and the best is what is registered",
        measured=measured,
        advice="Look for free space in output_dir, and train it again.",
    )


def kept(check: str, metric: str, phase: str, gain: Interval, before: float, after: float, margin: float) -> Check:
    """P2_3-DICE and P2_3-ACCURACY: joint training did not cost a task what an earlier phase had reached, on the same cases.

    The estimate decides; its interval stands beside it: with few patients it is too wide to decide anything.

    Args:
        check: Its id.
        metric: What is compared.
        phase: The phase that it is compared with.
        gain: The metric after joint training minus before, paired by patient.
        before: The metric before.
        after: The metric after.
        margin: Largest loss that counts as none.
    """
    return Check(
        check,
        f"{metric} against {phase}",
        Severity.BLOCKING,
        passed=gain.estimate >= -margin,
        threshold=f"not lower than {phase}'s on the same cases by more than {margin:g}",
        measured={"before": before, "after": after, "gain": gain.estimate, "low": gain.low, "high": gain.high}
        | {"patients": gain.patients},
        advice="Lower training.lr_encoder, or more epochs; the networks of phases 2.1 and 2.2 stay as they are.",
    )


def joint(dice: Interval, balanced: Interval) -> Check:
    """P2_3-GAIN: what training both tasks together added to either.

    Args:
        dice: Gain in Dice over phase 2.1.
        balanced: Gain in balanced accuracy over phase 2.2.
    """
    return Check(
        "P2_3-GAIN",
        "What joint training added",
        Severity.DIAGNOSTIC,
        passed=dice.low > 0 or balanced.low > 0,
        threshold="interval above 0 for Dice or for balanced accuracy",
        measured={"dice": dice.estimate, "dice_low": dice.low, "balanced": balanced.estimate, "balanced_low": balanced.low},
        advice=f"{gained('Dice', 'phase 2.1', dice)} {gained('Balanced accuracy', 'phase 2.2', balanced)}",
    )


def gained(metric: str, phase: str, gain: Interval) -> str:
    """What a paired difference says, plainly."""
    return gain.told(
        few=f"{metric}: too few validation patients to tell joint training from {phase}",
        better=f"{metric}: joint training does better than {phase}",
        worse=f"{metric}: joint training does worse than {phase}",
        same=f"{metric}: no difference from {phase} that could be measured",
    )
