"""The MeanFlow U-Net: average velocities between two times of a flow from noise to latents."""

from collections.abc import Mapping
from typing import Any

import torch

from medexp.models.kinds import ONLY, Architecture, Kind, Spec, Specs, Tensors


def _latents(given: Architecture) -> Spec:
    return Spec("float32", (-1, given["channels"], -1, -1, -1))


def _inputs(given: Architecture) -> Specs:
    return {"z": _latents(given), "t": Spec("float32", (-1,)), "r": Spec("float32", (-1,))}


def _example(given: Architecture, _: Mapping[str, Any], generator: torch.Generator) -> Tensors:
    """Noise as small as the levels let it be and leave more than one voxel, from time 1 to time 0."""
    edge = 2 ** len(given["num_channels"])
    z = torch.randn(1, given["channels"], edge, edge, edge, generator=generator)
    return {"z": z, "t": torch.ones(1), "r": torch.zeros(1)}


KINDS = {
    "meanflow_unet": Kind(
        network="medexp.models.meanflow.network:MeanFlowUNet",
        inputs=_inputs,
        outputs=lambda given: {ONLY: _latents(given)},
        example=_example,
    ),
}
