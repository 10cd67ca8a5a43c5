"""The terminal, the one place where it is written to in colours and tables: text stands as it is.

Names of labels, cases, files and models are whatever their owner wrote: `glioma [idh mutant]` and `[/who 2]` are no markup,
`:x:` is no picture. What has a colour is a `rich.text.Text`.
"""

import functools
from collections.abc import Iterable
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def terminal(**options: Any) -> Console:
    """A console that prints text as it stands, lines as long as they are.

    Args:
        options: Of `rich.console.Console`, such as `stderr`.
    """
    return Console(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True, **options})


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
