"""What a package is written from, and what stands in it for a model that it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from medexp.checks import Check
from medexp.data.seen import Ranges
from medexp.registry.packages import CASES


@dataclass(frozen=True)
class Parent:
    """A model that another one was made from.

    Attributes:
        name: Name of the model, or of a file.
        version: Its version; None where it is not registered.
        digest: Digest of its package; None where it is not registered.
        weights_digest: `medexp.models.checkpoints.weights_digest` of its weights.
        cases: The file of its package that says what the weights that were taken over were trained and selected on.
    """

    name: str
    version: str | None
    digest: str | None
    weights_digest: str
    cases: str = CASES


@dataclass(frozen=True)
class Learned:
    """What a model's own weights were trained on, whatever its parents were.

    Attributes:
        source: The data in words.
        digest: Of all of its cases; None: not known.
        phantoms: Whether it is embedded data, which are of nobody.
    """

    source: str
    digest: str | None = None
    phantoms: bool = False

    def __str__(self) -> str:
        return f"{self.source}, digest of all splits {self.digest}" if self.digest else self.source


@dataclass(frozen=True)
class Package:
    """What is written.

    Attributes:
        name: Name that the model is registered under.
        architecture: `kind` and arguments of `medexp.models.kinds.build`; an adapter is
            `{"kind": "lora_adapter", "base": <architecture of its base>}`, of a base that medexp does not build
            `{"kind": "external", "class": <its name, for whoever has to give it>}`.
        contract: `input`, as the definition has it and with `spacing_mm` and `example_shape`, and `output`.
        weights: The weights by key; empty for an adapter.
        parents: What it was made from, by role; an adapter has a `base`.
        checks: The checks that it was judged by.
        evaluation: `phase`, `revision` of its checks, `split`, `data_digest` of the cases that it was judged on and `made_on`,
            that of all data that the phase was given, and whether it was `selected` by these same cases; empty for a model
            that was not judged.
        per_case: Its scores, a row a case: `case`, `patient` and the metrics.
        cases: Output of `medexp.data.manifest.seen_cases` of what its weights were trained and selected on; None: not known.
        learned: What its weights were trained on; None: not known.
        facts: What it was made with, for the card, such as run and license; None is unknown.
        figures: What was measured, for the card.
        seen: `medexp.data.seen.ranges` of the cases that it was trained on.
        extra: Further files and folders by their path in the package, such as `adapter`, as peft saves it.
    """

    name: str
    architecture: Mapping[str, Any]
    contract: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    parents: Mapping[str, Parent] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    per_case: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"case": [], "patient": []}))
    cases: pd.DataFrame | None = None
    learned: Learned | None = None
    facts: Mapping[str, str | None] = field(default_factory=dict)
    figures: Mapping[str, float | str] = field(default_factory=dict)
    seen: Ranges = field(default_factory=dict)
    extra: Mapping[str, Path] = field(default_factory=dict)
