"""What a recipe works with: its configuration, its processes and their device, its run, and what every phase does with these.

with context(PHASE, config) as ctx:         a phase's run, from its first line to how it ended
with context(PHASE, config, run) as ctx:    the same in a run that is given: a trial of a study
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import Dataset

from medexp import words
from medexp.checks import Check, verdict
from medexp.config.shared import Configuration, Resampling, Resumable, WithIntervals, cache_root, resampling
from medexp.config.training import TrainingConfig
from medexp.data.prepared import Prepared
from medexp.data.splits import SPLITS
from medexp.errors import CheckFailed, ConfigError, OutOfMemory
from medexp.evaluation.intervals import Interval
from medexp.files import replacing
from medexp.phases import Phase
from medexp.phases.shared.launch import forget_precision, start_accelerator
from medexp.phases.shared.publishing import Summary, present, publish
from medexp.phases.shared.reported import reported_run
from medexp.phases.shared.twins import twins_check
from medexp.registry.package import Package, Parent
from medexp.registry.promotion import Nominated
from medexp.registry.store import made_on_phantoms
from medexp.registry.tags import upstream_tag
from medexp.reporting import NullReporter
from medexp.tracking.datasets import log_datasets
from medexp.tracking.results import log_checks, log_figures, log_headline, log_intervals, stop_if_blocked
from medexp.tracking.runs import TrackedRun, tracked_run
from medexp.training.loop import FitResult, Group, Objective, Order, fit

PICTURES = 8
"""Pictures of a training's epochs at most, of each series."""

_BEGUN = "begun.json"
# What RuntimeErrors say of memory: torch's allocators of GPUs and of main memory, and cuBLAS. Others have other causes.
_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")


class Settings(Configuration, Protocol):
    """The configuration of a recipe that has a context."""

    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int | None: ...


class JudgedSettings(WithIntervals, Settings, Protocol):
    """That of a recipe whose figures have intervals."""


@runtime_checkable
class TrainingSettings(Resumable, Settings, Protocol):
    """That of a recipe that trains a network, and can be gone on with."""

    @property
    def training(self) -> TrainingConfig: ...
    @property
    def memory(self) -> str:
        """What takes memory, and which keys make it less, in words."""
        ...


C = TypeVar("C", bound=Settings)
C_co = TypeVar("C_co", bound=Settings, covariant=True)


