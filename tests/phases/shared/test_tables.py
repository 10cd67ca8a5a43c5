"""Tables for a run's page and for the terminal."""

import pytest
from markdown_it import MarkdownIt

from medexp.phases.shared.tables import as_markdown, show

HEAD, ROWS = ["arm", "what"], [["a|b", "|R| > 1"], ["c", "d"]]


def test_a_reader_of_markdown_finds_each_cell_as_it_was() -> None:
    """A `|` in one of them ends none."""
    read = MarkdownIt().enable("table").parse(as_markdown(HEAD, ROWS))
    cells = [token.content for token in read if token.type == "inline"]
    assert cells == [cell for row in [HEAD, *ROWS] for cell in row]


def test_the_terminal_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    show(HEAD, ROWS, "title")
    printed = capsys.readouterr().out
    assert all(cell in printed for row in [HEAD, *ROWS, ["title"]] for cell in row)
