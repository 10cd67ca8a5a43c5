"""SwinUNETR for volumes, and its encoder alone."""

from medexp.models.kinds import ONLY, Architecture, Kind, Spec, Specs, noise


def _volumes(architecture: Architecture) -> Specs:
    return {ONLY: Spec("float32", (-1, architecture["in_channels"], -1, -1, -1))}


KINDS = {
    "swin_encoder": Kind(
        network="medexp.models.swin.network:SwinEncoder",
        inputs=_volumes,
        outputs=lambda architecture: {ONLY: Spec("float32", (-1, 16 * architecture["feature_size"]))},
        example=noise,
    ),
    "swin_unetr": Kind(
        network="medexp.models.swin.network:SwinSegmenter",
        inputs=_volumes,
        outputs=lambda architecture: {ONLY: Spec("float32", (-1, architecture["out_channels"], -1, -1, -1))},
        example=noise,
    ),
}
