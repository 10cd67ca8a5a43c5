"""Networks by the name that a registered package gives them: the one place that turns an architecture into a module."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from medexp.errors import RegistryError
from medexp.models.heads import ClassificationHead
from medexp.models.multitask import EncoderClassifier, MultiTaskModel, UNetEncoder
from medexp.models.swin import SwinEncoder, SwinSegmenter


def _classifier(encoder: Mapping[str, Any], features: int, classes: int) -> EncoderClassifier:
    return EncoderClassifier(build(encoder), ClassificationHead(features, classes))  # type: ignore[arg-type]


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "swin_encoder": SwinEncoder,
    "swin_unetr": SwinSegmenter,
    "unet_encoder": UNetEncoder,
    "multitask": MultiTaskModel,
    "classifier": _classifier,
}


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """The network that an architecture describes, with initial weights.

    Args:
        architecture: `kind` (a key of BUILDERS) and the arguments of that network.

    Raises:
        RegistryError: The kind is unknown, or its arguments do not fit.
    """
    arguments = dict(architecture)
    kind = arguments.pop("kind", None)
    if kind not in BUILDERS:
        raise RegistryError(f"architecture kind: found {kind!r}; this version of medexp builds {', '.join(sorted(BUILDERS))}")
    try:
        return BUILDERS[kind](**arguments)
    except TypeError as error:
        raise RegistryError(f"architecture {kind}: {error}") from error
