"""A phase that is told to stop in the middle, as a scheduler does it."""

import os
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.models.checkpoints import load_training_state
from medexp.tracking.reporter import MlflowReporter
from tests.phases.shared.image_runs import Pipeline, run
from tests.runs import last_run


def killed_in(
    phase: str, epochs: int, pipeline: Pipeline, client: MlflowClient, patch: pytest.MonkeyPatch, **flags: str
) -> str:
    """Start a phase, send it SIGTERM once so many epochs are saved, and give the id of its run, which ended KILLED."""
    flush, count = MlflowReporter.flush, iter(range(1, 100))

    def interrupting(self: MlflowReporter) -> None:
        flush(self)
        if next(count) == epochs:
            os.kill(os.getpid(), signal.SIGTERM)

    with patch.context() as within:
        within.setattr(MlflowReporter, "flush", interrupting)
        assert run(phase, pipeline.folder, **flags) == 143
    stopped = last_run(client, phase)
    assert stopped.info.status == "KILLED"
    assert load_training_state(Path("outputs") / stopped.info.run_id / "state" / "last.pt")["epoch"] == epochs
    return str(stopped.info.run_id)
