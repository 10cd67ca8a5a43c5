"""Where a study lives, and whose trials are taken up again when the process that ran them is gone."""

import json
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from medexp.addresses import local_path
from medexp.errors import ConfigError, MedexpError, StorageError, all_problems
from medexp.files import alone
from medexp.studies.space import Space
from medexp.tracking.processes import is_gone, this_process
from medexp.tracking.stores import reason

GIVEN = ("name", "seed", "test")
"""User attributes that a trial is made with; all others are of one try."""
_MADE_FOR, _WORKER, _RUN, _ALIVE = "medexp", "worker", "run", "alive "
_RENEWED_EVERY = 30  # seconds between two signs of life of a worker
_SILENT_FOR = 300  # seconds without one after which a worker of another machine counts as gone
_LOCK_FOR = 30  # seconds that a lock of the journal stands before it counts as left by a killed process
_AT_ONCE = 5  # tries to make a database's tables, which other processes may be making at the same time
_CONNECT_FOR = 10  # seconds that a database has to answer
STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError, OSError)
_log = logging.getLogger(__name__)
_working: weakref.WeakSet[optuna.Study] = weakref.WeakSet()


@dataclass(frozen=True)
class Recovered:
    """A trial whose worker was gone.

    Attributes:
        number: Its number; it is failed now.
        worker: Who ran it; empty where it was killed before it could say.
        run: Its run in the tracking store, which nobody ended; None where it had none yet.
        retried: Whether it waits to be tried again; a retry that was killed too is not.
    """

    number: int
    worker: str
    run: str | None
    retried: bool


def place_of(name: str, storage: str | None, output_dir: Path) -> str:
    """Where a study lives: `storage`, MEDEXP_STORAGE_URL, or a journal file of its own in `output_dir/studies`."""
    return storage or os.environ.get("MEDEXP_STORAGE_URL") or str(output_dir / "studies" / f"{name}.journal")


