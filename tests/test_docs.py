"""What README and docs tell a reader to type can be typed and is run, and what they point to is there."""

import re

import click
import pytest

from medexp import console
from medexp.cli import configuration
from medexp.errors import MedexpError
from tests.configured import flags
from tests.typed import PAGES, ROOT, commands, in_place, keys_of, words_of

TYPED = [page for page in PAGES if page.name != "CONTRIBUTING.md"]  # whose phase tests/test_contributing.py adds and runs
PLACEHOLDERS = {"SCALE": "1.0"}
"""What a reader replaces by a value that no text can stand for."""


def parse(command: str) -> None:
    """Raises where a command cannot be what its reader is to type."""
    command = in_place(command, PLACEHOLDERS)
    words = words_of(command)
    if words[0] == "medexp":
        parsed = console.commands.commands[words[1]].make_context(words[1], words[2:], resilient_parsing=len(words) == 2)
        if words[1] == "promote" and words[2:]:
            configuration("promote", parsed.params["flags"])
        return
    phase, given = keys_of(command) or ("", {})
    configuration(phase, flags({key: value for key, value in given.items() if key not in ("config", "help", "resume")}))


EVERY = sorted({(page.relative_to(ROOT).as_posix(), command) for page in TYPED for command in commands(page)})


def test_there_are_commands_to_be_tried():
    assert len(EVERY) > 80 and {"README.md", "docs/data.md", "docs/oct.md"} <= {page for page, _ in EVERY}


@pytest.mark.parametrize(("page", "command"), EVERY)
def test_a_command_can_be_typed(page, command):
    try:
        parse(command)
    except (MedexpError, click.ClickException, KeyError, ValueError) as error:
        pytest.fail(f"{page}: {command}: {error}")


@pytest.mark.parametrize("command", ["mlflow run . -e phase1 -P ranc=8", "medexp audit --every-bit", "medexp promte A"])
def test_a_command_that_cannot_be_typed_is_seen(command):
    with pytest.raises((MedexpError, click.ClickException, KeyError)):
        parse(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_points_to_is_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            file, _, anchor = target.partition("#")
            there = (page.parent / file) if file else page
            assert there.exists(), f"{page.name}: {target}"
            heads = [
                re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
                for head in re.findall(r"^#+ (.*)", there.read_text() if there.is_file() and anchor else "", re.M)
            ]
            assert not anchor or anchor in heads, f"{page.name}: {target}, there are {heads}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_figures_command_is_there(page):
    for module in re.findall(r"python -m (benchmarks\.\w+)", page.read_text()):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text()) < 7000
