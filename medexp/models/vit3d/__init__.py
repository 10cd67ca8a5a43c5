"""A vision transformer on 3D patches of OCT volumes, as a V-JEPA context encoder is."""

import math

from medexp.models.kinds import ONLY, Kind, Recognised, Spec, Tensors, noise

FULL = {"kind": "vit3d", "size": [64, 384, 384], "patch": [4, 16, 16], "dim": 768, "depth": 12, "heads": 12}
"""The encoder of docs/requirements/oct.md: 9,216 tokens, 92,921,088 parameters."""


def _recognise(weights: Tensors) -> Recognised | None:
    """By a 3D patch embedding beside a position embedding, of which the number of patches is known and the grid is not: it is
    taken for that of 64 B-scans of square size."""
    from medexp.models.transformer import said_by

    patch, positions = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if patch is None or patch.ndim != 5 or positions is None or positions.ndim != 3:
        return None
    said, inferred = said_by(weights, "patch_embed.proj.weight", "blocks")
    inferred["norm_eps"] = "norm_eps 1e-5, PyTorch's default; V-JEPA's own code has 1e-6"
    said["qkv_bias"] = "blocks.0.attn.qkv.bias" in weights
    if (first := weights.get("blocks.0.mlp.fc1.weight")) is not None:
        said["mlp_ratio"] = len(first) / said["dim"]
    along, *edges = said["patch"]
    edge, rest = divmod(positions.shape[1] * along, 64)
    if rest == 0 and 64 % along == 0 and edges[0] == edges[1] and math.isqrt(edge) ** 2 == edge:
        side = math.isqrt(edge) * edges[0]
        said["size"] = [64, side, side]
        inferred["size"] = f"size [64, {side}, {side}] of {positions.shape[1]} positions: 64 B-scans, square"
    return Recognised({"kind": "vit3d"} | said, inferred)


KINDS = {
    "vit3d": Kind(
        network="medexp.models.vit3d.network:VisionTransformer3D",
        inputs=lambda given: {ONLY: Spec("float32", (-1, 1, *given["size"]))},
        outputs=lambda given: {ONLY: Spec("float32", (-1, given["dim"]))},
        example=noise,
        recognise=_recognise,
    ),
}
