"""What the packages of all phases say alike: contract, evaluation, cases, and facts for the card."""

from collections.abc import Mapping
from importlib.metadata import version as installed
from typing import Any

import medexp
from medexp.data.manifest import seen_cases
from medexp.data.prepared import Prepared
from medexp.phases.shared.context import Context, Settings
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package, Parent
from medexp.registry.packages import MANIFEST, read_json
from medexp.registry.store import Pulled

_LIBRARIES = ("torch", "monai", "peft")
_SOFTWARE = ", ".join([f"medexp {medexp.__version__}", *(f"{name} {installed(name)}" for name in _LIBRARIES)])
PHANTOMS: Mapping[str, str | None] = {
    "De-identification": "not needed: phantoms are of nobody",
    "Who annotated": "nobody: the labels are the shapes that the phantoms were drawn from",
    "Demographic and clinical characteristics": "none: phantoms",
    "Limitations": "Made on phantoms: it says nothing about patients.",
}
"""What a card says of embedded data, by item of CLAIM."""


def made_with(ctx: Context[Settings]) -> dict[str, str | None]:
    """What every card says of how a model was made."""
    made = {"run": ctx.run.id, "profile": ctx.config.profile, "seed": str(ctx.config.seed)}
    return {**made, "license": None, "Software": _SOFTWARE}


def contract(name: str, output: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """What goes in and comes out.

    Args:
        name: Name of the model.
        output: What comes out, in words.
        example: What is known of the input beyond the model's definition: `example_shape`, and `spacing_mm` of volumes.
    """
    return {"input": {**load_definition(name).input_as_records, **example}, "output": output}


def parent_of(pulled: Pulled) -> Parent:
    """A package as what is made from it names it."""
    weights_digest = read_json(pulled.folder, MANIFEST)["weights_digest"]
    return Parent(pulled.name, pulled.version, pulled.digest, weights_digest, pulled.cases)


def packaged(
    ctx: Context[Settings],
    name: str,
    data: Prepared[Any, Any],
    *,
    output: str,
    example: Mapping[str, Any],
    facts: Mapping[str, str | None],
    evaluation: Mapping[str, Any] | None = None,
    **content: Any,
) -> Package:
    """A model that was judged on the validation cases, or out of fold on those of training and validation.

    Args:
        ctx: Where it was made.
        name: Its name.
        data: The cases.
        output: As of `contract`.
        example: As of `contract`.
        facts: For the card, by item of CLAIM: how cases were chosen, labelled and split, and how the model was trained.
        evaluation: How it was judged, besides on what.
        content: All else that the package holds, as `Package` has it.
    """
    split = f"{data.folds} folds" if data.folds else "val"
    judged = {"phase": ctx.phase.name, "revision": ctx.phase.revision, "split": split}
    judged |= {"data_digest": data.digests["val"], "made_on": data.digest}
    if data.folds:
        together = f"training and validation are one, in {data.folds} folds by patient"
        facts = {**facts, "Assignment to partitions": f"{facts.get('Assignment to partitions')}; {together}"}
    known = {"data": data.source, "data digest": data.digest, "Testing on external data": "none"}
    return Package(
        name=name,
        contract=contract(name, output, example),
        checks=ctx.checks,
        evaluation=judged | dict(evaluation or {}),
        cases=seen_cases(data.manifest, data.facts.values()),
        facts={**made_with(ctx), **known, **facts},
        **content,
    )
