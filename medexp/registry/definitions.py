"""What a registered model is for: `registry/<model>.yaml`, data only."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medexp.errors import RegistryError, all_problems

_FOLDER = Path(__file__).parents[2] / "registry"


@dataclass(frozen=True)
class Definition:
    """A registered model as its file describes it.

    Attributes:
        name: Name that it is registered under; the file's.
        title: What it is, in a few words.
        task: What it does.
        intended_use: What it is for, and what it is not for.
        producing_phase: The phase that registers it.
        consumers: The phases that use it.
        required_checks: Checks that a version must have been judged by.
        input: What goes in, in words.
        output: What comes out, in words.
    """

    name: str
    title: str
    task: str
    intended_use: str
    producing_phase: str
    consumers: tuple[str, ...]
    required_checks: tuple[str, ...]
    input: str
    output: str


def known_models() -> list[str]:
    """Names of all models that have a definition."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_definition(name: str) -> Definition:
    """The definition of a model.

    Raises:
        RegistryError: There is none, or its file has keys that are unknown, missing or of the wrong type.
    """
    path = _FOLDER / f"{name}.yaml"
    if name not in known_models():
        raise RegistryError(
            f"model {name!r}: has no definition; known are {', '.join(known_models())}. A new one needs {path}"
        )
    return read_definition(path)


def read_definition(path: Path) -> Definition:
    """A definition from its file.

    Raises:
        RegistryError: The file is no YAML mapping, or has keys that are unknown, missing or of the wrong type.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RegistryError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    content = content if isinstance(content, dict) else {}
    types: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Definition) if field.name != "name"}
    problems = [f"unknown key {key}" for key in sorted(map(str, set(content) - set(types)))]
    for key, wanted in types.items():
        value = content.get(key)
        if key not in content:
            problems.append(f"{key} is missing")
        elif wanted is str and not isinstance(value, str):
            problems.append(f"{key}: found {value!r}; a text is wanted")
        elif wanted is not str and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            problems.append(f"{key}: found {value!r}; a list of texts is wanted")
    if problems:
        raise RegistryError(all_problems(str(path), problems, f"Known keys are {', '.join(types)}."))
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return Definition(path.stem, **values)