def open_study(name: str, storage: str | None, phase: str, space: Space, seed: int, output_dir: Path) -> optuna.Study:
    """A study: made when there is none of that name, else joined.

    Args:
        name: Its name: letters, digits, `.`, `_` and `-`.
        storage: A journal file, or a database's URL (PostgreSQL, or SQLite for one machine); None: a journal file in
            `output_dir/studies`. A journal file may be shared over a network file system that creates files exclusively
            (NFS from version 3 on, SMB, Lustre); for many workers a PostgreSQL is the better place.
        phase: The phase that is studied.
        space: What is searched.
        seed: Seed of the sampler.
        output_dir: Folder of the journal.

    Raises:
        ConfigError: The name cannot be one, the storage is no journal and no URL, or the study has another phase or space.
        StorageError: The storage does not answer, cannot be written, or is damaged.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name):
        raise ConfigError(f"study: found {name!r}; give letters, digits, dots, _ and - only, such as study=rates-2")
    where = place_of(name, storage, output_dir)
    goals = [goal.direction for goal in space.goals]
    with storage_failures(where):
        opened = _database(where) if "://" in where else _journal(local_path(where).absolute())
        sampler, pruner = space.make_sampler(seed), space.make_pruner()
        study = optuna.create_study(
            storage=opened, study_name=name, directions=goals, sampler=sampler, pruner=pruner, load_if_exists=True
        )
        if _MADE_FOR not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr(_MADE_FOR, _made_for(phase, space))
        _check_same(study, where, phase, space)
    return study


def ask(study: optuna.Study) -> optuna.Trial:
    """The next trial of a study, which from now on is this process's: `recover_dead` tells by it what a kill has left.

    The process gives signs of life from its first trial on until it ends.
    """
    trial = study.ask()
    trial.set_user_attr(_WORKER, this_process())
    if study not in _working:
        _working.add(study)
        _sign(study)
        threading.Thread(target=_keep_signing, args=(weakref.ref(study),), daemon=True).start()
    return trial


def has_tried(study: optuna.Study, pid: int) -> bool:
    """Whether a process of this machine began a trial of the study."""
    own = this_process().partition(" ")[0]
    return any(trial.user_attrs.get(_WORKER, "").startswith(f"{own} {pid} ") for trial in study.get_trials(deepcopy=False))


def recover_dead(study: optuna.Study, silent_for: float = _SILENT_FOR) -> list[Recovered]:
    """Fail the trials whose worker is gone, and have each tried once more with the same values.

    A worker of this machine is gone when its process is. One of another machine is when it gave no sign of life for
    `silent_for` seconds; the machines' clocks have to agree better than that. The new trial has the user attribute
    `retried_from`, the number of the one that it stands in for, and Optuna's own system attribute `retry_history`. Several
    processes may do this at once: each dead trial is taken by one of them.

    Optuna's own heartbeat is not used: the journal has none, in a database it beats in `study.optimize` alone, and it has to
    wait for a silence where a look at the process tells at once.

    Returns:
        What was failed; the caller ends the runs.
    """
    taken = []
    with _alone(study):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not _is_dead(study, trial, silent_for):
                continue
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, UpdateFinishedTrialError):  # it ended, or another process was faster
                continue
            history = [*trial.system_attrs.get("retry_history", []), trial.number]
            if retried := len(history) == 1:
                _enqueue_again(study, trial, history)
            taken.append(Recovered(trial.number, trial.user_attrs.get(_WORKER, ""), trial.user_attrs.get(_RUN), retried))
    return taken


def _alone(study: optuna.Study) -> AbstractContextManager[Any]:
    """In SQLite two processes can fail one trial: it ignores the lock on a row. Elsewhere one of them is told."""
    engine = getattr(getattr(study._storage, "_backend", None), "engine", None)
    if engine is None or engine.dialect.name != "sqlite" or not engine.url.database:
        return nullcontext()
    return alone(Path(f"{engine.url.database}.recovery.lock"))


def _enqueue_again(study: optuna.Study, trial: FrozenTrial, history: list[int]) -> None:
    given = {key: value for key, value in trial.user_attrs.items() if key in GIVEN}
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=given | {"retried_from": trial.number},
            # these hold what it was asked to try, had it not come to drawing all of its values
            system_attrs=trial.system_attrs | {"failed_trial": history[0], "retry_history": history},
        )
    )


def _is_dead(study: optuna.Study, trial: FrozenTrial, silent_for: float) -> bool:
    worker = trial.user_attrs.get(_WORKER)
    if worker is None:  # killed between two lines, or about to write the second
        assert trial.datetime_start is not None
        return (datetime.now() - trial.datetime_start).total_seconds() > silent_for
    gone = is_gone(worker)
    return time.time() - study.user_attrs.get(_ALIVE + worker, 0) > silent_for if gone is None else gone


def _sign(study: optuna.Study) -> None:
    study.set_user_attr(_ALIVE + this_process(), time.time())


def _keep_signing(reference: "weakref.ref[optuna.Study]") -> None:
    while True:
        time.sleep(_RENEWED_EVERY)
        if (study := reference()) is None:
            return
        try:
            _sign(study)
        except STORAGE_ERRORS as error:
            _log.warning("a sign of life could not be written (%s); the next one follows", reason(error))
        del study


def _made_for(phase: str, space: Space) -> dict[str, Any]:
    goals = [f"{goal.metric} ({goal.direction})" for goal in space.goals]
    return {"phase": phase, "space": space.digest, "goals": goals}


def _check_same(study: optuna.Study, where: str, phase: str, space: Space) -> None:
    subject = f"study {study.study_name} in {_shown(where)}"
    advice = "Give another name, study=NAME, or what the study was begun with."
    there = study.user_attrs.get(_MADE_FOR)
    if there is None:
        raise ConfigError(f"{subject}: was not made by medexp, and has trials. {advice}")
    wanted = _made_for(phase, space)
    if differ := [
        f"its {key} is {_brief(there[key])}, given is {_brief(wanted[key])}" for key in wanted if there[key] != wanted[key]
    ]:
        raise ConfigError(all_problems(subject, differ, advice))


def _brief(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)[:16]


class _WholeLines(JournalFileOpenLock):
    """The journal's lock. Who gets it finds whole lines: what a killed writer, or a full disk, left unfinished is cut off.

    Optuna appends to an unfinished line, and nobody can read the journal any more. Of its two locks the one that links needs
    links, and with a relative path it waits for ever for a lock that a killed process left.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _LOCK_FOR)
        self._path = path

    def acquire(self) -> bool:
        super().acquire()
        try:
            _cut_unfinished(self._path)
        except BaseException:
            self.release()
            raise
        return True


