"""Registered models as any MLflow user has them: `mlflow.pyfunc` on arrays and on paths, in a process and served."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import mlflow
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc.scoring_server import infer_and_parse_data
from PIL import Image

from medexp import registry
from medexp.checks import Check, Severity
from medexp.data.images.transforms import preprocessing
from medexp.models.kinds import build
from medexp.phases.shared.packaging import MASK, classes
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package
from medexp.registry.registration import register
from medexp.registry.writing import write_package
from tests.data.volumes.small_cases import write_case
from tests.packages import ENCODER, EVALUATION, SEGMENTER, scores
from tests.runs import store_in

PICTURES, ENCODED, SEGMENTED = "phase2_3_multitask", "phase1_encoder_merged", "bsf_base"
CLASSES = ("no tumour", "tumour")
MULTITASK = {"kind": "multitask", "in_channels": 1, "base_filters": 4, "depth": 2, "classes": 2}
SPACING = [2.0, 2.0, 3.0]
ROOT = Path(__file__).parents[2]


def registered(name: str, architecture: dict[str, Any], contract: dict[str, Any], folder: Path) -> None:
    torch.manual_seed(0)
    definition = load_definition(name)
    checks = [Check(check, "", Severity.BLOCKING, True, "") for check in definition.required_checks]
    given = {"input": definition.input_as_records | contract.pop("input", {}), "output": definition.output} | contract
    weights = build(architecture).state_dict()
    made = Package(name, architecture, given, weights, checks=checks, evaluation=EVALUATION, per_case=scores())
    write_package(made, definition, folder)
    register(mlflow.MlflowClient().create_run("0").info.run_id, folder, definition, "PASSED")


@pytest.fixture(scope="module")
def home(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with a model of pictures, an encoder and a segmenter of volumes, and files to try them on: the folder."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        store_in(folder, empty_database, patch)
        of_pictures = {"preprocessing": preprocessing((32, 48)).as_record}
        of_pictures["outputs"] = {"seg": dict(MASK), "cls": classes(CLASSES, "none")}
        registered(PICTURES, MULTITASK, of_pictures | {"input": {"example_shape": [1, 1, 32, 48]}}, folder / "package_1")
        of_volumes = {"spacing_mm": SPACING, "example_shape": [1, 4, 64, 32, 32]}
        registered(ENCODED, ENCODER, {"input": of_volumes}, folder / "package_2")
        registered(SEGMENTED, SEGMENTER, {"input": of_volumes}, folder / "package_3")
        rng = np.random.default_rng(0)
        for number in range(3):
            pixels = rng.integers(0, 255, (40, 30 + number), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"picture{number}.png")
            write_case(folder / "cases", f"case{number}", number)
        yield folder


def pyfunc(name: str) -> Any:
    return mlflow.pyfunc.load_model(f"models:/{name}/1")


def frame(*paths: Any) -> pd.DataFrame:
    return pd.DataFrame({"path": [str(path) if isinstance(path, Path) else path for path in paths]})


# --------------------------------------------------------------------------------------------------------------------- paths


def test_pictures_by_path_are_answered_a_row_each_as_the_predictor_answers(home: Path) -> None:
    paths = [home / f"picture{number}.png" for number in (2, 0)]
    rows = pyfunc(PICTURES).predict(frame(*paths), params={"output": str(home / "masks")})
    predictor = registry.predictor(f"models:/{PICTURES}/1")
    assert rows["path"].tolist() == [str(path) for path in paths]
    for path, row in zip(paths, rows.to_dict("records"), strict=True):
        found = predictor(path)
        shares = {f"probability_{name}": share for name, share in (found.probabilities or {}).items()}
        assert {key: row[key] for key in shares} == shares and row[f"probability_{row['predicted']}"] == max(shares.values())
        mask = np.asarray(Image.open(row["mask"]))
        assert np.array_equal(mask, 255 * found.mask) and mask.shape == np.asarray(Image.open(path)).shape
        assert row["tumour_pixels"] == np.count_nonzero(found.mask)


def test_volumes_by_path_have_the_features_that_were_asked_for(home: Path) -> None:
    """Without a word what the network gives, as of the array that the contract makes of the files: GAP(encoder10)."""
    model, predictor, case = pyfunc(ENCODED), registry.predictor(f"models:/{ENCODED}/1"), home / "cases" / "case0"

    def features(**params: str) -> np.ndarray:
        (row,) = model.predict(frame(case), params=params).to_dict("records")
        assert row.get("features") == params.get("features")
        return np.array([row[f"f{index}"] for index in range(192)])

    np.testing.assert_allclose(features(), predictor(case).features, atol=1e-6)
    prepared = predictor.ready(predictor.one(case)).image[None].numpy()
    np.testing.assert_allclose(model.predict(prepared)[0], features(), atol=1e-6)
    np.testing.assert_allclose(features(features="gap10"), features(), atol=1e-6)
    assert not np.allclose(features(features="multiscale"), features())
    with pytest.raises(MlflowException, match="features: found 'gap'; .*may be asked for gap10, multiscale, tumour_weighted"):
        features(features="gap")


def test_a_segmenter_writes_masks_where_it_is_told_and_gives_volumes(home: Path) -> None:
    model, case = pyfunc(SEGMENTED), home / "cases" / "case1"
    (bare,) = model.predict(frame(case)).to_dict("records")
    (row,) = model.predict(frame(case), params={"output": str(home / "volumes")}).to_dict("records")
    mask = nib.load(row["mask"])
    own = nib.load(case / "case1-t1c.nii.gz")
    assert mask.shape == own.shape and np.allclose(mask.affine, own.affine)
    values = np.asarray(mask.dataobj)
    voxel = 12.0  # 2 x 2 x 3 mm
    assert row["WT_mm3"] == voxel * np.count_nonzero(values) > row["ET_mm3"] == voxel * np.count_nonzero(values == 3)
    assert row["WT_mm3"] >= row["TC_mm3"] >= row["ET_mm3"] and bare == {key: row[key] for key in bare} and "mask" not in bare
    with pytest.raises(MlflowException, match="a mask of case1 is in .*volumes already; give another output"):
        model.predict(frame(case), params={"output": str(home / "volumes")})


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["picture0.png", "picture7.png", "nowhere"], ["2 problems", "picture7.png: no such file", "nowhere: no such file"]),
        (["picture0.png", None], ["path of row 1 is nan; a case's folder or a file is wanted"]),
        (["."], ["cases, one is wanted"]),
    ],
)
def test_all_paths_that_name_no_case_are_told_at_once(home: Path, paths: list[Any], told: list[str]) -> None:
    with pytest.raises(MlflowException) as caught:
        pyfunc(PICTURES).predict(frame(*paths))
    assert all(part in caught.value.message for part in [*told, PICTURES]) and caught.value.get_http_status_code() == 400


def test_one_folder_can_be_made_the_only_one(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDEXP_SERVE_ROOT", str(tmp_path))
    (tmp_path / "here.png").write_bytes((home / "picture0.png").read_bytes())
    (tmp_path / "link.png").symlink_to(home / "picture0.png")
    (tmp_path / "table.csv").write_text(f"path\n{home / 'picture0.png'}\n")
    model = pyfunc(PICTURES)
    assert len(model.predict(frame("here.png", tmp_path / "here.png"))) == 2
    for path in (home / "picture0.png", "../served0/picture0.png", "link.png", "table.csv"):
        with pytest.raises(MlflowException, match="MEDEXP_SERVE_ROOT"):
            model.predict(frame(path))
    with pytest.raises(MlflowException, match="MEDEXP_SERVE_ROOT"):
        model.predict(frame("here.png"), params={"output": str(home / "elsewhere")})
    assert not (home / "elsewhere").exists()


# -------------------------------------------------------------------------------------------------------------------- arrays


def test_arrays_that_cannot_have_been_prepared_are_refused_and_odd_ones_named(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, noise = pyfunc(PICTURES), np.random.default_rng(0).normal(size=(2, 1, 32, 48)).astype(np.float32)
    assert model.predict(noise)["cls"].shape == (2, 2)
    for array, told in ((noise[..., :32], "cases of 32 x 32"), (100 * noise, "no z-scores"), (noise[0], "the batch first")):
        with pytest.raises(MlflowException, match=f"array for {PICTURES}: .*{told}.*column path"):
            model.predict(array)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        model.predict(noise + 1)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"array for {PICTURES}: nonzero values of a channel have the mean ")


# ---------------------------------------------------------------------------------------------------------- what MLflow knows


@pytest.mark.parametrize(
    ("name", "params", "example"),
    [
        (PICTURES, {"output"}, "PICTURE.png"),
        (ENCODED, {"features"}, "FOLDER_OF_A_CASE"),
        (SEGMENTED, {"output", "features"}, "FOLDER_OF_A_CASE"),
    ],
)
def test_signature_and_example_are_there(home: Path, name: str, params: set[str], example: str) -> None:
    info = mlflow.models.get_model_info(f"models:/{name}/1")
    assert info.signature.inputs.input_names() == ["path"] and info.signature.outputs is not None
    assert {spec.name for spec in info.signature.params or ()} == params
    folder = mlflow.artifacts.download_artifacts(f"models:/{name}/1")
    served = json.loads(Model.load(folder).get_serving_input(folder) or "")
    assert served == {"dataframe_split": {"columns": ["path"], "data": [[example]]}}
    with pytest.raises(MlflowException, match=f"{example}: no such file"):  # the right form, of a case that is nowhere
        pyfunc(name).predict(infer_and_parse_data(served, info.signature.inputs))


# -------------------------------------------------------------------------------------------------------------------- served


@pytest.fixture
def ask(home: Path) -> Iterator[Callable[[Any], tuple[int, Any]]]:
    """A real `mlflow models serve` of the model of pictures; called with a request it gives status and JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{PICTURES}/1", "--env-manager", "local"]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen([*command, "-p", str(port)], cwd=home, start_new_session=True, **out)

    def post(request: Any) -> tuple[int, Any]:
        with closing(HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
            connection.request("POST", "/invocations", json.dumps(request), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    try:
        assert any("Uvicorn running" in line for line in server.stdout or ())
        yield post
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def test_a_served_model_answers_json_to_arrays_and_to_paths(home: Path, ask: Callable[[Any], tuple[int, Any]]) -> None:
    array = np.random.default_rng(0).normal(size=(1, 1, 32, 48)).astype(np.float32)
    expected = pyfunc(PICTURES).predict(array)
    for key in ("inputs", "instances"):
        status, answer = ask({key: array.tolist()})
        assert status == 200
        np.testing.assert_allclose(answer["predictions"]["cls"], expected["cls"], atol=1e-5)
    status, answer = ask({"dataframe_split": {"columns": ["path"], "data": [["picture0.png"], ["picture1.png"]]}})
    shares = pyfunc(PICTURES).predict(frame(home / "picture0.png", home / "picture1.png"))["probability_tumour"]
    assert status == 200
    np.testing.assert_allclose([row["probability_tumour"] for row in answer["predictions"]], shares, atol=1e-5)
    status, answer = ask({"instances": [{"path": "picture0.png"}]})
    assert status == 200 and answer["predictions"][0]["case"] == "picture0.png"
    status, answer = ask({"inputs": ["picture0.png"], "params": {"output": "served"}})
    assert status == 200 and (home / answer["predictions"][0]["mask"]).is_file()
    for request, told in (
        ({"dataframe_split": {"columns": ["path"], "data": [["nowhere.png"]]}}, "nowhere.png: no such file"),
        ({"inputs": array[..., :32].tolist()}, "cases of 32 x 32; the contract makes 32 x 48 of each"),
    ):
        status, answer = ask(request)
        assert status == 400 and "stack_trace" not in answer and "Traceback" not in answer["message"]
        assert told in answer["message"].splitlines()[-1] and PICTURES in answer["message"].splitlines()[-1]
