"""The journal of alias moves on a real store, with processes that race, are killed and are stopped in the middle."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from medexp.registry import journal
from medexp.registry.journal import Move, Outrun
from tests.forked import start
from tests.registry.faults import at_call, wait_until_stopped

STEPS = (
    "create_experiment",
    "delete_experiment",
    "set_registered_model_alias",
    "update_registered_model",
    "set_registered_model_tag",
)


@pytest.fixture
def model(store: MlflowClient) -> str:
    """A registered model with four versions and no alias."""
    store.create_registered_model("net")
    for _ in range(4):
        store.create_model_version("net", source="nowhere")
    return "net"


def to(version: str, alias: str = "champion") -> Move:
    return Move(alias, version, f"digest {version}", "promote", "better", {"gain": 0.1}, "run")


def champion(store: MlflowClient) -> str | None:
    found = store.get_registered_model("net").aliases.get("champion")
    return str(found) if found else None


def whole(store: MlflowClient) -> None:
    """The alias stands where the journal says, every entry is finished, and none shows among the experiments."""
    found = journal.settle("net")
    assert found.aliases.get("champion") == champion(store)
    assert found.finished == {entry.number for entry in found.entries}
    assert [entry.number for entry in found.entries] == list(range(1, found.head + 1))
    assert (found.visible, found.damaged) == ((), ())
    assert [experiment.name for experiment in store.search_experiments()] == ["Default"]


def test_moves_are_kept_in_order_and_can_be_read_by_anybody(store: MlflowClient, model: str) -> None:
    first, second = journal.move(model, to("1")), journal.move(model, to("3"))
    assert (first.start, first.to, second.start, second.to) == (None, "1", "1", "3")
    assert second.previous == first.digest_of_entry
    assert champion(store) == "3"
    tags = store.get_registered_model(model).tags
    assert json.loads(tags["medexp.journal.000002"].splitlines()[1])["evidence"] == {"gain": 0.1}
    assert "promote champion 1 -> 3 by" in str(second) and str(second).endswith(": better")
    assert journal.read(model).entries == (first, second)
    whole(store)


def test_the_models_description_shows_the_journal_the_latest_first_below_what_it_said(store: MlflowClient, model: str) -> None:
    store.update_registered_model(model, "What it is for.")
    for turn in range(40):
        journal.move(model, replace(to("13"[turn % 2]), reason=f"the {turn}th | time" + " again" * 15))
    about, _, table = store.get_registered_model(model).description.partition("\n\n## Journal of aliases\n\n")
    assert about == "What it is for."
    rows = table.splitlines()[2:]
    assert rows[0].startswith("| 40 | ") and "| champion | 1 | 3 | promote | the 39th \\| time again" in rows[0]
    assert rows[1].startswith("| 39 | ")
    assert 15 < len(rows) < 40 and len(about) + len(table) < 5000


def test_an_alias_is_taken_away_by_a_move_too(store: MlflowClient, model: str) -> None:
    journal.move(model, to("1"))
    journal.move(model, Move("champion", None, None, "undo", "does not load"))
    assert champion(store) is None
    assert journal.read(model).aliases == {}


def test_a_decision_that_others_have_overtaken_is_refused_and_says_by_whom(store: MlflowClient, model: str) -> None:
    journal.move(model, to("1"))
    with pytest.raises(Outrun, match=r"another process moved champion .*2 .* promote champion 1 -> 2 by .*run the same again"):
        journal.move(model, to("2"))
        journal.move(model, to("3"), after=1)
    assert champion(store) == "2"


def test_a_move_of_another_alias_overtakes_no_decision(store: MlflowClient, model: str) -> None:
    journal.move(model, to("1"))
    journal.move(model, Move("candidate", "3", "d", "nominate", "passed"))
    journal.move(model, to("2"), after=1)
    assert champion(store) == "2"


@pytest.mark.parametrize("where", ["a database", "a server"])
def test_of_several_processes_that_decide_at_once_exactly_one_moves(
    store: MlflowClient, model: str, tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    if where == "a server":
        request.getfixturevalue("server")
    journal.move(model, to("1"))
    racers = [start(decide, version, tmp_path) for version in ("2", "3", "4")]
    (tmp_path / "go").touch()
    for racer in racers:
        racer.join()
    outcomes = sorted(path.read_text() for path in tmp_path.glob("outcome_*"))
    assert outcomes == ["moved", "outrun", "outrun"]
    winner = next(path.name[-1] for path in tmp_path.glob("outcome_*") if path.read_text() == "moved")
    assert champion(store) == winner
    whole(store)


def test_what_the_database_refuses_twice_is_tried_again_so_that_the_winner_goes_on(
    store: MlflowClient, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_tag, refused = MlflowClient.set_registered_model_tag, [True, True]

    def refusing(self: MlflowClient, *given: Any) -> None:
        if refused:
            refused.pop()
            raise MlflowException("UNIQUE constraint failed: registered_model_tags.key", BAD_REQUEST)
        set_tag(self, *given)

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", refusing)
    assert journal.move(model, to("2")).to == "2"
    assert champion(store) == "2"
    whole(store)


def decide(version: str, folder: Path) -> None:
    while not (folder / "go").exists():
        os.sched_yield()
    try:
        journal.move("net", to(version), after=1)
        outcome = "moved"
    except Outrun:
        outcome = "outrun"
    (folder / f"outcome_{version}").write_text(outcome)


@pytest.mark.parametrize("step", STEPS)
def test_a_process_killed_between_any_two_steps_leaves_a_move_that_the_next_one_finishes(
    store: MlflowClient, model: str, step: str
) -> None:
    journal.move(model, to("1"))
    killed = start(at_call, step, 1, signal.SIGKILL, journal.move, "net", to("2"))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    whole(store)
    assert champion(store) == ("1" if step == "create_experiment" else "2")
    journal.move(model, to("3"))
    assert champion(store) == "3"
    whole(store)


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_slept_through_the_moves_of_others_does_not_undo_them(
    store: MlflowClient, model: str, step: str
) -> None:
    journal.move(model, to("1"))
    slow = start(at_call, step, 1, signal.SIGSTOP, journal.move, "net", to("2"))
    wait_until_stopped(slow)
    journal.move(model, to("3"))
    os.kill(slow.pid, signal.SIGCONT)
    slow.join()
    assert slow.exitcode == 0
    # Asleep before it wrote its entry, its move is the later one; afterwards the other's is.
    assert champion(store) == ("2" if step == "create_experiment" else "3")
    whole(store)


def test_an_alias_that_was_moved_by_hand_is_left_for_the_audit(store: MlflowClient, model: str) -> None:
    journal.move(model, to("1"))
    store.set_registered_model_alias(model, "champion", "4")
    journal.settle(model)
    assert champion(store) == "4"
    entry = journal.move(model, to("2"))
    assert (entry.start, entry.to) == ("4", "2")


def test_what_was_edited_is_told(store: MlflowClient, model: str) -> None:
    for version in ("1", "2", "3"):
        journal.move(model, to(version))
    text = store.get_registered_model(model).tags["medexp.journal.000002"]
    store.set_registered_model_tag(model, "medexp.journal.000002", text.replace("better", "much better"))
    assert journal.read(model).damaged == ("entry 2: its copy, tag medexp.journal.000002, was edited",)
    store.set_registered_model_tag(model, "medexp.journal.000002", text)
    assert journal.read(model).damaged == ()


def test_the_journal_outlives_the_removal_of_deleted_experiments(store: MlflowClient, model: str) -> None:
    for version in ("1", "2"):
        journal.move(model, to(version))
    before = journal.read(model)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"]]
    subprocess.run(command, check=True, capture_output=True)
    assert journal.read(model).entries == before.entries
    text = store.get_registered_model(model).tags["medexp.journal.000001"]
    store.set_registered_model_tag(model, "medexp.journal.000001", text.replace("better", "worse"))
    assert journal.read(model).damaged == ("entry 2: does not follow from the one before; one of them was edited or is lost",)
    store.set_registered_model_tag(model, "medexp.journal.000001", text)
    assert journal.move(model, to("3")).number == 3
    whole(store)


def test_models_with_similar_names_have_journals_of_their_own(store: MlflowClient, model: str) -> None:
    for name in ("n_t", "net2"):
        store.create_registered_model(name)
    store.create_model_version("n_t", source="nowhere")
    journal.move(model, to("1"))
    journal.move("n_t", to("1"))
    heads = {name: found.head for name, found in journal.read_all(["net", "n_t", "net2"]).items()}
    assert heads == {"net": 1, "n_t": 1, "net2": 0}
    assert journal.read("n_t").head == 1
