"""The encoders that are compared: files, folders, objects in a bucket, registered models, and initial weights."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pandas as pd
import torch
from torch import nn

from medexp import registry
from medexp.addresses import local_path
from medexp.data.manifest import patient_sha256
from medexp.data.oct.steps import Resize
from medexp.data.oct.transforms import Normalisation, preprocessing
from medexp.data.preprocessing import Preprocessing
from medexp.data.storage import local_file, local_folder
from medexp.errors import CheckpointError, ConfigError, DataError, RegistryError, all_problems
from medexp.evaluation.controls import UNTRAINED_SEEDS
from medexp.models.checkpoints import weights_digest
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.encoders import EncoderCard, beside, load_oct_encoder
from medexp.models.kinds import build
from medexp.phases.oct.config import OctConfig
from medexp.phases.oct.pretrained import demo_checkpoints
from medexp.phases.shared.context import Context
from medexp.phases.shared.packaging import parent_of
from medexp.registry.contracts import preprocessing_of
from medexp.registry.loading import load_verified
from medexp.registry.package import Parent
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled

RANDOM = "random"
"""Name, in tables, of networks with initial weights."""

CONTROLS = ("intensity", "layers", "headers", "majority")
"""Names, in tables, of what needs no encoder."""

_USUAL: Normalisation = "zscore"
"""What the described pretraining did to volumes, which it resized without antialiasing (docs/requirements/oct.md)."""

_NAME = re.compile(r"(?P<name>[\w.-]+)=(?P<where>.+)")


@dataclass(frozen=True)
class Encoder:
    """One of the encoders.

    Attributes:
        name: In tables; unique.
        entry: The row of the leaderboard that it belongs to: its name, or RANDOM of each network with initial weights.
        called: In words.
        net: In eval mode, frozen, on the CPU: `width`, `tokens` and `forward`.
        architecture: Of the network.
        preprocessing: What is done to a volume before it.
        parent: The file or version that it came from, with the digest of its weights.
        seen: Whom it was pretrained on, with the column `patient_sha256`; None where that is not known.
        pulled: Its package, where it came from the registry.
        notes: What is not known of it, and was supposed.
        place: The file, folder or version that it was read from, as it was given; none of initial weights.
    """

    name: str
    entry: str
    called: str
    net: nn.Module
    architecture: Mapping[str, Any]
    preprocessing: Preprocessing
    parent: Parent
    seen: pd.DataFrame | None = None
    pulled: Pulled | None = None
    notes: tuple[str, ...] = ()
    place: str = ""

    @property
    def is_random(self) -> bool:
        return self.entry == RANDOM

    @cached_property
    def digest(self) -> str:
        """Of all that its features follow from: what is the same weights under another normalisation is another one, and the
        encoder in a registered classifier is the one that its file holds."""
        made = [weights_digest(self.net.state_dict()), self.preprocessing.key, self.architecture]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()

    @property
    def width(self) -> int:
        """D of its features."""
        width = self.net.width
        assert isinstance(width, int)
        return width


def load_encoders(ctx: Context[OctConfig]) -> list[Encoder]:
    """The encoders that the configuration names, or the demo's.

    Raises:
        ConfigError: Two have one name; a file or version is not there or holds no encoder of OCT volumes; or a card and the
            configuration contradict each other. All problems at once.
    """
    given = [_named(one) for one in ctx.config.paths.checkpoints]
    given = given or [(path.stem, str(path)) for path in demo_checkpoints(ctx.cache)]
    problems = [f"{name} names {times} encoders" for name, times in Counter(name for name, _ in given).items() if times > 1]
    problems += [f"{name} is the row of initial weights" for name, _ in given if f"{name}_".startswith(f"{RANDOM}_")]
    problems += [f"{name} is the row of a control" for name, _ in given if name in CONTROLS]
    if problems:
        raise ConfigError(all_problems("checkpoints", problems, "Name them: checkpoints=NAME=FILE,OTHER=FILE."))
    encoders, problems = [], []
    for name, where in given:
        try:
            encoder = _registered(name, where) if where.startswith("models:/") else _from_file(ctx, name, where)
        except (CheckpointError, DataError, RegistryError) as error:
            problems.append(str(error))
            continue
        problems += _contradictions(encoder, ctx.config)
        encoders.append(encoder)
    if problems:
        raise ConfigError(problems[0] if len(problems) == 1 else all_problems("checkpoints", problems))
    for note in dict.fromkeys(f"{encoder.name}: {note}" for encoder in encoders for note in encoder.notes):
        print(note, flush=True)
    return encoders


def with_initial_weights(encoders: list[Encoder]) -> list[Encoder]:
    """Networks of the architectures of encoders with initial weights, one for each of UNTRAINED_SEEDS."""
    found = []
    for number, encoder in enumerate({str(sorted(one.architecture.items())): one for one in encoders}.values()):
        for seed in UNTRAINED_SEEDS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                net = build(encoder.architecture).eval().requires_grad_(False)
            name = f"{RANDOM}_{number + 1}_{seed}" if number else f"{RANDOM}_{seed}"
            parent = Parent(name, None, None, weights_digest(net.state_dict()))
            called = f"initial weights, seed {seed}"
            found.append(
                replace(
                    encoder, name=name, entry=RANDOM, called=called, net=net, parent=parent, seen=None, pulled=None, place=""
                )
            )
    return found


def _named(given: str) -> tuple[str, str]:
    """The name and the place of an encoder; what names no metric and no folder is left out of the name, such as the = that
    training libraries write."""
    path = local_path(given)
    if not path.exists() and (match := _NAME.fullmatch(given)):
        return match["name"], match["where"]
    own = given.removeprefix("models:/") if given.startswith("models:/") else path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "_", own), given


def _from_file(ctx: Context[OctConfig], name: str, where: str) -> Encoder:
    if where.endswith("/"):
        place = local_folder(where, ctx.cache)
    else:
        card_file = f"{PurePosixPath(where).stem}.card.yaml"
        place = local_file(where, ctx.cache, [card_file])
        place = local_file(where, ctx.cache, [card_file, *beside(place)])
    net, card = load_oct_encoder(place)
    asked, notes = ctx.config.data.normalisation, [*card.told, *card.unknown]
    normalisation = card.normalisation if asked == "card" else asked
    if normalisation is None:
        normalisation = _USUAL
        notes.append(
            f"no card says how its pretraining resized and normalised volumes: without antialiasing, and {_USUAL}, is taken"
        )
    elif card.normalisation not in (None, normalisation):
        notes.append(f"was pretrained on volumes of normalisation {card.normalisation}, and is given {normalisation}")
    return Encoder(
        name,
        name,
        name,
        net.requires_grad_(False),
        card.architecture,
        preprocessing(card.size, normalisation, antialias=card.antialias and card.normalisation is not None),
        Parent(name, None, None, weights_digest(net.state_dict())),
        _seen(card),
        None,
        tuple(notes),
        place=where,
    )


def _seen(card: EncoderCard) -> pd.DataFrame | None:
    """Whom a card says that its encoder was pretrained on."""
    if card.people is None and card.people_sha256 is None:
        return None
    known = {*(patient_sha256(_as_in_keys(one)) for one in card.people or ()), *(card.people_sha256 or ())}
    return pd.DataFrame({"patient_sha256": sorted(known)})


def _as_in_keys(person: str) -> str:
    """An id as keys have it: 1001, where a table of numbers says 1001.0 and other files of AI-READI AIREADI-1001."""
    return re.sub(r"^(\d+)\.0+$", r"\1", re.sub(r"(?i)^ai-?readi[-_ ]?", "", person.strip()))


def _registered(name: str, where: str) -> Encoder:
    """The encoder in a registered model: of an oct_classifier its own."""
    pulled = registry.pull(where)
    architecture = read_json(pulled.folder, "contract.json")["architecture"]
    net = load_verified(pulled.folder)
    if isinstance(net, EncoderClassifier):
        architecture, net = architecture["encoder"], net.encoder
    steps = preprocessing_of(pulled.folder, where)
    if steps.data != "oct" or not hasattr(net, "tokens"):
        raise RegistryError(
            f"checkpoints: {where} is a {architecture['kind']} of {steps.data}; give an encoder of OCT volumes"
        )
    called = f"{pulled.name} version {pulled.version}"
    return Encoder(
        name, name, called, net.eval().requires_grad_(False), architecture, steps, parent_of(pulled), None, pulled, place=where
    )


def _contradictions(encoder: Encoder, config: OctConfig) -> list[str]:
    """What an encoder and the configuration say differently."""
    wanted, found = config.model.emb_dim, encoder.width
    problems = []
    if wanted not in (None, found):
        problems.append(f"{encoder.name}: features of width {found}, model.emb_dim is {wanted}; set it to {found}, or to null")
    size, asked = encoder.preprocessing.get(Resize).size, config.data.augment.resize
    if asked not in (None, size):
        problems.append(
            f"{encoder.name}: takes volumes of {list(size)}, data.augment.resize is {list(asked)}; set it to that, or to null"
        )
    given = config.data.normalisation
    resize = encoder.preprocessing.get(Resize)
    if encoder.pulled and given != "card" and encoder.preprocessing != preprocessing(size, given, antialias=resize.antialias):
        told = "its contract says how volumes are normalised"
        problems.append(f"{encoder.name}: {told}, data.normalisation is {given}; set it to card")
    return problems
