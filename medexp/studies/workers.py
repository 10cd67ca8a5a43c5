"""Processes that run the trials of a study, and the one that starts them, waits, and replaces those that die."""

import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from medexp.errors import MedexpError
from medexp.studies.space import Space
from medexp.studies.study import STORAGE_ERRORS, has_tried, open_study, place_of, recover_dead, storage_failures
from medexp.studies.trials import counted, next_trial
from medexp.tracking.killed import end_left, end_run
from medexp.tracking.signals import ENDING, terminate
from medexp.tracking.stores import STORE_ERRORS, reason, retries

_log = logging.getLogger(__name__)
_LOOK_EVERY = 0.5  # seconds between two looks at a study
# Forked from a process that has imported all and has no threads, locks or connections: a worker begins at once.
_CONTEXT = multiprocessing.get_context("forkserver")
_NAME = "medexp-worker-"
_LAST_WORDS = 30  # seconds that a worker has to end its run


@dataclass(frozen=True)
class Work:
    """What a worker is told; it goes to another process.

    Attributes:
        study: Name of the study.
        storage: Where it lives; None: in output_dir/studies.
        phase: The phase that is studied.
        space: What is searched.
        config: The phase's configuration, which sampled values are put into.
        parent: The sweep's run.
        objective: What a trial runs, `module:function`.
        total: Trials of the study.
        seed: Seed of the sampler; each worker draws its own from it.
        output_dir: Folder of the study's journal.
    """

    study: str
    storage: str | None
    phase: str
    space: Space
    config: Any
    parent: str
    objective: str
    total: int
    seed: int
    output_dir: Path

    @property
    def place(self) -> str:
        """Where the study lives."""
        return place_of(self.study, self.storage, self.output_dir)

    def open(self, worker: int | None = None) -> optuna.Study:
        """The study, with the sampler's seed of a worker: two that drew the same numbers would try the same values."""
        study = open_study(self.study, self.storage, self.phase, self.space, self.seed, self.output_dir)
        if worker is None:
            return study
        there = len(study.get_trials(deepcopy=False))  # the same seed in a study that went on since draws other numbers
        own = int(np.random.SeedSequence([self.seed, worker, there]).generate_state(1)[0])
        return open_study(self.study, self.storage, self.phase, self.space, own, self.output_dir)


@dataclass(frozen=True)
class _Worker:
    process: Any
    errors: Connection


def prepare_workers(objective: str) -> None:
    """Have all that workers need imported, in the process that they are forked from, while this one does something else.

    Args:
        objective: As of `Work`.
    """
    # an import that asks CUDA whether there is a device would keep processes that are forked later from using it
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    _CONTEXT.set_forkserver_preload([__name__, objective.partition(":")[0]])
    forkserver.ensure_running()


def run_workers(work: Work, count: int, logs: Path, look: Callable[[optuna.Study], None]) -> optuna.Study:
    """Run a study to its total with `count` processes, and with all that joined in from elsewhere.

    A worker that dies is replaced, and its trial is tried again once. Workers end with the process that started them; their
    trials' runs end KILLED.

    Args:
        work: What they do.
        count: Processes at a time.
        logs: Folder that gets what each of them prints.
        look: Called with the study every half second: to tell what finished.

    Returns:
        The study, in which no trial waits or runs any more.

    Raises:
        MedexpError: What a worker met that no other trial would be spared; or workers that die before they begin.
    """
    logs.mkdir(parents=True, exist_ok=True)
    study = work.open()
    running: list[_Worker] = []
    started, idle_deaths, seen_over = 0, 0, False
    try:
        with storage_failures(work.place):
            while True:
                while len(running) < count and _is_work_left(study, work.total):
                    running.append(_start(work, started, logs / f"worker-{started + 1}.log"))
                    started += 1
                over = not running and not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if over and (seen_over or not _is_one_about_to_wait(study)):
                    break
                seen_over = over
                wait([worker.process.sentinel for worker in running], _LOOK_EVERY) if running else time.sleep(_LOOK_EVERY)
                ended = [worker for worker in running if not worker.process.is_alive()]
                running = [worker for worker in running if worker not in ended]
                for worker in ended:
                    if (error := _last_word(worker)) is not None:
                        raise error
                    if worker.process.exitcode:
                        idle_deaths = 0 if has_tried(study, worker.process.pid) else idle_deaths + 1
                if idle_deaths > count:
                    raise MedexpError(f"workers end before they begin a trial; what they print: {logs}")
                _clear_up(study, work, any(worker.process.exitcode for worker in ended))
                look(study)
            look(study)
    finally:
        ended_by = sys.exception()
        _end_all()
        try:
            _clear_up(study, work)
        except STORAGE_ERRORS as error:
            _log.warning("study %s may still have trials that count as running: %s", work.study, reason(error, ended_by))
    return study


