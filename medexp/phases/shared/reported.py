"""A phase's run with all that a report needs, and its report: the one place where every run gets both."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medexp import phases
from medexp.phases.shared.again import differences
from medexp.report.facts import SETTINGS
from medexp.tracking.runs import TrackedRun, tracked_run


@contextmanager
def reported_run(phase: str, config: Any, *, resumed_from: str | None = None) -> Iterator[TrackedRun]:
    """`medexp.tracking.runs.tracked_run` of a first process, which keeps what was set otherwise than in the profile.

    Args:
        phase: Name of the phase.
        config: Its configuration.
        resumed_from: Id of the interrupted run that this one goes on from.

    Raises:
        ConfigError: As of `tracked_run`.
        StorageError: Likewise.
    """
    with tracked_run(phase, config, resumed_from=resumed_from) as run:
        run.reporter.text(json.dumps(differences(phases.phase(phase), config), indent=2), SETTINGS)
        yield run
