"""Steps of a pipeline: what a step's outcome depends on, and the run that did the same before."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

import medexp
from medexp.checks import VERDICT
from medexp.config.keys import Role, flat, marked
from medexp.files import shipped
from medexp.tracking.killed import RESUMED
from medexp.tracking.processes import PROCESS, is_gone
from medexp.tracking.runs import TrackedRun

_KEY, _MADE = "medexp.step_key", "medexp.registered"
_NOTHING = "nothing"


@dataclass(frozen=True)
class StepRun:
    """A run of a step.

    Attributes:
        id: Its run id.
        status: RUNNING, FINISHED, FAILED or KILLED.
        tags: What it says of its checks (`medexp.tracking.results.log_checks`), among others.
        registered: The versions that it registered, as NAME/VERSION; None where it did not come to its end.
    """

    id: str
    status: str
    tags: Mapping[str, str]
    registered: tuple[str, ...] | None


def step_key(step: str, config: Any, inputs: Mapping[str, str]) -> str:
    """What the outcome of a step depends on, as 64 hexadecimal digits.

    That is its configuration, without where it writes and what it runs on; the code; and the content of what it reads.

    Args:
        step: Name of the phase.
        config: Its configuration.
        inputs: Digests of data and of models, by name.
    """
    matters = {key: value for key, value in flat(config).items() if key not in marked(type(config), Role.WHERE)}
    content = [step, code_digest(), matters, dict(inputs)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def code_digest() -> str:
    """sha256 over medexp's source files and the definitions of its models."""
    package = Path(medexp.__file__).parent
    sources = {str(path.relative_to(package.parent)): path for path in sorted(package.rglob("*.py"))}
    definitions = {f"registry/{path.name}": path for path in sorted(shipped("registry").glob("*.yaml"))}
    digest = hashlib.sha256()
    for name, path in (sources | definitions).items():  # named alike in a checkout and in a wheel
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def tags_of_step(key: str) -> dict[str, str]:
    """The tags that a step's run carries from its start."""
    return {_KEY: key}


def mark_done(run_id: str, registered: tuple[str, ...], key: str | None = None) -> None:
    """Say of a run that it came to its end and which versions it registered; and of which step, where it has no key yet."""
    for tag, value in {_MADE: ", ".join(registered) or _NOTHING, _KEY: key}.items():
        if value is not None:
            MlflowClient().set_tag(run_id, tag, value)


def find_done(parent: TrackedRun, key: str) -> list[StepRun]:
    """Runs of the same step with the same inputs that came to a good end, the newest first; deleted ones are none."""
    found = _search(parent, f"tags.`{_KEY}` = '{key}' and attributes.status = 'FINISHED'")
    return [run for run in map(_step_run, found) if run.registered is not None and run.tags.get(VERDICT) in (None, "PASSED")]


def find_interrupted(parent: TrackedRun, key: str) -> list[StepRun]:
    """Runs of the same step with the same inputs that were ended early and not gone on with to an end, the newest first."""
    found = _search(parent, f"tags.`{_KEY}` = '{key}'")
    done = {run.data.tags.get(RESUMED) for run in found if run.info.status == "FINISHED"}
    early = [run for run in found if run.info.status != "FINISHED" and run.info.run_id not in done]
    return [_step_run(run) for run in early if run.info.status != "RUNNING" or is_gone(run.data.tags.get(PROCESS, ""))]


def find_run(run_id: str) -> StepRun:
    """A run by its id."""
    return _step_run(MlflowClient().get_run(run_id))


def find_child(parent: TrackedRun, step: str) -> StepRun | None:
    """The run of a step in this run of the pipeline; None where it did not start."""
    found = _search(parent, f"tags.`mlflow.parentRunId` = '{parent.id}' and tags.`medexp.phase` = '{step}'")
    return _step_run(found[0]) if found else None


def _search(parent: TrackedRun, wanted: str) -> list[Run]:
    client = MlflowClient()
    experiment = client.get_run(parent.id).info.experiment_id
    return list(client.search_runs([experiment], wanted, max_results=20, order_by=["attributes.start_time DESC"]))


def _step_run(run: Run) -> StepRun:
    tags = run.data.tags
    return StepRun(run.info.run_id, run.info.status, tags, _listed(tags[_MADE]) if _MADE in tags else None)


def _listed(registered: str) -> tuple[str, ...]:
    """What `mark_done` wrote; runs of earlier versions have it as JSON."""
    if registered.startswith("["):
        return tuple(json.loads(registered))
    return () if registered == _NOTHING else tuple(registered.split(", "))
