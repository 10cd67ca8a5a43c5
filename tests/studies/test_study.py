"""Where studies live: real journals and databases, real processes that are killed, and what bad places say."""

import gc
import itertools
import json
import signal
import sqlite3
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from medexp.errors import ConfigError, MedexpError, StorageError
from medexp.studies import study as module
from medexp.studies.space import Space, read_space, suggest
from medexp.studies.study import ask, open_study, recover_dead
from tests.forked import all_at_once, start
from tests.studies.at_work import killed_in_a_trial, recovers, works


@dataclass(frozen=True)
class Config:
    depth: int
    stages: tuple[int, ...]


SPACE = """
goals: [{metric: val/final/dice, direction: maximize}]
sampler: {name: random}
pruner: {name: none}
parameters:
  depth: {type: int, low: 1, high: 1000}
  stages: {type: categorical, choices: [[4], [3, 4]]}
"""


def space_of(folder: Path, old: str = "", new: str = "") -> Space:
    (folder / "sweep.yaml").write_text(SPACE.replace(old, new))
    return read_space(folder / "sweep.yaml", Config)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return space_of(tmp_path)


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path}/new/studies.db" if request.param == "sqlite" else None


@pytest.fixture
def journal(tmp_path: Path, space: Space) -> Path:
    """The journal of a study with three finished trials."""
    study = opened(None, space, tmp_path)
    for depth in (1, 2, 3):
        finish(study, space, depth)
    return tmp_path / "studies" / "s.journal"


def opened(storage: str | None, space: Space, folder: Path, phase: str = "phase1") -> optuna.Study:
    return open_study("s", storage, phase, space, 0, folder)


def finish(study: optuna.Study, space: Space, depth: int) -> None:
    study.enqueue_trial({"depth": depth, "stages": "[3, 4]"})
    trial = ask(study)
    suggest(trial, space)
    study.tell(trial, float(depth))


def kill_a_worker(storage: str | None, space: Space, folder: Path, run: str | None = "r1") -> Any:
    process = start(killed_in_a_trial, storage, space, folder, run)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return process


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


def test_a_study_is_made_and_joined_and_keeps_its_trials(storage: str | None, space: Space, tmp_path: Path) -> None:
    finish(opened(storage, space, tmp_path), space, 7)
    again = opened(storage, space, tmp_path)
    assert (again.best_value, suggest(optuna.trial.FixedTrial(again.best_params), space)) == (
        7,
        {"depth": 7, "stages": (3, 4)},
    )
    assert again.user_attrs["medexp"] == {"phase": "phase1", "space": space.digest, "goals": ["val/final/dice (maximize)"]}


def test_processes_that_begin_a_study_at_once_share_it(storage: str | None, space: Space, tmp_path: Path) -> None:
    done = all_at_once([(works, storage, space, tmp_path, 4)] * 3)
    assert sorted(itertools.chain(*done)) == list(range(12))
    assert states(opened(storage, space, tmp_path)) == ["COMPLETE"] * 12


@pytest.mark.parametrize(
    ("phase", "old", "new", "told"),
    [
        ("phase2", "", "", "its phase is phase1, given is phase2"),
        ("phase1", "high: 1000", "high: 99", "its space is "),
        ("phase1", "maximize", "minimize", "its goals is val/final/dice (maximize), given is val/final/dice (minimize)"),
    ],
)
def test_a_study_of_something_else_under_the_same_name(
    storage: str | None, space: Space, tmp_path: Path, phase: str, old: str, new: str, told: str
) -> None:
    opened(storage, space, tmp_path)
    with pytest.raises(ConfigError, match=r"^study s in (.|\n)*Give another name, study=NAME") as found:
        opened(storage, space_of(tmp_path, old, new), tmp_path, phase)
    assert told in str(found.value)
    assert "s3cret-word" not in str(found.value)
    assert opened(storage, space, tmp_path).user_attrs["medexp"]["phase"] == "phase1"


def test_a_study_that_another_program_made(space: Space, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/theirs.db"
    optuna.create_study(storage=url, study_name="s", direction="maximize").ask()
    with pytest.raises(ConfigError, match="study s in sqlite:.*was not made by medexp, and has trials"):
        opened(url, space, tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "it's", "a b", "x" * 201])
def test_names_that_cannot_be(space: Space, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="study: found .*give letters, digits"):
        open_study(name, None, "phase1", space, 0, tmp_path)
    assert not (tmp_path / "studies").exists()


