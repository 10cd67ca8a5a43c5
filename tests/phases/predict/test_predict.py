"""Registered models on new files, by the command line, against a plain computation."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from mlflow import MlflowClient
from nibabel.processing import resample_from_to
from PIL import Image
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from medexp import registry
from medexp.data.images.transforms import execute
from medexp.data.images.transforms import preprocessing as of_images
from medexp.data.manifest import patient_sha256
from medexp.data.seen import ranges
from medexp.data.volumes.brats import image_files
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.phantoms import ensure_phantoms
from medexp.data.volumes.regions import REGIONS
from medexp.data.volumes.steps import PadToMultiple, SlidingWindow
from medexp.data.volumes.transforms import preprocessing
from medexp.evaluation.embeddings import Embedder, cases_as_parts, embed_all
from medexp.models.kinds import ONLY
from medexp.phases.shared.packaging import FEATURES, MASK, classes, contract, regions
from tests.configured import run_phase
from tests.packages import ENCODER, SEGMENTER
from tests.runs import figures, last_run
from tests.small import data_config

SPACING, SIZE = (6.0, 6.0, 9.0), (32, 32, 64)
DATA = data_config(spacing=SPACING, input_size=SIZE)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, two time points of one: the second case is left-handed, the third lies obliquely, and of the fourth the
    sform and the qform differ."""
    folder = ensure_phantoms("meningioma", 4, 7, tmp_path_factory.mktemp("phantoms"))
    cases = sorted(folder.iterdir())
    mirrored, turned = np.diag([-1.0, 1, 1, 1]), np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", (20, -15, 30), degrees=True).as_matrix()
    for file in cases[1].iterdir():
        image = nib.load(file)
        mirrored[0, 3] = image.shape[0] - 1
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine @ mirrored), file)
    for file in cases[2].iterdir():
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), turned @ image.affine), file)
    for file in cases[3].iterdir():
        image = nib.load(file)
        two = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
        two.set_qform(turned @ image.affine, 1)
        nib.save(two, file)
    return folder


@pytest.fixture
def segmenter(publish: Callable[..., Any]) -> str:
    """A segmenter with initial weights, whose logits are about 0."""
    made = preprocessing(SPACING, SIZE).then(SlidingWindow(SIZE, 0.25, "gaussian"))
    said = contract("bsf_base", "logits", made, {ONLY: regions(DATA)})
    publish(name="bsf_base", architecture=SEGMENTER, contract=said, seen=SEEN)
    return "models:/bsf_base/1"


@pytest.fixture
def encoder(publish: Callable[..., Any]) -> str:
    made = preprocessing(SPACING, SIZE).then(PadToMultiple(32))
    publish(contract=contract("phase1_encoder_merged", "features", made, {ONLY: FEATURES}), architecture=ENCODER)
    return "models:/phase1_encoder_merged/1"


SEEN = ranges([{"spacing R": 3.0, "orientation": "LPS", "t2f_mean": 400.0 + i} for i in range(6)])


def predict(model: str, given: Path | str | None, output: Path | str = "out", **more: object) -> int:
    return run_phase("predict", model=model, input="" if given is None else str(given), output=str(output), shown=1, **more)


def test_masks_lie_where_the_case_lies_and_score_as_a_plain_computation_says(
    store: MlflowClient, segmenter: str, phantoms: Path, tmp_path: Path
) -> None:
    assert predict(segmenter, phantoms, evaluate=True) == 0
    out, net = tmp_path / "out", registry.load(segmenter)
    scores = pd.read_csv(out / "scores.csv").set_index("case")
    handed = set()
    for case in sorted(phantoms.iterdir()):
        mask, file = nib.load(out / f"{case.name}.nii.gz"), nib.load(case / f"{case.name}-t1c.nii.gz")
        assert mask.shape == file.shape
        np.testing.assert_allclose(mask.affine, file.affine, atol=1e-4)
        for form in ("get_sform", "get_qform"):  # viewers go by either
            (there, code), (wanted, wanted_code) = (getattr(image, form)(coded=True) for image in (mask, file))
            assert code == wanted_code
            np.testing.assert_array_equal(there, wanted)
        found = np.asarray(mask.dataobj)
        assert set(np.unique(found)) <= {0, 1, 2, 3}
        handed.add(np.sign(np.linalg.det(file.affine)))

        plain = plainly_segmented(net, case, file)
        assert (found > 0).any()
        assert (plain == found).mean() > 0.9999, "voxels on the border of a region may round otherwise"
        truth = np.asarray(nib.load(case / f"{case.name}-seg.nii.gz").dataobj)
        for region, values in {"TC": (1, 3), "WT": (1, 2, 3), "ET": (3,)}.items():
            one, other = np.isin(found, values), np.isin(truth, values)
            dice = 2 * (one & other).sum() / (one.sum() + other.sum()) if other.any() else np.nan
            assert scores.loc[case.name, f"native_dice_{region}"] == pytest.approx(dice, abs=1e-6, nan_ok=True)
        record = json.loads((out / f"{case.name}.json").read_text())
        assert record["model"] == "bsf_base version 1" and len(record["digest"]) == 64
        assert record["mm3"]["WT"] >= record["mm3"]["TC"] >= record["mm3"]["ET"]
    assert handed == {-1, 1}, "left-handed and right-handed"

    run = last_run(store, "predict")
    assert {f"external/native_dice_{region}" for region in REGIONS} <= set(figures(run))
    assert run.data.tags["medexp.upstream.bsf_base"].startswith("1 ")
    tags = store.get_model_version("bsf_base", "1").tags
    told = tags[f"medexp.external.{run.info.run_id}"]
    assert f"native_dice_WT {scores['native_dice_WT'].mean():.3f}" in told and "{" not in told, "words, on a page for readers"
    names = [item.path for item in store.list_artifacts(run.info.run_id, "predictions")]
    assert len(names) == 1, "one picture was asked for"


