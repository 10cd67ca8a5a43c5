"""Pulls through the cache: what is fetched once, what is refused, what heals, and processes that share it."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import torch
from filelock import FileLock, Timeout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from medexp import registry
from medexp.errors import RegistryError, StorageError
from medexp.registry.definitions import load_definition
from medexp.registry.lineage import impact
from medexp.registry.packages import verify_package
from medexp.registry.registration import register
from medexp.registry.store import Registered, read_back
from tests.forked import start
from tests.registry.faults import wait_until_stopped

Written = Callable[..., Path]
Damage = Callable[[Path], None]
NAME = "phase1_encoder_merged"
URI = f"models:/{NAME}/1"
FILES = ("weights.safetensors", "contract.json", "checks.json", "evaluation.json", "per_case.csv", "parents.json", "README.md")


@pytest.fixture
def made(store: MlflowClient, written: Written) -> Registered:
    """A version of a few kilobytes."""
    return register(
        store.create_run("0").info.run_id, written(weights={"w": torch.arange(9.0)}), load_definition(NAME), "PASSED"
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "medexp"


def stored() -> Path:
    """The package as the local store holds it."""
    return Path(mlflow.artifacts.download_artifacts(f"{URI}/artifacts/package"))


def quarantined(cache: Path) -> list[Path]:
    return sorted((cache / "quarantine").glob("*")) if (cache / "quarantine").exists() else []


def whole(cache: Path, made: Registered) -> bool:
    """Whether the cache holds the package and nothing half-made."""
    assert {path.name for path in (cache / "models").iterdir()} == {made.digest}
    return verify_package(cache / "models" / made.digest) == made.digest


# -------------------------------------------------------------------------------------------------------- what is fetched


def test_a_package_lies_in_the_cache_under_its_digest(made: Registered, cache: Path) -> None:
    pulled = registry.pull(URI)
    assert (pulled.name, pulled.version, pulled.digest) == (NAME, "1", made.digest)
    assert pulled.folder == cache / "models" / made.digest
    assert whole(cache, made)


def test_a_run_says_which_version_it_was_given(store: MlflowClient, made: Registered) -> None:
    with mlflow.start_run() as run:
        registry.pull(URI)
    assert store.get_run(run.info.run_id).data.tags[f"medexp.upstream.{made.name}"] == f"{made.version} {made.digest}"
    assert [used.id for used in impact(f"models:/{made.name}/{made.version}").runs] == [run.info.run_id]


def test_a_second_pull_needs_the_store_no_more(made: Registered, capsys: pytest.CaptureFixture[str]) -> None:
    first = registry.pull(URI)
    shutil.rmtree(stored())
    assert registry.pull(URI) == first
    assert capsys.readouterr().err == ""


def test_what_the_store_lost_is_told(store: MlflowClient, made: Registered, cache: Path) -> None:
    shutil.rmtree(stored())
    with pytest.raises(RegistryError, match=rf"{URI}, version 1 of {NAME}: the store holds no package of it any more"):
        registry.pull(URI)
    assert list((cache / "models").iterdir()) == quarantined(cache) == []
    with pytest.raises(RegistryError, match="holds no package of it any more"):
        read_back(store.get_model_version(NAME, "1"))


@pytest.mark.parametrize("digest", ["../../../etc", "", "0" * 63, "A" * 64])
def test_a_digest_that_is_none_names_no_folder(store: MlflowClient, made: Registered, digest: str) -> None:
    store.set_model_version_tag(NAME, "1", "medexp.digest", digest)
    with pytest.raises(RegistryError, match="holds no package; it was made by another program"):
        registry.pull(URI)


def test_a_load_reads_and_hashes_the_weights_once(
    store: MlflowClient, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store.create_run("0").info.run_id, written(), load_definition(NAME), "PASSED")
    registry.pull(URI)
    hashed, original = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(Path(file.name).name) or original(file, name))
    net = registry.load(URI)
    assert hashed.count("weights.safetensors") == 1
    weights = registry.pull(URI).folder / "weights.safetensors"
    before = {key: value.clone() for key, value in net.state_dict().items()}
    weights.write_bytes(bytes(weights.stat().st_size))  # what was loaded is the network's own
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(value.is_meta for value in (*net.parameters(), *net.buffers()))


@pytest.mark.usefixtures("server")
def test_over_a_server_a_second_pull_asks_for_the_alias_alone(
    written: Written, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    run_id = client.create_run(client.create_experiment("remote")).info.run_id  # the first experiment's files are local
    folder = written(weights={"w": torch.arange(9.0)})
    made = register(run_id, folder, load_definition(NAME), "PASSED")
    assert register(run_id, folder, load_definition(NAME), "PASSED") == made
    client.set_registered_model_alias(NAME, "champion", made.version)
    asked: list[str] = []
    original = requests.Session.request

    def counted(self: requests.Session, method: str, url: str, **given: Any) -> requests.Response:
        asked.append(url.rsplit("/", 1)[-1])
        return original(self, method, url, **given)

    monkeypatch.setattr(requests.Session, "request", counted)
    first = registry.pull(f"models:/{NAME}@champion")
    assert len(asked) > 3
    assert whole(cache, made)
    asked.clear()
    assert registry.pull(f"models:/{NAME}@champion") == first
    assert asked == ["alias"]

    (scores,) = (tmp_path / "artifacts").rglob("artifacts/package/per_case.csv")
    shutil.rmtree(cache)
    os.truncate(scores, 100)
    with pytest.raises(RegistryError, match=r"per_case\.csv was altered"):
        registry.pull(URI)
    shutil.rmtree(scores.parent)
    with pytest.raises(RegistryError, match="the store holds no package of it any more"):
        registry.pull(URI)


# ------------------------------------------------------------------------------------------------------------- what is bad


def rehash(folder: Path, **changed: Any) -> None:
    """Write a manifest that fits itself."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changed
    del manifest["digest"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"digest": digest, **manifest}))


