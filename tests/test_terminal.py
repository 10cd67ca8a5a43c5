"""What is printed stands as it is, whatever names are made of."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medexp
from medexp.checks import Check, Severity, as_lines
from medexp.terminal import followed, progress_bar, show_table, terminal

NAMES = ["glioma [idh mutant]", "glioma [/who 2]", "[red]", "grade $2_$", ":x: :smile:", r"\[a] \$ \\", "a|b <b> `c`", "[bold"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_table_a_line_and_a_bar(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_table([name, "is"], [["1", name]], f"of {name}")
    check = Check("TWINS", name, Severity.DIAGNOSTIC, False, "", {name: name})
    terminal().print(*as_lines([check]))
    with progress_bar() as bar:
        bar.add_task(f"training {name}", total=1)
        bar.console.print(f"  {name}: epoch 1")
    printed = capsys.readouterr().out
    assert printed.count(name) == 3 + 3 + 2
    assert f"FAILED TWINS {name} (diagnostic): {name} {name}" in printed


@pytest.mark.parametrize("columns", [None, 40, 60, 80, 200])
def test_a_table_fits_and_nothing_in_it_is_cut(
    columns: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    interval, run, sentence = "0.841 [0.123, 0.955]", "6aff8e6c96fe4a2db444f9b67a0cc2fe", "no better than what was not trained"
    head = ["arm", "balanced accuracy", "macro f1", "run", "of"]
    show_table(head, [["LoRA only, frozen decoder", interval, interval, run, sentence]], "title")
    lines = capsys.readouterr().out.splitlines()
    kept = (interval, run) if columns == 40 else ()  # are longer there than what is left
    assert all(len(line) <= (columns or 200) for line in lines if not any(cell in line for cell in kept))
    whole = "\n".join(lines)
    if columns == 40:  # of a block: what follows stands below what it follows
        assert re.search(r"\n  of  +no better than .*\n {21}\S", whole)
    for cell in (*head, interval, run):
        assert cell in whole
    assert "…" not in whole
    if columns != 80:  # there it stands in several lines of its column
        assert sentence in " ".join(whole.split())


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
    own = r"rich\.console|rich import (print|get_console)|progress import .*track|rich\.print|Console\(|markup(?!safe)"
    assert [file.name for file in files if re.search(own, file.read_text())] == ["terminal.py"]
