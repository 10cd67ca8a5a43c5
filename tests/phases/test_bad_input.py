"""Bad input to a phase, from the command line: exit code 2, a clear message that names file or flag, nothing half-written."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from medexp.models.kinds import build
from medexp.models.swin.network import SwinSegmenter
from tests.configured import run_phase
from tests.data.volumes.small_cases import AFFINE, SHAPE, blob, save, write_case

CASE = "BraTS-MEN-00001-000"
PHASES = ["prepare", "phase1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good cases of three patients."""
    for number in (1, 2, 3):
        write_case(tmp_path / "data", f"BraTS-MEN-0000{number}-000", seed=number)
    return tmp_path / "data"


def run(phase: str, **keys: object) -> int:
    return run_phase(phase, cache_dir="cache", **keys)


def voxels(**changed: Any) -> np.ndarray:
    array = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.float32)
    for key, value in changed.items():
        array[5, 5, 5] = {"nan": np.nan, "inf": np.inf}[key] if value else 0
    return array


def image(name: str, content: Any = None, affine: Any = AFFINE) -> Callable[[Path], None]:
    return lambda folder: save(folder / CASE / f"{CASE}-{name}.nii.gz", content, affine) and None


def truncate(folder: Path) -> None:
    path = folder / CASE / f"{CASE}-t2w.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def overwrite(folder: Path) -> None:
    (folder / CASE / f"{CASE}-t1n.nii.gz").write_bytes(b"this is no image")


def splits(**content: list[str]) -> Callable[[Path], None]:
    return lambda folder: (folder.parent / "splits.json").write_text(json.dumps(content)) and None


def alone(folder: Path) -> None:
    for number in (2, 3):
        for path in (folder / f"BraTS-MEN-0000{number}-000").iterdir():
            path.unlink()
        (folder / f"BraTS-MEN-0000{number}-000").rmdir()


ALL = [f"BraTS-MEN-0000{number}-000" for number in (1, 2, 3)]
BAD_DATA: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "no modality": (lambda folder: (folder / CASE / f"{CASE}-t2w.nii.gz").unlink(), [CASE, "t2w"]),
    "shapes that differ": (image("t1c", np.ones((9, 9, 9), np.float32)), [f"{CASE}-t1c.nii.gz", "(9, 9, 9)"]),
    "affines that differ": (image("t1n", voxels(), AFFINE @ np.diag([1, 1, 2, 1])), [f"{CASE}-t1n.nii.gz", "affine"]),
    "unreadable": (overwrite, [f"{CASE}-t1n.nii.gz", "read"]),
    "truncated": (truncate, [f"{CASE}-t2w.nii.gz"]),
    "NaN": (image("t2f", voxels(nan=True)), [f"{CASE}-t2f.nii.gz", "NaN"]),
    "infinite": (image("t2f", voxels(inf=True)), [f"{CASE}-t2f.nii.gz", "infinite"]),
    "a constant channel": (image("t1c", np.full(SHAPE, 7.0, np.float32)), [f"{CASE}-t1c.nii.gz", "constant"]),
    "labels of no edition": (
        image("seg", blob(7)),
        [f"{CASE}-seg.nii.gz", "No edition has all of these", "label_map={2: 2, 3: 3, 7: ?}"],
    ),
    "labels of another edition": (
        image("seg", blob(4)),
        [
            *(
                "4 (27 voxels)",
                "-P data.labels=brats-gli-2024 (2 is",
                "4 is resection cavity",
                "-P data.labels=brats-ped (2 is",
            ),
            "label_map={2: 2, 3: 3, 4: ?}' with a class for each ?: 0 none, 1 core, 2 edema, 3 enhancing",
        ],
    ),
    "an empty mask": (image("seg", np.zeros(SHAPE, np.uint8)), [f"{CASE}-seg.nii.gz", "exclude"]),
    "a single patient": (alone, ["a single patient", "BraTS-MEN-00001"]),
    "a split file naming unknown cases": (splits(train=ALL[:2], val=[ALL[2], "nobody"]), ["splits.json", "nobody"]),
}


