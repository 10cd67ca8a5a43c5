"""How a signal ends a run: as an exception in the main thread, at a moment when the run can be ended.

SIGINT is a terminal's Ctrl-C, SIGTERM what `kill`, `timeout` and schedulers send, SIGHUP what a closed terminal does. One that
the process was told to ignore when it started, as by `nohup`, stays ignored.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_IMPORT = "<frozen importlib._bootstrap>"

Handler = Callable[[int, FrameType | None], Any]


class Terminated(SystemExit):
    """A signal came. The run ends KILLED, and the process with the code that a shell gives it: 130, 143 or 129."""


@contextmanager
def signals_wait(*, then_raise: bool) -> Iterator[list[int]]:
    """No signal interrupts the block, in which a run starts and ends; those that came are in the list that the block gets.

    Args:
        then_raise: Raise Terminated for them when the block has ended well: for a run in another one, which has to end too.
    """
    came: list[int] = []
    with on_signals(lambda signum, _: came.append(signum)):
        yield came
    if came and then_raise:
        terminate(came[0], None)


@contextmanager
def on_signals(handler: Handler) -> Iterator[None]:
    """The handler of all signals that end a process, within the block and in this process alone."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = set_handlers(_in_this_process(handler))
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)


def set_handlers(handler: Handler | signal.Handlers) -> dict[int, Any]:
    """Set the handler of all signals that end a process, but for those that are ignored.

    Returns:
        Those that stood before, by signal.
    """
    heeded = [signum for signum in ENDING if signal.getsignal(signum) is not signal.SIG_IGN]
    return {signum: signal.signal(signum, handler) for signum in heeded}


def was_terminated(error: BaseException) -> Terminated | None:
    """The Terminated that an error is or came in the way of: a worker that the same signal ended raises in its parent."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, Terminated):
        link = link.__cause__ or link.__context__
    return link


def _in_this_process(handler: Handler) -> Handler:
    """`handler` for this process alone: a worker that is forked from it dies of SIGTERM as usual. A terminal sends SIGINT and
    SIGHUP to both: how the worker ends is then for its parent to say."""
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(signum, frame)
        elif signum == signal.SIGINT:
            signal.default_int_handler(signum, frame)
        elif signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    return handle


def terminate(signum: int, frame: FrameType | None) -> None:
    """The handler that raises Terminated, once: another signal does not interrupt how the run ends.

    Never within Python's import itself: raised there it may leave the lock of a module taken, for which another thread would
    wait for ever, and the run's end for that thread.
    """
    if frame is not None and frame.f_code.co_filename == _IMPORT:
        threading.Timer(0.01, os.kill, (os.getpid(), signum)).start()
        return
    handlers, report = set_handlers(signal.SIG_IGN), sys.unraisablehook

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        # Python reports what is raised in a destructor or in a weak reference's callback, and goes on as if nothing were.
        if isinstance(lost.exc_value, Terminated):
            sys.unraisablehook = report
            for one, handler in handlers.items():
                signal.signal(one, handler)
            threading.Timer(0.01, os.kill, (os.getpid(), signum)).start()  # by then that callback is over
        else:
            report(lost)

    sys.unraisablehook = send_again
    raise Terminated(128 + signum)
