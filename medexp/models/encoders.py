"""Pretrained encoders of OCT volumes: from a checkpoint, in whatever layout, to a network and a card that says what it is.

The card stands beside the checkpoint, as `<stem>.card.yaml`, or in a folder, as `encoder.card.yaml`:

    architecture: {kind: vit3d, patch: [4, 16, 16], dim: 768, depth: 12, heads: 12}   # what weights do not tell is enough
    preprocessing: {size: [64, 384, 384], normalisation: zscore}                      # or unit: 0 to 1; antialias: false
    pretrained_on: {file: cases.csv}          # or people: [...]; a table of participants, of these splits: [train, val]
    source: where it comes from
    licence: its licence
    notes: what else is to be said
    weights: context_encoder                  # or target_encoder, where that is meant
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate import init_empty_weights
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medexp.config.bounds import Count, Told
from medexp.config.validate import schema_problems
from medexp.errors import CheckpointError, RegistryError, all_problems
from medexp.files import dump_yaml, read_mapping
from medexp.models.checkpoints import load_content, load_weights
from medexp.models.kinds import Architecture, Recognised, build, kinds
from medexp.words import some

FOLDER_CARD = "encoder.card.yaml"
"""The card of an encoder that is a folder: Hugging Face's, or a package."""

Normalisation = Literal["zscore", "unit"]
Weights = Literal["context_encoder", "target_encoder"]

_OF_STEPS: Mapping[str, Normalisation] = {"z_score_volume": "zscore", "to_unit": "unit"}
"""What a package's preprocessing (`medexp.data.oct.steps`) comes to."""

_CASES = "cases.csv"
"""Of whom an encoder was pretrained on, as packages and pretraining scripts of medexp write it."""

_STRICT = ConfigDict(extra="forbid")
_SHOWN = 6
# Names that lie around an encoder's own, in any order and number: nests of a file, wrappers of a network, parts of a method.
_AROUND = frozenset(
    [
        *("model_state_dict", "full_model_state_dict", "state_dict", "encoder_state_dict", "model", "net", "network"),
        *("module", "_orig_mod", "backbone", "encoder", "context_encoder", "online_encoder", "student", "vjepa2"),
    ]
)
_TARGET = frozenset(("target_encoder", "ema_encoder", "momentum_encoder", "teacher", "model_ema", "ema"))
# What begins so is no encoder's: the rest of a method, heads, and what a training goes on from.
_BESIDE = (
    *("predictor", "decoder", "mask_token", "head", "classifier", "pooler", "criterion", "projector", "opt", "scheduler"),
    *("lr_scheduler", "scaler", "rng", "cuda_rng", "loss", "best", "epoch", "step"),
    *("callbacks", "loops", "hyper_parameters", "datamodule"),  # PyTorch Lightning's
)


@dataclass(frozen=True, config=_STRICT)
class Preprocessed:
    """What is done to a volume before the encoder sees it, as a card says it.

    Attributes:
        size: D, H and W in voxels; of a volume to which all are resized.
        normalisation: zscore: zero mean and unit variance of each volume; unit: 0 to 1. None: not known.
        antialias: Whether an axis that shrinks is averaged over when a volume is brought to the size.
    """

    size: Annotated[tuple[Count, Count, Count], Told("three whole numbers, D, H and W")] | None = None
    normalisation: Normalisation | None = None
    antialias: bool = True


@dataclass(frozen=True, config=_STRICT)
class Pretraining:
    """Whom an encoder was pretrained on, as a card says it.

    Attributes:
        people: Their ids.
        people_sha256: Sha256 of ids, where these are not told.
        file: A table beside the card: CSV with a column patient_sha256, as packages have it, or TSV with participant_id or
            person_id.
        splits: The splits of that table that count; all rows where none is named.
    """

    people: tuple[str | int, ...] = ()
    people_sha256: tuple[str, ...] = ()
    file: str | None = None
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, config=_STRICT)
class _CardFile:
    architecture: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessed = field(default_factory=Preprocessed)
    pretrained_on: Pretraining | None = None
    source: str = ""
    licence: str = ""
    notes: str = ""
    weights: Weights = "context_encoder"


@dataclass(frozen=True)
class EncoderCard:
    """What is known of an encoder.

    Attributes:
        architecture: `kind` and the arguments of that network, its `size` (D, H, W) among them.
        normalisation: What its volumes are normalised to; None: not known.
        people: Ids of whom it was pretrained on; None, with `people_sha256` None too: not known.
        people_sha256: Sha256 of ids of whom it was pretrained on.
        source: Where it comes from.
        licence: Its licence.
        notes: What else is to be said.
        weights: Which of the two encoders of a V-JEPA it is.
        told: What was inferred, left out or is odd, in words.
        unknown: What is not known, in words, and what to do about it.
        antialias: Whether its volumes were averaged over where they shrank.
    """

    architecture: dict[str, Any]
    normalisation: Normalisation | None = None
    people: frozenset[str] | None = None
    people_sha256: frozenset[str] | None = None
    source: str = ""
    licence: str = ""
    notes: str = ""
    weights: Weights = "context_encoder"
    told: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    antialias: bool = True

    @property
    def size(self) -> tuple[int, int, int]:
        """D, H and W of its volumes in voxels."""
        depth, height, width = self.architecture["size"]
        return depth, height, width


