"""From a package to the network in it."""

from pathlib import Path
from typing import Any

from torch import nn

from medexp.errors import RegistryError
from medexp.models.builders import build
from medexp.models.checkpoints import load_state, load_weights, weights_digest
from medexp.registry.packages import ADAPTER, read_json, verify_package, weights_file

ADAPTER_KIND = "lora_adapter"


def load_package(folder: Path, base: nn.Module | Path | str | None = None) -> nn.Module:
    """The network of a package, in eval mode, on the CPU.

    Args:
        folder: The package; verified here.
        base: For an adapter whose base is not registered: the base network, which is adapted in place, or its checkpoint file.

    Returns:
        The network; for an adapter peft's view of the adapted base.

    Raises:
        RegistryError: The package was altered, its base is missing or is not the one that it was trained on.
        CheckpointError: The base's checkpoint file cannot be used.
    """
    verify_package(folder)
    architecture = read_json(folder, "contract.json")["architecture"]
    if architecture["kind"] == ADAPTER_KIND:
        return _adapted(folder, architecture["base"], base).eval()
    if base is not None:
        raise RegistryError(f"base: {folder} is a whole network ({architecture['kind']}); only an adapter takes a base")
    net = build(architecture)
    weights = weights_file(folder)
    load_weights(net, load_state(weights), str(weights))
    return net.eval()


def _adapted(folder: Path, architecture: dict[str, Any], base: nn.Module | Path | str | None) -> nn.Module:
    from peft import PeftModel

    parent = read_json(folder, "parents.json")["base"]
    called = (
        f"{parent['name']} version {parent['version']}" if parent["version"] else f"{parent['name']}, which is not registered"
    )
    if base is None:
        if not parent["version"]:
            raise RegistryError(f"adapter {folder}: its base is {called}; give the network or its checkpoint file with base=")
        from medexp.registry.store import pull

        base = weights_file(pull(f"models:/{parent['name']}/{parent['version']}").folder)
    if isinstance(base, nn.Module):
        net = base
    else:
        net = build(architecture)
        load_weights(net, load_state(Path(base)), str(base))
    found = weights_digest(net.state_dict())
    if found != parent["weights_digest"]:
        raise RegistryError(
            f"adapter {folder}: was trained on {called}, with weights {parent['digest'][:12]}; the base given has {found[:12]}"
            ". Give the base that it was trained on"
        )
    return PeftModel.from_pretrained(net, str(folder / ADAPTER))
