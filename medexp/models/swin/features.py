"""The kinds of features that the maps of a SwinUNETR are pooled to: names, widths, what they are, and the pooling itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from medexp.config.networks import FeatureKind
from medexp.errors import RegistryError

DEFAULT: FeatureKind = "multiscale"
"""What is used downstream where nothing else is asked for, by the profiles of probe and phase 2.2. benchmarks/features.py
decides: of the demo's encoder AUROC of glioma against meningioma 0.95 against 0.65 of gap10 (160 phantom patients), and as
good as tumour_weighted's 0.94, which take the decoder; on 23 real people no kind tells sex better than another for certain."""

EVEN = 1e-6
"""Weight of a voxel in `tumour_weighted` beside its probability: what is left where the network sees no tumour."""


@dataclass(frozen=True)
class Features:
    """A kind of features.

    Attributes:
        width: How many there are, in multiples of the network's feature_size.
        what: What they are, in words.
        decoder: Whether they take the decoder.
    """

    width: int
    what: str
    decoder: bool = False


KINDS: Mapping[FeatureKind, Features] = {
    "gap10": Features(16, "GAP(encoder10): the global average of the bottleneck"),
    "multiscale": Features(16, "global averages of encoder1 to encoder4, then their global maxima"),
    "tumour_weighted": Features(
        31,
        "the patch embedding and the outputs of stages 1 to 4, each averaged with the network's own probability of tumour as "
        "weight",
        decoder=True,
    ),
}
"""All kinds, by the names that a configuration and a package's contract give."""


def width(kind: FeatureKind, feature_size: int) -> int:
    """How many features of a kind a network gives."""
    return KINDS[kind].width * feature_size


def offered(architecture: Mapping[str, Any], decoder: bool) -> dict[FeatureKind, dict[str, Any]]:
    """The kinds of features that a package offers, as its contract says them: `width` and `what` by name.

    Args:
        architecture: Of the package's network; what is neither a swin_encoder nor a swin_unetr offers none.
        decoder: Whether the package holds the decoder of its encoder.
    """
    whole = architecture["kind"] == "swin_unetr"
    if not whole and architecture["kind"] != "swin_encoder":
        return {}
    return {
        name: {"width": width(name, architecture["feature_size"]), "what": kind.what}
        for name, kind in KINDS.items()
        if whole or decoder or not kind.decoder
    }


def demand_decoder(there: bool, called: str) -> None:
    """What takes a decoder is asked of a network that has one.

    Args:
        there: Whether it has.
        called: The network, for the message.

    Raises:
        RegistryError: It has none.
    """
    if not there:
        others = " or ".join(name for name, kind in KINDS.items() if not kind.decoder)
        raise RegistryError(
            f"{called}: has no decoder, which says where a tumour is and what features=tumour_weighted are weighted by. "
            "Give a segmenter (models:/phase1_segmenter@champion), an encoder whose package holds judge/decoder.safetensors "
            f"(models:/phase1_encoder_merged@champion), or features={others}"
        )


def averages(maps: Tensor) -> Tensor:
    """Global average (B, C) of maps (B, C, X, Y, Z)."""
    return maps.mean(dim=(2, 3, 4))


def multiscale(maps: Sequence[Tensor]) -> Tensor:
    """Global averages, then global maxima, of maps (B, C_i, X_i, Y_i, Z_i): (B, 2 sum C_i)."""
    return torch.cat([averages(one) for one in maps] + [one.amax(dim=(2, 3, 4)) for one in maps], dim=1)


def tumour_weighted(hidden: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Averages of the hidden states, weighted by where the network sees tumour.

    The probability of tumour of a voxel is that of its likeliest region. Its average over the voxels of a token is the token's
    weight, so that a token counts by how much of it is tumour, at each scale. Every voxel has EVEN on top: where the network
    sees no tumour at all, what is left is the plain average, and wherever the probabilities come to a voxel or more in
    all, EVEN changes nothing that matters.

    Args:
        hidden: The patch embedding and the outputs of stages 1 to 4 (B, C_s, X/2^(s+1), ...), s from 0 to 4.
        logits: Of the regions (B, R, X, Y, Z).

    Returns:
        (B, sum C_s), finite for finite logits.
    """
    tumour = logits.float().sigmoid().amax(dim=1, keepdim=True) + EVEN
    pooled = []
    for states in hidden:
        tumour = avg_pool3d(tumour, 2)
        pooled.append((states * tumour).sum(dim=(2, 3, 4)) / tumour.sum(dim=(2, 3, 4)))
    return torch.cat(pooled, dim=1)
