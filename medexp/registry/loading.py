"""From a package to the network in it."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from medexp.errors import ConfigError, RegistryError
from medexp.models import vision_language
from medexp.models.checkpoints import demand_finite, load_state, load_weights, weights_digest
from medexp.models.kinds import build, kinds
from medexp.models.meanflow.network import MeanFlowUNet, channels_of, widen
from medexp.models.swin.attention import fast_attention
from medexp.models.swin.features import demand_decoder
from medexp.models.swin.network import segmenter_of
from medexp.models.vision_language.bases import Base, Quantize, find_base, load_base
from medexp.registry.packages import (
    ADAPTER,
    ADAPTER_KIND,
    DECODER,
    MANIFEST,
    TRAINING,
    WEIGHTS,
    read_json,
    verify_package,
    weights_file,
)

_MOST = 2**19  # of any size in an architecture: twice as many words as the largest vocabulary in use


def load_package(folder: Path, base: nn.Module | Path | str | None = None) -> nn.Module:
    """The network of a package, in eval mode, on the CPU.

    Args:
        folder: The package; verified here.
        base: As `medexp.registry.load` has it.

    Raises:
        RegistryError: The package was altered, its base is missing or is not the one that it was trained on.
        CheckpointError: The base's checkpoint file cannot be used.
    """
    verify_package(folder)
    return load_verified(folder, base)


def load_verified(folder: Path, base: nn.Module | Path | str | None = None) -> nn.Module:
    """`load_package` of a folder that was verified just now, such as one that `medexp.registry.pull` gave."""
    architecture = read_json(folder, "contract.json")["architecture"]
    if architecture["kind"] == ADAPTER_KIND:
        return _ready(_adapted(folder, architecture, base))
    if base is not None:
        raise RegistryError(f"base: {folder} is a whole network ({architecture['kind']}); only an adapter takes a base")
    return _ready(_filled(architecture, load_state(weights_file(folder)), folder))


def whole_network(folder: Path) -> nn.Module:
    """The SwinUNETR of a verified package, in eval mode: a swin_unetr, or an encoder with the decoder that it was judged with.

    Raises:
        RegistryError: The package holds no decoder.
    """
    architecture = read_json(folder, "contract.json")["architecture"]
    if architecture["kind"] == "swin_unetr":
        return load_verified(folder)
    demand_decoder((folder / DECODER).is_file(), str(folder))
    decoder = load_state(folder / DECODER)
    whole = segmenter_of(architecture, len(decoder["out.conv.conv.bias"]))
    return _ready(_filled(whole, load_state(weights_file(folder)) | decoder, folder))


def _ready(net: nn.Module) -> nn.Module:
    """In eval mode, computed as it is in the phases: what a user gets from it is what the platform gets."""
    fast_attention(net)
    return net.eval()


def _filled(architecture: Mapping[str, Any], state: Mapping[str, Tensor], source: Path) -> nn.Module:
    """A network with weights. Its parameters are made once: initial values would be overwritten.

    Raises:
        RegistryError: Nobody has a network of this architecture, or it cannot be built.
        CheckpointError: The weights are another network's.
    """
    if vast := [f"{key} is {value}" for key, value in architecture.items() if isinstance(value, int) and value > _MOST]:
        raise RegistryError(f"{source}: of its architecture {', '.join(vast)}; at most {_MOST} is built")
    try:
        with init_empty_weights(include_buffers=False):  # a buffer may be computed, and stand in no file
            net = build(architecture)
    except (ValueError, ArithmeticError, RuntimeError, AssertionError) as error:
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise RegistryError(f"{source}: its architecture cannot be built of {dict(architecture)}: {told}") from error
    load_weights(net, state, str(source))
    return net


def _adapted(folder: Path, adapter: Mapping[str, Any], base: nn.Module | Path | str | None) -> nn.Module:
    architecture = adapter["base"]
    parent = read_json(folder, "parents.json")["base"]
    registered = f"{parent['name']} version {parent['version']}" if parent["version"] else ""
    called = registered or f"{parent['name']}, which is not registered"

    def demand(found: str) -> None:
        if found != parent["weights_digest"]:
            raise RegistryError(
                f"adapter {folder}: was trained on {called}, with weights {parent['weights_digest'][:12]}; the base given has "
                f"{found[:12]}. Give the base that it was trained on"
            )

    def demand_channels(state: Mapping[str, Tensor]) -> None:
        if (found := channels_of(state)) not in (None, wanted := architecture.get("channels")):
            raise RegistryError(
                f"adapter {folder}: was trained on {called}, which takes latents of {wanted} channels; the base given takes "
                f"{found}. Give the base that it was trained on, which the adapter itself widens"
            )

    if isinstance(base, nn.Module):
        demand_channels(base.state_dict())
        if not registered and architecture["kind"] in vision_language.KINDS:
            raise RegistryError(
                f"adapter {folder}: its base is {called}, and is known by its files: give their folder, base=FOLDER. Whether "
                f"a network is that base, nobody can tell; PeftModel.from_pretrained(net, {folder / ADAPTER}) does not ask"
            )
        tied = getattr(base, "all_tied_weights_keys", ())  # of transformers: they stand in no file
        demand(weights_digest({name: value for name, value in base.state_dict().items() if name not in tied}))
        net = base
    elif architecture["kind"] not in kinds():
        what = architecture.get("class", architecture["kind"])
        raise RegistryError(
            f"adapter {folder}: its base is {called}, a {what}, which medexp does not build. Build it, load its weights and "
            "give the network: medexp.registry.load(uri, base=network)"
        )
    elif base is None and registered:
        from medexp.registry.store import pull

        pulled = pull(f"models:/{parent['name']}/{parent['version']}")
        if pulled.digest != parent["digest"] and "channels" in adapter:
            raise RegistryError(
                f"adapter {folder}: was trained on {called} of digest {parent['digest'][:12]}; what is registered so has "
                f"{pulled.digest[:12]}. Register the base anew from its run, or give its folder"
            )
        demand(read_json(pulled.folder, MANIFEST)["weights_digest"])
        net = load_verified(pulled.folder).to(_computed(folder)[0])
    elif architecture["kind"] in vision_language.KINDS:
        found = _found(folder, base)
        if not registered:  # known by its files: they are held against before they are read, which takes minutes
            demand(found.digest)
        dtype, quantize = _computed(folder)
        if registered:
            net = load_base(found, quantize="none", dtype=torch.float32, device=torch.device("cpu"))
            demand(weights_digest(net.state_dict()))
            net = net.to(dtype)
        else:  # what bitsandbytes holds in few bits is made on the device, and stays there
            device = torch.device("cuda" if quantize != "none" and torch.cuda.is_available() else "cpu")
            net = load_base(found, quantize=quantize, dtype=dtype, device=device)
    elif base is not None:
        file = Path(base) / WEIGHTS if Path(base).is_dir() else Path(base)
        state = load_state(file)
        demand_channels(state)
        net = _filled(architecture, state, file)
        demand(weights_digest(net.state_dict()))
    else:
        raise RegistryError(
            f"adapter {folder}: its base is {called}; give the network or its checkpoint file: "
            "medexp.registry.load(uri, base=...)"
        )
    demand_finite(load_state(weights_file(folder)), f"adapter {folder}")
    if isinstance(net, MeanFlowUNet):
        from medexp.models.meanflow.lora import load_lora

        widen(net, adapter["channels"])
        return load_lora(net, folder / ADAPTER)
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going
        return PeftModel.from_pretrained(net, str(folder / ADAPTER))


def _computed(folder: Path) -> tuple[torch.dtype, Quantize]:
    """What an adapter's base was computed in, and how quantised, when the adapter was trained: otherwise its answers are a
    little other ones."""
    told = read_json(folder, TRAINING) if (folder / TRAINING).is_file() else {}
    return getattr(torch, told.get("dtype", "float32")), told.get("quantize", "none")


def _found(folder: Path, base: Path | str | None) -> Base:
    """The folder of an adapter's base, as transformers keeps it: the one that is given, or what the adapter itself names."""
    if base is not None:
        return find_base(str(base), None)
    named = read_json(folder, f"{ADAPTER}/adapter_config.json")
    source, revision = named["base_model_name_or_path"], named.get("revision")
    try:
        return find_base(source, revision)
    except ConfigError as error:
        at = f" at revision {revision}" if revision else ""
        raise RegistryError(
            f"adapter {folder}: its base {source}{at} is not on this machine. Give its folder: "
            f"medexp.registry.load(uri, base=FOLDER), or -P base=FOLDER of predict ({error})"
        ) from error
