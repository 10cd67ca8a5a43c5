"""A registered segmenter as a MONAI bundle, run by MONAI's own command where medexp cannot be imported."""

import contextlib
import io
import json
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from medexp import registry
from medexp.config.data import DataConfig
from medexp.console import main
from medexp.data.volumes.phantoms import ensure_phantoms
from medexp.data.volumes.steps import SlidingWindow
from medexp.data.volumes.transforms import preprocessing
from medexp.models.kinds import ONLY, build
from medexp.phases.shared.packaging import contract, regions
from medexp.registry.bundle import BESIDE
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package
from medexp.registry.packages import ADAPTER_KIND
from medexp.registry.registration import register
from medexp.registry.writing import write_package
from tests.packages import SEGMENTER
from tests.runs import store_in
from tests.small import data_config

MODEL = "bsf_base"
WITHOUT_MEDEXP = """
import runpy, sys
sys.modules["medexp"] = None  # an import of it fails
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
root, cases = given["--bundle_root"], given["--dataset_dir"]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)

from monai.bundle import ConfigWorkflow, verify_net_in_out
files = {"config_file": f"{root}/configs/inference.json", "meta_file": f"{root}/configs/metadata.json"}
verify_net_in_out("network_def", **files)
workflow = ConfigWorkflow(**files, workflow_type="infer", bundle_root=root, dataset_dir=cases)
workflow.initialize()
print("lacks", workflow.check_properties())
"""
TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}
# The keys that MONAI's specification of bundles calls mandatory; required_packages_version had another name there.
MANDATORY = {
    *("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task", "description"),
    *("authors", "copyright", "network_data_format"),
}


def segmenter(seed: int = 0, **given: Any) -> Package:
    """A SwinUNETR with initial weights, which finds something everywhere, on a grid that takes several windows."""
    torch.manual_seed(seed)
    data: DataConfig = data_config(labels="brats2021")
    steps = preprocessing((3.0, 3.0, 4.5), (64, 32, 32)).then(SlidingWindow((64, 32, 32), 0.5, "gaussian"))
    said = contract(MODEL, "logits", steps, {ONLY: regions(data)})
    return Package(MODEL, SEGMENTER, said, build(SEGMENTER).state_dict(), **given)


def registered(client: MlflowClient, made: Package, folder: Path) -> None:
    write_package(made, load_definition(made.name), folder)
    register(client.create_run("0").info.run_id, folder, load_definition(made.name), "PASSED")


@dataclass(frozen=True)
class Ran:
    """A bundle, what was printed when it was made and run, and the cases that it was run on."""

    folder: Path
    printed: str
    log: str
    cases: Path
    masks: Path


