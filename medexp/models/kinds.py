"""Kinds of networks: a folder each, found by looking, and the one place that turns an architecture into a module.

A folder holds its records, `KINDS` in its `__init__.py`, by the names that a package's architecture gives, and its networks,
which are imported when one is built: a library that one kind needs costs the others nothing.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medexp import models
from medexp.errors import RegistryError

Architecture = Mapping[str, Any]
"""`kind` and the arguments of that network."""


class Spec(NamedTuple):
    """What a tensor is.

    Attributes:
        dtype: Its type, by the name that torch and numpy share, such as float32.
        shape: Its shape, the batch first; -1 is a free axis.
    """

    dtype: str
    shape: tuple[int, ...]


ONLY = ""
"""Names the one tensor of a network that takes, or gives, a single one."""
Tensors = Mapping[str, Tensor]
Specs = Mapping[str, Spec]


class Recognised(NamedTuple):
    """What the weights of a network tell of its architecture, by their names and shapes.

    Attributes:
        architecture: Its kind and the arguments that can be told.
        inferred: Of the arguments that were taken for likely rather than read off, why, in words.
    """

    architecture: Architecture
    inferred: Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of network before one is built.

    Attributes:
        network: What builds it from the arguments of its architecture, as `module:name`.
        inputs: What goes in, given the architecture; a network with several inputs is called with them by name.
        outputs: What comes out, given the architecture; a network with several outputs gives a mapping, which may hold more.
        example: Inputs of a smoke run, given the architecture and the `input` of its package's contract, one or more cases.
        requirements: Distributions that it needs beside those that every package names.
        monai: The same network, with the same keys, in MONAI's config language, but for the arguments. None: MONAI has none.
        recognise: Its architecture by its weights; None of weights that are another kind's. An encoder of OCT volumes has it:
            its network gives `tokens` of (B, 1, D, H, W), has a `width`, a `size` and a switch `checkpointing`.
        pooled: Whether it gives features of several kinds, chosen by name (`medexp.models.swin.features.KINDS`), each pooled
            from other of its maps.
    """

    network: str
    inputs: Callable[[Architecture], Specs]
    outputs: Callable[[Architecture], Specs]
    example: Callable[[Architecture, Mapping[str, Any], torch.Generator], Tensors]
    requirements: tuple[str, ...] = ()
    monai: Mapping[str, Any] | None = None
    recognise: Callable[[Tensors], Recognised | None] | None = None
    pooled: bool = False


def kinds() -> dict[str, Kind]:
    """All kinds by name."""
    found: dict[str, Kind] = {}
    for module in pkgutil.iter_modules(models.__path__):
        if module.ispkg:
            found |= importlib.import_module(f"{models.__name__}.{module.name}").KINDS
    return found


def kind_of(architecture: Architecture) -> Kind:
    """The kind of an architecture.

    Raises:
        RegistryError: It is unknown.
    """
    name, known = architecture.get("kind"), kinds()
    if name not in known:
        raise RegistryError(f"architecture kind: found {name!r}; this version of medexp builds {', '.join(sorted(known))}")
    return known[name]


def build(architecture: Architecture) -> nn.Module:
    """The network that an architecture describes, with initial weights.

    Raises:
        RegistryError: The kind is unknown, or its arguments do not fit.
    """
    make = pkgutil.resolve_name(kind_of(architecture).network)
    try:
        return make(**{key: value for key, value in architecture.items() if key != "kind"})
    except TypeError as error:
        raise RegistryError(f"architecture {architecture['kind']}: {error}") from error


def outputs_of(net: nn.Module, architecture: Architecture, given: Tensors) -> dict[str, Tensor]:
    """What a network gives for inputs by name: the outputs that its kind declares.

    Args:
        net: The network, adapted or not.
        architecture: Its architecture.
        given: Its inputs, the batch first.

    Raises:
        RegistryError: It gives something else.
    """
    output = net(given[ONLY]) if ONLY in given else net(**given)
    declared = kind_of(architecture).outputs(architecture)
    found = output if isinstance(output, Mapping) else {ONLY: output}
    if wrong := [name for name in declared if not isinstance(found.get(name), Tensor)]:
        told = ", ".join(name or "one tensor" for name in wrong)
        raise RegistryError(f"architecture {architecture['kind']}: its output lacks {told}, which its kind declares")
    return {name: found[name] for name in declared}


def noise(architecture: Architecture, contract: Mapping[str, Any], generator: torch.Generator) -> Tensors:
    """An example for a network that takes one float32 image or volume: noise of the `example_shape` that it was made with."""
    return {ONLY: torch.randn(contract["example_shape"], generator=generator)}
