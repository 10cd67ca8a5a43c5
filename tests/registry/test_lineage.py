"""Lineage and impact over versions and runs as phases and plain MLflow clients leave them."""

import json
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from rich.console import Console

from medexp.errors import RegistryError, StorageError
from medexp.registry.lineage import Impact, Lineage, as_records, as_tree, impact, lineage
from medexp.registry.tags import upstream_tag

BASE, ADAPTER, ENCODER, PROBE = "bsf_base", "phase1_lora_adapter", "phase1_encoder_merged", "glioma_probe"
Used = Mapping[str, str]


def used(name: str, version: str = "1", digest: str | None = None) -> dict[str, str]:
    return upstream_tag(name, version, digest or f"d{version}{name[0]}")


def run(client: MlflowClient, phase: str = "phase1", tags: Used | None = None, **metrics: float) -> str:
    """A finished run of a phase, with a dataset input."""
    made = client.create_run("0", run_name=f"a {phase}").info.run_id
    client.log_inputs(
        made, [DatasetInput(Dataset(f"{phase}_train", "d1f2", "local", "{}"), [InputTag("mlflow.data.context", "train")])]
    )
    values = [Metric(name.replace("_", "/", 1), value, 0, 0) for name, value in metrics.items()]
    all_tags = {"medexp.phase": phase, "medexp.verdict": "PASSED"} | dict(tags or {})
    client.log_batch(made, values, tags=[RunTag(key, value) for key, value in all_tags.items()])
    client.set_terminated(made)
    return str(made)


