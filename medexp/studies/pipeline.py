"""The pipeline: prepare, phase1, promote and probe as runs in one run. A step whose inputs are unchanged is not run again."""

import hashlib
import importlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medexp.config.data import DataConfig
from medexp.config.shared import Configuration, Recoverable, Resumable, cache_root
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.prepared import prepare_volumes
from medexp.data.volumes.tables import read_table
from medexp.errors import CheckFailed, ConfigError, MedexpError, StorageError
from medexp.phases.main.config import MainConfig
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.probe.config import ProbeConfig
from medexp.registry.promotion import champion_of
from medexp.registry.store import resolve
from medexp.registry.versions import versions_of_run
from medexp.tracking.results import log_summary
from medexp.tracking.runs import TrackedRun, runs_tagged, tracked_run
from medexp.tracking.steps import StepRun, find_child, find_done, find_interrupted, find_run, mark_done, step_key, tags_of_step
from medexp.tracking.ui import next_line

ENCODER = "phase1_encoder_merged"
STEPS = ("prepare", "phase1", "promote", "probe")
COLUMNS = ("step", "outcome", "verdict", "seconds", "run")

Inputs = Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Pipeline:
    """A run of the pipeline and what its steps came to so far, a row a step, as COLUMNS has it."""

    tracked: TrackedRun
    rows: list[tuple[str, ...]] = field(default_factory=list)


