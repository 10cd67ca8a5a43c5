"""Vision-language networks of Hugging Face's transformers: an image and a text go in, a text comes out."""

from collections.abc import Mapping
from typing import Any

import torch

from medexp.models.kinds import Architecture, Kind, Specs, Tensors


def _inputs(given: Architecture) -> Specs:
    from medexp.models.vision_language.network import inputs_of  # transformers is of no use to who has no such network

    return inputs_of(given["config"])


def _outputs(given: Architecture) -> Specs:
    from medexp.models.vision_language.network import outputs_of

    return outputs_of(given["config"])


def _example(given: Architecture, contract: Mapping[str, Any], generator: torch.Generator) -> Tensors:
    from medexp.models.vision_language.network import example_of

    return example_of(given["config"], generator)


KINDS: dict[str, Kind] = {
    "vision_language": Kind(
        network="medexp.models.vision_language.network:vision_language",
        inputs=_inputs,
        outputs=_outputs,
        example=_example,
        requirements=("transformers",),
    ),
}