def edited_and_rehashed(folder: Path) -> None:
    (folder / "README.md").write_text("better than it is")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    sha256 = hashlib.sha256(b"better than it is").hexdigest()
    rehash(folder, files=files | {"README.md": {"size": 17, "sha256": sha256}})


def linked(folder: Path) -> None:
    shutil.move(folder / "README.md", folder.parents[1] / "README.md")
    (folder / "README.md").symlink_to(folder.parents[1] / "README.md")


def led_out(folder: Path) -> None:
    (folder.parent / "README.md").write_bytes((folder / "README.md").read_bytes())
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["../README.md"] = files.pop("README.md")
    (folder / "README.md").unlink()
    rehash(folder, files=files)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated": (lambda folder: os.truncate(folder / "weights.safetensors", 50), r"weights\.safetensors was altered"),
    "missing": (lambda folder: (folder / "checks.json").unlink(), r"checks\.json is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json is missing"),
    "no json": (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json is no JSON"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), r"manifest\.json was altered"),
    "manifest edited": (
        lambda folder: (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace("sha256", "sha")),
        r"manifest\.json was altered",
    ),
    "no files": (lambda folder: rehash(folder, files=None), r"manifest\.json was altered"),
    "rehashed": (edited_and_rehashed, "it has digest .* registered with digest"),
    "path that leads out": (led_out, r"\.\./README\.md is missing"),
    "extra file": (lambda folder: (folder / "payload.pkl").touch(), r"payload\.pkl does not belong to it"),
    "folder for a file": (
        lambda folder: ((folder / "checks.json").unlink(), (folder / "checks.json").mkdir()),  # type: ignore[dict-item]
        r"checks\.json is missing",
    ),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGES.values(), ids=DAMAGES)
