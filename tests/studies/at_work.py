"""Processes that work on a study, and are killed at it."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from medexp.studies.space import Space, suggest
from medexp.studies.study import ask, open_study, recover_dead

# Started from a process that has imported all and holds no connection: a child begins in milliseconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["medexp.studies.study", "psycopg", __name__])


def start(work: Any, *arguments: Any) -> Any:
    process = _CONTEXT.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def all_at_once(count: int, work: Any, *arguments: Any) -> list[Any]:
    """What `work(barrier, answers, *arguments)` puts into `answers` in so many processes; all have to end well."""
    barrier, answers = _CONTEXT.Barrier(count), _CONTEXT.SimpleQueue()
    processes = [start(work, barrier, answers, *arguments) for _ in range(count)]
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def killed_in_a_trial(storage: str | None, space: Space, folder: Path, run: str | None = "r1") -> None:
    study = open_study("s", storage, "phase1", space, 3, folder)
    trial = ask(study)
    if run is not None:
        trial.set_user_attr("run", run)
        trial.set_user_attr("reason", "of this try alone")
        suggest(trial, space)
    os.kill(os.getpid(), signal.SIGKILL)


def works(barrier: Any, answers: Any, storage: str | None, space: Space, folder: Path, trials: int) -> None:
    barrier.wait()
    try:
        study = open_study("s", storage, "phase1", space, os.getpid(), folder)
        done = []
        for _ in range(trials):
            trial = ask(study)
            study.tell(trial, float(suggest(trial, space)["depth"]))
            done.append(trial.number)
    except BaseException as error:
        answers.put(repr(error))
        raise
    answers.put(done)


def recovers(barrier: Any, answers: Any, storage: str | None, space: Space, folder: Path) -> None:
    study = open_study("s", storage, "phase1", space, 0, folder)
    barrier.wait()
    answers.put([one.number for one in recover_dead(study)])