@dataclass(frozen=True)
class Context(Generic[C_co]):
    """What a recipe works with.

    Attributes:
        phase: The phase.
        config: Its configuration.
        accelerator: Processes, device and precision.
        run: The run.
        splits: What is scored: the validation cases, and in some trials of a study the test cases too.
        fold: The fold that is trained, such as `fold 2 of 5`; empty: all that there is.
        until: Epochs after which a training ends, without choosing one; None: it chooses one by its validation.
        checks: All checks so far.
        published: The versions that were registered so far.
        built_on_phantoms: What it builds on that was made on phantoms although the cases are real, a sentence or two each.
    """

    phase: Phase
    config: C_co
    accelerator: Accelerator
    run: TrackedRun
    splits: Sequence[str] = ("val",)
    fold: str = ""
    until: int | None = None
    checks: list[Check] = field(default_factory=list)
    published: list[Nominated] = field(default_factory=list)
    built_on_phantoms: list[str] = field(default_factory=list)
    _begun: dict[str, str] = field(default_factory=dict)
    _data: list[Prepared[Any, Any]] = field(default_factory=list)
    _made_on_phantoms: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def cache(self) -> Path:
        """Root of what is computed once."""
        return cache_root(self.config.cache_dir)

    @property
    def resampling(self: "Context[JudgedSettings]") -> Resampling:
        """How the run's intervals are drawn, by the folds of what it was given."""
        return resampling(self.config, max((data.folds for data in self._data), default=0))

    def built_on(self, parents: Mapping[str, Parent], key: str = "", *, embedded: bool = False) -> None:
        """Name what the phase builds on, by role: the run's upstream tags, and what a run that is resumed was begun with.

        It is called before `given`, which compares, and says of real cases what builds on phantoms. What is not registered is
        no tag.

        Args:
            parents: What it is, by role.
            key: The key of the configuration by which another is named, where that is not the role.
            embedded: Whether what is not registered comes with medexp, and was made on phantoms.
        """
        for role, parent in parents.items():
            called = f"{parent.name} version {parent.version}" if parent.version else f"the embedded {parent.name}"
            if made_on_phantoms(parent.name, parent.version) if parent.version else embedded:
                self._made_on_phantoms.append(
                    f"{key or role}: {called} was made on phantoms, and knows no patient. Another is named by "
                    f"{key or role}=models:/NAME/VERSION."
                )
            if parent.version is not None and parent.digest is not None:
                self.run.tag(upstream_tag(parent.name, parent.version, parent.digest))
            self._begun[role] = parent.weights_digest

    def meet_real_cases(self) -> None:
        """Say, where what the phase builds on was made on phantoms, that real cases are given to it, and how another is named.

        The run's summary says it again, and so do the cards of what is made from it.
        """
        self.built_on_phantoms.extend(told for told in self._made_on_phantoms if told not in self.built_on_phantoms)
        for told in self.built_on_phantoms:
            print(told, flush=True)

    def given(self, data: Prepared[Any, Any], begun: Mapping[str, str], counted: str = "") -> None:
        """Log what data the phase was given, check it (TWINS), and go on from an interrupted run that began with the same.

        An alias may have moved, and what was trained on one network means nothing on another. A patient may have been added:
        the splits are then drawn anew, and what was trained on would be validated on.

        Args:
            data: The cases.
            begun: Digests of them, by the words that name them.
            counted: What they are called in the figures `params/<split>_<counted>`; empty: they are not counted.

        Raises:
            ConfigError: The run that is resumed was begun with other networks or cases.
        """
        with self.accelerator.main_process_first():
            if self.run.client:
                self._take_over(self._begun | dict(begun))
        self._data.append(data)
        inputs = {split: digest for split, digest in data.digests.items() if split != "val" or not data.folds}
        log_datasets(self.run, data.manifest, inputs, data.source, self.phase.name)
        self.check(twins := twins_check(data, self.phase.units[1]))
        if twins.measured["pairs"]:
            self.run.reporter.table(data.twins, "twins.csv")
            joined = data.manifest["patient"].nunique() - data.by_owner["patient"].nunique()
            fewer = f"; intervals count {words.counted(joined, 'patient')} fewer for that" if joined else ""
            print(f"Pairs of copies among the cases, in twins.csv of the run: {twins.measured['pairs']}{fewer}", flush=True)
        for note in data.notes:
            print(note, flush=True)
        if not data.phantoms:
            self.meet_real_cases()
        for split in SPLITS if counted else ():
            rows = data.rows(split)
            self.figures({f"params/{split}_{counted}": len(rows), f"params/{split}_patients": rows["patient"].nunique()})

    def _take_over(self, begun: Mapping[str, str]) -> None:
        """Compare with `begun.json` of the run that is resumed, write this run's own, and copy the state of its trainings."""
        folder = self.run.folder
        resume = self.config.resume if isinstance(self.config, TrainingSettings) else None
        interrupted = folder.parent / str(resume)
        if resume is not None:
            before = json.loads((interrupted / _BEGUN).read_text()) if (interrupted / _BEGUN).is_file() else {}
            if changed := [key for key, digest in begun.items() if before.get(key, digest) != digest]:
                raise ConfigError(
                    f"resume={resume}: not what the run was begun with: {' and '.join(changed)}; move the alias or put the "
                    "files back, or start a new run without resume"
                )
        with replacing(folder / _BEGUN) as temporary:  # before there is a state that could be gone on with
            temporary.write_text(json.dumps(begun))
        if resume is not None and (interrupted / "state").is_dir() and not (folder / "state").exists():
            shutil.copytree(interrupted / "state", folder / ".state", dirs_exist_ok=True)
            (folder / ".state").replace(folder / "state")

    def check(self, *checks: Check) -> None:
        """Add checks and log all that there are so far."""
        self.checks.extend(checks)
        log_checks(self.run, self.checks, so_far=True)

    def demand(self, *checks: Check) -> None:
        """Add checks that what follows rests on.

        Raises:
            CheckFailed: A BLOCKING check failed.
        """
        self.check(*checks)
        stop_if_blocked(self.run, self.checks)

    def state(self, arm: str = "") -> Path:
        """Where a training's state lies; that of a fold, and of a fold's training that chooses no epoch, apart from others."""
        chosen = "" if self.until is None or not self.fold else f"{self.until} epochs"
        return self.run.folder / "state" / self.fold / chosen / arm

    def fit(
        self: "Context[TrainingSettings]",
        module: nn.Module,
        groups: Sequence[Group],
        data: Dataset[Any],
        objective: Objective,
        *,
        title: str,
        arm: str = "",
        prefix: str = "",
        order: Order | None = None,
        seed: int | None = None,
        loading: Mapping[str, Any] | None = None,
        ema: float = 0.0,
        quiet: bool = False,
    ) -> FitResult:
        """`medexp.training.loop.fit` with the phase's seed, where no other is given, its processes, run and folder; `arm` says
        which training it is."""
        return fit(
            module,
            groups,
            data,
            objective,
            self.config.training,
            seed=self.config.seed if seed is None else seed,
            accelerator=self.accelerator,
            reporter=self.run.reporter,
            folder=self.state(arm),
            title=", ".join(filter(None, [title, self.fold])),
            prefix=prefix,
            order=order,
            until=self.until,
            loading=loading,
            ema=ema,
            quiet=quiet,
        )

    def picture(self: "Context[TrainingSettings]", key: str, epoch: int, draw: Callable[[], Figure | None]) -> None:
        """Log a picture of a validated epoch in the series `val/<key>`, which MLflow's grid of images shows with a slider.

        Of a training's epochs at most PICTURES are drawn, evenly, the last among them. They are counted from 0, where the
        slider starts: at an epoch's own number it would start at none. Folds are not drawn, nor is what nobody keeps.

        Args:
            key: Of the series; under `val`, or its pictures stood above the curves of `train`.
            epoch: From 0.
            draw: Draws it, the number of the epoch in its title; None: there is nothing to be seen.
        """
        training, done = self.config.training, epoch + 1
        every = training.validate_every * math.ceil(training.epochs / (training.validate_every * PICTURES))
        if self.fold or isinstance(self.run.reporter, NullReporter) or (done % every and done != training.epochs):
            return
        if (figure := draw()) is not None:
            self.run.reporter.image(figure, f"val/{key}", math.ceil(done / every) - 1)

    def intervals(self: "Context[JudgedSettings]", prefix: str, scores: Mapping[str, Interval]) -> None:
        """Log figures with their bounds in the run's `intervals.csv`, as `<prefix><name>`."""
        named = {f"{prefix}{name}": interval for name, interval in scores.items()}
        log_intervals(self.run, named, self.resampling.confidence)

    def figures(self, values: Mapping[str, float]) -> None:
        """Log figures that were measured once and have no interval, such as counts, in the same table."""
        log_figures(self.run, values)

    def publish(self, package: Package, *, judged: bool = True) -> Parent:
        """Register a version, with the verdict of the checks unless nobody judged it; what is made from it names it so."""
        self.published.append(made := publish(package, verdict(self.checks) if judged else None, self.run))
        return Parent(made.name, made.version, made.digest, made.weights_digest)

    def finish(self, summary: Summary) -> None:
        """The run's description and the last lines.

        Raises:
            CheckFailed: A BLOCKING check failed: the run holds all that was logged, and nothing is promoted.
        """
        if self.accelerator.is_main_process:
            unlike = [check for check in self.checks if check.id == "TWINS" and not check.passed]
            twins = [f"Copies of cases lie in two splits or under two labels: {check.found}." for check in unlike]
            notes = dict.fromkeys(note for data in self._data for note in data.notes)
            first = (*summary.first, *twins, *self.built_on_phantoms)
            told = replace(summary, first=first, words=(*summary.words, *notes), units=self.phase.units)
            present(told, self.checks, self.published, self.run, self.phase)
            log_headline(self.run, *summary.compared_by)
        stop_if_blocked(self.run, self.checks)
        log_checks(self.run, self.checks)


