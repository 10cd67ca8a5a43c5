"""The network that a `config.json` of transformers describes, by the classes of transformers alone: code that a checkpoint
brings along is never run."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText, PreTrainedConfig

from medexp.errors import RegistryError
from medexp.models.kinds import Spec, Specs, Tensors

_WORDS = 6  # that follow them
_NUMBERS = {"input_ids": "int64", "attention_mask": "int64", "token_type_ids": "int64"}


def vision_language(config: Mapping[str, Any]) -> nn.Module:
    """A network that takes images and text, with initial weights, in float32.

    Args:
        config: What its `config.json` holds.

    Raises:
        RegistryError: transformers has no such network.
    """
    return stored_once(AutoModelForImageTextToText.from_config(config_of(config), dtype=torch.float32))


def config_of(config: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of an image-text-to-text network.

    Args:
        config: What its `config.json` holds.

    Raises:
        RegistryError: transformers knows no such network, or it is none that takes images and text.
    """
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        own = " by classes of its own; code that a checkpoint brings along is never run" if "auto_map" in config else ""
        raise RegistryError(f"config.json: model_type {kind!r} is none that this version of transformers builds{own}")
    try:
        made = CONFIG_MAPPING[kind].from_dict(dict(config))
    except Exception as error:  # the library's own, of another library, for a value of a wrong type
        raise RegistryError(f"config.json of a {kind}: {str(error).splitlines()[0]}") from error
    if type(made) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise RegistryError(f"config.json: a {kind} takes no image and text; a network for image-text-to-text is needed")
    return made


def stored_once(net: nn.Module) -> nn.Module:
    """The same network, whose state holds a tied weight once, as its safetensors do, and which ties it again when loaded."""
    if tied := tuple(getattr(net, "all_tied_weights_keys", {})):

        def leave_out(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
            for name in tied:
                state.pop(prefix + name, None)

        def tie(module: Any, keys: Any) -> None:
            keys.missing_keys[:] = [name for name in keys.missing_keys if not name.endswith(tied)]
            module.tie_weights()

        net.register_state_dict_post_hook(leave_out)
        net.register_load_state_dict_post_hook(tie)
    return net


def inputs_of(config: Mapping[str, Any]) -> Specs:
    """What goes into a network: ids, a mask, the types of tokens where it tells images by them, and pixels (images of all
    cases, 3, H, W)."""
    made = config_of(config)
    built: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(made)]
    takes = inspect.signature(built.forward).parameters
    vision = made.vision_config
    return {name: Spec(dtype, (-1, -1)) for name, dtype in _NUMBERS.items() if name in takes} | {
        "pixel_values": Spec("float32", (-1, getattr(vision, "num_channels", 3), *_edges(made)))
    }


def outputs_of(config: Mapping[str, Any]) -> Specs:
    """What comes out: one logit a token of the vocabulary at each place."""
    return {"logits": Spec("float32", (-1, -1, config_of(config).get_text_config().vocab_size))}


def context_of(config: Mapping[str, Any]) -> int:
    """Tokens of a prompt and its answer at most."""
    return int(config_of(config).get_text_config().max_position_embeddings)


def example_of(config: Mapping[str, Any], generator: torch.Generator, cases: int = 2) -> Tensors:
    """Images of noise, each with some words that mean nothing.

    Raises:
        RegistryError: How many tokens an image takes is not said in the configuration.
    """
    made, specs = config_of(config), inputs_of(config)
    held = next((getattr(made, name) for name in ("mm_tokens_per_image", "image_seq_length") if hasattr(made, name)), None)
    image = next((getattr(made, name) for name in ("image_token_id", "image_token_index") if hasattr(made, name)), None)
    if held is None or image is None:
        raise RegistryError(
            f"architecture vision_language: config.json of a {made.model_type} does not say how many tokens an image takes; "
            "networks that say mm_tokens_per_image or image_seq_length, such as Gemma 3, can be registered whole"
        )
    words = torch.randint(made.get_text_config().vocab_size, (cases, _WORDS), generator=generator)
    words[words == image] += 1 if image == 0 else -1
    ids = torch.cat([torch.full((cases, held), image), words], dim=1)
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == image).long(),
        "pixel_values": torch.randn(cases, *specs["pixel_values"].shape[1:], generator=generator),
    }
    return {name: given[name] for name in specs}


def _edges(config: PreTrainedConfig) -> tuple[int, int]:
    """H and W of an image; free where the network takes any."""
    size = getattr(config.vision_config, "image_size", -1)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height, width
