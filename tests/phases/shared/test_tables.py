"""Tables for the terminal."""

import pytest

from medexp.phases.shared.tables import show

HEAD, ROWS = ["arm", "what"], [["a|b", "|R| > 1"], ["c", "d"]]


def test_the_terminal_shows_each_cell(capsys: pytest.CaptureFixture[str]) -> None:
    show(HEAD, ROWS, "title")
    printed = capsys.readouterr().out
    assert all(cell in printed for row in [HEAD, *ROWS, ["title"]] for cell in row)
