"""A process that wants the embedded base."""

from pathlib import Path
from typing import Any

from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import pretrained
from medexp.phases.shared.launch import start_accelerator


def wants_the_base(barrier: Any, answers: Any, config: Phase1Config, cache: Path) -> None:
    """When the base that it got was written, in nanoseconds since 1970."""
    barrier.wait()
    try:
        answers.put(pretrained(config, start_accelerator("cpu", 1), cache).stat().st_mtime_ns)
    except BaseException as error:
        answers.put(repr(error))
        raise