def test_a_download_that_does_not_verify_is_refused_and_kept_apart(
    made: Registered, cache: Path, damage: Damage, told: str
) -> None:
    damage(stored())
    with pytest.raises(RegistryError, match=told) as caught:
        registry.pull(URI)
    (place,) = quarantined(cache)
    assert place.name.startswith(made.digest)
    assert str(place) in str(caught.value)
    assert "register the model anew" in str(caught.value)
    assert (place / "package").is_dir()
    assert (place / "reason.txt").read_text().strip() in str(caught.value)
    assert list((cache / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        *DAMAGES.values(),
        (linked, r"README\.md was altered"),
        (lambda folder: (shutil.rmtree(folder), folder.touch()), r"manifest\.json"),
    ],
    ids=[*DAMAGES, "linked", "a file for the package"],
)
def test_what_is_bad_in_the_cache_is_fetched_again_with_one_line(
    made: Registered, cache: Path, capsys: pytest.CaptureFixture[str], damage: Damage, told: str
) -> None:
    pulled = registry.pull(URI)
    damage(pulled.folder)
    for extra in set((cache / "models").iterdir()) - {pulled.folder}:  # what the damage put beside it
        extra.rename(cache / extra.name)
    assert registry.pull(URI) == pulled
    assert whole(cache, made)
    (line,) = capsys.readouterr().err.splitlines()
    (place,) = quarantined(cache)
    assert line.startswith(f"medexp: {URI}: ")
    assert str(place) in line
    assert (place / "reason.txt").read_text().strip().splitlines()[0] in line
    assert re.search(told, line)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from((*FILES, "manifest.json")),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    place=st.sampled_from(["store", "cache"]),
)
def test_any_flipped_bit_is_found(
    made: Registered, cache: Path, capsys: pytest.CaptureFixture[str], name: str, where: float, bit: int, place: str
) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    folder = stored() if place == "store" else registry.pull(URI).folder
    whole_content = (folder / name).read_bytes()
    content = bytearray(whole_content)
    content[int(where * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    try:
        if place == "store":
            with pytest.raises(RegistryError, match=name):
                registry.pull(URI)
        else:
            assert registry.pull(URI).digest == made.digest
            assert name in capsys.readouterr().err
            assert whole(cache, made)
    finally:
        (folder / name).write_bytes(whole_content)
    assert len(quarantined(cache)) == 1


def test_a_cache_that_is_no_folder_is_named(made: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"file/medexp.*XDG_CACHE_HOME"):
        registry.pull(URI)


def test_a_full_disk_is_named_and_leaves_nothing(made: Registered, cache: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError, match=f"{URI}.*(File too large|disk)"):
            registry.pull(URI)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((cache / "models").iterdir()) == quarantined(cache) == []
    assert registry.pull(URI).digest == made.digest


def test_a_whole_package_is_found_without_a_lock(made: Registered, cache: Path) -> None:
    pulled = registry.pull(URI)
    shutil.rmtree(cache / "locks")
    (cache / "locks").touch()  # as where the cache is read-only
    assert registry.pull(URI) == pulled
    (pulled.folder / "README.md").unlink()
    with pytest.raises(StorageError, match="locks.*cannot be written"):
        registry.pull(URI)


# --------------------------------------------------------------------------------------------------------------- processes


def pull_and_note(notes: Path, signum: int) -> None:
    """Pull, note each download, and get a signal between the download and its verification."""
    original = mlflow.artifacts.download_artifacts

    def noted(**given: Any) -> str:
        with notes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        path = original(**given)
        (Path(path) / "README.md").write_text("half")  # only those that are signalled leave it so
        if signum:
            os.kill(os.getpid(), signum)
        shutil.copyfile(Path(original(artifact_uri=given["artifact_uri"])) / "README.md", Path(path) / "README.md")
        return path

    mlflow.artifacts.download_artifacts = noted  # type: ignore[assignment]
    registry.pull(URI)


@pytest.fixture
def stopped(made: Registered, tmp_path: Path) -> Iterator[Any]:
    """A process that stands still with half a download and the lock."""
    process = start(pull_and_note, tmp_path / "notes", signal.SIGSTOP)
    wait_until_stopped(process)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize(("signum", "downloads"), [(signal.SIGCONT, 1), (signal.SIGKILL, 2)])
def test_one_process_downloads_and_the_others_wait_for_it_to_end_or_to_die(
    stopped: Any, made: Registered, cache: Path, tmp_path: Path, signum: signal.Signals, downloads: int
) -> None:
    waiting = [start(pull_and_note, tmp_path / "notes", 0) for _ in range(2)]
    with pytest.raises(Timeout):
        FileLock(cache / "locks" / made.digest, timeout=0).acquire()
    assert (cache / "models" / f".{made.digest}").is_dir()
    os.kill(stopped.pid, signum)
    for process in waiting:
        process.join()
    assert [process.exitcode for process in waiting] == [0, 0]
    assert len((tmp_path / "notes").read_text().splitlines()) == downloads
    assert whole(cache, made)
    assert quarantined(cache) == []


def test_a_killed_download_is_started_anew(made: Registered, cache: Path, tmp_path: Path) -> None:
    killed = start(pull_and_note, tmp_path / "notes", signal.SIGKILL)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert (cache / "models" / f".{made.digest}").is_dir()
    assert registry.pull(URI).digest == made.digest
    assert whole(cache, made)
