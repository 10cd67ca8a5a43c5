"""A vision transformer on 3D patches of OCT volumes, as a V-JEPA context encoder is."""

from medexp.models.kinds import ONLY, Kind, Spec, noise

FULL = {"kind": "vit3d", "size": [64, 384, 384], "patch": [4, 16, 16], "dim": 768, "depth": 12, "heads": 12}
"""The encoder of docs/requirements/oct.md: 9,216 tokens, 92,921,088 parameters."""

KINDS = {
    "vit3d": Kind(
        network="medexp.models.vit3d.network:VisionTransformer3D",
        inputs=lambda given: {ONLY: Spec("float32", (-1, 1, *given["size"]))},
        outputs=lambda given: {ONLY: Spec("float32", (-1, given["dim"]))},
        example=noise,
    ),
}
