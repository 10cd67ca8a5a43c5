"""The model card: what a person reads before using a model."""

from collections.abc import Mapping, Sequence
from typing import Any

from medexp.checks import Check, as_markdown
from medexp.registry.definitions import Definition

_UNKNOWN = "unknown"


def model_card(
    definition: Definition,
    architecture: Mapping[str, Any],
    contract: Mapping[str, Any],
    parents: Mapping[str, Any],
    checks: Sequence[Check],
    figures: Mapping[str, float | int | str | None],
    facts: Mapping[str, str | None],
) -> str:
    """A model card in markdown. What is not known says so.

    Args:
        definition: What the model is for.
        architecture: As in the package.
        contract: As in the package.
        parents: As in the package.
        checks: The checks that it was judged by.
        figures: What was measured, such as `val/dice_WT`.
        facts: What was it made with, such as run, data, data digest and license; None is unknown.
    """
    sections = {
        "Intended use": definition.intended_use.strip(),
        "Input and output": f"{definition.input.strip()}\n\n{definition.output.strip()}\n\n{_table(contract)}",
        "Architecture": _table(architecture),
        "Made from": "\n\n".join(f"**{role}**\n\n{_table(parent)}" for role, parent in parents.items()) or _UNKNOWN,
        "Made with": _table({"phase": definition.producing_phase, **facts}),
        "Measured": _table(figures),
        "Used by": ", ".join(definition.consumers) or "no phase yet",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    report = as_markdown(checks).replace("\n## ", "\n### ").replace("# Verification", "## Verification", 1) if checks else ""
    return f"# {definition.name}: {definition.title}\n\n{definition.task.strip()}\n\n{body}\n\n{report}".rstrip() + "\n"


def _table(values: Mapping[str, Any]) -> str:
    if not values:
        return _UNKNOWN
    rows = "\n".join(f"| {key} | {_shown(value)} |" for key, value in values.items())
    return f"| | |\n|---|---|\n{rows}"


def _shown(value: Any) -> str:
    match value:
        case None | "":
            return _UNKNOWN
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(_shown, value))
        case dict():
            return "; ".join(f"{key}: {_shown(item)}" for key, item in value.items())
        case _:
            return str(value).replace("|", r"\|")