def _is_work_left(study: optuna.Study, total: int) -> bool:
    return len(counted(study)) < total or bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def _is_one_about_to_wait(study: optuna.Study) -> bool:
    """Whether another process may have failed a trial and be about to enqueue the one that stands in for it."""
    failed = [trial for trial in counted(study) if trial.state is TrialState.FAIL]
    return any("reason" not in trial.user_attrs and "retry_history" not in trial.system_attrs for trial in failed)


def _clear_up(study: optuna.Study, work: Work, died: bool = True) -> None:
    """Take up trials whose worker is gone, and end their runs; where the store is gone too, the next start does it.

    Args:
        study: The study.
        work: Whose runs are looked through.
        died: Whether one of its own workers did: its run may be known to the tracking store alone.
    """
    dead = recover_dead(study)
    if not dead and not died:
        return
    ended = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    try:
        with retries(0):
            end_left(work.parent, work.study, ended)
            for run in {one.run for one in dead if one.run}:
                end_run(run)
    except STORE_ERRORS as error:
        _log.warning("runs of study %s may still count as running: %s", work.study, reason(error))


def _start(work: Work, index: int, log: Path) -> _Worker:
    receives, sends = _CONTEXT.Pipe(duplex=False)
    surroundings = (dict(os.environ), str(Path.cwd()))
    process = _CONTEXT.Process(target=_work, args=(work, index, log, sends, *surroundings), name=f"{_NAME}{index + 1}")
    process.start()
    sends.close()
    return _Worker(process, receives)


def _last_word(worker: _Worker) -> MedexpError | None:
    """The error that a worker ended with; None for one that did its work or was killed."""
    try:
        error = worker.errors.recv()
    except EOFError:
        return None
    assert isinstance(error, MedexpError)
    return error


def _end_all() -> None:
    workers = [process for process in multiprocessing.active_children() if process.name.startswith(_NAME)]
    for process in workers:
        process.terminate()
    for process in workers:
        process.join(_LAST_WORDS)
        process.kill()
        process.join()


def _work(work: Work, index: int, log: Path, errors: Connection, environment: dict[str, str], folder: str) -> None:
    """What a worker does: trial after trial, until the study has all of them."""
    os.environ.clear()  # the server may have been started with other ones
    os.environ.update(environment)
    os.chdir(folder)
    for signum in ENDING:
        signal.signal(signum, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal: the parent ends this one
    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _print_to(log)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module, _, function = work.objective.partition(":")
    objective = getattr(importlib.import_module(module), function)
    try:
        with storage_failures(work.place):
            study = work.open(index)
            while next_trial(study, work.space, work.phase, work.config, work.parent, objective, work.total):
                pass
    except MedexpError as error:
        _log.error("the sweep ends", exc_info=error)
        errors.send(error)
        sys.exit(2)


def _print_to(log: Path) -> None:
    """All that this process prints, libraries and crashes included, goes to a file: the terminal is the parent's."""
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
