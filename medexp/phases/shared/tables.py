"""Tables for a run's page, as Markdown, and for the terminal."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from medexp.terminal import terminal


def as_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a `|` in a cell stands as it is and ends no cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def show(head: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> None:
    """A table in the terminal."""
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    terminal().print(table)