@pytest.fixture(scope="module")
def ran(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        client = store_in(folder, empty_database, patch)
        source = str(folder / "my patients" / "brats")
        registered(client, segmenter(facts={"data": source}), folder / "package")
        with contextlib.redirect_stdout(io.StringIO()) as told:
            assert main(["export-bundle", f"{MODEL}/1", "my bundle"]) == 0
        cases = written_cases(folder)
        printed = told.getvalue()
        command = printed.partition("Run it:")[2].partition("\n")[0].replace("CASES", "cases").replace("MASKS", "masks")
        run, *argv = shlex.split(command)[2:]
        assert run == "monai.bundle"
        patch.delenv("PYTHONPATH", raising=False)
        done = subprocess.run([sys.executable, "-I", "-c", WITHOUT_MEDEXP, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Ran(folder / "my bundle", printed, done.stdout + done.stderr, cases, folder / "masks")


def written_cases(folder: Path) -> Path:
    """Three phantoms on the grids that real data brings, one of them with the older suffixes and a dot in its name."""
    cases = folder / "cases"
    plain, oblique, left_handed, *_ = sorted(ensure_phantoms("glioma", 4, 0, folder / "cache").iterdir())
    shutil.copytree(plain, cases / plain.name)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([0.1, -0.08, 0.12]).as_matrix()
    (cases / "oblique.1").mkdir()
    for suffix, old in {"t2f": "FLAIR", "t1c": "t1ce", "t1n": "t1", "t2w": "t2"}.items():
        image = nib.load(oblique / f"{oblique.name}-{suffix}.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), cases / "oblique.1" / f"x_{old}.nii")
    (cases / "left-handed").mkdir()
    for path in left_handed.glob("*.nii.gz"):
        image = nib.load(path)
        image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt("ASL")))
        assert np.linalg.det(image.affine) < 0
        nib.save(image, cases / "left-handed" / path.name)
    return cases


def test_monai_alone_gives_the_masks_that_medexp_gives_voxel_for_voxel(ran: Ran) -> None:
    predict = registry.predictor(f"models:/{MODEL}/1", "cpu")
    names = sorted(path.name for path in ran.cases.iterdir())
    assert sorted(path.name for path in ran.masks.iterdir()) == [f"{name}_seg.nii.gz" for name in names]
    for name in names:
        expected, found = predict(ran.cases / name).mask, nib.load(ran.masks / f"{name}_seg.nii.gz")
        assert np.array_equal(found.affine, expected.affine), name
        assert found.get_data_dtype() == np.uint8
        mask = np.asarray(found.dataobj)
        # medexp adds up in another order (`by_onednn`): a logit that is 0 to 1e-6 may fall to the other side.
        assert np.count_nonzero(mask != np.asarray(expected.dataobj)) <= 2, name
        assert {0, 4} < set(np.unique(mask).tolist()) <= {0, 1, 2, 4}, name  # values of the data that it was trained on


def test_a_bundle_is_what_monai_asks_of_one(ran: Ran) -> None:
    assert "lacks []" in ran.log
    assert "data shape of network is verified with no error" in ran.log
    metadata = json.loads((ran.folder / "configs/metadata.json").read_text())
    assert set(metadata) >= MANDATORY
    assert metadata["version"] in metadata["changelog"]
    assert metadata["medexp"] == {"model": MODEL, "version": "1", "digest": registry.pull(f"models:/{MODEL}/1").digest}
    data = metadata["network_data_format"]
    (image,), (prediction,) = data["inputs"].values(), data["outputs"].values()
    assert set(image) == TENSOR | {"modality"}
    assert set(prediction) == TENSOR
    assert list(image["channel_def"].values()) == ["t2f", "t1c", "t1n", "t2w"]
    assert list(prediction["channel_def"].values()) == ["TC", "WT", "ET"]
    state = torch.load(ran.folder / "models/model.pt", weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in segmenter().weights.items())


def test_a_bundle_tells_where_it_comes_from_and_nothing_of_the_machine(ran: Ran) -> None:
    digest = registry.pull(f"models:/{MODEL}/1").digest
    assert digest in ran.printed
    assert digest in (ran.folder / "docs/README.md").read_text()
    assert "my patients/brats" in (ran.folder / "docs/README.md").read_text()
    places = (str(ran.folder.parent), str(Path(registry.__file__).parents[2]), str(Path.home()), sys.prefix)
    for path in ran.folder.rglob("*.*"):
        compiled = path.parent.name == "__pycache__"  # by the run
        assert compiled or not any(place.encode() in path.read_bytes() for place in places), path
    assert {name: version(name) for name in BESIDE} == BESIDE


def test_what_cannot_be_exported_is_refused_in_a_line(
    store: MlflowClient, publish: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish()
    (tmp_path / "adapter").mkdir()
    save_file({"any": torch.zeros(1)}, tmp_path / "adapter/adapter_model.safetensors")
    adapter = {"kind": ADAPTER_KIND, "base": SEGMENTER}
    publish("FAILED", name="phase1_lora_adapter", architecture=adapter, weights={}, extra={"adapter": tmp_path / "adapter"})
    (tmp_path / "there").mkdir()
    can = "such as phase1_segmenter or bsf_base"
    for model, folder, told in (
        ("phase1_encoder_merged/1", "new", f"is a swin_encoder. What is exported is a segmenter of volumes .*, {can}"),
        ("phase1_lora_adapter/1", "new", f"is an adapter, and a bundle holds a whole network. Export one .*, {can}"),
        ("phase1_encoder_merged/2", "new", "has no version 2; it has: 1"),
        (
            "phase1_segmenter/1",
            "~nobody_here/b",
            "found ~nobody_here/b; this machine has no user nobody_here: write the whole path",
        ),
        ("phase1_encoder_merged/1", "there", "exists already, and nothing is overwritten. Give the name of a new folder"),
    ):
        assert main(["export-bundle", model, folder]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(f"medexp export-bundle: error: .*{told}.*\n", said)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_nothing(store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registered(store, segmenter(), tmp_path / "package")
    registry.pull(f"models:/{MODEL}/1")
    (tmp_path / "into").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        assert main(["export-bundle", f"{MODEL}/1", "into/bundle"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written" in capsys.readouterr().err
    assert list((tmp_path / "into").iterdir()) == []
