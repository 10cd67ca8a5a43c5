"""Tables in Markdown."""

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from medexp.checks import Check, Severity
from medexp.checks import as_markdown as report
from medexp.markdown import as_it_stands, as_markdown
from tests.rendered import tables

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from("|\\ \n$`*_<"), max_size=12)


@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), max_size=3))
@example([["a|b", "|R| > 1", "\\"], ["\\|", "||", "one\ntwo"]])
def test_every_row_has_its_cells_whatever_stands_in_them(rows: list[list[str]]) -> None:
    ((head, *shown),) = tables(as_markdown(["arm", "w|t", "n"], rows))
    assert head == ["arm", "w|t", "n"]
    assert [len(row) for row in shown] == [3] * len(rows)


@given(st.lists(st.text("ab|\\<> 1.5", max_size=9).map(lambda text: " ".join(text.split())), min_size=2, max_size=2))
def test_a_reader_finds_each_cell_as_it_was(row: list[str]) -> None:
    ((_, shown),) = tables(as_markdown(["what", "found"], [row]))
    assert shown == row


def test_a_report_keeps_its_figures_behind_a_bar_in_a_threshold() -> None:
    check = Check("TEST_2.2", "Bars", Severity.DIAGNOSTIC, True, "|merged - adapted| < 1e-5", {"|largest|": 1e-6, "of": "a|b"})
    ((_, shown),) = tables(report([check]))
    assert shown[-2:] == ["|merged - adapted| < 1e-5", "|largest| = 1e-06, of = a|b"]


def test_tables_are_written_in_one_place() -> None:
    """A row that is put together elsewhere escapes nothing."""
    found = [
        str(file) for file in Path("medexp").rglob("*.py") if "|---" in (text := file.read_text()) or "' | '.join" in text
    ]
    assert found == ["medexp/markdown.py"]


def test_a_label_between_angles_is_shown() -> None:
    """To a reader of Markdown it is a mark of HTML, which vanishes."""
    ((_, shown),) = tables(as_markdown(["label", "demand"], [["<idh mutant> <b>", "a < b"]]))
    assert shown == ["<idh mutant> <b>", "a < b"]
    assert as_it_stands("<b> or </b>: 1 < 2") == "&lt;b> or &lt;/b>: 1 < 2"
