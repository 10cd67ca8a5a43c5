"""Which process does something, and whether it is still there."""

import os
import platform
import re
import select
import signal
import threading
import time

import psutil

PROCESS = "medexp.process"
"""The tag of a run that says whose it is, as `this_process` does."""
PARENT = "MEDEXP_PARENT"
"""The variable in which a process that starts another says which it is, so that the other one ends with it."""
_SAME_START = 3  # seconds: a start time is told from the clock, which is set right now and then


def this_process() -> str:
    """This process, as a line that no other one has: machine, process id, start in seconds since 1970."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {process.create_time():.0f}"


def is_gone(process: str) -> bool | None:
    """Whether a process that `this_process` described has ended; None for one of another machine: who knows."""
    found = re.fullmatch(r"(.*) (\d+) (\d+)", process)
    if found is None or found[1] != platform.node():
        return None
    try:
        there = psutil.Process(int(found[2]))
        return there.status() == psutil.STATUS_ZOMBIE or abs(there.create_time() - int(found[3])) > _SAME_START
    except psutil.NoSuchProcess:
        return True


def in_words(process: str) -> str:
    """A process that `this_process` described, for a message."""
    node, pid, _ = process.rsplit(" ", 2)
    return f"process {pid} on {node}"


def pid_of(process: str) -> int:
    """The id of a process that `this_process` described."""
    return int(process.rsplit(" ", 2)[1])


def is_above(process: str) -> bool:
    """Whether a process that `this_process` described, and that is not gone, is this one or one that it was started by."""
    return pid_of(process) in {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}


def end_with(process: str) -> None:
    """Send this process SIGTERM as soon as another one, which `this_process` described, has ended, however it did."""
    if is_gone(process) is None:
        return

    def watch() -> None:
        try:
            ends = select.poll()
            ends.register(os.pidfd_open(pid_of(process)), select.POLLIN)
            while not is_gone(process):
                ends.poll()
        except (AttributeError, OSError):  # it has ended already, or the system cannot say when it does
            while not is_gone(process):
                time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end with the parent", daemon=True).start()