def plainly_segmented(net: torch.nn.Module, case: Path, file: Any) -> Any:
    """The mask by nibabel and numpy, from the one window that holds all that the network sees of a head."""
    predictor = registry.predictor("models:/bsf_base/1")
    seen = predictor.ready(predictor.find(case).cases[0])
    assert seen.image.shape[1:] == SIZE
    with torch.inference_mode():
        logits = net(seen.image[None])[0].numpy()
    grids = [nib.Nifti1Image(region, seen.affine.numpy()) for region in logits]
    on_own = [resample_from_to(one, (file.shape, file.affine), order=1, mode="grid-constant", cval=0.0) for one in grids]
    tc, wt, et = (one.get_fdata() > 0 for one in on_own)
    return np.where(et, 3, np.where(tc, 1, np.where(wt, 2, 0)))


def test_features_are_those_of_the_platform_in_six_lines(
    store: MlflowClient, encoder: str, phantoms: Path, tmp_path: Path
) -> None:
    assert predict(encoder, phantoms) == 0
    written = load_file(tmp_path / "out" / "features.safetensors")
    table = pd.read_parquet(tmp_path / "out" / "features.parquet")
    assert list(table.index) == sorted(written) == [case.name for case in sorted(phantoms.iterdir())]
    case = min(phantoms.iterdir())
    script = f"""
from medexp import registry
encode = registry.predictor({encoder!r})
print(encode({str(case)!r}).features.tolist())
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    alone = np.array(json.loads(told), np.float32)
    np.testing.assert_allclose(alone, written[case.name], atol=1e-6)
    np.testing.assert_allclose(alone, table.loc[case.name], atol=1e-6)

    cases = (Case(case.name, "p", image_files(case), None),)
    facts = {
        fact.case: fact for fact in describe_cases(cases, data_config(spacing=SPACING, input_size=SIZE), tmp_path / "cache")
    }
    parts = cases_as_parts(cases, facts, preprocessing(SPACING, SIZE), Accelerator(cpu=True))
    embedder = {"it": Embedder(registry.load(encoder), "gap10")}
    embedded = embed_all(embedder, parts, tmp_path / "cache", Accelerator(cpu=True))
    np.testing.assert_allclose(alone, embedded.features["it"][0], atol=1e-6, err_msg="as a probe embeds it")


def test_the_same_command_goes_on_and_another_one_is_refused(
    store: MlflowClient, segmenter: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases"
    shutil.copytree(phantoms, cases)
    first, second, *others = sorted(cases.iterdir())
    for one in others:
        shutil.rmtree(one)
    for name in ("t1c", "seg"):  # one case lacks a channel; nobody needs a segmentation
        (second / f"{second.name}-{name}.nii.gz").unlink()
    assert predict(segmenter, cases) == 3
    assert "no t1c" in pd.read_csv(tmp_path / "out" / "errors.csv")["problem"][0]
    done = (tmp_path / "out" / f"{first.name}.nii.gz").stat().st_mtime_ns

    shutil.copy(phantoms / second.name / f"{second.name}-t1c.nii.gz", second)
    capsys.readouterr()
    assert predict(segmenter, cases) == 0
    assert "predicted 2, failed 0, before 1" in capsys.readouterr().out
    assert (tmp_path / "out" / f"{first.name}.nii.gz").stat().st_mtime_ns == done, "not made again"
    assert not (tmp_path / "out" / "errors.csv").exists()
    assert list(pd.read_csv(tmp_path / "out" / "scores.csv")["case"]) == [first.name]

    assert predict(segmenter, cases, data__labels="brats2021") == 2
    assert "holds other predictions" in capsys.readouterr().err
    truth = first / f"{first.name}-seg.nii.gz"
    image = nib.load(truth)
    nib.save(nib.Nifti1Image(np.ones_like(image.dataobj), image.affine), truth)
    (tmp_path / "out" / f"{second.name}.nii.gz").unlink()
    before = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert predict(segmenter, cases) == 0, "a truth that was corrected, and a mask that is gone"
    assert pd.read_csv(tmp_path / "out" / "scores.csv")["native_dice_WT"][0] != before["native_dice_WT"][0]
    assert (tmp_path / "out" / f"{second.name}.nii.gz").is_file()
    truth.unlink()
    mask = tmp_path / "out" / f"{second.name}.nii.gz"
    mask.write_bytes(mask.read_bytes()[:100])
    assert predict(segmenter, cases) == 3
    assert "is not what was written there" in pd.read_csv(tmp_path / "out" / "errors.csv")["problem"][0]
    assert not (tmp_path / "out" / "scores.csv").exists(), "no truth is there any more"
    mask.unlink()
    shutil.copy(second / f"{second.name}-t2f.nii.gz", first / f"{first.name}-t2f.nii.gz")
    assert predict(segmenter, cases) == 3
    assert "its files are others" in pd.read_csv(tmp_path / "out" / "errors.csv")["problem"][0]


def test_scores_of_what_could_be_predicted_are_no_external_validation_of_all(
    store: MlflowClient, segmenter: str, encoder: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, broken = sorted(phantoms.iterdir())[:2]
    cases = tmp_path / "cases"
    for case in (good, broken):
        shutil.copytree(case, cases / case.name)
    next((cases / broken.name).glob("*-t1c.nii.gz")).write_bytes(b"no NIfTI")
    assert predict(segmenter, cases, evaluate=True) == 3
    assert "are not written to the version" in capsys.readouterr().out
    assert not [tag for tag in store.get_model_version("bsf_base", "1").tags if "external" in tag]
    assert predict(encoder, cases, "other", evaluate=True) == 2
    assert "no truth that the model can be held against" in capsys.readouterr().err, "before anything is computed"
    assert not (tmp_path / "other").exists()


def test_masks_have_the_values_that_are_asked_for_and_odd_truths_are_told(
    store: MlflowClient, segmenter: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(segmenter, min(phantoms.iterdir()), data__labels="brats-ped") == 0
    (mask,) = (tmp_path / "out").glob("*.nii.gz")
    assert set(np.unique(np.asarray(nib.load(mask).dataobj))) == {0, 1, 2, 4}
    assert predict(segmenter, min(phantoms.iterdir()), "other", data__labels="brats2021", evaluate=True) == 2
    assert "evaluate=true: no truth can be read" in capsys.readouterr().err


def test_what_is_odd_in_a_case_is_said_beside_its_answer(
    store: MlflowClient, segmenter: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Path(shutil.copytree(min(phantoms.iterdir()), tmp_path / "case"))
    for name, value in (("t2f", 60000), ("seg", 4)):
        file = next(case.glob(f"*-{name}.nii.gz"))
        image = nib.load(file)
        voxels = np.asarray(image.dataobj).astype(np.int32)
        voxels[0, 0, 0] = value
        nib.save(nib.Nifti1Image(voxels, image.affine), file)
    turned = next(case.glob("*-t2w.nii.gz"))
    image = nib.load(turned)
    voxels = np.asarray(image.dataobj).astype(np.int32)
    nib.save(nib.Nifti1Image(voxels.max() - voxels, image.affine), turned)
    same = next(case.glob("*-t1c.nii.gz"))
    shutil.copy(next(case.glob("*-t1n.nii.gz")), same.with_name(same.name.replace("t1c", "T1post")))
    same.unlink()
    assert predict(segmenter, case, "not") in (2, 3) and "no t1c; looked for" in "".join(capsys.readouterr())
    assert predict(segmenter, case, data__suffixes="{t1c: [t1post]}") == 0
    (sentences,) = pd.read_csv(tmp_path / "out" / "predictions.csv")["outside"]
    assert "t1c = t1n: a channel that is a copy of another" in sentences
    assert "t2w: its brain is darker than its background, as of inverted grey" in sentences
    assert "t2f: 1 voxels of a value that no tissue has, up to 60000, became 0" in sentences
    told = capsys.readouterr().out
    assert "labels that data.labels does not have: 4" in told
    assert "These fit: -P data.labels=" in told
    assert "data.exclude" not in told, "which predict does not have"


def lacks_a_channel(case: Path) -> Path:
    next(case.glob("*-t2w.nii.gz")).unlink()
    return case


def dicom(case: Path) -> Path:
    shutil.rmtree(case)
    case.mkdir()
    (case / "IM0001").write_bytes(bytes(128) + b"DICM")
    return case


def three_channels(case: Path) -> Path:
    channels = [np.asarray(nib.load(file).dataobj) for file in sorted(case.glob("*-t*.nii.gz"))]
    nib.save(nib.Nifti1Image(np.stack(channels[:3], -1), np.eye(4)), case.parent / "stacked.nii.gz")
    return case.parent / "stacked.nii.gz"


def channels_first(case: Path) -> Path:
    channels = [np.asarray(nib.load(file).dataobj) for file in sorted(case.glob("*-t*.nii.gz"))]
    nib.save(nib.Nifti1Image(np.stack(channels), np.eye(4)), case.parent / "stacked.nii.gz")
    return case.parent / "stacked.nii.gz"


def stray_quote(case: Path) -> Path:
    (case.parent / "table.csv").write_text(f'path,patient\n{case},"p1\n{case}/nothing,p2\n')
    return case.parent / "table.csv"


def one_slice(case: Path) -> Path:
    for file in case.glob("*.nii.gz"):
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, 15:16], image.affine), file)
    return case


def pictures(case: Path) -> Path:
    Image.new("L", (64, 64)).save(case.parent / "picture.png")
    return case.parent / "picture.png"


BAD_INPUT: Mapping[Callable[[Path], Path], str] = {
    lacks_a_channel: "no t2w; looked for *-t2w.nii.gz or *-t2.nii.gz",
    dicom: "holds DICOM, NIfTI is wanted: convert it first, as with dcm2niix",
    three_channels: "3 channels along its last axis; expected 4",
    channels_first: "stacked: stacked.nii.gz: 32 channels along its last axis; expected 4. Repair the files.",
    stray_quote: "table.csv: line 2: a value begins with a quotation mark",
    one_slice: "a volume of one slice, 64 x 64 x 1 voxels",
    pictures: "takes volumes, as NIfTI; picture.png is none",
    lambda case: case.parent / "nowhere": "no such file or folder",
}


def test_bad_input_is_told_in_a_line_and_leaves_nothing(
    store: MlflowClient, segmenter: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (spoil, told) in enumerate(BAD_INPUT.items()):
        case = shutil.copytree(min(phantoms.iterdir()), tmp_path / str(number) / "case")
        assert predict(segmenter, spoil(Path(case))) == 2, told
        assert told in capsys.readouterr().err
        assert not (tmp_path / "out").exists(), "not even a folder"


def test_an_output_that_would_be_read_or_written_over_is_refused(
    store: MlflowClient, segmenter: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(segmenter, phantoms, phantoms / "out") == 2
    assert "lies in the input" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("years of work")
    assert predict(segmenter, phantoms, "mine") == 2
    assert "exists and holds thesis.docx; nothing is overwritten" in capsys.readouterr().err
    (tmp_path / "table.csv").write_text(f"id,path\n../escaped,{min(phantoms.iterdir())}\n")
    assert predict(segmenter, tmp_path / "table.csv") == 2
    assert "is no name of a file in the output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("escaped")] == []


def test_a_contract_that_this_version_does_not_know_is_refused(
    store: MlflowClient,
    publish: Callable[..., Any],
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = preprocessing(SPACING, SIZE).then(PadToMultiple(32))
    said = contract("phase1_encoder_merged", "features", made, {ONLY: FEATURES})
    said["preprocessing"]["steps"].insert(2, {"step": "skull_strip", "version": 1})
    publish(contract=said, architecture=ENCODER)
    assert predict("models:/phase1_encoder_merged/1", phantoms) == 2
    error = capsys.readouterr().err
    assert "step 'skull_strip' version 1 is unknown" in error
    assert "contract.json of phase1_encoder_merged version 1" in error
    assert not (tmp_path / "out").exists()


def test_pictures_are_classified_with_what_their_folders_say_beside(
    store: MlflowClient, publish: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {"kind": "multitask", "in_channels": 1, "base_filters": 4, "depth": 2, "classes": 2}
    outputs = {"seg": MASK, "cls": classes(("no tumour", "tumour"), "none: never trained")}
    said = contract("phase2_1_multitask", "seg, cls", of_images((32, 48)), outputs)
    publish(name="phase2_1_multitask", architecture=network, contract=said)
    rng = np.random.default_rng(0)
    for name in ("yes/a", "yes/b", "no/c", "no/copy_of_c", "no/b"):
        file = tmp_path / "pictures" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 90), np.uint8)).save(file)
    shutil.copy(tmp_path / "pictures" / "no" / "c.png", tmp_path / "pictures" / "no" / "copy_of_c.png")
    (tmp_path / "pictures" / "no" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "pictures" / "yes").rename(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "yes").symlink_to(tmp_path / "elsewhere")

    assert predict("models:/phase2_1_multitask/1", tmp_path / "pictures") == 3
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("case")
    np.testing.assert_allclose(rows["probability_no tumour"] + rows["probability_tumour"], 1, atol=1e-6)
    assert set(rows["calibration"]) == {"none: never trained"}
    assert np.asarray(Image.open(tmp_path / "out" / "yes" / "a.png.png")).shape == (40, 90)
    image = of_images((32, 48))
    pixels = np.asarray(Image.open(tmp_path / "pictures" / "yes" / "a.png"), np.float32)
    with torch.inference_mode():
        shares = registry.load("models:/phase2_1_multitask/1")(execute(image.steps, pixels)[None])["cls"].softmax(1)[0]
    assert rows.loc["yes/a.png", "probability_tumour"] == pytest.approx(float(shares[1]), abs=1e-6)
    told = capsys.readouterr().out
    assert "Calibration of the probabilities: none: never trained" in told and "voxels of another one" in told
    assert list(pd.read_csv(tmp_path / "out" / "errors.csv")["case"]) == ["no/broken.jpg"]
    assert pd.read_csv(tmp_path / "out" / "scores.csv").set_index("case")["label"].to_dict()["yes/b.png"] == 1
    owners = rows["patient"].to_dict()
    assert owners["yes/b.png"] != owners["no/b.png"], "a name that two folders have is no patient's"

    (tmp_path / "pictures" / "no").rename(tmp_path / "pictures" / "Healthy")
    (tmp_path / "pictures" / "yes").rename(tmp_path / "pictures" / "glioma")
    assert predict("models:/phase2_1_multitask/1", tmp_path / "pictures", "third", evaluate=True) == 2
    assert "one: -P 'data.classes={no: [Healthy], yes: [glioma]}'" in capsys.readouterr().err
    keys = {"data__classes": "{no: [healthy], yes: [glioma, menin]}"}
    assert predict("models:/phase2_1_multitask/1", tmp_path / "pictures", "third", **keys) == 2
    assert "no folder menin of data.classes with pictures in it; found Healthy/ (4 pictures)" in capsys.readouterr().err
    keys = {"data__classes": "{no: [healthy], yes: [glioma]}"}
    assert predict("models:/phase2_1_multitask/1", tmp_path / "pictures", "third", **keys) == 3
    labels = pd.read_csv(tmp_path / "third" / "scores.csv").set_index("case")["label"].to_dict()
    assert labels["glioma/a.png"] == 1 and labels["Healthy/c.png"] == 0

    said["outputs"]["cls"] = classes(("glioma", "meningioma"), "none: never trained")
    publish(name="phase2_1_multitask", architecture=network, contract=said)
    assert predict("models:/phase2_1_multitask/2", tmp_path / "pictures", "other", **keys) == 2
    assert "label: 'no', 'yes' is no class of the model, which tells glioma or meningioma apart" in capsys.readouterr().err


def test_scores_on_what_the_model_has_seen_are_no_external_validation(
    store: MlflowClient, publish: Callable[..., Any], phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = preprocessing(SPACING, SIZE).then(SlidingWindow(SIZE, 0.25, "gaussian"))
    said = contract("bsf_base", "logits", made, {ONLY: regions(DATA)})
    patient = min(phantoms.iterdir()).name.rpartition("-")[0]
    row = {"split": "train", "patient_sha256": patient_sha256(patient), "voxels_sha256": "0", "perceptual_hash": ""}
    publish(name="bsf_base", architecture=SEGMENTER, contract=said, cases=pd.DataFrame([row]))
    assert predict("models:/bsf_base/1", min(phantoms.iterdir())) == 0, "who asks for no validation gets his masks"
    assert "the scores are no external validation" in capsys.readouterr().out
    assert predict("models:/bsf_base/1", min(phantoms.iterdir()), "again", evaluate=True) == 3
    assert not [tag for tag in store.get_model_version("bsf_base", "1").tags if "external" in tag]