def test_a_killed_workers_trial_is_tried_once_more_with_the_same_values(
    storage: str | None, space: Space, tmp_path: Path
) -> None:
    worker = kill_a_worker(storage, space, tmp_path)
    study = opened(storage, space, tmp_path)
    mine = ask(study)  # its worker lives
    (first,) = recover_dead(study)
    assert (first.number, first.run, first.retried) == (0, "r1", True)
    assert str(worker.pid) in first.worker
    assert states(study) == ["FAIL", "RUNNING", "WAITING"]
    assert recover_dead(study) == []

    kill_a_worker(storage, space, tmp_path, "r2")
    dead, _, retry = study.get_trials()
    assert retry.params == dead.params
    assert retry.user_attrs["retried_from"] == 0
    (second,) = recover_dead(study)
    assert (second.number, second.run, second.retried) == (2, "r2", False)
    assert states(study) == ["FAIL", "RUNNING", "FAIL"]
    assert mine.number == 1


def test_the_second_try_has_what_the_trial_was_made_with_and_nothing_of_the_first(space: Space, tmp_path: Path) -> None:
    study = opened(None, space, tmp_path)
    asked = {"depth": 12, "stages": "[4]"}
    study.enqueue_trial(asked, user_attrs={"name": "confirm-1", "seed": 9})
    kill_a_worker(None, space, tmp_path, None)  # before a value was drawn
    recover_dead(study)
    retry = ask(study)
    assert {k: v for k, v in retry.user_attrs.items() if k != "worker"} == {"name": "confirm-1", "seed": 9, "retried_from": 0}
    assert suggest(retry, space) == {"depth": 12, "stages": (4,)}


def test_each_dead_trial_is_taken_by_one_of_many(storage: str | None, space: Space, tmp_path: Path) -> None:
    for _ in range(3):
        kill_a_worker(storage, space, tmp_path)
    taken = all_at_once([(recovers, storage, space, tmp_path)] * 3)
    assert sorted(itertools.chain(*taken)) == [0, 1, 2]
    assert states(opened(storage, space, tmp_path)) == ["FAIL"] * 3 + ["WAITING"] * 3


def test_a_worker_of_another_machine_is_gone_when_it_is_silent(storage: str | None, space: Space, tmp_path: Path) -> None:
    study = opened(storage, space, tmp_path)
    ask(study).set_user_attr("worker", "elsewhere 12 1700000000")
    study.set_user_attr("alive elsewhere 12 1700000000", time.time() - 200)
    assert recover_dead(study) == []
    (dead,) = recover_dead(study, silent_for=100)
    assert (dead.number, dead.worker, dead.run) == (0, "elsewhere 12 1700000000", None)


def test_a_worker_that_was_killed_before_it_could_say_who_it_is(space: Space, tmp_path: Path) -> None:
    study = opened(None, space, tmp_path)
    study.ask()
    assert recover_dead(study) == []
    assert [one.number for one in recover_dead(study, silent_for=0)] == [0]