def load_oct_encoder(path: Path) -> tuple[nn.Module, EncoderCard]:
    """An encoder of OCT volumes, in eval mode, on the CPU, in float32.

    Its weights are found under any nest and prefix that pretraining scripts leave, and every key is accounted for: the
    encoder's are all loaded; what else the file holds is said in the card, by group.

    Args:
        path: A checkpoint (.pt, .pth, .ckpt, .safetensors); a Hugging Face folder (config.json and model.safetensors); or the
            folder of a verified package that holds an encoder, such as that of an oct_classifier, whose contract and cases
            say what a card would.

    Returns:
        The network (`tokens`: (B, 1, D, H, W) to (B, N, width); `forward`: to (B, width)), and its card.

    Raises:
        CheckpointError: The file is unsafe, cannot be read, holds no encoder or only the target encoder; keys are missing,
            unexpected or misshapen; values are not finite; the card does not hold, or neither card nor weights say enough.
    """
    content, said, card = _contents(path)
    place = _place(path)
    card = _read_card(place, card)
    state, beside = _sorted_out(content, card.weights, path, place)
    if not state:
        raise CheckpointError(f"checkpoint {path}: {_no_encoder(beside, card.weights, place)}")
    recognised = _recognised(state)
    if said:  # all that there is to be said
        recognised = Recognised(said, {})
    architecture, told = _architecture(card, state, recognised, path, place)
    try:
        with init_empty_weights(include_buffers=False):
            net = build(architecture)
    except RegistryError as error:
        raise CheckpointError(f"{place if card.architecture else path}: {error}; say architecture in {place}") from error
    own = {_bare(key.split("."))[0]: key for key in net.state_dict()}
    _demand_grid(state, net, own, architecture.get("size"), path)
    load_weights(
        net,
        {own.get(key, key): value for key, value in state.items()},
        str(path),
        f"Its architecture is {_in_words(architecture)}; where that is not so, say architecture in {place}.",
    )
    if beside:
        told.append("left out: " + ", ".join(f"{count} tensors of {group}" for group, count in sorted(beside.items())))
    if zeros := [key for key, value in state.items() if value.ndim > 1 and not value.any()]:
        told.append(f"all zero: {some(zeros, _SHOWN)}; such weights were never trained")
    return net.eval(), _made_card(card, architecture, told, place)


def beside(path: Path) -> list[str]:
    """Names of the files that the card of a checkpoint refers to, where there is a card: they lie beside it.

    Raises:
        CheckpointError: The card does not hold.
    """
    said = _read_card(_place(path), _CardFile()).pretrained_on
    return [said.file] if said and said.file else []


def write_card(card: EncoderCard, path: Path) -> None:
    """Write what `load_oct_encoder` reads beside a checkpoint.

    Args:
        card: What is known.
        path: The checkpoint, or a folder.
    """
    people = {
        name: sorted(ids) for name, ids in (("people", card.people), ("people_sha256", card.people_sha256)) if ids is not None
    }
    content = {
        "architecture": {key: _plain(value) for key, value in card.architecture.items() if key != "size"},
        "preprocessing": {"size": list(card.size), "normalisation": card.normalisation, "antialias": card.antialias},
        "pretrained_on": people or None,
        **{name: getattr(card, name) for name in ("source", "licence", "notes", "weights")},
    }
    _place(path).write_text(dump_yaml(content), encoding="utf-8")


def _place(path: Path) -> Path:
    return path / FOLDER_CARD if path.is_dir() else path.with_name(f"{path.stem}.card.yaml")


