"""The model card: what a person reads before using a model."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medexp.checks import as_markdown
from medexp.registry.definitions import Definition

if TYPE_CHECKING:
    from medexp.registry.packages import Package

_UNKNOWN = "unknown"


def model_card(definition: Definition, package: "Package") -> str:
    """A model card in markdown. What is not known says so.

    Args:
        definition: What the model is for.
        package: What is registered.
    """
    made_with = {
        "phase": definition.producing_phase,
        **package.facts,
        "cases that it was judged on": len(package.per_case) or None,
    }
    parents = "\n\n".join(f"**{role}**\n\n{_table(asdict(parent))}" for role, parent in package.parents.items())
    sections = {
        "Intended use": definition.intended_use.strip(),
        "Input and output": f"{_table(package.contract.get('input', {}))}\n\n{definition.output.strip()}",
        "Architecture": _table(package.architecture),
        "Made from": parents or _UNKNOWN,
        "Made with": _table(made_with),
        "Measured": _table(package.figures),
        "Used by": ", ".join(definition.consumers) or "no phase yet",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    checks = package.checks
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
