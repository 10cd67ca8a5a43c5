"""A vision transformer for pictures, run over the B-scans of a volume: RETFound and other masked autoencoders."""

import math

from medexp.models.kinds import ONLY, Kind, Recognised, Spec, Tensors, noise

BSCANS = 8
"""B-scans that are looked at where nothing says how many."""


def _recognise(weights: Tensors) -> Recognised | None:
    """By a 2D patch embedding of three channels and a class token; its pictures are taken for square."""
    from medexp.models.transformer import said_by

    patch, positions = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if patch is None or patch.ndim != 4 or positions is None or positions.ndim != 3 or "cls_token" not in weights:
        return None
    said, inferred = said_by(weights, "patch_embed.proj.weight", "blocks")
    said |= {"pool": "fc_norm" if "fc_norm.weight" in weights else "norm", "bscans": BSCANS}
    inferred["bscans"] = f"{BSCANS} B-scans of a volume, chosen evenly"
    if (first := weights.get("blocks.0.mlp.fc1.weight")) is not None:
        said["mlp_ratio"] = len(first) / said["dim"]
    side = math.isqrt(positions.shape[1] - 1)
    if side**2 == positions.shape[1] - 1 and said["patch"][0] == said["patch"][1]:
        edge = side * said["patch"][0]
        said["size"] = [BSCANS, edge, edge]
        inferred["size"] = f"size [{BSCANS}, {edge}, {edge}] of {positions.shape[1] - 1} positions: square B-scans"
    return Recognised({"kind": "bscan_vit"} | said, inferred)


KINDS = {
    "bscan_vit": Kind(
        network="medexp.models.bscan_vit.network:BscanTransformer",
        inputs=lambda given: {ONLY: Spec("float32", (-1, 1, *given["size"]))},
        outputs=lambda given: {ONLY: Spec("float32", (-1, given["dim"]))},
        example=noise,
        recognise=_recognise,
    ),
}
