"""Processes that begin at once, for tests that start many.

They are forked from a server that has imported what they need and holds no connection. A process has one such server, and what
is imported in it is settled when it starts: pytest starts it before the first test (`tests.conftest`), or a sweep of another
test would, with what that needs, and each process would import the rest for itself, ten seconds each.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "medexp.registry.promotion",
        "medexp.phases.phase1.pretrained",
        "medexp.studies.recovery",
        "medexp.studies.sweep",
        "medexp.studies.workers",
        "hypothesis",
        "psycopg",
        "pytest",
        "tests.registry.faults",
        "tests.studies.at_work",
        "tests.studies.cheap",
    ]
)


def start(work: Callable[..., Any], *arguments: Any) -> Any:
    """A process that does `work(*arguments)`, in this one's folder and environment."""
    process = CONTEXT.Process(target=_run, args=(dict(os.environ), str(Path.cwd()), work, arguments), daemon=True)
    process.start()
    return process


def all_at_once(works: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What each of `works`, a function and its arguments, puts into `answers`, called as `work(barrier, answers, *arguments)`
    in a process of its own."""
    barrier, answers = CONTEXT.Barrier(len(works)), CONTEXT.SimpleQueue()
    processes = [start(work, barrier, answers, *arguments) for work, *arguments in works]
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def _run(environment: dict[str, str], folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    work(*arguments)
