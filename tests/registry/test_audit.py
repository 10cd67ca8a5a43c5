"""An audit of a real store, after things that no tool should do to it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from mlflow import MlflowClient

from medexp import registry
from medexp.errors import RegistryError
from medexp.registry import journal
from medexp.registry.audit import audit
from medexp.registry.journal import CHAMPION, Move
from medexp.registry.package import Parent
from medexp.registry.promotion import Nominated, champion_of, crown
from medexp.registry.store import AROUND, location_of, stored_at
from tests.forked import start
from tests.packages import SEGMENTER
from tests.registry.faults import at_call

NAME = "phase1_encoder_merged"
Publish = Callable[..., Nominated]


def told(name: str | None = None, *, every_byte: bool = False) -> list[str]:
    return [str(drift) for drift in audit(name, every_byte=every_byte).drifts]


def run_of(store: MlflowClient, version: str, name: str = NAME) -> str:
    return str(store.get_model_version(name, version).run_id)


def file_in_store(store: MlflowClient, version: str, name: str) -> Path:
    """A file of a version's package where the store keeps it."""
    source = store.get_logged_model(store.get_model_version(NAME, version).source.rpartition("/")[2]).artifact_location
    (path,) = Path(unquote(urlparse(source).path)).rglob(f"*/{name}")
    return path


def test_a_store_that_was_left_alone_has_no_drift(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1)
    crown(registry.pull(f"models:/{NAME}/2"), "better", {}, None, champion_of(NAME)[0].head)
    found = audit()
    assert (found.models, found.versions, found.drifts, found.foreign) == ((NAME,), 2, (), ())
    assert found.verified == (f"{NAME} version 2",)
    assert audit(every_byte=True).verified == (f"{NAME} version 1", f"{NAME} version 2")


def test_an_empty_store_has_no_drift(store: MlflowClient) -> None:
    assert audit().models == ()


def test_an_alias_moved_by_hand_is_named_with_the_way_back(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1)
    store.set_registered_model_alias(NAME, CHAMPION, "2")
    (drift,) = told()
    assert "version 2: alias champion stands at version 2, the journal says 1: moved by hand" in drift
    assert f"medexp rollback {NAME} --to 1 --reason TEXT" in drift


@pytest.mark.parametrize("alias", ["champion", "candidate"])
def test_an_alias_removed_by_hand_is_named(store: MlflowClient, publish: Publish, alias: str) -> None:
    publish(seed=0)
    store.delete_registered_model_alias(NAME, alias)
    (drift,) = told()
    assert f"alias {alias} stands at version none, the journal says 1" in drift


def test_a_champion_that_no_journal_knows_is_named_and_aliases_of_others_are_not(store: MlflowClient) -> None:
    store.create_registered_model("other")
    store.create_model_version("other", source="nowhere")
    store.set_registered_model_alias("other", "production", "1")
    assert told() == []
    store.set_registered_model_alias("other", CHAMPION, "1")
    (drift,) = told()
    assert "alias champion stands at version 1, the journal says none: moved by hand" in drift
    assert audit().foreign == ("other version 1",)


def test_a_flipped_bit_in_the_store_is_named_for_versions_in_use_and_on_request_for_all(
    store: MlflowClient, publish: Publish
) -> None:
    for seed in range(3):
        publish(seed=seed)
    file = file_in_store(store, "2", "per_case.csv")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert told() == []
    (drift,) = told(every_byte=True)
    assert "version 2: what its store holds is not what was registered" in drift and "per_case.csv was altered" in drift
    crown_anyway = Move(CHAMPION, "2", store.get_model_version(NAME, "2").tags["medexp.digest"], "promote", "unseen")
    journal.move(NAME, crown_anyway)
    assert len(told()) == 1


def test_a_package_that_was_replaced_whole_is_named(store: MlflowClient, publish: Publish) -> None:
    """Every file agrees with its manifest, and the manifest is another one than was registered."""
    publish(seed=0)
    publish(seed=1)
    theirs, mine = (file_in_store(store, version, "manifest.json").parent for version in ("2", "1"))
    for file in theirs.rglob("*"):
        if file.is_file():
            (mine / file.relative_to(theirs)).write_bytes(file.read_bytes())
    (drift,) = told()
    assert "version 1: " in drift and "the store holds a package of digest" in drift


