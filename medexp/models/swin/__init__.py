"""SwinUNETR for volumes, and its encoder alone."""

from medexp.models.kinds import ONLY, Architecture, Kind, Spec, Specs, noise
from medexp.models.swin.features import width


def _volumes(architecture: Architecture) -> Specs:
    return {ONLY: Spec("float32", (-1, architecture["in_channels"], -1, -1, -1))}


def _features(architecture: Architecture) -> Specs:
    kind = architecture.get("features", "gap10")  # which packages of earlier versions do not say
    return {ONLY: Spec("float32", (-1, width(kind, architecture["feature_size"])))}


def _logits(architecture: Architecture) -> Specs:
    return {ONLY: Spec("float32", (-1, architecture["out_channels"], -1, -1, -1))}


KINDS = {
    "swin_encoder": Kind(
        network="medexp.models.swin.network:SwinEncoder",
        inputs=_volumes,
        outputs=_features,
        example=noise,
        pooled=True,
    ),
    "swin_unetr": Kind(
        network="medexp.models.swin.network:SwinSegmenter",
        inputs=_volumes,
        outputs=lambda architecture: (_features if architecture.get("features") else _logits)(architecture),
        example=noise,
        monai={"_target_": "SwinUNETR", "use_flash_attention": True},  # as `fast_attention` has it
        pooled=True,
    ),
}
