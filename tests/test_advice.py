"""What messages and help tell a user to type can be typed: keys, flags and commands in texts of the sources, and defaults."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import medexp
from medexp import console, phases
from medexp.config.layers import Layers
from medexp.config.validate import Given, read, shown

SOURCES = sorted(Path(medexp.__file__).parent.rglob("*.py"))
PHASES = {name: Layers(record := phases.phase(name), record.config, phases.phase) for name in phases.phases()}
NO_KEYS = {"bytes", "boundary", "n"}
"""A header of HTTP, the last word of `lora.boundary` in a check's words, the number of cases."""
OTHERS = {  # of git, MLflow, the hub, MONAI's bundles, HTML
    *("lang", "charset"),
    *("env-manager", "error-unmatch", "short", "run-id", "local-dir", "host", "port", "app-name", "workers"),
    *("bundle_root", "config_file", "meta_file", "dataset_dir", "filepath", "num_workers"),
}


def texts(file: Path) -> Iterator[str]:
    """The texts of a source but its docstrings, with a blank mark where something is put in."""
    tree = ast.parse(file.read_text())
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docs = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | parts:
            yield node.value


KEY = r"([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)"
TEXTS = {file: list(texts(file)) for file in SOURCES if file.name != "huggingface.py"}  # which writes Python code of a card
NAMES = {
    name for phase, layers in PHASES.items() for own in (*layers.names, *layers.shorts) for name in (own, f"{phase}.{own}")
}


OF_CONSOLE = {
    name.removeprefix("--") for command in console.commands.commands.values() for one in command.params for name in one.opts
}
KNOWN = NAMES | NO_KEYS | OTHERS | OF_CONSOLE | {"config", "profile", "debug", "help", "key"}


def unknown(text: str) -> list[str]:
    """Keys and flags in a text that there are not."""
    keys = re.findall(rf"(?:-P '?|(?<![\w.\0-])){KEY}=(?=[^=\s])", text)
    flags = re.findall(r"(?<![\w-])--([a-z][\w-]*(?:\.[\w-]+)*)", text)
    found = [word for word in (*keys, *flags) if word not in KNOWN]
    for phase, given in re.findall(r"mlflow run \. -e (\w+)((?: -P '?[a-z][a-z0-9_.]*=\S+)*)", text.replace("\0", "x")):
        if phase in PHASES:
            own = {*PHASES[phase].names, *PHASES[phase].shorts}
            found += [f"{phase}: {key}" for key in re.findall(rf"-P '?{KEY}=", given) if key not in own]
        elif phase != "x":
            found.append(phase)
    return found


def test_keys_flags_and_commands_in_texts_are_there() -> None:
    assert sum(map(len, TEXTS.values())) > 5000
    assert {file.name: wrong for file, every in TEXTS.items() for text in every if (wrong := unknown(text))} == {}


@pytest.mark.parametrize(
    "text", ["give -P trainng.epochs=3", "raise data.min_pixel=4", "see --every-bit", "mlflow run . -e probe -P kaggle_dir=x"]
)
def test_what_is_not_there_is_seen(text: str) -> None:
    assert unknown(text)


@pytest.mark.parametrize("phase", PHASES)
def test_every_default_that_help_prints_can_be_given_as_it_is_printed(phase: str) -> None:
    layers = PHASES[phase]
    for name, default in layers.of_profile("demo").items():
        printed = shown(default.value)
        given = read(layers.key(name), Given(printed, is_text=True))
        assert given == read(layers.key(name), default), f"{name}={printed}"
