"""How SIGTERM ends a run: as an exception in the main thread, at a moment when the run can be ended."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """SIGTERM came. The run ends KILLED, and the process with the code that a shell gives it: 143."""


@contextmanager
def sigterm_waits(*, then_raise: bool) -> Iterator[list[int]]:
    """SIGTERM does not interrupt the block, in which a run starts and ends; that it came is in the list that the block gets.

    Args:
        then_raise: Raise Terminated for it when the block has ended well: for a run in another one, which has to end too.
    """
    came: list[int] = []
    with on_sigterm(lambda signum, _: came.append(signum)):
        yield came
    if came and then_raise:
        terminate(came[0], None)


@contextmanager
def on_sigterm(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, _in_this_process(handler) if callable(handler) else handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_this_process(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], Any]:
    """`handler` for this process alone: a worker that is forked from it dies of SIGTERM as usual."""
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        handler(signum, frame)

    return handle


def terminate(signum: int, _frame: FrameType | None) -> None:
    """The handler that raises Terminated, once: a second signal does not interrupt how the run ends."""
    handler, report = signal.signal(signum, signal.SIG_IGN), sys.unraisablehook

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        # Python reports what is raised in a destructor or in a weak reference's callback, and goes on as if nothing were.
        if isinstance(lost.exc_value, Terminated):
            sys.unraisablehook = report
            signal.signal(signum, handler)
            threading.Timer(0.01, os.kill, (os.getpid(), signum)).start()  # by then that callback is over
        else:
            report(lost)

    sys.unraisablehook = send_again
    raise Terminated(128 + signum)