def _contents(path: Path) -> tuple[Any, dict[str, Any], _CardFile]:
    """What a checkpoint or folder holds, the architecture that a folder says, and the card of one that has none."""
    if not path.is_dir():
        return load_content(path), {}, _CardFile()
    if (contract := path / "contract.json").is_file():
        said = read_mapping(contract, CheckpointError, "a package's contract says its architecture")
        whole = said["architecture"]
        architecture = whole.get("encoder", whole)
        known = sorted(name for name, kind in kinds().items() if kind.recognise is not None)
        if architecture["kind"] not in known:
            raise CheckpointError(
                f"package {path}: its architecture is {architecture['kind']}, no encoder of OCT volumes; known are "
                f"{', '.join(known)}. Give a package of oct_classifier"
            )
        state = load_content(path / "weights.safetensors")
        if "encoder" in whole:
            state = {key: value for key, value in state.items() if key.startswith("encoder.")}
        steps = said.get("preprocessing", {}).get("steps", [])
        return (
            state,
            architecture,
            _CardFile(
                preprocessing=Preprocessed(
                    normalisation=next((_OF_STEPS[one["step"]] for one in steps if one["step"] in _OF_STEPS), None),
                    antialias=next((one["antialias"] for one in steps if one["step"] == "resize"), True),
                ),
                pretrained_on=Pretraining(file="cases.csv", splits=("train", "val"))
                if (path / "cases.csv").is_file()
                else None,
                source=f"the registered model {said.get('name', path.name)}",
            ),
        )
    if (config := path / "config.json").is_file():
        from medexp.models.vjepa2.network import architecture_of

        said = read_mapping(config, CheckpointError, "config.json of Hugging Face says model_type and sizes")
        if said.get("model_type") != "vjepa2":
            raise CheckpointError(f"{config}: model_type {said.get('model_type')!r}; vjepa2 is what is known")
        architecture = architecture_of(said)
        return load_content(path / "model.safetensors"), architecture, _CardFile()
    raise CheckpointError(
        f"checkpoint {path}: a folder without config.json, which Hugging Face's have, and contract.json, which packages have; "
        "give a checkpoint file"
    )


def _read_card(place: Path, otherwise: _CardFile) -> _CardFile:
    if not place.is_file():
        return otherwise
    content = read_mapping(place, CheckpointError, "a card says architecture, preprocessing, pretrained_on, source, licence")
    try:
        return TypeAdapter(_CardFile).validate_python(content)
    except ValidationError as error:
        raise CheckpointError(all_problems(str(place), schema_problems(error, _CardFile))) from error


def _tensors(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """All tensors in a checkpoint, by the parts of their names, nests included."""
    if isinstance(content, Tensor):
        yield path, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, (*path, *str(key).split(".")))
    elif isinstance(content, list | tuple):
        for at, value in enumerate(content):
            yield from _tensors(value, (*path, str(at)))


def _bare(parts: Sequence[str]) -> tuple[str, set[str]]:
    """A key without what lies around an encoder's own name, and what that was."""
    around = 0
    while around < len(parts) and parts[around] in _AROUND | _TARGET:
        around += 1
    return ".".join(parts[around:]), set(parts[:around])


def _sorted_out(content: Any, weights: Weights, path: Path, place: Path) -> tuple[dict[str, Tensor], Counter[str]]:
    """The encoder's weights by their bare keys, and how many tensors there are of what else, by its name."""
    state: dict[str, Tensor] = {}
    beside: Counter[str] = Counter()
    twice = []
    for parts, value in _tensors(content):
        bare, around = _bare(parts)
        first = bare.split(".")[0]
        if not bare or first.startswith(_BESIDE):
            beside[first or parts[-1]] += 1
            continue
        is_target = bool(around & _TARGET)
        if is_target != (weights == "target_encoder"):
            beside["target_encoder" if is_target else "context_encoder"] += 1
            continue
        whole = ".".join(parts)
        if bare in state and not torch.equal(state[bare], value):
            twice.append(f"{bare} stands twice and differs, once as {whole}")
        state[bare] = value
    if twice:
        advice = f"Save the encoder's weights alone, or say in {place} which of two encoders is meant (weights)."
        raise CheckpointError(all_problems(f"checkpoint {path}", [some(twice, _SHOWN)], advice))
    return state, beside


def _no_encoder(beside: Mapping[str, int], weights: Weights, place: Path) -> str:
    other = "target_encoder" if weights == "context_encoder" else "context_encoder"
    if other in beside:
        return (
            f"holds the {other} ({beside[other]} tensors) and no {weights}. The two differ: give a checkpoint with the "
            f"{weights}, or, where the {other} is meant, write the line `weights: {other}` in {place}"
        )
    held = ", ".join(f"{count} tensors of {group}" for group, count in sorted(beside.items())) or "no tensor"
    return f"holds no encoder: {held}. Give a checkpoint with an encoder's weights"


def _recognised(state: Mapping[str, Tensor]) -> Recognised | None:
    tried = (kind.recognise(state) for kind in kinds().values() if kind.recognise is not None)
    return next((one for one in tried if one is not None), None)


