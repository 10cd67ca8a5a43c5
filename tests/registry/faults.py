"""Processes that are killed or stopped at a chosen call to the store."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests import forked


def wait_until_stopped(process: Any) -> None:
    """Until SIGSTOP took hold of a process."""
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert process.is_alive()


def at_call(method: str, number: int, signum: signal.Signals, work: Callable[..., Any], *arguments: Any) -> None:
    """Do `work`, and get `signum` right before the client's `method` is called for the `number`-th time, from 1."""
    original = getattr(MlflowClient, method)
    calls = iter(range(1, 1000))

    def interrupted(self: MlflowClient, *given: Any, **named: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), signum)
        return original(self, *given, **named)

    setattr(MlflowClient, method, interrupted)
    work(*arguments)


def all_at_once(works: Sequence[tuple[Any, ...]]) -> list[str]:
    """What each of `works`, a function and its arguments, came to, all begun at the same moment: its result, or its error."""
    return forked.all_at_once([(_answer, *work) for work in works])


def _answer(barrier: Any, answers: Any, work: Callable[..., Any], *arguments: Any) -> None:
    barrier.wait()
    try:
        told = str(work(*arguments))
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    answers.put(told)