def test_a_missing_package_is_named(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    file_in_store(store, "1", "weights.safetensors").unlink()
    (drift,) = told()
    assert "weights.safetensors is missing" in drift


@pytest.mark.parametrize("content", [None, "", "flavors: [", "just words"])
def test_a_model_that_mlflow_finds_no_more_is_named(store: MlflowClient, publish: Publish, content: str | None) -> None:
    publish(seed=0)
    package = file_in_store(store, "1", "manifest.json").parent
    model_file = package.parents[1] / "MLmodel"
    model_file.unlink() if content is None else model_file.write_text(content)
    (drift,) = told()
    assert "MLflow cannot load it, its MLmodel is missing or was altered" in drift


@pytest.mark.parametrize("place", ["MLmodel", "pyfunc_model.py", "requirements.txt", "artifacts/medexp/errors.py", "new.py"])
def test_an_edited_file_that_a_plain_load_of_mlflow_runs_is_named_and_refused(
    store: MlflowClient, publish: Publish, place: str
) -> None:
    publish(seed=0)
    publish(seed=1)
    file = file_in_store(store, "2", "manifest.json").parents[2] / place
    file.write_text((file.read_text() if file.exists() else "") + "\n# a line more\n")
    (drift,) = told(every_byte=True)
    assert "version 2" in drift and "what mlflow.pyfunc.load_model runs was altered" in drift
    with pytest.raises(RegistryError, match="was altered"):
        crown(registry.pull(f"models:/{NAME}/2"), "better", {}, None, champion_of(NAME)[0].head)
    assert journal.standing(NAME)[CHAMPION] == "1"


def test_the_journal_knows_what_mlflow_ran_when_its_tag_is_edited_too(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    loader = file_in_store(store, "1", "manifest.json").parents[2] / "pyfunc_model.py"
    loader.write_text(loader.read_text() + "\n# a line more\n")
    version = store.get_model_version(NAME, "1")
    store.set_model_version_tag(NAME, "1", AROUND, stored_at(location_of(version), NAME).around)
    (drift,) = told()
    assert f"its tag {AROUND} is" in drift and "the journal has" in drift


def test_a_model_that_mlflow_loads_from_its_store_stays_as_it_was(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    folder = file_in_store(store, "1", "manifest.json").parents[2]
    program = f"import mlflow; mlflow.pyfunc.load_model('models:/{NAME}/1')"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", program], env=clean, check=True)
    assert not list(folder.rglob("*.pyc")) and told(every_byte=True) == []


def test_a_run_that_was_removed_for_good_is_named(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    run = run_of(store, "1")
    store.delete_run(run)
    gc = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"], "--run-ids", run]
    subprocess.run(gc, check=True, capture_output=True)
    assert any(f"version 1: its run {run} is in this store no more (candidate, champion)" in drift for drift in told())


def test_an_edited_digest_is_named(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    store.set_model_version_tag(NAME, "1", "medexp.digest", "0" * 64)
    assert any("its tag medexp.digest is 000" in drift for drift in told())


def test_an_edited_journal_is_named(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    key, text = next(iter(store.get_registered_model(NAME).tags.items()))
    store.set_registered_model_tag(NAME, key, text.replace(json.loads(text.splitlines()[1])["who"], "nobody"))
    (drift,) = told()
    assert "journal, entry 1: its copy" in drift and "was edited" in drift


def test_a_move_that_was_killed_is_named_as_unfinished_and_not_as_made_by_hand(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1)
    start(at_call, "set_registered_model_alias", 1, signal.SIGKILL, move_to_second).join()
    (drift,) = told()
    assert "entry 4 of the journal was written and champion did not follow yet" in drift
    journal.settle(NAME)
    assert told() == []


def move_to_second() -> None:
    journal.move(NAME, Move(CHAMPION, "2", registry.pull(f"models:/{NAME}/2").digest, "promote", "better"))


def test_a_deleted_version_that_was_the_champion_is_named(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1)
    store.delete_model_version(NAME, "1")
    assert any("version 1: was deleted; entry 2 of the journal moved champion to it" in drift for drift in told())


def test_a_deleted_model_leaves_its_journal(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    store.delete_registered_model(NAME)
    (drift,) = told()
    assert f"{NAME}: was deleted; its journal has 2 entries" in drift


def test_deleted_runs_and_runs_to_keep_are_named_up_to_the_base(store: MlflowClient, publish: Publish) -> None:
    base = publish(name="bsf_base", architecture=SEGMENTER)
    parent = Parent(base.name, base.version, base.digest, base.weights_digest)
    publish(seed=0, parents={"base": parent})
    publish(seed=1, parents={"base": parent})
    keep = {kept.run: kept.why for kept in audit().runs_to_keep}
    assert keep == {
        run_of(store, "1"): (f"{NAME} version 1 (champion)",),
        run_of(store, "2"): (f"{NAME} version 2 (candidate)",),
        run_of(store, "1", "bsf_base"): ("bsf_base version 1",),
    }
    store.delete_run(run_of(store, "1"))
    (drift,) = told()
    assert f"version 1: its run {run_of(store, '1')} was deleted (champion)" in drift and "mlflow runs restore" in drift
    store.delete_model_version("bsf_base", "1")
    assert sum("was made from bsf_base version 1, which is deleted" in drift for drift in told()) == 2


def test_one_model_can_be_looked_at_alone(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    store.create_registered_model("other")
    assert audit(NAME).models == (NAME,)
    with pytest.raises(RegistryError, match=f"nothing: no such model; registered are: other, {NAME}"):
        audit("nothing")
