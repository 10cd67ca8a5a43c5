"""Which process does something, and whether it is still there."""

import platform
import re

import psutil

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