def _cut_unfinished(path: Path) -> None:
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _journal(path: Path) -> optuna.storages.JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()
    _check_journal(path)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), _WholeLines(path)))


def _check_journal(path: Path) -> None:
    """Every whole line is a record; the last line may be unfinished."""
    content = path.read_bytes()
    if content and not content.startswith(b'{"op_code":0,'[: len(content)]):
        raise ConfigError(f"storage {path}: is no journal of Optuna. Name another file, or a database's URL")
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            whole = "op_code" in json.loads(line)
        except (ValueError, TypeError):
            whole = False
        if not whole:
            raise StorageError(
                f"storage {path}: line {number} is damaged. Restore the file from a copy, or give another "
                f"file with the {number - 1} lines before it; what trials logged is in the tracking store in any case"
            )


def _database(where: str) -> optuna.storages.RDBStorage:
    try:
        url = sqlalchemy.make_url(where)
    except (SQLAlchemyError, ValueError) as error:
        raise ConfigError(f"storage {_shown(where)}: is no URL of a database; such as {_LIKE}") from error
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
        arguments = {"connect_args": {"connect_timeout": _CONNECT_FOR}}
    elif url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
        arguments = {"connect_args": {"timeout": 60}}
    # a server that was restarted is asked anew
    make = partial(optuna.storages.RDBStorage, url.render_as_string(hide_password=False), {"pool_pre_ping": True, **arguments})
    try:
        for _ in range(_AT_ONCE):
            try:
                return make()
            except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError) as error:
                if "already exists" not in str(error) and "UNIQUE" not in str(error).upper():
                    raise  # else another process made the tables at the same time
        return make()
    except RuntimeError as error:  # Optuna's word on tables of another version of it, which says what to do
        raise StorageError(f"storage {_shown(where)}: {error}") from error


_LIKE = "postgresql://USER@HOST/NAME or sqlite:////FOLDER/studies.db"


@contextmanager
def storage_failures(where: str) -> Iterator[None]:
    """Makes a StorageError of a study's storage that cannot be used or does not answer.

    Args:
        where: The storage, as `open_study` takes it; its credentials are not shown.
    """
    try:
        yield
    except MedexpError:
        raise
    except ImportError as error:
        raise StorageError(
            f"storage {_shown(where)}: its driver is not installed ({reason(error)}). For PostgreSQL: "
            "pip install 'medexp[postgres]'"
        ) from error
    except sqlalchemy.exc.NoSuchModuleError as error:
        raise ConfigError(f"storage {_shown(where)}: is no URL of a database that is known; such as {_LIKE}") from error
    except STORAGE_ERRORS as error:
        raise StorageError(
            f"storage {_shown(where)}: cannot be used ({reason(error)}). Start it, free space, or name another place with "
            "storage=; finished trials are kept"
        ) from error


def _shown(where: str) -> str:
    """A storage without what may be secret: user, password and options of a URL."""
    if "://" not in where:
        return where
    try:
        url = sqlalchemy.make_url(where)
    except (SQLAlchemyError, ValueError):
        return where.partition("://")[0] + "://..."
    port = f":{url.port}" if url.port else ""
    return f"{url.drivername}://{url.host or ''}{port}/{url.database or ''}"
