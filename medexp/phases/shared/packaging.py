"""What the packages of all phases say alike: contract, evaluation, cases, and facts for the card."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from typing import Any

import medexp
from medexp.config.data import DataConfig
from medexp.data.images.steps import Fit
from medexp.data.manifest import seen_cases
from medexp.data.oct.steps import Resize
from medexp.data.prepared import Prepared
from medexp.data.preprocessing import Preprocessing
from medexp.data.seen import ranges
from medexp.data.volumes.regions import REGIONS, values_in_masks
from medexp.data.volumes.steps import PadTo, ReadChannels, Resample
from medexp.phases.shared.context import Context, Settings, TrainingSettings
from medexp.registry.contracts import VELOCITY as DRAWN
from medexp.registry.definitions import load_definition
from medexp.registry.package import Learned, Package, Parent
from medexp.registry.packages import MANIFEST, read_json
from medexp.registry.store import Pulled

_LIBRARIES = ("torch", "monai", "peft")
_SOFTWARE = ", ".join([f"medexp {medexp.__version__}", *(f"{name} {installed(name)}" for name in _LIBRARIES)])


def made_with(ctx: Context[Settings]) -> dict[str, str | None]:
    """What every card says of how a model was made."""
    made = {"run": ctx.run.id, "profile": ctx.config.profile, "seed": str(ctx.config.seed)}
    return {**made, "license": None, "Software": _SOFTWARE}


def contract(
    name: str, output: str, preprocessing: Preprocessing, outputs: Mapping[str, Any], **beside: Mapping[str, Any]
) -> dict[str, Any]:
    """What goes in, how it is made of a file, and what comes out.

    Args:
        name: Name of the model.
        output: What comes out, in words.
        preprocessing: What is done to a file before the network sees it.
        outputs: By name of the network's outputs, what they mean: `regions`, `classes`, `mask`, `FEATURES` or `VELOCITY`.
        beside: What else it holds: of a model that draws `latents` and `grid` (`medexp.registry.synthesis`).
    """
    words = {**load_definition(name).input_as_records, **_example(preprocessing)}
    said = {"input": words, "preprocessing": preprocessing.as_record, "output": output, "outputs": dict(outputs)}
    return said | beside


def _example(preprocessing: Preprocessing) -> dict[str, Any]:
    """What follows from the steps of a kind of data: the shape of an example, and the spacing of volumes."""
    if made := preprocessing.find(Fit) or preprocessing.find(Resize):
        return {"example_shape": [1, 1, *made.size]}
    read, pad = preprocessing.find(ReadChannels), preprocessing.find(PadTo)
    if not (read and pad):
        return {}  # of what is no array, such as a text with its image, and where latents of volumes go in
    return {"spacing_mm": list(preprocessing.get(Resample).spacing_mm), "example_shape": [1, len(read.channels), *pad.size]}


FEATURES: Mapping[str, Any] = {"what": "features"}
MASK: Mapping[str, Any] = {"what": "mask"}
VELOCITY: Mapping[str, Any] = {"what": DRAWN}
"""Outputs of a contract: features (B, D), logits (B, 1, H, W) of a tumour, and velocities by which samples are drawn."""


def regions(data: DataConfig) -> dict[str, Any]:
    """The output of a contract that is logits (B, regions, X, Y, Z): the regions, and the value that each has in a mask.

    Regions overlap: a mask is painted with one after the other, as nnU-Net does, the outermost first.

    Args:
        data: Whose segmentations the network was trained on: masks have their values.
    """
    labels = {"labels": data.labels, "classes": {str(given): network for given, network in data.classes.items()}}
    return {"what": "regions", "regions": list(REGIONS), "painted": values_in_masks(data.classes), **labels}


def classes(names: Sequence[str], calibration: str) -> dict[str, Any]:
    """The output of a contract that is logits (B, classes).

    Args:
        names: Of the classes.
        calibration: What the probabilities are worth as such, in words.
    """
    return {"what": "classes", "classes": list(names), "calibration": calibration}


def parent_of(pulled: Pulled) -> Parent:
    """A package as what is made from it names it."""
    weights_digest = read_json(pulled.folder, MANIFEST)["weights_digest"]
    return Parent(pulled.name, pulled.version, pulled.digest, weights_digest, pulled.cases)


def packaged(
    ctx: Context[TrainingSettings],
    name: str,
    data: Prepared[Any, Any],
    *,
    output: str,
    preprocessing: Preprocessing,
    outputs: Mapping[str, Any],
    facts: Mapping[str, str | None],
    evaluation: Mapping[str, Any] | None = None,
    split: str = "val",
    beside: Mapping[str, Mapping[str, Any]] | None = None,
    **content: Any,
) -> Package:
    """A model that was judged on the cases of a split, or out of fold on those of training and validation.

    Args:
        ctx: Where it was made.
        name: Its name.
        data: The cases.
        output: As of `contract`.
        preprocessing: As of `contract`.
        outputs: As of `contract`.
        facts: For the card, by item of CLAIM: how cases were chosen, labelled and split, and how the model was trained.
        evaluation: How it was judged, besides on what.
        split: The split that judged it, where there are no folds.
        beside: As of `contract`.
        content: All else that the package holds, as `Package` has it.
    """
    judged = {"phase": ctx.phase.name, "revision": ctx.phase.revision, "split": f"{data.folds} folds" if data.folds else split}
    judged |= {"data_digest": data.digests[split], "made_on": data.digest}
    judged |= {"selected": split == "val" and bool(ctx.config.training.patience) and not data.folds}
    if data.folds:
        together = f"training and validation are one, in {data.folds} folds by patient"
        facts = {**facts, "Assignment to partitions": f"{facts.get('Assignment to partitions')}; {together}"}
    if ctx.built_on_phantoms:
        limits = [facts.get("Limitations"), *ctx.built_on_phantoms]
        facts = {**facts, "Limitations": " ".join(filter(None, limits))}
    return Package(
        name=name,
        contract=contract(name, output, preprocessing, outputs, **beside or {}),
        checks=ctx.checks,
        evaluation=judged | dict(evaluation or {}),
        cases=seen_cases(data.manifest, data.facts.values()),
        seen=ranges(data.facts[case].fields for case in data.ids("train")),
        learned=Learned(data.source, data.digest, data.phantoms),
        facts={**made_with(ctx), "Testing on external data": "none", **facts},
        **content,
    )
