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
_NESTS = ("state_dict", "model_state_dict", "unet_state_dict", "model", "network_weights", "network", "net", "weights", "ema")
# What wrappers add to names: DataParallel before them; torch.compile, FSDP and activation checkpointing wherever a part of the
# network was wrapped. None is a network's own name.
_WRAPPERS = re.compile(r"^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTED = "n_averaged"  # beside the weights of torch's AveragedModel: how many were averaged
_SHOWN, _NAMED = 12, 3
# How files begin that are no checkpoints, and what to do with them.
_OTHERS: Mapping[bytes, str] = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself; fetch that: git lfs pull",
    b"<": "it is a page of HTML or XML, as a download without a login leaves; download the file itself",
    b"\x1f\x8b": "it is packed with gzip; unpack it and give the file in it",
    b"\x89HDF": "it is an HDF5 file, as Keras writes them; save the weights as safetensors or by torch.save",
    b"{": "it is JSON; give the file with the weights",
}


def load_state(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file, on the CPU.

    Reads safetensors, and PyTorch files under `weights_only`: a plain mapping or one nested under `state_dict` (as
    BrainSegFounder writes it, with `epoch` and `best_acc` beside it), `model_state_dict`, `unet_state_dict` (MAISI's),
    `network_weights` (nnU-Net's) or one of a few others; what wrappers add to keys, such as DataParallel and torch.compile, is
    taken off.

    Raises:
        CheckpointError: There is no such file, it cannot be read, it would run code, or it holds no weights: none, or sparse
            ones, of the meta device, of 8 bits.
    """
    content = load_content(path)
    state = _nested(content)
    if state is None:
        keys = ", ".join(map(str, list(content)[:_SHOWN])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"checkpoint {path}: found {keys or 'nothing'}, but no mapping of names to tensors, at the top or under "
            f"{' or '.join(_NESTS)}"
        )
    if odd := [f"{key} {words}" for key, value in state.items() if (words := _no_numbers(value))]:
        more = [f"and {len(odd) - _NAMED} keys more"] if len(odd) > _NAMED else []
        raise CheckpointError(all_problems(f"checkpoint {path}", odd[:_NAMED] + more, "Save the weights as float32."))
    if others := _as_well(content, state):
        there = next(nest for nest in _NESTS if _nested(content.get(nest)) is state)
        told = f"the weights under {there!r} are read, those under {' and '.join(map(repr, others))} are not"
        print(f"checkpoint {path}: {told}; to have these, save them alone", flush=True)
    if all(str(key).startswith("module.") or key == _COUNTED for key in state):
        state.pop(_COUNTED, None)
    bare = {_bare(str(key)): key for key in state}
    if len(bare) < len(state):
        raise CheckpointError(
            f"checkpoint {path}: keys stand in it twice, with and without what a wrapper adds, as module. does"
        )
    return {key: state[whole] for key, whole in bare.items()}


def _no_numbers(value: Tensor) -> str:
    """Why a tensor holds no weights as they were trained, in words; empty where it does."""
    if value.is_meta:
        return "has a shape and no values (it lies on the meta device)"
    if value.layout is not torch.strided:
        return "is sparse"
    if value.is_floating_point() and value.dtype.itemsize == 1:
        return f"is {str(value.dtype).removeprefix('torch.')}, of which two or three binary digits are left"
    return ""


def _as_well(content: Any, state: Mapping[str, Tensor]) -> list[str]:
    """Where else in a file weights of the same network stand, such as the moving average (ema) beside the last step's."""
    keys = {_bare(str(key)) for key in state}
    nests = {name: found for name, nest in content.items() if (found := _nested(nest)) is not None and found is not state}
    return [str(name) for name, found in nests.items() if keys <= {_bare(str(key)) for key in found}]


def _bare(key: str) -> str:
    """A key without what wrappers around the network, and around each other, added."""
    while (bare := _WRAPPERS.sub("", key)) != key:
        key = bare
    return key


def _nested(content: Any) -> dict[str, Tensor] | None:
    """The mapping of names to tensors, at the top or in nests; None where there is none."""
    if not isinstance(content, dict) or not content:
        return None
    if all(isinstance(value, Tensor) for value in content.values()):
        return content
    found = (_nested(content[nest]) for nest in _NESTS if nest in content)
    return next((state for state in found if state is not None), None)


def load_content(path: Path) -> Any:
    """All that a checkpoint file holds, on the CPU, under `weights_only`: tensors, numbers, texts and containers of them; of
    the settings that pretraining scripts save beside them a `Held`.

    What it is, its first bytes say, whatever it is called.

    Raises:
        CheckpointError: There is no such file, it cannot be read, or it would run code.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint: no file {path}; give the path of a .pt, .pth or .safetensors file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if not start:
            raise CheckpointError(f"checkpoint {path}: is empty; fetch or save it again")
        if told := next((told for begin, told in _OTHERS.items() if start.lstrip().lower().startswith(begin.lower())), None):
            raise CheckpointError(f"checkpoint {path}: cannot be read, {told}")
        if path.suffix.lower() == ".safetensors" or start[8:9] == b"{":
            return load_file(path)
        packed = zipfile.is_zipfile(path)
        inside = {name.rpartition("/")[2] for name in zipfile.ZipFile(path).namelist()} if packed else {"data.pkl"}
        if "data.pkl" not in inside:
            raise CheckpointError(f"checkpoint {path}: cannot be read, it is a zip of other files; unpack it and give the one")
        if "constants.pkl" in inside:
            raise CheckpointError(
                f"checkpoint {path}: refused, it is a TorchScript archive, which holds code. Save the weights alone: "
                "torch.save(net.state_dict(), FILE), or as safetensors."
            )
        # mapped: of a file with optimiser states and a target encoder beside the weights, what nobody asks for is not read
        return _load_pytorch(path, mapped=packed)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it would run {unsafe[1]}" if unsafe else "it is damaged or holds more than weights"
        raise CheckpointError(
            f"checkpoint {path}: refused, {found}; only tensors and numbers are loaded. Save the weights alone: "
            "torch.save(net.state_dict(), FILE), or as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({_first_line(error)}); is the file complete?") from error


def load_weights(
    net: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    advice: str = "Check that the file is for this network, and of the size that the keys network.* say.",
) -> None:
    """Load weights into a network, accounting for every key and every value.

    A prefix that all keys have, and under which they are the network's, is taken off, and said.

    Args:
        net: The network; unchanged when an error is raised. One on the meta device gets copies in its own dtypes.
        state: Weights by key, in any floating dtype.
        source: Where the weights come from, for the message.
        advice: What to do where they do not fit, for the message.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape, hold integers where numbers with fractions are
            wanted, or values that are not finite; the message lists them. Or all are 0.
    """
    wanted = net.state_dict()
    if prefix := _prefix(state, wanted):
        print(f"checkpoint {source}: its keys stand under {prefix!r}, which is taken off", flush=True)
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, the network's is {tuple(wanted[key].shape)}"
        for key in sorted(set(wanted) & set(state))
        if state[key].shape != wanted[key].shape
    ]
    unlike = [
        f"{key} is {state[key].dtype}, the network's is {wanted[key].dtype}"
        for key in sorted(set(wanted) & set(state))
        if wanted[key].is_floating_point() and not state[key].is_floating_point()
    ]
    problems = [
        f"{len(keys)} {name}: {'; '.join(keys[:_SHOWN])}{'; …' if len(keys) > _SHOWN else ''}"
        for name, keys in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("misshapen keys", misshapen),
            ("keys of another type", unlike),
        )
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
    demand_finite({key: value.to(wanted[key].dtype) for key, value in state.items()}, f"checkpoint {source}")
    if not any(bool(value.any()) for value in state.values()):
        raise CheckpointError(f"checkpoint {source}: all its values are 0, so that it was never trained or is damaged")
    if any(value.is_meta for value in wanted.values()):
        net.load_state_dict({key: state[key].to(wanted[key].dtype, copy=True) for key in wanted}, assign=True)
    else:
        net.load_state_dict(dict(state))


def _prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What all keys have before the network's own names, such as Lightning's `model.`; empty where that is nothing."""
    if not state or set(state) & set(wanted):
        return ""
    shortest = min(state, key=len)
    suffixes = [shortest[place + 1 :] for place, letter in enumerate(shortest) if letter == "."]
    prefixes = [shortest.removesuffix(name) for name in suffixes if name in wanted]
    return next((one for one in prefixes if {key.removeprefix(one) for key in state} == set(wanted)), "")


def demand_finite(state: Mapping[str, Tensor], subject: str) -> None:
    """Refuse weights that are NaN or infinite, as a training that diverged leaves them.

    Args:
        state: Weights by key.
        subject: Where they come from, for the message.

    Raises:
        CheckpointError: Some are; the message has each key and how many of its values.
    """
    floating = {key: value for key, value in state.items() if value.is_floating_point() or value.is_complex()}
    found = {key: int((~value.isfinite()).sum()) for key, value in floating.items() if not bool(value.isfinite().all())}
    problems = [f"{key} has {found[key]} values that are not finite, of {state[key].numel()}" for key in sorted(found)]
    if problems:
        more = [f"and {len(problems) - _NAMED} keys more"] if len(problems) > _NAMED else []  # of a diverged training all
        advice = "Give a checkpoint from before the training diverged."
        raise CheckpointError(all_problems(subject, problems[:_NAMED] + more, advice))


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a PyTorch file whole or not at all: to a temporary name first, then renamed.

    Raises:
        StorageError: The file cannot be written; what stood under `path` before stands there still.
    """
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
        except RuntimeError as error:  # "unexpected pos", says torch's zip writer of a full disk; the file has said what it is
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(_first_line(error)) from error


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