def _architecture(
    card: _CardFile, state: Mapping[str, Tensor], recognised: Recognised | None, path: Path, place: Path
) -> tuple[dict[str, Any], list[str]]:
    """The architecture that card and weights give together, and what of it was inferred."""
    given, size = dict(card.architecture), card.preprocessing.size
    if size is not None:
        if list(given.get("size", size)) != list(size):
            raise CheckpointError(
                f"{place}: preprocessing.size is {list(size)}, architecture.size is {given['size']}; they are one and the same"
            )
        given["size"] = list(size)
    known = {name: kind for name, kind in kinds().items() if kind.recognise is not None}
    if (name := given.get("kind")) is not None and name not in known:
        raise CheckpointError(f"{place}: architecture.kind: found {name!r}; known are {', '.join(sorted(known))}")
    if recognised is None and name is None:
        raise CheckpointError(
            f"checkpoint {path}: its keys are those of no encoder that is known ({', '.join(sorted(known))}): "
            f"{some(sorted(state), _SHOWN)}. Where it is one of them, say architecture in {place}; a V-JEPA 2 with rotary "
            "positions is read from a Hugging Face folder"
        )
    if recognised is None or name not in (None, recognised.architecture["kind"]):
        return given, []
    architecture = {**recognised.architecture, **given}
    lacking = [key for key in ("size", "heads") if key not in architecture]
    if lacking:
        where = {"size": "preprocessing: {size: [D, H, W]}", "heads": "architecture: {heads: ...}"}
        raise CheckpointError(
            f"checkpoint {path}: {architecture['kind']} of dim {architecture['dim']}, depth {architecture['depth']}, patch "
            f"{architecture['patch']}; its weights do not tell {' and '.join(lacking)}. Say in {place}: "
            + ", ".join(where[key] for key in lacking)
        )
    return architecture, [f"inferred: {told}" for key, told in recognised.inferred.items() if key not in given]


def _demand_grid(state: Mapping[str, Tensor], net: nn.Module, own: Mapping[str, str], size: Any, path: Path) -> None:
    """A position embedding of the network's own grid."""
    found, wanted = state.get("pos_embed"), net.state_dict().get(own.get("pos_embed", ""))
    if found is None or wanted is None or found.ndim != 3 or found.shape[1] == wanted.shape[1]:
        return
    raise CheckpointError(
        f"checkpoint {path}: its position embedding has {found.shape[1]} positions; size {size} makes {wanted.shape[1]}. It "
        "is not stretched to another grid, which would change what it was trained for: say the size of its pretraining "
        "(preprocessing.size of its card), to which volumes are then resized"
    )


def _made_card(card: _CardFile, architecture: dict[str, Any], told: Sequence[str], place: Path) -> EncoderCard:
    unknown = []
    if card.preprocessing.normalisation is None:
        unknown.append(
            "normalisation: how volumes were normalised in pretraining is not known; say preprocessing.normalisation in "
            f"{place}: zscore or unit"
        )
    said = card.pretrained_on
    if said is None and (beside := place.with_name(_CASES)).is_file():
        said = Pretraining(file=_CASES)
        told = [
            *told,
            f"pretrained_on: not said; {beside.name} beside it is taken to say whom it has seen, in all of its rows",
        ]
    people, hashed = _people(said, place)
    if people is None and hashed is None:
        unknown.append(
            f"pretrained_on: whom it has seen is not known, so that no leak can be found; say pretrained_on in {place}"
        )
    return EncoderCard(
        architecture=architecture,
        normalisation=card.preprocessing.normalisation,
        antialias=card.preprocessing.antialias,
        people=people,
        people_sha256=hashed,
        source=card.source,
        licence=card.licence,
        notes=card.notes,
        weights=card.weights,
        told=tuple(told),
        unknown=tuple(unknown),
    )


def _people(said: Pretraining | None, place: Path) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Ids, and sha256 of ids, of whom an encoder was pretrained on; None: not known."""
    if said is None:
        return None, None
    people, hashed = {str(one) for one in said.people}, set(said.people_sha256)
    if said.file is not None:
        path = place.parent / said.file
        if not path.is_file():
            raise CheckpointError(f"{place}: pretrained_on.file: no file {path}; it stands beside the card")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
        columns = list(rows[0]) if rows else []
        column = next((name for name in ("patient_sha256", "participant_id", "person_id") if name in columns), None)
        split = next((name for name in ("split", "recommended_split") if name in columns), None)
        if column is None or (said.splits and split is None):
            raise CheckpointError(
                f"{path}: found columns {', '.join(columns) or 'none'}; a table of people has patient_sha256, participant_id "
                "or person_id, and split or recommended_split where the card names splits"
            )
        taken = [row for row in rows if not said.splits or row[split or ""] in said.splits]
        if not taken:
            raise CheckpointError(f"{path}: no row of the splits {', '.join(said.splits)} that {place} names")
        (hashed if column == "patient_sha256" else people).update(row[column] for row in taken)
    return frozenset(people), frozenset(hashed)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _in_words(architecture: Architecture) -> str:
    return ", ".join(f"{key} {value}" for key, value in architecture.items())
