"""LoRA in the attention of a MeanFlow U-Net through peft: put in, counted, saved and put back.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), W = W0 + (alpha / r) B A.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from medexp.errors import CheckpointError, ConfigError, all_problems
from medexp.models.checkpoints import load_state
from medexp.models.meanflow.network import BOUNDARY, NEW, MeanFlowUNet

PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "out_proj"}
"""Names of an attention's projections in the network, by those of `lora.target_modules`."""

Boundary = Literal["slices", "convolutions", "none"]
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Counts:
    """Parameters of an adapted network, whatever of them trains.

    Attributes:
        lora: Of the adapters.
        slices: Of the new channels of the first and the last convolution; 0 of a network that was not widened.
        convolutions: Of all of both convolutions, the new channels among them.
        total: Of the network, with adapters and new channels.
    """

    lora: int
    slices: int
    convolutions: int
    total: int


def inject_lora(
    net: MeanFlowUNet,
    rank: int = 16,
    alpha: float = 16.0,
    target_modules: Sequence[str] = ("to_q", "to_k", "to_v"),
    boundary: Boundary = "slices",
    dropout: float = 0.0,
) -> PeftModel:
    """Put adapters into every attention, in place; afterwards they train and what `boundary` says, and nothing else.

    B starts at zero, so the network's output does not change.

    Args:
        net: The base, widened where it is to draw masks as well.
        rank: Rank of the update.
        alpha: Scale of the update, as alpha / rank.
        target_modules: Projections that are adapted: to_q, to_k, to_v, out_proj.
        boundary: What trains of the first and the last convolution: `slices`: their new channels; `convolutions`: all of both,
            by which the base is no longer frozen; `none`: nothing, under which the new channels stay zero.
        dropout: On the adapters' input, 0 to below 1.

    Returns:
        peft's view of the same network: what trains is saved by its `save_pretrained`, in one folder.

    Raises:
        ConfigError: The attention has no such projection, the rank is larger than its width, or there are no new channels.
    """
    linear = {name: module for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    adapted = {target: [one for name, one in linear.items() if name.endswith(f".{target}")] for target in target_modules}
    problems = []
    if lacking := [target for target, found in adapted.items() if not found]:
        there = sorted({name.rpartition(".")[2] for name in linear if ".attn." in name})
        told = ", ".join(there) or "none, for no level has attention"
        problems.append(f"lora.target_modules: {', '.join(lacking)} is not in this network, whose attention has {told}")
    widest = max((one.in_features for found in adapted.values() for one in found), default=rank)
    if rank > widest:
        told = f"at most {widest:,}, the largest width of its attention: an update has no larger rank"
        problems.append(f"lora.rank: found {rank:,}; {told}")
    new = any(NEW in f"{name}." for name, _ in net.named_modules())
    if boundary == "slices" and not new:
        problems.append("lora.boundary: found slices, but the network has no new channels; widen it, or give none")
    if problems:
        raise ConfigError(all_problems("LoRA", problems))
    saved = {"slices": [f"{name}{NEW}".rstrip(".") for name in BOUNDARY], "convolutions": list(BOUNDARY), "none": None}
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(target_modules),
        modules_to_save=saved[boundary],
    )
    peft = get_peft_model(net, settings)
    assert isinstance(peft, PeftModel)
    return peft


def freeze_base_unfreeze_lora(net: nn.Module) -> None:
    """Let the adapters train, and the convolutions' weights that the adapter comes with, and nothing else."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("lora_" in name or ".modules_to_save." in name)


def count_trainable_params(net: nn.Module) -> tuple[int, int]:
    """Parameters that train, and all."""
    own = _parameters(net)
    return sum(one.numel() for one in own.values() if one.requires_grad), sum(one.numel() for one in own.values())


def counts(net: nn.Module) -> Counts:
    """What there is to train in an adapted network, part by part."""
    sizes = {name: parameter.numel() for name, parameter in _parameters(net).items()}
    boundary = {name: size for name, size in sizes.items() if any(f".{conv}." in f".{name}" for conv in BOUNDARY)}
    return Counts(
        lora=sum(size for name, size in sizes.items() if "lora_" in name),
        slices=sum(size for name, size in boundary.items() if NEW in name),
        convolutions=sum(boundary.values()),
        total=sum(sizes.values()),
    )


def attention_widths(architecture: Mapping[str, Any]) -> tuple[int, ...]:
    """Width of each attention of a MeanFlow U-Net, by its architecture: a level's on the way down, one for each of its
    residual blocks, those on the way up, one more, and the one in the middle."""
    widths, levels = architecture["num_channels"], architecture["attention_levels"]
    blocks = architecture["num_res_blocks"]
    each = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    found = [width for width, there, count in zip(widths, levels, each, strict=True) if there for _ in range(2 * count + 1)]
    return (*found, widths[-1])


def expected_lora_parameters(architecture: Mapping[str, Any], rank: int, targets: Sequence[str]) -> int:
    """Adapter parameters by arithmetic on the architecture, apart from the network that was built.

    A projection of an attention of width d takes 2 rank d. For q, k and v in L attentions of one width that is 6 L rank d, the
    specification's Eq. 35.
    """
    return sum(len(set(targets)) * 2 * rank * width for width in attention_widths(architecture))


def save_lora(peft: PeftModel, folder: Path) -> None:
    """Write the adapter, with the convolutions' weights that train beside it, as peft does."""
    peft.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the Hub what the base's vocabulary is
    (folder / "README.md").unlink(missing_ok=True)  # peft's, with nothing filled in


def load_lora(net: MeanFlowUNet, folder: Path) -> PeftModel:
    """Put a saved adapter on its base, in place, in eval mode; nothing trains.

    Args:
        net: The base, widened as it was when the adapter was put on it.
        folder: What `save_lora` wrote.

    Raises:
        CheckpointError: A file is missing, or its keys are not those of an adapter on this network.
    """
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(f"adapter {folder}: no {_CONFIG}; give the folder that peft saved")
    settings = LoraConfig.from_pretrained(str(folder))
    settings.inference_mode = True
    state = load_state(folder / _WEIGHTS)
    peft = get_peft_model(net, settings)
    assert isinstance(peft, PeftModel)
    wanted = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(peft, save_embedding_layers=False).items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != found:
        named = sorted({name for name, _ in wanted.items() ^ found.items()})
        told = "; ".join(
            f"{name} is {found.get(name, 'missing')}, the network's is {wanted.get(name, 'none')}" for name in named[:8]
        )
        raise CheckpointError(f"adapter {folder}: is of another base: {told}")
    set_peft_model_state_dict(peft, state)
    return peft.eval()


def _parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """Its own by name: what peft keeps of a module that it trains a copy of is none."""
    return {name: parameter for name, parameter in net.named_parameters() if ".original_module." not in name}
