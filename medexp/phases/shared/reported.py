"""A phase's run with all that a report needs, and its report: the one place where every run gets both."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medexp import phases
from medexp.errors import MedexpError, StorageError
from medexp.phases.shared.again import differences, params
from medexp.report.facts import SETTINGS
from medexp.tracking.runs import TrackedRun, tracked_run


@contextmanager
def reported_run(phase: str, config: Any, *, resumed_from: str | None = None) -> Iterator[TrackedRun]:
    """`medexp.tracking.runs.tracked_run` of a first process, which keeps what was set otherwise than in the profile.

    Its report is written once it has ended, so that it says how: also where a check or something else that medexp names ended
    it, but not after a signal, or where the store went away.

    Args:
        phase: Name of the phase.
        config: Its configuration.
        resumed_from: Id of the interrupted run that this one goes on from.

    Raises:
        ConfigError: As of `tracked_run`.
        StorageError: Likewise.
    """
    made: TrackedRun | None = None
    record = phases.phase(phase)
    try:
        with tracked_run(phase, config, params=params(record, config), resumed_from=resumed_from) as made:
            made.reporter.text(json.dumps(differences(record, config), indent=2), SETTINGS)
            yield made
    except StorageError:
        raise
    except MedexpError:
        _report(made)
        raise
    _report(made)


def _report(run: TrackedRun | None) -> None:
    if run is not None:
        from medexp.report.written import log_report  # imaging libraries, which a run that did not begin has no use for

        log_report(run.id)
