"""Eight processes that promote at the same moment, on the databases that a registry is kept in."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

from medexp import registry
from medexp.registry.definitions import load_definition
from medexp.registry.promotion import champion_of, crown, nominate
from medexp.registry.registration import register
from tests.registry.faults import all_at_once

NAME, EIGHT = "phase1_encoder_merged", 8


@pytest.fixture(params=["sqlite", "postgresql"])
def versions(
    request: pytest.FixtureRequest, store: MlflowClient, written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Eight versions of a model that has another champion."""
    client, definition = store, load_definition(NAME)
    if request.param == "postgresql":
        url = sqlalchemy.make_url(request.getfixturevalue("postgres")).set(drivername="postgresql+psycopg")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url.render_as_string(hide_password=False))
        client = MlflowClient()
    run = client.create_run("0").info.run_id
    first = nominate(register(run, written(), definition, "PASSED"), definition, "PASSED", run)
    whole = client.get_model_version(NAME, first.version)
    return [str(client.create_model_version(NAME, whole.source, run, tags=whole.tags).version) for _ in range(EIGHT)]


def promote(version: str, head: int) -> str:
    entry = crown(registry.pull(f"models:/{NAME}/{version}"), "better", {}, None, head)
    return f"promoted {entry.to}"


def test_of_eight_promotions_at_once_one_wins_and_seven_are_told(versions: list[str]) -> None:
    for wanted in (versions, [versions[0]] * EIGHT):
        head = champion_of(NAME)[0].head
        told = all_at_once([(promote, version, head) for version in wanted])
        won = [one for one in told if one.startswith("promoted ")]
        outrun = [one for one in told if one.startswith(f"Outrun: {NAME}: another process moved champion while this one was")]
        assert (len(won), len(outrun)) == (1, EIGHT - 1), told
        journal, champion = champion_of(NAME)
        assert won == [f"promoted {champion}"]
        assert journal.finished == set(range(1, head + 2)) and head + 1 in journal.tried
        assert (journal.damaged, journal.visible) == ((), ())
