"""Pairs are read, checked and split: what a network is given is what the files hold, and what cannot be used is named."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import spatial

from medexp.data.pairs.marks import DESCRIP, GENERATED_BY
from medexp.data.pairs.prepared import account, load_pair, prepare_pairs
from medexp.data.pairs.read import mask_on_grid
from medexp.errors import DataError
from tests.data.pairs.small_pairs import AFFINE, LESION, SHAPE, flair, lesion, pair_data, reads, write_bids, write_subject
from tests.data.volumes.small_cases import save


@pytest.fixture(scope="module")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bids(tmp_path_factory.mktemp("bids"), 8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_pair_on_the_networks_grid_lies_where_it_does_in_its_files(bids, cache):
    prepared = prepare_pairs(reads(cache, bids))
    pair = load_pair(prepared.cases["sub-001"], pair_data())
    assert pair.image.shape == pair.mask.shape == (1, 32, 32, 32)
    assert pair.image.dtype == np.float32 and pair.mask.dtype == np.uint8 and set(np.unique(pair.mask)) == {0, 1}
    assert pair.image.min() == 0 and pair.image.max() == 1 and (pair.image == 0).mean() > 0.8
    # The grid has the files' spacing here: the lesion comes back voxel by voxel, each where it was.
    voxels = nib.affines.apply_affine(np.linalg.inv(AFFINE) @ pair.affine, np.argwhere(pair.mask[0]))
    assert {tuple(voxel) for voxel in np.rint(voxels).astype(int)} == {tuple(voxel) for voxel in np.argwhere(lesion())}
    assert np.abs(voxels - np.rint(voxels)).max() < 1e-3
    raw = flair(1)[LESION].astype(float)
    brightness = np.corrcoef(pair.image[pair.mask > 0], flair(1)[tuple(np.rint(voxels).astype(int).T)])[0, 1]
    assert raw.std() > 0 and brightness > 0.99


@pytest.mark.parametrize("padding", [9999, -2000])
def test_padding_above_and_below_the_head_changes_nothing(bids, cache, tmp_path, padding):
    """What an inverted image has is refused as before: its background lies near its head."""
    for subject in range(1, 5):
        voxels = flair(subject)
        write_subject(tmp_path, f"sub-{subject:03d}", subject, FLAIR=np.where(voxels, voxels, padding).astype(np.int16))
    prepared = prepare_pairs(reads(cache, tmp_path))
    for grid in ((6.0, 6.0, 6.0), (5.0, 5.0, 5.0)):
        data = pair_data(spacing=grid)
        found = load_pair(prepared.cases["sub-001"], data)
        wanted = load_pair(prepare_pairs(reads(cache, bids)).cases["sub-001"], data)
        assert np.abs(found.image - wanted.image).max() < 1e-5 and np.array_equal(found.mask, wanted.mask)
    assert dict(account(prepared, pair_data()))["background"] == f"{padding} set to 0 (4 cases)"


def test_patients_are_split_and_the_manifest_says_what_they_are(bids, cache, tmp_path):
    prepared = prepare_pairs(reads(cache, bids))
    assert [len(prepared.ids(split)) for split in ("train", "val", "test")] == [4, 2, 2]
    row = prepared.manifest.iloc[0]
    ml = lesion().sum() * 0.216
    assert (row["case"], row["patient"], row["x"], row["spacing_x"], row["synthetic"]) == ("sub-001", "sub-001", 24, 6.0, 0)
    assert row["lesion_ml"] == pytest.approx(ml) and row["grid_ml"] == pytest.approx(ml)
    file = tmp_path / "data_splits.json"
    ids = sorted(prepared.cases)
    file.write_text(json.dumps({"train": ids[:5], "val": ids[5:7], "test": ids[7:]}))
    assert prepare_pairs(reads(cache, bids, splits=file)).ids("test") == ("sub-008",)
    told = dict(account(prepared, pair_data()))
    named = "a table, pair_data.patient_pattern or BIDS names the patient of 8 cases"
    assert told["pairs"] == f"8 cases of 8 patients, none with several; {named}; 0 synthetic"
    assert told["values of masks"] == "1 (8 cases)" and told["voxels of no tissue"] == "none"


def test_without_a_folder_the_phantoms_are_prepared(cache):
    pairs, healthy = prepare_pairs(reads(cache)), prepare_pairs(reads(cache), masks=False)
    assert (pairs.source, healthy.source) == ("FCD phantoms", "healthy phantoms")
    assert (pairs.manifest["lesion_ml"] > 1).all() and (healthy.manifest["lesion_ml"] == 0).all()
    assert np.abs(pairs.manifest["grid_ml"] / pairs.manifest["lesion_ml"] - 1).max() < 0.05
    both = pairs.manifest.query("patient == 'sub-fcd0003'")  # two sessions, along other axes
    assert len(both) == 2 and both["split"].nunique() == 1 and (pairs.manifest["duplicate_of"] != "").sum() == 1


@pytest.mark.parametrize("mark", ["column", "description", "header", "table"])
def test_synthetic_pairs_are_trained_on_alone_whatever_says_that_they_are(bids, cache, tmp_path, mark):
    drawn = write_bids(tmp_path / "drawn", 0)
    for number in (1, 2, 3):
        write_subject(drawn, f"sub-drawn{number}", seed=100 + number)
    if mark == "column":
        (drawn / "participants.tsv").write_text(
            "participant_id\tsynthetic\n" + "".join(f"sub-drawn{n}\t1\n" for n in (1, 2, 3))
        )
    elif mark == "description":
        (drawn / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": GENERATED_BY}]}))
    elif mark == "header":
        for path in drawn.rglob("*_roi.nii.gz"):
            image = nib.load(path)
            image.header["descrip"] = f"{DESCRIP} by phase7"
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    else:
        rows = [f"{image}\t{str(image).replace('FLAIR', 'FLAIR_roi')}\t1" for image in sorted(drawn.rglob("*_FLAIR.nii.gz"))]
        drawn = tmp_path / "drawn.tsv"
        drawn.write_text("\n".join(["image\tmask\tsynthetic", *rows]))
    alone, both = prepare_pairs(reads(cache, bids)), prepare_pairs(reads(cache, bids, drawn))
    assert (both.ids("val"), both.ids("test")) == (alone.ids("val"), alone.ids("test"))
    assert set(both.ids("train")) - set(alone.ids("train")) == {"sub-drawn1", "sub-drawn2", "sub-drawn3"}
    assert both.manifest.query("synthetic == 1")["split"].tolist() == ["train"] * 3
    file = tmp_path / "data_splits.json"
    named = {"train": list(alone.ids("train")), "val": list(alone.ids("val")), "test": list(alone.ids("test"))}
    file.write_text(json.dumps(named))
    assert prepare_pairs(reads(cache, bids, drawn, splits=file)).splits == both.splits
    file.write_text(json.dumps(named | {"val": [*named["val"], "sub-drawn2"]}))
    with pytest.raises(DataError, match="val: sub-drawn2: synthetic, and for training alone"):
        prepare_pairs(reads(cache, bids, drawn, splits=file))
    with pytest.raises(DataError, match="real pairs of nobody, 3 synthetic; training and validating take a real patient each"):
        prepare_pairs(reads(cache, drawn))


def test_a_synthetic_copy_of_a_judged_case_is_refused(bids, cache, tmp_path):
    judged = prepare_pairs(reads(cache, bids)).ids("test")[0]
    write_subject(tmp_path, "sub-copy", seed=int(judged[-3:]))
    (tmp_path / "participants.tsv").write_text("participant_id\tsynthetic\nsub-copy\t1\n")
    with pytest.raises(DataError, match=f"sub-copy has the voxels of {judged}"):
        prepare_pairs(reads(cache, bids, tmp_path))


def turned(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    around = np.array(
        [[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    return np.asarray(around @ AFFINE)


def test_forms_that_real_files_have_are_taken(cache, tmp_path):
    """0 and 255, floats, a rounded scale factor, rounded affines, axes of one, an oblique grid, values that are all lesion."""
    write_subject(tmp_path, "sub-plain", 1)
    write_subject(tmp_path, "sub-floats", 2, roi=lesion().astype(np.float64))
    write_subject(tmp_path, "sub-axis", 3, FLAIR=flair(3)[..., None], roi=lesion()[..., None, None])
    write_subject(tmp_path, "sub-rounded", 4, affine=AFFINE + 4e-4)
    save(tmp_path / "sub-oblique/sub-oblique_FLAIR.nii.gz", flair(5), turned(12))
    save(tmp_path / "sub-oblique/sub-oblique_roi.nii.gz", lesion(), turned(12))
    resampled = flair(7).astype(np.float32)
    resampled[9:12, 9:12, 9] = -40  # as interpolation leaves some
    write_subject(tmp_path, "sub-resampled", 7, FLAIR=resampled)
    write_subject(tmp_path, "sub-scaled", 6, roi=None)
    scaled = nib.Nifti1Image(lesion() * 255, AFFINE)
    scaled.header.set_slope_inter(np.float32(1 / 255), 0)
    nib.save(scaled, tmp_path / "sub-scaled/anat/sub-scaled_FLAIR_roi.nii.gz")
    prepared = prepare_pairs(reads(cache, tmp_path))
    assert (load_pair(prepared.cases["sub-resampled"], pair_data()).image == 0).mean() > 0.8  # the background stays at 0
    assert len(prepared.cases) == 7 and prepared.manifest["grid_ml"].round(2).nunique() == 1
    assert {fact.values for fact in prepared.facts.values()} == {(1,)}


def test_what_cannot_be_used_is_refused_by_name_and_all_at_once(cache, tmp_path):
    soft = lesion().astype(np.float32)
    soft[7, 9, 10] = 0.37
    far, tiny, beside = np.zeros(SHAPE, np.uint8), flair(1), np.zeros(SHAPE, np.uint8)
    far[2, 12, 10] = beside[0, 0, :3] = 1
    tiny[:, :, :7] = tiny[:, :, 14:] = 0
    holes = flair(3).astype(np.float32)
    holes[5, 5, 5] = np.nan
    scores = np.where(flair(4) > 0, (flair(4) - 550.0) / 200, 0).astype(np.float32)
    for name, changed in {
        "good": {},
        "wide": {"roi": lesion() * 255},
        "both": {"roi": lesion() + np.roll(lesion(), 3, 0)},
        "soft": {"roi": soft},
        "empty": {"roi": lesion() * 0},
        "shape": {"roi": lesion()[:, :, :-1]},
        "moved": {"affine": AFFINE + np.eye(4) * [0.1, 0, 0, 0]},
        "tiny": {"FLAIR": tiny},
        "flat": {"FLAIR": np.full(SHAPE, 7, np.int16)},
        "holes": {"FLAIR": holes},
        "scores": {"FLAIR": scores},
        "inverted": {"FLAIR": 1000 - flair(4)},
        "beside": {"roi": beside},
        "brain": {"roi": np.asarray(flair(0) > 0, np.uint8)},
    }.items():
        write_subject(tmp_path, f"sub-{name}", **changed)
    cut = tmp_path / "sub-cut/anat/sub-cut_FLAIR.nii.gz"
    write_subject(tmp_path, "sub-cut")
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / "sub-text").mkdir()
    (tmp_path / "sub-text/sub-text_FLAIR.nii.gz").write_text("/annex/objects/MD5E")
    (tmp_path / "sub-text/sub-text_roi.nii.gz").write_text("/annex/objects/MD5E")
    with pytest.raises(DataError) as error:
        prepare_pairs(reads(cache / "bad", tmp_path))
    told = str(error.value)
    for words in (
        "15 of 16 cases cannot be used",
        "case sub-wide: sub-wide_FLAIR_roi.nii.gz: labels that data.lesion does not have: 255 (36 voxels); it has [0, 1]",
        "sub-soft_FLAIR_roi.nii.gz: labels that are no integers, such as 0.37; it was resampled with interpolation: threshold "
        f"it, as by fslmaths {tmp_path}/sub-soft/anat/sub-soft_FLAIR_roi.nii.gz -thr 0.5 -bin NEW_MASK",
        "sub-empty_FLAIR_roi.nii.gz: an empty mask, no voxel of a lesion",
        "sub-shape_FLAIR_roi.nii.gz: shape (24, 26, 21) differs from (24, 26, 22) of sub-shape_FLAIR.nii.gz",
        "sub-moved_FLAIR_roi.nii.gz: affine differs by up to 0.1 from that of sub-moved_FLAIR.nii.gz",
        "case sub-tiny: a volume too small for the VAE: its head spans 20 x 22 x 7 voxels of data.spacing, of 16 along each",
        "case sub-flat: sub-flat_FLAIR.nii.gz: a constant channel, every voxel is 7.0",
        "sub-holes_FLAIR.nii.gz: 1 NaN or infinite voxels",
        "of its head is darker than the background (0), as of z-scores",
        "of its head is darker than the background (1000), as of z-scores",
        "case sub-beside: 100% of its lesion lies on background: the mask is of another image, or its affine is wrong",
        "case sub-brain: its lesion fills 100% of the head: it is a mask of the brain",
        "sub-cut_FLAIR.nii.gz: unreadable or truncated",
        "sub-text_FLAIR.nii.gz: unreadable or truncated",
        "leave the case out with -P 'data.exclude=[sub-empty]'.",
        "The masks hold 1,2,255. If all of that is lesion: -P 'data.lesion=[1,2,255]'; else write masks of 0 and 1",
    ):
        assert words in told
    assert "sub-good" not in told
    kept = {path.name for path in (cache / "bad").rglob("*") if path.is_file()}
    assert len(kept) == 1  # what is known of the good one


def test_a_map_of_probabilities_is_not_listed_as_labels(cache, tmp_path):
    chances = lesion()
    chances[chances > 0] = np.linspace(1, 100, chances.sum()).astype(np.uint8)
    write_subject(tmp_path, "sub-1", roi=chances)
    with pytest.raises(DataError) as error:
        prepare_pairs(reads(cache, tmp_path))
    told = str(error.value)
    assert "does not have: 3 (1 voxels)" in told and "and 27 more; it has [0, 1]" in told
    assert "The masks hold 36 values, from 1 to 100, as maps of probabilities" in told and "-thr VALUE -bin NEW_MASK" in told
    assert "data.lesion=[" not in told


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"input_size": (16, 32, 32)}, "of its lesion lies beyond the network's grid of 16 x 32 x 32 voxels of 6 x 6 x 6 mm"),
        ({"spacing": (30.0, 6.0, 6.0)}, "give a finer one, such as -P 'data.spacing=\\[8.4,6,6\\]'"),
        ({"lesion": (2,)}, "labels that data.lesion does not have: 1"),
        ({"patient_pattern": "^(sub)"}, r"sub\)'\) if these are several"),
    ],
)
def test_settings_that_do_not_fit_the_pairs(cache, tmp_path, changed, words):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 11:14, 10:12] = 1
    for number in (1, 2):
        write_subject(tmp_path, f"sub-{number}", number, roi=mask)
    with pytest.raises(DataError, match=words):
        prepare_pairs(reads(cache, tmp_path, **changed))


def test_a_lesion_that_no_voxel_of_the_grid_is_filled_by_is_lost(cache, tmp_path):
    fine = nib.affines.rescale_affine(AFFINE, SHAPE, (3, 3, 3), tuple(2 * edge for edge in SHAPE))
    for number in (1, 2):
        mask = np.zeros(tuple(2 * edge for edge in SHAPE), np.uint8)
        mask[20, 20, 20 : 20 + 6 * number] = 1
        image = flair(number).repeat(2, 0).repeat(2, 1).repeat(2, 2)
        save(tmp_path / f"sub-{number}/sub-{number}_FLAIR.nii.gz", image, fine)
        save(tmp_path / f"sub-{number}/sub-{number}_roi.nii.gz", mask, fine)
    with pytest.raises(DataError, match="case sub-1: its lesion of 0.16 ml is lost on the network's grid") as error:
        prepare_pairs(reads(cache, tmp_path, spacing=(7.5, 7.5, 6.0)))
    assert "give a finer data.spacing" in str(error.value)


@settings(max_examples=40)
@given(
    mask=hnp.arrays(np.uint8, (6, 7, 5), elements=st.integers(0, 1)),
    edges=st.tuples(*[st.floats(0.5, 6)] * 3),
    spacing=st.tuples(*[st.floats(1, 6)] * 3),
    degrees=st.floats(-20, 20),
)
def test_a_mask_keeps_its_volume_on_any_grid_that_holds_it(mask, edges, spacing, degrees):
    affine = turned(degrees) @ np.diag([*(np.array(edges) / 6), 1])
    affine[:3, 3] = -affine[:3, :3] @ np.array([3, 3.5, 2.5])
    shape = tuple(int(np.ceil(70 / edge)) for edge in spacing)
    grid = np.diag([*spacing, 1.0])
    grid[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    onto = mask_on_grid(mask, affine, grid, shape)
    assert onto.outside == 0
    voxel = np.prod(spacing)
    assert abs(onto.mask.sum() * voxel - mask.sum() * np.prod(edges)) <= voxel / 2 * (1 + 1e-9)
    if onto.mask.any():
        of_file = spatial.KDTree(nib.affines.apply_affine(affine, np.argwhere(mask)))
        away, _ = of_file.query(nib.affines.apply_affine(grid, np.argwhere(onto.mask)))
        assert away.max() <= (np.linalg.norm(spacing) + np.linalg.norm(edges)) / 2