def run(config: MainConfig) -> None:
    """The whole pipeline; `MainConfig` says what can be set.

    Raises:
        CheckFailed: A BLOCKING check of a step failed; the steps after it did not run.
        ConfigError: Several processes were started.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: main runs in one process. Leave the launcher out, or start phase1 "
            "alone with it"
        )
    with tracked_run("main", config) as tracked:
        pipeline = Pipeline(tracked)
        take(pipeline, "prepare", config.prepare, lambda: read_digests(config.prepare))
        adapted = take(pipeline, "phase1", config.phase1, lambda: adapted_from(config.phase1))
        version = version_of(adapted)
        promotion = replace(config.promote, version=int(version))
        take(pipeline, "promote", promotion, lambda: digest_of(f"{ENCODER}/{version}"), lambda: champion() == version)
        take(pipeline, "probe", config.probe, lambda: probed(config.probe, config.phase1.data))
        tracked.tag({"medexp.verdict": "PASSED"})
        show(pipeline)
        print(f"Champion: {ENCODER} version {version}")
        print(f"Next, browse it:             {next_line(tracked)}")
        print("Next, what is registered:    medexp models")
        print(f"Next, where it comes from:   medexp lineage models:/{ENCODER}@champion")


def take(
    pipeline: Pipeline, step: str, config: Configuration, inputs: Inputs, holds: Callable[[], bool] = lambda: True
) -> StepRun:
    """A step of the pipeline: found done, or done, or gone on with where it was interrupted.

    Args:
        pipeline: What the steps came to so far; this one is added, in the run's summary too.
        step: Name of the phase.
        config: Its configuration.
        inputs: Digests of what it reads; what is wrong with them is for the step itself to say.
        holds: Whether what it did before still stands.
    """
    started = time.monotonic()
    Console().rule(f"{STEPS.index(step) + 1} of {len(STEPS)}: {step}", align="left")
    try:
        key = step_key(step, config, inputs())
    except StorageError:
        raise
    except (MedexpError, OSError):
        key = None
    for done in find_done(pipeline.tracked, key) if key else []:
        if set(done.registered or ()) <= set(versions_of_run(done.id)) and holds():
            pipeline.tracked.tag({f"medexp.reused.{step}": done.id})
            print(f"reused: its inputs are those of run {done.id}")
            _add(pipeline, step, "reused", done, started)
            return done
    outcome = "ran"
    if key and (interrupted := _with_state(pipeline, key, config)):
        config, outcome = replace(config, resume=interrupted), f"went on from {interrupted}"
        print(f"going on from run {interrupted}, which was interrupted")
    try:
        recovered = _run(step, config, key)
        from medexp.phases.shared.launch import forget_precision  # accelerate: where nothing is run it is not needed

        forget_precision()
        made = find_run(recovered) if recovered else find_child(pipeline.tracked, step)
        assert made is not None
        outcome = "recovered" if recovered else outcome
        registered = versions_of_run(made.id)
        mark_done(made.id, registered, key)
    except StorageError:
        raise  # there may be no store to write the summary to
    except BaseException as error:
        pipeline.tracked.tag({"medexp.verdict": "FAILED"} if isinstance(error, CheckFailed) else {})
        _add(
            pipeline,
            step,
            "FAILED" if isinstance(error, Exception) else "interrupted",
            find_child(pipeline.tracked, step),
            started,
        )
        show(pipeline)
        print(f"Stopped at {step}. Run it again when the cause is gone: the steps before it are not run again.")
        raise
    _add(pipeline, step, outcome, made, started)
    return replace(made, registered=registered)


def _run(step: str, config: Configuration, key: str | None) -> str | None:
    """Run a step; the run that passed, where one of its recovery did."""

    def run_phase(config: Any) -> None:
        with runs_tagged(tags_of_step(key) if key else {}):
            importlib.import_module(f"medexp.phases.{step}").run(config)

    if not (isinstance(config, Recoverable) and config.recover):
        run_phase(config)
        return None
    from medexp.studies.recovery import run_or_recover  # optuna: where nothing is recovered it is not needed

    return run_or_recover(step, config, run_phase, f"{step}-recover-{key[:8]}" if key else None)


def show(pipeline: Pipeline) -> None:
    """The steps as a table in the terminal."""
    table = Table(*COLUMNS, title="main")
    for row in pipeline.rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def read_digests(config: PrepareConfig | Phase1Config) -> dict[str, str]:
    """Digests of the cases and of each split, of voxels; with warm caches nothing is read for them."""
    data = prepare_volumes(config)
    return {"data": data.digest, **data.digests}


def adapted_from(config: Phase1Config) -> dict[str, str]:
    """Digests of the cases and of the base; the embedded base follows from configuration and code."""
    if config.checkpoint is None:
        return read_digests(config)
    if config.checkpoint.startswith("models:/"):
        return read_digests(config) | digest_of(config.checkpoint.removeprefix("models:/"))
    path = Path(config.checkpoint).expanduser()
    return read_digests(config) | {"checkpoint": _sha256(path)}


def probed(config: ProbeConfig, data: DataConfig) -> dict[str, str]:
    """Digests of the encoder, and of the table with its volumes; phantoms follow from configuration and code."""
    digests = digest_of(config.encoder.removeprefix("models:/"))
    if config.table is None:
        return digests
    path = Path(config.table).expanduser()
    reading = replace(data, label_map={}, jobs=config.jobs)  # as the probe reads: what was read once is in the cache for it
    facts = describe_cases(read_table(path).cases, reading, cache_root(config.cache_dir))
    return digests | {"table": _sha256(path)} | {f"volumes of {fact.case}": fact.sha256 for fact in facts}


def digest_of(reference: str) -> dict[str, str]:
    """Version and digest of a registered model, NAME/VERSION or NAME@alias."""
    found = resolve(f"models:/{reference}")
    return {found.name: f"{found.version} {found.tags.get('medexp.digest')}"}


def champion() -> str | None:
    """Version of the champion; None where there is none."""
    return champion_of(ENCODER)[1]


def version_of(adapted: StepRun) -> str:
    """The version of the encoder that a run of phase1 registered."""
    return next(version for name, _, version in (made.partition("/") for made in adapted.registered or ()) if name == ENCODER)


def _with_state(pipeline: Pipeline, key: str, config: Configuration) -> str | None:
    """The newest interrupted run of the step that left something to go on from; None for a step that cannot go on."""
    if not isinstance(config, Resumable):
        return None
    folder = Path(config.output_dir).expanduser()
    return next((run.id for run in find_interrupted(pipeline.tracked, key) if (folder / run.id / "state").is_dir()), None)


def _add(pipeline: Pipeline, step: str, outcome: str, child: StepRun | None, started: float) -> None:
    """A row for a step, in the terminal's table and in the run's summary."""
    judged, run_id = (child.verdict or "-", child.id) if child else ("-", "-")
    pipeline.rows.append((step, outcome, judged, f"{time.monotonic() - started:.1f}", run_id))
    lines = [COLUMNS, ("---",) * len(COLUMNS), *pipeline.rows]
    log_summary(pipeline.tracked, "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
