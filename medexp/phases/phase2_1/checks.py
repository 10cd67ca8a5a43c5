"""The checks of phase 2.1: the success criteria of docs/requirements/phase2.md."""

import itertools
from collections.abc import Mapping

from medexp.checks import Check, Severity
from medexp.config.networks import UNetConfig
from medexp.evaluation.intervals import Interval
from medexp.models.heads import head_parameters
from medexp.models.unet.network import MultiTaskModel


def expected_parameters(network: UNetConfig, classes: int = 2) -> dict[str, int]:
    """Parameters of each part of the multi-task U-Net, by arithmetic; base_filters 32 and depth 3 give 2,014,019 in all."""
    widths = [network.base_filters * 2**level for level in range(network.depth + 1)]

    def block(entry: int, out: int) -> int:
        return 9 * entry * out + 9 * out * out + 4 * out  # two convolutions without bias, two batch norms

    encoder = sum(block(entry, out) for entry, out in itertools.pairwise([1, *widths]))
    decoder = sum(block(low + high, low) for low, high in itertools.pairwise(widths)) + widths[0] + 1
    return {"encoder": encoder, "seg_decoder": decoder, "cls_head": head_parameters(widths[-1], classes)}


def parameters(net: MultiTaskModel, network: UNetConfig) -> Check:
    """P2_1-PARAMETERS: the network is the one that docs/requirements/phase2.md describes.

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
        advice="The network was changed: compare medexp/models/unet/network.py with docs/requirements/phase2.md.",
    )


CONTROLS = {"baseline": "all of the brain", "mean_mask": "the mean mask of the training slices"}
"""What looks at no image, or takes no learning, in words."""


def segmentation(interval: Interval, controls: Mapping[str, Interval], bar: float) -> Check:
    """P2_1-DICE: the warm-up learned to segment. The bar is the configuration's.

    Args:
        interval: Mean validation Dice over scans.
        controls: The same of each of CONTROLS.
        bar: What the mean must exceed.
    """
    others = {name: found.estimate for name, found in controls.items()}
    return Check(
        "P2_1-DICE",
        "Validation Dice",
        Severity.BLOCKING,
        passed=interval.estimate > max(bar, *others.values()),
        threshold=f"mean Dice over scans > {bar:g}, and above that of {' and of '.join(CONTROLS[name] for name in others)}",
        measured={"dice": interval.estimate, "low": interval.low, "high": interval.high, "patients": interval.patients}
        | others,
        advice="More epochs (training.epochs), a lower rate (training.lr_network), or look at figures/segmentations.png.",
    )
