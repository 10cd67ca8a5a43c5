"""Processes that work on a study, and are killed at it."""

import os
import signal
from pathlib import Path
from typing import Any

from medexp.studies.space import Space, suggest
from medexp.studies.study import ask, open_study, recover_dead


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
