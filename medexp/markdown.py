"""Tables in Markdown: the one place where a cell is written, whatever stands in it."""

import re
from collections.abc import Iterable, Sequence


def as_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, which readers of GitHub's dialect show; a cell stands as it is and ends at its own end.

    Args:
        head: Names of the columns.
        rows: Cells, as many a row as there are columns.
    """
    lines = [map(_cell, head), ["---"] * len(head), *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """A `|` or the end of a line would end the cell; a `\\` before a `|` would take away the one that keeps it."""
    return as_it_stands(" ".join(text.split()).replace("\\", "\\\\").replace("|", r"\|"))


def as_it_stands(text: str) -> str:
    """A text in which nothing vanishes as a mark of HTML, such as the label `<idh mutant>`."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text)