def test_a_worker_gives_signs_of_life_until_its_study_is_let_go(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RENEWED_EVERY", 0.01)
    others = set(threading.enumerate())
    study = opened(None, space, tmp_path)
    ask(study)
    ask(study)
    (key,) = (key for key in study.user_attrs if key.startswith("alive "))
    first = study.user_attrs[key]
    until = time.monotonic() + 600
    while study.user_attrs[key] == first:
        assert time.monotonic() < until
    (thread,) = set(threading.enumerate()) - others
    del study
    gc.collect()
    thread.join(600)
    assert not thread.is_alive()


def test_a_journal_that_ends_in_the_middle_of_a_line_loses_that_line_alone(
    journal: Path, space: Space, tmp_path: Path
) -> None:
    whole = journal.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for end in range(last + 1, len(whole)):
        journal.write_bytes(whole[:end])
        study = opened(None, space, tmp_path)
        assert states(study)[:2] == ["COMPLETE"] * 2
        if end % 40 == 0:
            finish(study, space, 5)
            assert opened(None, space, tmp_path).best_value == 5


def test_a_writer_that_is_killed_does_not_spoil_the_journal_for_the_others(
    journal: Path, space: Space, tmp_path: Path
) -> None:
    study = opened(None, space, tmp_path)
    with journal.open("ab") as file:
        file.write(b'{"op_code":8,"trial_id":0,"user_a')
    finish(study, space, 8)
    assert states(opened(None, space, tmp_path)) == ["COMPLETE"] * 4


def test_a_lock_that_a_killed_process_left_is_broken(
    journal: Path, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_FOR", 3)
    monkeypatch.chdir(tmp_path)
    Path(f"{journal}.lock").touch()
    finish(open_study("s", "studies/s.journal", "phase1", space, 0, tmp_path), space, 9)  # a relative path
    assert opened(None, space, tmp_path).best_value == 9
    assert [file.name for file in journal.parent.iterdir()] == ["s.journal"]


@pytest.mark.parametrize("damage", [b"\x00\x00\n", b"{]\n", b"[]\n", b"7\n", b"{}\n"])
def test_a_damaged_line_is_named_and_the_file_is_left_as_it_is(
    journal: Path, space: Space, tmp_path: Path, damage: bytes
) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    spoilt = b"".join([*lines[:5], damage, *lines[6:]])
    journal.write_bytes(spoilt)
    with pytest.raises(StorageError, match=rf"{journal}: line 6 is damaged. Restore the file.*the 5 lines before it"):
        opened(None, space, tmp_path)
    assert journal.read_bytes() == spoilt


@pytest.mark.parametrize(
    "content", [b"notes of today", b"notes\n", b'{"a": 1}\n', b"[1, 2]\n", b"SQLite format 3\0\1\2", b"\n"]
)
def test_a_file_that_is_no_journal_is_left_alone(space: Space, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"storage {file}: is no journal of Optuna"):
        opened(str(file), space, tmp_path)
    assert file.read_bytes() == content


def test_an_empty_file_becomes_a_journal(space: Space, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    finish(opened(str(tmp_path / "new"), space, tmp_path), space, 3)
    assert json.loads((tmp_path / "new").read_text().splitlines()[0])["op_code"] == 0


@pytest.mark.parametrize("place", ["sqlite:///{0}/file/x.db", "{0}/file/x.journal", "{0}", "sqlite:///{0}/file"])
def test_places_that_cannot_be_written(space: Space, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x" * 2000)
    with pytest.raises(StorageError, match=r"^storage .*: cannot be used \(.*name another place with storage="):
        opened(place.format(tmp_path), space, tmp_path)
    assert (tmp_path / "file").read_text() == "x" * 2000


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://someone:s3cret-word@127.0.0.1:1/x", StorageError),
        ("postgresql://127.0.0.1:1/x?user=someone&password=s3cret-word", StorageError),
        ("postgresql://someone:s3cret-word@with@127.0.0.1:1/x", StorageError),
        ("postgresql://someone:s3cret-word@127.0.0.1:1/x?wrong=s3cret-word", StorageError),
        ("nosuch://someone:s3cret-word@127.0.0.1/x", ConfigError),
        ("nosuch+driver://someone:s3cret-word@127.0.0.1/x", ConfigError),
        ("::://s3cret-word", ConfigError),
        ("postgresql://someone:s3cret-word@127.0.0.1:port/x", ConfigError),
    ],
)
def test_databases_that_do_not_answer(space: Space, tmp_path: Path, url: str, error: type[MedexpError]) -> None:
    with pytest.raises(error, match="^storage ") as found:
        opened(url, space, tmp_path)
    assert "\n" not in str(found.value)
    assert "s3cret-word" not in str(found.value)
    assert "someone" not in str(found.value).replace('user "someone"', "")


def test_a_wrong_password(postgres: str, space: Space, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="password authentication failed") as found:
        opened(postgres.replace("s3cret-word", "wrong-word"), space, tmp_path)
    assert "wrong-word" not in str(found.value)
    assert "\n" not in str(found.value)


def test_a_database_of_another_version_of_optuna(space: Space, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    opened(url, space, tmp_path)
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(StorageError, match="storage sqlite:///.*old.db: .*storage upgrade"):
        opened(url, space, tmp_path)


def test_a_full_disk_loses_nothing_that_was_finished(small_disk: Path, space: Space, tmp_path: Path) -> None:
    study = opened(str(small_disk / "j"), space, tmp_path)
    finish(study, space, 4)
    trial = ask(study)
    with pytest.raises(StorageError, match="No space left.*free space"), module.storage_failures(str(small_disk / "j")):
        for size in range(1, 1000):
            trial.set_user_attr("large", "x" * 100 * size)
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    study.tell(trial, 1.0)
    assert states(opened(str(small_disk / "j"), space, tmp_path)) == ["COMPLETE", "COMPLETE"]
    assert study.get_trials(states=(TrialState.RUNNING,)) == []
