"""What a run prints, kept beside its other files: a terminal that is closed takes it along."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from medexp.errors import MedexpError
from medexp.secrets import masked

LOG = "terminal.log"
"""Name of the file in a run's folder, and of the run's artifact."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_BAR = re.compile(r"[━╸╺-] +\d+/[\d?]+ ")  # of `medexp.terminal.progress_bar`; tables have such lines too


@contextmanager
def printed_to(file: Path) -> Iterator[None]:
    """What the block prints, errors too, also goes to a file, at its end, as it comes: without colours, without secrets, and
    of a progress bar nothing."""
    with ExitStack() as opened:
        log = opened.enter_context(file.open("ab", buffering=0))  # nothing of it waits, so nothing is lost with the process
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            if stream is not None:  # as where it was closed before Python began
                opened.enter_context(redirect(_Both(stream, log)))
        yield


def print_error(file: Path, error: BaseException) -> None:
    """Put the error that ended a run at the end of the file: the line that a user sees, else its traceback."""
    told = [f"error: {error}\n"] if isinstance(error, MedexpError) else traceback.format_exception(error)
    with suppress(OSError), file.open("ab") as log:  # on a full disk what the run measured is written first
        log.write(_lasting("".join(told)))


class _Both:
    """A stream, as `print` and rich see it, whose text also goes to a file."""

    def __init__(self, stream: Any, log: Any) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        with suppress(OSError):  # the terminal has it; a full disk ends the run where something of use is written
            self._log.write(_lasting(text))
        self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _lasting(text: str) -> bytes:
    """What stays of a text: a bar is drawn over and over, each time with what was printed meanwhile above it."""
    lines = _CONTROL.sub("", text).splitlines(keepends=True)
    if lines and _CONTROL.search(text) and not lines[-1].endswith("\n"):
        lines.pop()
    kept = "".join(line for line in lines if not _BAR.search(line))
    return masked(kept).text.encode("utf-8", "backslashreplace")
