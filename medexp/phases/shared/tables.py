"""Tables for the terminal; `medexp.markdown` writes those of a run's page."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from medexp.terminal import terminal


def show(head: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> None:
    """A table in the terminal."""
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    terminal().print(table)