def version(client: MlflowClient, name: str, made_by: str | None, *upstream: Used, plain: bool = False) -> str:
    """A version as `medexp.registry.registration.register` tags it, with a digest that follows from its number."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    made = client.create_model_version(name, f"/nowhere/{name}", made_by)
    known = {"digest": f"d{made.version}{name[0]}", "verdict": "PASSED", "failed_diagnostics": "none", "data_digest": "d1f2"}
    known |= {"trained_on": f"what {name} saw", "phantoms": "no"}
    tags = {} if plain else {f"medexp.{key}": value for key, value in known.items()}
    for values in (tags, *upstream):
        for key, value in values.items():
            client.set_model_version_tag(name, made.version, key, value)
    return str(made.version)


@pytest.fixture
def phases(store: MlflowClient) -> dict[str, str]:
    """base -> adapter -> encoder -> probe, each once; the ids of the runs by phase."""
    base = run(store, "base")
    version(store, BASE, base)
    phase1 = run(store, "phase1", used(BASE), **{"checks_TEST_2.1": 1, "checks_TEST_2.5": 0})
    version(store, ADAPTER, phase1, used(BASE))
    version(store, ENCODER, phase1, used(BASE), used(ADAPTER))
    store.set_registered_model_alias(ENCODER, "champion", "1")
    probe = run(store, "probe", used(ENCODER))
    version(store, PROBE, probe, used(ENCODER))
    return {"base": base, "phase1": phase1, "probe": probe}


def shown(found: Lineage | Impact) -> str:
    console = Console(width=400, file=StringIO(), record=True)
    console.print(as_tree(found))
    return console.export_text()


def test_checks_are_read_from_the_tag_of_a_run_and_from_the_metrics_of_an_earlier_one(store: MlflowClient) -> None:
    of_now = run(store, "base", {"medexp.checks": "failed TEST_2.5; passed TEST_2.1"})
    earlier = run(store, "base", **{"checks_TEST_2.1": 1, "checks_TEST_2.5": 0})
    for made_by in (of_now, earlier):
        found = lineage(f"models:/{BASE}/{version(store, BASE, made_by)}").origin.run
        assert found is not None and found.checks == {"TEST_2.1": True, "TEST_2.5": False}


def test_lineage_goes_up_to_the_data_and_down_to_the_last_model(phases: dict[str, str]) -> None:
    found = lineage(f"models:/{ENCODER}@champion")
    origin = found.origin
    assert (origin.model.version, origin.model.digest, origin.model.aliases) == ("1", "d1p", ("champion",))
    assert origin.run is not None
    assert (origin.run.id, origin.run.phase, origin.run.status, origin.run.deleted) == (
        phases["phase1"],
        "phase1",
        "FINISHED",
        False,
    )
    assert origin.run.checks == {"TEST_2.1": True, "TEST_2.5": False}
    assert [(data.name, data.split, data.digest) for data in origin.run.data] == [("phase1_train", "train", "d1f2")]
    base, adapter = origin.parents
    assert (base.model.name, base.run and base.run.id) == (BASE, phases["base"])
    assert (adapter.model.name, adapter.parents[0].model.name, adapter.parents[0].again) == (ADAPTER, BASE, True)
    assert [run.id for run in found.impact.runs] == [phases["probe"]]
    assert [str(used.model) for used in found.impact.models] == [f"{PROBE} version 1"]


def test_the_tree_says_it_in_words(phases: dict[str, str]) -> None:
    text = shown(lineage(f"models:/{ENCODER}@champion"))
    for line in (
        f"{ENCODER} version 1 (champion) PASSED, digest d1p",
        f"made by run {phases['phase1']} (phase1), FINISHED, checks: TEST_2.5 failed, 1 passed",
        "data phase1_train (train), digest d1f2",
        f"trained on what {ENCODER} saw",
        f"trained on what {BASE} saw",
        f"made from {BASE} version 1 PASSED, digest d1b",
        f"made from {BASE} version 1, as shown above",
        f"run {phases['probe']} (probe), FINISHED",
        f"{PROBE} version 1 PASSED",
    ):
        assert line in text, text
    assert "nothing yet" in shown(lineage(f"models:/{PROBE}/1"))


def test_a_base_that_a_run_registered_beside_its_own_models_learned_from_other_data_than_the_run_was_given(
    store: MlflowClient,
) -> None:
    """The run's data are those of what it trained."""
    made_by = run(store, "phase1")
    for name, known in ((BASE, {"trained_on": "glioma", "phantoms": "yes"}), (ENCODER, {"data_digest": "d1f2"})):
        store.create_registered_model(name)
        tags = {f"medexp.{key}": value for key, value in {"digest": f"of {name}", **known}.items()}
        store.create_model_version(name, "/nowhere", made_by, tags=tags)
    own, other = (lineage(f"models:/{name}/1").origin for name in (ENCODER, BASE))
    assert own.run and other.run and (len(own.run.data), len(other.run.data)) == (1, 0)
    told = shown(lineage(f"models:/{BASE}/1"))
    assert "made on phantoms" in told and "trained on glioma" in told and "d1f2" not in told
    assert f"registered by run {made_by} (phase1), FINISHED" in told and "made by" not in told, "nobody says who trained it"
    before = shown(lineage(f"models:/{ENCODER}/1"))
    assert "digest d1f2" in before and "trained on" not in before, "one from before the tag"


def test_records_are_json(phases: dict[str, str]) -> None:
    record = json.loads(json.dumps(as_records(lineage(f"models:/{ENCODER}/1"))))
    assert record["origin"]["parents"][0]["model"]["name"] == BASE
    assert record["impact"]["models"][0]["model"] == {
        "name": PROBE,
        "version": "1",
        "digest": "d1g",
        "aliases": [],
        "verdict": "PASSED",
        "failed_diagnostics": "none",
        "trained_on": f"what {PROBE} saw",
        "phantoms": False,
        "state": "registered",
    }


def test_impact_follows_every_step_and_says_each_thing_once(phases: dict[str, str]) -> None:
    found = impact(f"models:/{BASE}/1")
    assert [run.id for run in found.runs] == [phases["phase1"]]
    encoder, adapter = found.models
    assert (encoder.model.aliases, [run.id for run in encoder.runs]) == (("champion",), [phases["probe"]])
    assert [str(used.model) for used in encoder.models] == [f"{PROBE} version 1"]
    assert [(used.model.name, used.again) for used in adapter.models] == [(ENCODER, True)]
    assert shown(found).count(phases["probe"]) == 1