@contextmanager
def context(phase: Phase, config: C, run: TrackedRun | None = None, splits: Sequence[str] = ("val",)) -> Iterator[Context[C]]:
    """What a recipe works with, from the start of its run to its end.

    The first process of a launch writes the run, and all share its id and folder.

    Args:
        phase: The phase.
        config: Its configuration.
        run: A run that somebody else starts and ends, of one process; None: one of the phase's own.
        splits: What is scored.

    Raises:
        ConfigError: The device is not there.
        OutOfMemory: There is less memory than the configuration's settings ask for.
        StorageError: As of `medexp.tracking.runs.tracked_run`.
    """
    trains = config if isinstance(config, TrainingSettings) else None
    if run is not None:
        forget_precision()
    accelerator = start_accelerator(config.device, config.threads, trains.training.precision if trains else "fp32")
    if run is not None:
        with _out_of_memory(trains):
            yield Context(phase, config, accelerator, run, splits)
        return
    try:
        with _own_run(phase, config, accelerator, trains.resume if trains else None) as own, _out_of_memory(trains):
            yield Context(phase, config, accelerator, own, splits)
    except CheckFailed:
        accelerator.wait_for_everyone()  # the first process that leaves with an error ends the others: the run is closed first
        raise


@contextmanager
def _own_run(phase: Phase, config: Settings, accelerator: Accelerator, resume: str | None) -> Iterator[TrackedRun]:
    if accelerator.is_main_process:
        with reported_run(phase.name, config, resumed_from=resume) as run:
            broadcast_object_list([run.id])
            yield run
    else:
        received: list[str] = [""]
        broadcast_object_list(received)
        with tracked_run(phase.name, config, is_main=False, run_id=received[0]) as run:
            yield run


@contextmanager
def _out_of_memory(trains: TrainingSettings | None) -> Iterator[None]:
    """One line, with what can be done, of memory that is not there: on a GPU, and in main memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if trains is None or (isinstance(error, RuntimeError) and not any(told in str(error) for told in _NO_MEMORY)):
            raise
        measured = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        raise OutOfMemory(f"out of memory with {trains.memory}{measured}") from error
