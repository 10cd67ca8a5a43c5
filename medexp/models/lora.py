"""LoRA and DoRA in the SwinViT through peft, and their merge back into the weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), W = W0 + (alpha / r) B A;
Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024), W = m (W0 + (alpha / r) B A) / ||W0 + (alpha / r) B A||.
"""

from dataclasses import dataclass

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from medexp.config.networks import LoraConfig
from medexp.models.swin.network import SwinSegmenter, is_encoder_key

_ADAPTER = "default"
_BLOCKS_PER_STAGE = 2
_OUT_AND_IN = {"qkv": (3, 1), "proj": (1, 1), "linear1": (4, 1), "linear2": (1, 4)}  # in units of the stage's width
_PATHS = {"qkv": r"attn\.qkv", "proj": r"attn\.proj", "linear1": r"mlp\.linear1", "linear2": r"mlp\.linear2"}


@dataclass(frozen=True)
class MergeCertificate:
    """What a merge did to the weights.

    Attributes:
        tensors: Per merged weight, the largest absolute difference to the formula computed apart.
        left_over: Adapter tensors still in the network; none after a complete merge.
        changed_elsewhere: Weights outside the adapted layers that the merge altered; none after a correct one.
    """

    tensors: dict[str, float]
    left_over: tuple[str, ...]
    changed_elsewhere: tuple[str, ...]


def add_lora(net: SwinSegmenter, lora: LoraConfig) -> PeftModel:
    """Put adapters into the named stages, in place; afterwards adapters and decoder train, the encoder's own weights do not.

    B starts at zero, so the network's output does not change.

    Args:
        net: The base network.
        lora: Rank, alpha, stages (1 to 4), modules, dropout and mode.

    Returns:
        peft's view of the same network: it saves the adapter (`save_pretrained`) and merges it (`merge_lora`).
    """
    stages = "".join(str(stage) for stage in sorted(set(lora.target_stages)))
    paths = "|".join(_PATHS[module] for module in lora.target_modules)
    peft = get_peft_model(
        net,
        PeftLoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            target_modules=rf"swinViT\.layers[{stages}]\.0\.blocks\.\d+\.({paths})",
            lora_dropout=lora.lora_dropout,
            use_dora=lora.mode == "dora",
        ),
    )
    assert isinstance(peft, PeftModel)
    unfreeze_decoder(net)
    return peft


def freeze_encoder(net: SwinSegmenter) -> None:
    """Leave the decoder alone trainable: the control arm."""
    net.requires_grad_(False)
    unfreeze_decoder(net)


def freeze_decoder(net: SwinSegmenter) -> None:
    """Leave the adapters alone trainable: the arm of LoRA alone."""
    for parameter in decoder_parameters(net).values():
        parameter.requires_grad_(False)


def unfreeze_decoder(net: SwinSegmenter) -> None:
    for parameter in decoder_parameters(net).values():
        parameter.requires_grad_(True)


def lora_parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name."""
    return {name: parameter for name, parameter in net.named_parameters() if "lora_" in name}


def decoder_parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """The segmentation decoder's parameters by name."""
    return {name: parameter for name, parameter in net.named_parameters() if not is_encoder_key(name)}


def expected_lora_parameters(feature_size: int, lora: LoraConfig) -> int:
    """Adapter parameters by arithmetic on the architecture, apart from the network that was built.

    A stage s has width 2^(s-1) feature_size and two blocks; a layer of d_in to d_out takes rank (d_in + d_out), and d_out more
    under DoRA. For qkv in stages 3 and 4 that is 96 rank feature_size.
    """
    total = 0
    for stage in set(lora.target_stages):
        width = feature_size * 2 ** (stage - 1)
        for module in set(lora.target_modules):
            wide_out, wide_in = (factor * width for factor in _OUT_AND_IN[module])
            total += _BLOCKS_PER_STAGE * (lora.rank * (wide_in + wide_out) + (wide_out if lora.mode == "dora" else 0))
    return total


def merge_lora(peft: PeftModel) -> tuple[SwinSegmenter, MergeCertificate]:
    """Absorb the adapters into the weights, in place, and certify it.

    Returns:
        The network with the base's keys, and the certificate: every merged weight held against the formula.
    """
    net = peft.get_base_model()
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, LoraLayer)}
    expected = {f"{name}.weight": merged_weight(layer) for name, layer in layers.items()}
    before = {key.replace(".base_layer.", "."): value.clone() for key, value in net.state_dict().items() if "lora_" not in key}
    merged = peft.merge_and_unload()
    after = merged.state_dict()
    certificate = MergeCertificate(
        tensors={key: float((after[key] - value).abs().max()) for key, value in expected.items()},
        left_over=tuple(key for key in after if "lora_" in key or "base_layer" in key),
        changed_elsewhere=tuple(
            key
            for key, value in before.items()
            if key not in expected and not (key in after and torch.equal(after[key], value))
        ),
    )
    return merged, certificate


def merged_weight(layer: LoraLayer) -> Tensor:
    """W0 + (alpha / r) B A, and for DoRA its rows rescaled to the learned magnitudes."""
    base = layer.get_base_layer().get_parameter("weight").detach()
    down, up = (matrix[_ADAPTER].get_parameter("weight").detach() for matrix in (layer.lora_A, layer.lora_B))
    weight = base + layer.scaling[_ADAPTER] * (up @ down)
    if _ADAPTER not in layer.lora_magnitude_vector:
        return weight
    magnitude = layer.lora_magnitude_vector[_ADAPTER].get_parameter("weight").detach()
    return magnitude.unsqueeze(1) * weight / torch.linalg.norm(weight, dim=1, keepdim=True)
