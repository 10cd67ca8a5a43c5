"""What is printed stands as it is, whatever names are made of."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medexp
from medexp.checks import Check, Severity, as_lines
from medexp.phases.shared.tables import show
from medexp.terminal import followed, progress_bar, terminal

NAMES = ["glioma [idh mutant]", "glioma [/who 2]", "[red]", "grade $2_$", ":x: :smile:", r"\[a] \$ \\", "a|b <b> `c`", "[bold"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_table_a_line_and_a_bar(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show([name, "is"], [["1", name]], f"of {name}")
    check = Check("TWINS", name, Severity.DIAGNOSTIC, False, "", {name: name})
    terminal().print(*as_lines([check]))
    with progress_bar() as bar:
        bar.add_task(f"training {name}", total=1)
        bar.console.print(f"  {name}: epoch 1")
    printed = capsys.readouterr().out
    assert printed.count(name) == 3 + 3 + 2
    assert f"FAILED TWINS {name} (diagnostic): {name} {name}" in printed


@given(st.text(st.characters(categories=("L", "N", "P", "S"), max_codepoint=0x2000), min_size=1, max_size=20))
def test_any_name_is_printed_as_it_is(name: str) -> None:
    console = terminal()
    with console.capture() as printed:
        console.print(name)
    assert printed.get() == f"{name}\n"


def test_what_is_followed_comes_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(followed(iter("abc"), 3, "[/x]")) == ["a", "b", "c"]
    assert not capsys.readouterr().out  # no terminal


def test_nothing_else_writes_to_the_terminal_in_colours() -> None:
    """rich's own consoles take names for markup."""
    files = sorted(Path(medexp.__file__).parent.rglob("*.py"))
    own = r"rich\.console|rich import (print|get_console)|progress import .*track|rich\.print|Console\(|markup"
    assert [file.name for file in files if re.search(own, file.read_text())] == ["terminal.py"]
