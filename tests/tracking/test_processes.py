"""Which process does something, and whether it is still there."""

import os
import platform
import subprocess

import psutil

from medexp.tracking.processes import is_gone, this_process


def described(pid: int, later: int = 0, node: str = platform.node()) -> str:
    return f"{node} {pid} {psutil.Process(pid).create_time() + later:.0f}"


def test_this_process_is_there() -> None:
    assert this_process() == described(os.getpid())
    assert is_gone(this_process()) is False


def test_a_process_that_was_killed_is_gone_also_before_its_parent_asked() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    line = described(process.pid)
    assert is_gone(line) is False
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not yet reaped
    assert is_gone(line) is True
    process.communicate()
    assert is_gone(line) is True


def test_another_process_with_the_same_id_is_another_one() -> None:
    assert is_gone(described(os.getpid(), later=1)) is False  # the clock was set by a second
    assert is_gone(described(os.getpid(), later=100)) is True


def test_of_another_machine_nobody_knows() -> None:
    assert is_gone(described(os.getpid(), node="elsewhere")) is None
    assert is_gone("") is None
    assert is_gone("no process") is None
