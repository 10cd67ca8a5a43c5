"""Weights in and out: nothing is unpickled beyond tensors and numbers, and every key is accounted for."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medexp.errors import CheckpointError, all_problems
from medexp.files import replacing

# A numpy scalar, such as BrainSegFounder's best_acc, needs these to be rebuilt, under the names of numpy 1 and 2. Each makes
# a number from bytes and calls nothing else.
_NUMPY_SCALARS: list[Any] = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


class Held:
    """What stands in for an object of a class that only holds settings, such as argparse's: its state, and no code of it."""

    def __init__(self, *_: Any) -> None:
        """Whatever it was made from is let go."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Entries of a mapping are let go."""


# Settings that pretraining scripts save beside the weights: MAE's argparse, OmegaConf's as `dict(config)` leaves them.
_SETTINGS: list[Any] = [
    (Held, name)
    for name in (
        *("argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "typing.Any"),
        *("collections.defaultdict", "builtins.dict", "builtins.list", "builtins.str", "builtins.int", "builtins.float"),
        *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.Metadata"),
        *("omegaconf.base.ContainerMetadata", "omegaconf.nodes.AnyNode", "omegaconf.nodes.StringNode"),
        *("omegaconf.nodes.IntegerNode", "omegaconf.nodes.FloatNode", "omegaconf.nodes.BooleanNode"),
    )
]
_NESTS = ("state_dict", "model_state_dict", "unet_state_dict")
_SHOWN = 12


def load_state(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file, on the CPU.

    Reads safetensors, and PyTorch files under `weights_only`: a plain mapping or one nested under `state_dict` (as
    BrainSegFounder writes it, with `epoch` and `best_acc` beside it), `model_state_dict` or `unet_state_dict` (MAISI's); the
    prefix `module.` is taken off.

    Raises:
        CheckpointError: There is no such file, it cannot be read, it would run code, or it holds no weights.
    """
    content = load_content(path)
    state = next((content[nest] for nest in _NESTS if isinstance(content, dict) and nest in content), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        keys = ", ".join(map(str, list(content)[:_SHOWN])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"checkpoint {path}: found {keys}, but no mapping of names to tensors, at the top or under {' or '.join(_NESTS)}"
        )
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_content(path: Path) -> Any:
    """All that a checkpoint file holds, on the CPU, under `weights_only`: tensors, numbers, texts and containers of them; of
    the settings that pretraining scripts save beside them a `Held`.

    Raises:
        CheckpointError: There is no such file, it cannot be read, or it would run code.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint: no file {path}; give the path of a .pt, .pth or .safetensors file")
    try:
        # mapped: of a file with optimiser states and a target encoder beside the weights, what nobody asks for is not read
        return load_file(path) if path.suffix == ".safetensors" else _load_pytorch(path, mapped=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it would run {unsafe[1]}" if unsafe else "it is damaged or holds more than weights"
        raise CheckpointError(
            f"checkpoint {path}: refused, {found}; only tensors and numbers are loaded. Save the state dict alone, "
            "as safetensors if you can."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({_first_line(error)}); is the file complete?") from error


def load_weights(
    net: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    advice: str = "Check that the file is for this network, and of the size that the keys network.* say.",
) -> None:
    """Load weights into a network, accounting for every key.

    Args:
        net: The network; unchanged when an error is raised. One on the meta device gets copies in its own dtypes.
        state: Weights by key.
        source: Where the weights come from, for the message.
        advice: What to do where they do not fit, for the message.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape; the message lists them.
    """
    wanted = net.state_dict()
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, the network's is {tuple(wanted[key].shape)}"
        for key in sorted(set(wanted) & set(state))
        if state[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(keys)} {name}: {'; '.join(keys[:_SHOWN])}{'; …' if len(keys) > _SHOWN else ''}"
        for name, keys in (("missing keys", missing), ("unexpected keys", unexpected), ("misshapen keys", misshapen))
        if keys
    ]
    if problems:
        raise CheckpointError(
            all_problems(
                f"checkpoint {source} ({len(state)} keys) does not fit {type(net).__name__} ({len(wanted)} keys)",
                problems,
                advice,
            )
        )
    if any(value.is_meta for value in wanted.values()):
        net.load_state_dict({key: state[key].to(wanted[key].dtype, copy=True) for key in wanted}, assign=True)
    else:
        net.load_state_dict(dict(state))


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a PyTorch file whole or not at all: to a temporary name first, then renamed.

    Raises:
        StorageError: The file cannot be written; what stood under `path` before stands there still.
    """
    with replacing(path) as temporary:
        try:
            torch.save(dict(content), temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk so
            raise OSError(_first_line(error)) from error


def load_training_state(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote: tensors, numbers, strings and containers of them.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        return dict(_load_pytorch(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"training state {path}: cannot be read ({_first_line(error)}); start without resume") from error


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_pytorch(path: Path, mapped: bool = False) -> Any:
    with torch.serialization.safe_globals(_NUMPY_SCALARS + _SETTINGS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