def test_another_version_and_another_digest_of_the_same_number_are_told_apart(
    store: MlflowClient, phases: dict[str, str]
) -> None:
    version(store, ENCODER, phases["phase1"])
    second = run(store, "probe", used(ENCODER, "2"))
    run(store, "probe", used(ENCODER, "1", "another"))
    run(store, "probe", used(ENCODER, "11", "d1p"))
    assert [run.id for run in impact(f"models:/{ENCODER}/2").runs] == [second]
    assert [run.id for run in impact(f"models:/{ENCODER}/1").runs] == [phases["probe"]]


def test_deleted_runs_are_shown_as_such_also_where_their_experiment_went_with_them(
    store: MlflowClient, phases: dict[str, str]
) -> None:
    elsewhere = store.create_experiment("elsewhere")
    lost = store.create_run(elsewhere, tags=used(ENCODER)).info.run_id
    store.delete_experiment(elsewhere)
    store.delete_run(phases["probe"])
    store.delete_run(phases["phase1"])
    found = lineage(f"models:/{ENCODER}/1")
    assert {run.id: run.deleted for run in found.impact.runs} == {phases["probe"]: True, lost: True}
    assert found.origin.run is not None
    assert found.origin.run.deleted
    assert f"deleted: mlflow runs restore --run-id {phases['phase1']}" in shown(found)


def test_a_run_that_is_gone_for_good_is_said_to_be(store: MlflowClient, phases: dict[str, str]) -> None:
    version(store, ENCODER, "0" * 32, used(BASE))
    found = lineage(f"models:/{ENCODER}/2").origin
    assert found.run is not None
    assert found.run.status == "LOST"
    assert [parent.model.name for parent in found.parents] == [BASE]
    assert "in this store no more" in shown(lineage(f"models:/{ENCODER}/2"))


def test_a_version_of_a_plain_client_is_shown_for_what_it_is(store: MlflowClient, phases: dict[str, str]) -> None:
    version(store, "foreign", None, plain=True)
    found = lineage("models:/foreign/1")
    assert (found.origin.model.state, found.origin.model.digest, found.origin.run) == ("foreign", None, None)
    assert found.impact.runs == found.impact.models == ()
    text = shown(found)
    assert "made by another program" in text
    assert "made by: not known" in text


def test_what_was_built_on_a_version_without_a_digest_is_found_by_its_number(store: MlflowClient) -> None:
    version(store, "foreign", None, plain=True)
    given = run(store, "probe", used("foreign", "1", "whatever"))
    run(store, "probe", used("foreign", "10", "whatever"))
    assert [run.id for run in impact("models:/foreign/1").runs] == [given]


@pytest.mark.parametrize(
    ("upstream", "state", "told"),
    [
        (upstream_tag(BASE, "9", "d9b"), "deleted", "bsf_base version 9, digest d9b, deleted"),
        (
            upstream_tag(BASE, "1", "other"),
            "replaced",
            "bsf_base version 1, digest other, deleted; another model has its number",
        ),
        (upstream_tag(BASE, None, "w1"), "unregistered", "bsf_base, digest w1, not registered"),
        (upstream_tag("gone", "1", "d1"), "deleted", "gone version 1, digest d1, deleted"),
        ({"medexp.upstream.bsf_base": ""}, "unregistered", "made from bsf_base, not registered"),
    ],
)
def test_a_parent_that_there_is_not_is_shown_as_such(store: MlflowClient, upstream: Used, state: str, told: str) -> None:
    version(store, BASE, None)
    version(store, ENCODER, run(store), upstream)
    (parent,) = lineage(f"models:/{ENCODER}/1").origin.parents
    assert parent.model.state == state
    assert told in shown(lineage(f"models:/{ENCODER}/1"))