@pytest.mark.parametrize(("spoil", "words"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_data_that_cannot_be_used(spoil, words, folder: Path, store: MlflowClient, capsys, tmp_path: Path) -> None:
    spoil(folder)
    splits = tmp_path / "splits.json"
    assert run("prepare", data_dir=folder, splits=splits if splits.exists() else None) == 2
    assert_refused(capsys, store, "prepare", words)


def test_what_is_wrong_with_all_files_of_a_case_alike_is_said_once(folder: Path, store: MlflowClient, capsys) -> None:
    for name in ("t1c", "t1n", "t2w"):
        image(name, voxels(nan=True))(folder)
    assert run("prepare", data_dir=folder) == 2
    told = f"{CASE}-t1c.nii.gz, {CASE}-t1n.nii.gz, {CASE}-t2w.nii.gz: 1 NaN or infinite voxels"
    said = capsys.readouterr().err
    assert told in said.replace("\n", " ") and said.count("NaN or infinite") == 1


def test_phase1_refuses_the_same(folder: Path, store: MlflowClient, capsys) -> None:
    truncate(folder)
    assert run("phase1", data_dir=folder) == 2
    assert_refused(capsys, store, "phase1", [f"{CASE}-t2w.nii.gz"])


def test_a_patient_in_two_splits(folder: Path, store: MlflowClient, capsys, tmp_path: Path) -> None:
    write_case(folder, "BraTS-MEN-00001-001", seed=9)
    splits(train=[*ALL[:2]], val=[ALL[2], "BraTS-MEN-00001-001"])(folder)
    assert run("prepare", data_dir=folder, splits=tmp_path / "splits.json") == 2
    assert_refused(capsys, store, "prepare", ["splits.json", "BraTS-MEN-00001"])


@pytest.mark.parametrize("phase", PHASES)
def test_no_such_folder(phase, store: MlflowClient, capsys) -> None:
    assert run(phase, data_dir="nowhere") == 2
    assert_refused(capsys, store, phase, ["nowhere"])


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user, whom permissions bind, takes root")
def test_a_read_only_output_folder(phase, folder: Path, store: MlflowClient, capsys, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    os.seteuid(65534)
    try:
        assert run(phase, data_dir=folder, output_dir=tmp_path / "locked") == 2
    finally:
        os.seteuid(0)
    assert "output_dir" in capsys.readouterr().err
    assert not list((tmp_path / "locked").iterdir())
    assert store.search_experiments(filter_string=f"name = '{phase}'") == []


class Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def small(**changed: Any) -> dict[str, Any]:
    arguments = {"in_channels": 4, "out_channels": 3, "feature_size": 12, "window_size": 4} | changed
    return dict(build({"kind": "swin_unetr", **arguments}).state_dict())


BIAS = "out.conv.conv.bias"
BAD_CHECKPOINTS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "missing keys": (lambda: {k: v for k, v in small().items() if "layers4" not in k}, ["missing", "swinViT.layers4"]),
    "extra keys": (lambda: small() | {"decoder9.weight": torch.zeros(1)}, ["unexpected", "decoder9.weight"]),
    "misshapen keys": (lambda: small(out_channels=2), ["misshapen", "out.conv.conv.weight"]),
    "a value that is not finite": (
        lambda: {"model": {f"net.{key}": value for key, value in (small() | {BIAS: torch.full((3,), torch.inf)}).items()}},
        [f"{BIAS} has 3 values that are not finite, of 3"],
    ),
    "a pickle that would run code": (lambda: {"state_dict": small(), "extra": Exploit()}, ["refused", "it would run"]),
}


@pytest.mark.parametrize(("content", "words"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS.keys())
def test_a_checkpoint_that_cannot_be_used(content, words, folder: Path, store: MlflowClient, capsys, tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "base.pt")
    assert run("phase1", data_dir=folder, checkpoint=tmp_path / "base.pt") == 2
    assert_refused(capsys, store, "phase1", ["base.pt", *words])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [("absent.pt", ["absent.pt"]), ("models:/nobody@champion", ["models:/nobody@champion", "no model nobody"])],
)
def test_a_checkpoint_that_is_not_there(checkpoint, words, folder: Path, store: MlflowClient, capsys) -> None:
    assert run("phase1", data_dir=folder, checkpoint=checkpoint) == 2
    assert_refused(capsys, store, "phase1", words)


def rewritten_base(folder: Path) -> None:
    torch.save({key: value + 1 for key, value in small().items()}, folder.parent / "base.pt")


def another_patient(folder: Path) -> None:
    write_case(folder, "BraTS-MEN-00009-000", seed=9)


def swapped(folder: Path) -> None:
    splits(train=[ALL[2], ALL[1]], val=[ALL[0]])(folder)


BEGUN: dict[str, tuple[Callable[[Path], None], str]] = {
    "another base": (rewritten_base, "base"),
    "another patient": (another_patient, "train cases"),
    "another split": (swapped, "train cases and val cases"),
}


@pytest.mark.parametrize(("change", "told"), BEGUN.values(), ids=BEGUN.keys())
def test_an_interrupted_phase1_does_not_go_on_with_something_else(
    change: Callable[[Path], None],
    told: str,
    folder: Path,
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """What was trained on would be validated on, or go on from another network."""
    torch.save(small(), tmp_path / "base.pt")
    given = {"data_dir": folder, "checkpoint": tmp_path / "base.pt", "network__window_size": 4}
    if change is swapped:
        splits(train=ALL[:2], val=[ALL[2]])(folder)
        given["splits"] = tmp_path / "splits.json"

    def kill_at_the_network(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, SwinSegmenter):  # what brings a volume to another grid is a module too
            os.kill(os.getpid(), signal.SIGTERM)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(kill_at_the_network)
    try:
        assert run("phase1", **given) == 143
    finally:
        hook.remove()
    interrupted = next((tmp_path / "outputs").iterdir()).name
    change(folder)
    capsys.readouterr()
    assert run("phase1", resume=interrupted) == 2
    assert f"resume={interrupted}: not what the run was begun with: {told}" in capsys.readouterr().err


def assert_refused(capsys: pytest.CaptureFixture[str], store: MlflowClient, phase: str, words: list[str]) -> None:
    _, _, told = capsys.readouterr().err.partition(f"medexp {phase}: error: ")
    assert all(word in told for word in words), told
    assert "Traceback" not in told
    (experiment,) = store.search_experiments(filter_string=f"name = '{phase}'")
    (ended,) = store.search_runs([experiment.experiment_id])
    assert ended.info.status == "FAILED"
    assert ended.data.tags["medexp.error"] == told.strip()
    assert store.search_registered_models() == []
    written = {path.name for path in (Path("outputs") / ended.info.run_id).iterdir()}
    assert written == {"config.yaml", "terminal.log"}
