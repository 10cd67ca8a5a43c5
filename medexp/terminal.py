"""The terminal, the one place where it is written to in colours and tables: text stands as it is.

Names of labels, cases, files and models are whatever their owner wrote: `glioma [idh mutant]` and `[/who 2]` are no markup,
`:x:` is no picture. What has a colour is a `rich.text.Text`.
"""

import functools
import os
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")
_WHOLE = 24  # characters; a cell of so many, such as an estimate with its interval, stands in one line


def terminal(**options: Any) -> Console:
    """A console that prints text as it stands, lines as long as they are.

    Args:
        options: Of `rich.console.Console`, such as `stderr`.
    """
    return Console(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True, **options})


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> None:
    """A table in the terminal, in which no word and no figure is cut.

    Where the columns do not fit beside one another, each row is a block of lines, a cell below the other. What goes to a
    file or to another program is as wide as it is, unless COLUMNS says how wide.
    """
    console, rows = terminal(), [*rows]
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = 10_000
    columns = [*zip(head, *rows, strict=True)]
    if sum(map(_narrowest, columns)) + 3 * len(head) + 1 > console.width:
        console.print(title)
        wide = max(map(cell_len, head))
        for row in rows:
            console.print()
            for name, cell in zip(head, row, strict=True):
                begun = f"  {name}{' ' * (wide - cell_len(name))}  "
                room = len(cell) if cell_len(cell) <= _WHOLE else console.width - wide - 4
                lines = wrap(cell, max(1, room), break_long_words=False, break_on_hyphens=False)
                console.print(begun + f"\n{' ' * (wide + 4)}".join(lines))
        return
    table = Table(title=title)
    for name, *cells in columns:
        table.add_column(
            name, no_wrap=all(cell_len(cell) <= _WHOLE for cell in cells), overflow="fold", min_width=cell_len(name)
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _narrowest(column: Sequence[str]) -> int:
    """The least width of a column, its name first: cells that stand in one line, and the longest words of others."""
    name, *cells = column
    if all(cell_len(cell) <= _WHOLE for cell in cells):
        return max(map(cell_len, column))
    return max(map(cell_len, [name, *(word for cell in cells for word in cell.split())]))


_shared = functools.cache(terminal)  # of all bars: one inside another knows of it


def progress_bar(*, shown: bool = True, transient: bool = False, stderr: bool = False) -> Progress:
    """A bar with how many are done of how many, and the time that it takes; its console is a `terminal`.

    Args:
        shown: Whether there is one, as in the first process of a launch alone.
        transient: Whether nothing is left of it at the end.
        stderr: Whether it is among the errors, where what is printed is the answer.
    """
    console = _shared(stderr=stderr)
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    hidden = not shown or (transient and not console.is_terminal)  # in a log file it would leave empty lines
    return Progress(*columns, console=console, disable=hidden, transient=transient)


def followed(items: Iterable[T], total: int, title: str, **options: bool) -> Iterable[T]:
    """Items with such a bar, of which nothing is left unless that is wanted; none then where there is no terminal.

    Args:
        items: What is gone through.
        total: Their number.
        title: Stands before the bar.
        options: As of `progress_bar`.
    """
    with progress_bar(**{"transient": True, **options}) as progress:
        yield from progress.track(items, total, description=title)
