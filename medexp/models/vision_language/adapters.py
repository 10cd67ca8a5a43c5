"""LoRA in the attention of a vision-language network's decoder, through peft: put in, counted, shown to leave all else alone,
saved and merged.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), W = W0 + (alpha / r) B A.
"""

import copy
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from medexp.config.networks import DecoderLoraConfig
from medexp.errors import ConfigError
from medexp.models.lora import MergeCertificate, merged_weight
from medexp.models.vision_language.bases import Base


def attention_of_decoder(net: nn.Module, targets: Sequence[str]) -> str:
    """A regular expression that the full paths of the decoder's adapted projections match, and nothing else in the network.

    A suffix such as q_proj would also match the vision tower's attention.

    Args:
        net: The network, not yet adapted.
        targets: Names of projections, such as q_proj.

    Raises:
        ConfigError: A layer of the decoder has no such projection.
    """
    known: Any = net  # transformers' networks tell more of themselves than torch's
    decoder = known.get_decoder()
    path = next(name for name, module in net.named_modules() if module is decoder)
    linear = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    found = [name for name in linear if name.split(".")[-1] in targets and "cross" not in name]
    layers = known.config.get_text_config().num_hidden_layers
    counted = {target: sum(name.endswith(f".{target}") for name in found) for target in targets}
    if wrong := [target for target, count in counted.items() if count != layers]:
        there = sorted({name.split(".")[-1] for name in linear})
        raise ConfigError(
            f"lora.targets: {', '.join(wrong)} is not in each of the {layers} layers of this decoder, whose linear layers are "
            f"{', '.join(there)}"
        )
    wheres = {re.sub(r"\.\d+\.", ".#.", name.rpartition(".")[0]) for name in (f".{name}" for name in found)}
    inside = "|".join(sorted(re.escape(where).replace(r"\#", r"\d+") for where in wheres))
    inside = inside if len(wheres) == 1 else f"({inside})"
    pattern = f"^{re.escape(path)}{inside}\\.({'|'.join(dict.fromkeys(targets))})$"
    matched = [name for name, _ in net.named_modules() if re.fullmatch(pattern, name)]
    assert sorted(matched) == sorted(f"{path}.{name}" for name in found), pattern
    return pattern


def add_adapter(net: nn.Module, lora: DecoderLoraConfig) -> PeftModel:
    """Put an adapter into the decoder's attention, in place; afterwards it alone trains, in float32.

    B starts at zero, so the network's outputs do not change. Of a quantised network too nothing is made larger: norms,
    embedding and output layer stay in the type that they were loaded in, and are computed in it.

    Args:
        net: The base, quantised or not.
        lora: Rank, alpha, dropout and projections.

    Raises:
        ConfigError: The decoder has no such projections, or none that is as wide as the rank, which would take all memory.
    """
    targets = attention_of_decoder(net, lora.targets)
    adapted: list[Any] = [module for name, module in net.named_modules() if re.fullmatch(targets, name)]
    widest = max(side for one in adapted for side in (one.in_features, one.out_features))
    if lora.rank > widest:
        told = f"at most {widest:,}, the widest side of {', '.join(lora.targets)}: an update has no larger rank"
        raise ConfigError(f"lora.rank: found {lora.rank:,}; {told}. Give lora.rank=16")
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going
        peft = get_peft_model(net, settings)
    assert isinstance(peft, PeftModel)
    return peft


def expected_parameters(net: nn.Module, lora: DecoderLoraConfig) -> int:
    """Parameters of the adapter by arithmetic on the decoder's configuration, apart from the network that was built.

    Each projection of d_in to d_out takes rank (d_in + d_out). Keys and values have fewer heads than queries where the
    attention is grouped.
    """
    known: Any = net
    text = known.config.get_text_config()
    width, heads = text.hidden_size, text.num_attention_heads
    each = getattr(text, "head_dim", None) or width // heads
    queries, keys = heads * each, (getattr(text, "num_key_value_heads", None) or heads) * each
    both = {"q_proj": width + queries, "k_proj": width + keys, "v_proj": width + keys, "o_proj": queries + width}
    return int(text.num_hidden_layers) * sum(lora.rank * both[target] for target in set(lora.targets))


def digests(net: nn.Module) -> dict[str, str]:
    """sha256 of each parameter and buffer of a network, adapted or not, by its name in the base; the adapter's are left out.

    One tensor at a time is copied from the device, so there is never a second copy of the network.
    """
    return {name: _digest(value) for name, value in _own(net)}


def untouched(net: nn.Module, before: Mapping[str, str]) -> list[str]:
    """Names of tensors outside the adapter that are not, bit for bit, what they were, or that came or went; none is as it
    must be.

    Args:
        net: The network, adapted or not.
        before: Its `digests` before the adapter was put in.
    """
    after = digests(net)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def merged(peft: PeftModel) -> tuple[nn.Module, MergeCertificate]:
    """The network with the adapter absorbed into its weights, beside the adapted one, which stays as it is.

    Both share all tensors but the adapted weights: there is no second copy of a large network, and tied weights stay tied.

    Returns:
        The network with the base's keys, in eval mode, and the certificate: each merged weight held against the formula.

    Raises:
        ConfigError: The base is quantised: weights of 8 or 4 bits cannot hold the update.
    """
    base = peft.get_base_model()
    if getattr(base, "is_quantized", False):
        raise ConfigError("merge: weights of 8 or 4 bits cannot hold an adapter's update; load the base with quantize=none")
    layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    kept = {f"{name}.weight" for name in layers}
    shared = {name: value for name, value in _own(peft) if name not in kept}
    whole = copy.deepcopy(peft, {id(value): value for value in shared.values()}).merge_and_unload()
    after = dict(_own(whole))
    certificate = MergeCertificate(
        tensors={
            f"{name}.weight": float((after[f"{name}.weight"] - merged_weight(layer)).abs().max())
            for name, layer in layers.items()
        },
        left_over=tuple(name for name, _ in whole.named_modules() if "lora_" in name or name.endswith(".base_layer")),
        changed_elsewhere=tuple(
            sorted(name for name in (shared.keys() | after.keys()) - kept if shared.get(name) is not after.get(name))
        ),
    )
    return whole.eval(), certificate


def save_adapter(peft: PeftModel, base: Base, folder: Path) -> None:
    """Write the adapter as peft does: adapter_model.safetensors and adapter_config.json, which names its base and revision."""
    config = peft.peft_config[str(peft.active_adapter)]
    config.base_model_name_or_path, config.revision = base.source, base.revision
    peft.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the Hub what the base's vocabulary is
    (folder / "README.md").unlink(missing_ok=True)  # peft's, with nothing filled in


def _own(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that are not the adapter's, by their names in the base; a tied one by each of its names."""
    base = net.get_base_model() if isinstance(net, PeftModel) else net
    tensors = (*base.named_parameters(remove_duplicate=False), *base.named_buffers(remove_duplicate=False))
    return ((name.replace(".base_layer.", "."), value) for name, value in tensors if ".lora_" not in name)


def _digest(value: Tensor) -> str:
    held = value.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{held.dtype} {tuple(held.shape)}\n".encode())
    digest.update(held.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