def test_a_base_that_only_the_run_knows_is_a_parent_and_no_model_is_its_own(store: MlflowClient) -> None:
    made = run(store, "phase1", upstream_tag("weights", None, "w1") | used(ENCODER))
    version(store, ENCODER, made)
    assert [parent.model.name for parent in lineage(f"models:/{ENCODER}/1").origin.parents] == ["weights"]


def test_what_was_built_on_a_deleted_version_is_still_found(store: MlflowClient, phases: dict[str, str]) -> None:
    store.delete_registered_model_alias(ENCODER, "champion")
    store.delete_model_version(ENCODER, "1")
    found = impact(f"models:/{ENCODER}/1")
    assert found.model.state == "deleted"
    assert [run.id for run in found.runs] == [phases["probe"]]
    assert [used.model.name for used in found.models] == [PROBE]


def test_models_that_name_each_other_end(store: MlflowClient) -> None:
    version(store, BASE, None, used(ENCODER))
    version(store, ENCODER, None, used(BASE))
    found = lineage(f"models:/{BASE}/1")
    assert found.origin.parents[0].parents[0].again
    assert found.impact.models[0].models[0].again


def test_of_many_runs_the_tree_shows_the_latest_and_the_records_all(store: MlflowClient) -> None:
    version(store, ENCODER, None)
    for number in range(23):
        store.create_run("0", tags=used(ENCODER), start_time=1 + number, run_name=f"run{number}")
    found = impact(f"models:/{ENCODER}/1")
    assert len(as_records(found)["runs"]) == 23
    assert found.runs[0].name == "run22"
    assert "(run3)" in shown(found)
    assert "(run2)" not in shown(found)
    assert "and 3 runs before these" in shown(found)
    few = impact(f"models:/{ENCODER}/1", runs=5)
    assert ([run.name for run in few.runs], few.more) == ([f"run{22 - place}" for place in range(5)], True)
    assert not impact(f"models:/{ENCODER}/1", runs=23).more
    assert "and runs before these" in shown(few)


@pytest.mark.parametrize("uses", [1, 30])  # few are asked for at once, many version by version
def test_several_versions_are_told_apart_however_much_they_are_used(store: MlflowClient, uses: int) -> None:
    version(store, BASE, None)
    for number in range(1, 4):
        version(store, ENCODER, None, used(BASE) if number < 3 else {})
        for use in range(uses):
            store.create_run("0", tags=used(ENCODER, str(number)), run_name=f"{number}-{use}")
        version(store, PROBE, None, used(ENCODER, str(number)))
    first, second = impact(f"models:/{BASE}/1").models
    assert [{run.name[0] for run in encoder.runs if run.name} for encoder in (first, second)] == [{"1"}, {"2"}]
    assert len(first.runs) == len(second.runs) == uses
    assert [[str(probe.model) for probe in encoder.models] for encoder in (first, second)] == [
        [f"{PROBE} version 1"],
        [f"{PROBE} version 2"],
    ]


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: lineage("models:/nothing@champion"), "models:/nothing@champion: no model nothing in this registry"),
        (lambda: lineage(f"models:/{ENCODER}@best"), "no alias best; it has: champion"),
        (lambda: lineage(f"models:/{ENCODER}/7"), "no version 7; it has: 1"),
        (lambda: lineage("runs:/1/model"), "is no reference to a registered model"),
        (lambda: impact("models:/nothing/1"), "models:/nothing/1: no model nothing in this registry"),
        (lambda: impact(f"models:/{ENCODER}/7"), "no version 7; it has: 1"),
        (lambda: impact(f"models:/{ENCODER}/1' OR '1"), "is no reference"),
        (lambda: impact("models:/a'b`c/1"), "in this registry"),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(phases: dict[str, str], ask: Callable[[], Any], told: str) -> None:
    with pytest.raises(RegistryError, match=told):
        ask()


def test_a_registry_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, store: MlflowClient) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for ask in (lambda: lineage(f"models:/{ENCODER}/1"), lambda: impact(f"models:/{ENCODER}/1")):
        with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI"):
            ask()
