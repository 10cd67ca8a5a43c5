"""Pairs are found by what their files are called, in the layouts that real data sets have; what cannot be told is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.data.pairs.find import find_pairs
from medexp.errors import DataError
from tests.data.pairs.small_pairs import pair_data


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(root: Path, masks: bool = True, **changed: object) -> dict[str, tuple[str, str, str]]:
    """By id: patient, image and mask."""
    cases = find_pairs([root], pair_data(**changed), masks).cases
    return {case.id: (case.patient, case.images[0].name, case.label.name if case.label else "") for case in cases}


def test_bonns_layout(tmp_path):
    """As OpenNeuro's ds004199: a mask beside its FLAIR, a T1 beside both, controls without masks."""
    for number in ("00001", "00002"):
        stem = f"sub-{number}/anat/sub-{number}_acq"
        touch(tmp_path, f"{stem}-T2sel_FLAIR.nii.gz", f"{stem}-iso08_T1w.nii.gz", f"{stem}-T2sel_FLAIR.json")
    touch(tmp_path, "sub-00001/anat/sub-00001_acq-T2sel_FLAIR_roi.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-00001\tfcd\nsub-00002\thc\n")
    (tmp_path / "sub-00001" / "again").symlink_to(tmp_path, target_is_directory=True)
    image, mask = "sub-00001_acq-T2sel_FLAIR.nii.gz", "sub-00001_acq-T2sel_FLAIR_roi.nii.gz"
    assert found(tmp_path) == {"sub-00001": ("sub-00001", image, mask)}
    assert find_pairs([tmp_path], pair_data()).left == ("sub-00002",)
    assert list(found(tmp_path, masks=False)) == ["sub-00002"]


def test_masks_under_derivatives_sessions_and_runs(tmp_path):
    lesions = "derivatives/lesions/sub-1"
    touch(tmp_path, "sub-1/ses-a/anat/sub-1_ses-a_FLAIR.nii.gz", f"{lesions}/ses-a/anat/sub-1_ses-a_label-lesion_mask.nii")
    touch(tmp_path, "sub-1/ses-b/anat/sub-1_ses-b_run-1_FLAIR.nii.gz", "sub-1/ses-b/anat/sub-1_ses-b_run-2_FLAIR.nii.gz")
    touch(tmp_path, f"{lesions}/ses-b/sub-1_ses-b_run-2_label-lesion_roi.nii.gz", "derivatives/fs/sub-1/brain_mask.nii.gz")
    touch(
        tmp_path, "derivatives/prep/sub-1/ses-a/anat/sub-1_ses-a_desc-preproc_FLAIR.nii.gz", "sub-1/ses-a/anat/._x_FLAIR.nii"
    )
    told = found(tmp_path)
    assert {case: patient for case, (patient, *_) in told.items()} == {"sub-1_ses-a": "sub-1", "sub-1_ses-b_run-2": "sub-1"}
    assert told["sub-1_ses-a"][2] == "sub-1_ses-a_label-lesion_mask.nii"
    with pytest.raises(DataError, match="no volume without a mask"):  # the other run is of a patient with a lesion
        find_pairs([tmp_path], pair_data(), masks=False)
    assert {patient for patient, *_ in found(tmp_path, patient_pattern="nothing(x)").values()} == {"sub-1"}


def test_folders_of_cases_flat_files_and_tables(tmp_path):
    touch(tmp_path / "b", *(f"TCGA-01/TCGA-01-{name}.nii.gz" for name in ("t1c", "t1n", "t2f", "t2w", "seg")))
    touch(tmp_path / "b", "p7/flair.nii", "p7/lesion_mask.nii")
    assert found(tmp_path / "b") == {
        "TCGA-01": ("TCGA-01", "TCGA-01-t2f.nii.gz", "TCGA-01-seg.nii.gz"),
        "p7": ("p7", "flair.nii", "lesion_mask.nii"),
    }
    touch(tmp_path / "flat", "p1_FLAIR.nii.gz", "p1_roi.nii.gz", "p10_FLAIR.nii.gz", "p10_FLAIR_mask.nii.gz", "p2_flair.nii")
    touch(tmp_path / "flat", "p1_late_FLAIR.nii.gz", "p1_late_roi.nii.gz")
    assert {case: mask for case, (_, _, mask) in found(tmp_path / "flat").items()} == {
        "p1": "p1_roi.nii.gz",
        "p1_late": "p1_late_roi.nii.gz",
        "p10": "p10_FLAIR_mask.nii.gz",
    }
    table = tmp_path / "flat" / "pairs.csv"
    table.write_text("image,mask,patient,synthetic,age\np1_FLAIR.nii.gz,p10_FLAIR_mask.nii.gz,anna,0,3\np2_flair.nii,,,yes,\n")
    assert found(table) == {"p1": ("anna", "p1_FLAIR.nii.gz", "p10_FLAIR_mask.nii.gz")}
    table.write_text("image\tmask\tsynthetic\tcase\np2_flair.nii\tp1_roi.nii.gz\ttrue\tx\n")
    told = find_pairs([table.rename(table.with_suffix(".tsv"))], pair_data())
    assert told.synthetic == {"x"}
    both = find_pairs([tmp_path / "flat", tmp_path / "b"], pair_data(exclude=("p1",)))
    assert [case.id for case in both.cases] == ["TCGA-01", "p10", "p1_late", "p7"] and both.left == ("p2",)


def test_pairs_of_other_names_are_named_by_their_endings(tmp_path):
    touch(tmp_path, *(f"p1/p1_{name}.nii.gz" for name in ("FLAIR", "FLAIR_roi", "T2_prep", "OUTLINE")), "p2/t2_prep.nii")
    own = {"t2f": ("t2_prep",), "seg": ("outline",)}
    assert found(tmp_path, suffixes=own) == {"p1": ("p1", "p1_T2_prep.nii.gz", "p1_OUTLINE.nii.gz")}
    assert list(found(tmp_path, masks=False, suffixes=own)) == ["p2"]
    assert found(tmp_path, suffixes={"seg": ("outline",)}) == {"p1": ("p1", "p1_FLAIR.nii.gz", "p1_OUTLINE.nii.gz")}
    (tmp_path / "pairs.csv").write_text("image,mask\np1/p1_T2_prep.nii.gz,p1/p1_OUTLINE.nii.gz\n")
    assert list(found(tmp_path / "pairs.csv", suffixes=own)) == ["p1"]
    with pytest.raises(DataError, match=r"no FLAIR in it.*-P 'data\.suffixes=\{t2f: \[ENDING\], seg: \[ENDING\]\}'"):
        find_pairs([tmp_path / "p2"], pair_data())
    assert list(pair_data(suffixes={"t1c": ("t1c",)}).problems()) == ["suffixes: found t1c; known are t2f, seg"]
    (told,) = pair_data(suffixes={"t2f": ("seg",)}).problems()
    assert told.startswith("suffixes: seg (t2f and seg) would be two files' ending")


def test_folders_that_are_called_alike_are_cases_of_their_own(tmp_path):
    """A patient's folder with one `anat` in each; and two visits in each patient's folder."""
    touch(tmp_path / "anat", *(f"p{number}/anat/{name}.nii.gz" for number in (1, 2, 3) for name in ("flair", "roi")))
    (tmp_path / "anat/p3/anat/roi.nii.gz").unlink()
    told = find_pairs([tmp_path / "anat"], pair_data())
    assert {case.id: case.label for case in told.cases} == {
        f"p{number}_anat": tmp_path / f"anat/p{number}/anat/roi.nii.gz" for number in (1, 2)
    }
    assert told.left == ("p3_anat",)
    visits = (f"p{number}/v{visit}_{name}.nii" for number in (1, 2) for visit in (1, 2) for name in ("FLAIR", "FLAIR_roi"))
    told = find_pairs([touch(tmp_path / "visits", *visits)], pair_data(patient_pattern="^(p[0-9])"))
    assert [(case.id, case.patient) for case in told.cases] == [
        ("p1_v1", "p1"),
        ("p1_v2", "p1"),
        ("p2_v1", "p2"),
        ("p2_v2", "p2"),
    ]
    for case in told.cases:
        assert case.label and case.images[0].parent == case.label.parent == tmp_path / "visits" / case.patient
    touch(tmp_path / "visits", "p1/v1/flair.nii", "q/v1/flair.nii")
    with pytest.raises(DataError, match="p1_v1: .*v1_FLAIR.nii and .*flair.nii are both called so; name them in a table"):
        find_pairs([tmp_path / "visits"], pair_data())


def test_a_brains_mask_on_the_flairs_grid_is_no_lesions(tmp_path):
    touch(tmp_path / "one", "sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1/anat/sub-1_FLAIR_brain_mask.nii.gz")
    touch(tmp_path / "two", "sub-1/anat/sub-1_FLAIR.nii.gz", "derivatives/bet/sub-1/sub-1_space-FLAIR_desc-brain_mask.nii.gz")
    for place in ("one", "two"):
        with pytest.raises(DataError, match="1 volumes, none with a mask"):
            find_pairs([tmp_path / place], pair_data())
        touch(tmp_path / place, "derivatives/drawn/sub-1/sub-1_space-FLAIR_desc-lesion_mask.nii.gz")
        assert found(tmp_path / place)["sub-1"][2] == "sub-1_space-FLAIR_desc-lesion_mask.nii.gz"
    touch(
        tmp_path / "lesion", "p_FLAIR.nii.gz", "p_FLAIR_brain_lesion_mask.nii.gz", "q_FLAIR.nii.gz", "q_FLAIR_wm_lesions.nii"
    )
    assert list(found(tmp_path / "lesion")) == ["p", "q"]


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    flat = touch(tmp_path / "flat", "a_FLAIR.nii.gz", "a_roi.nii.gz", "a_lesion.nii.gz", "b_FLAIR.nii.gz", "c_roi.nii.gz")
    bids = touch(tmp_path / "bids", "sub-1/sub-1_run-1_FLAIR.nii", "sub-1/sub-1_run-2_FLAIR.nii", "sub-1/sub-1_roi.nii")
    touch(bids, "sub-2/sub-2_T1w_label-lesion_roi.nii.gz", "sub-2/sub-2_FLAIR.nii.gz", "sub-3/sub-3_roi.nii.gz")
    (bids / "sub-4").mkdir()
    (bids / "sub-4" / "sub-4_FLAIR.nii.gz").symlink_to("../.git/annex/objects/x")
    other = touch(tmp_path / "other", "a_FLAIR.nii.gz", "a_roi.nii.gz")
    only_t1 = touch(tmp_path / "t1", "sub-1/sub-1_T1w.nii.gz", "sub-2/sub-2_T1w.nii.gz")
    (tmp_path / "twice.tsv").write_text("image\timage\tmask\n")
    (tmp_path / "none.tsv").write_text("path\n1\n")
    rows = [
        "x.nii\t\t0",
        "flat/a_FLAIR.nii.gz\ty.nii\t0",
        "flat/b_FLAIR.nii.gz\t\tperhaps",
        "\tx.nii\t",
        "1",
        "~nobody_here/x.nii\t\t0",
    ]
    (tmp_path / "rows.tsv").write_text("image\tmask\tsynthetic\n" + "\n".join(rows))
    places = [flat, bids, other, only_t1, *(tmp_path / f"{name}.tsv" for name in ("twice", "none", "rows")), tmp_path / "no"]
    with pytest.raises(DataError) as error:
        find_pairs(places, pair_data(exclude=("nobody",)))
    told = str(error.value)
    for words in (
        f"{flat}: a: 2 masks (a_lesion.nii.gz, a_roi.nii.gz); keep one, or name one in a table",
        "c_roi.nii.gz: its name does not say which of a_FLAIR.nii.gz, b_FLAIR.nii.gz it is of",
        "sub-1_roi.nii: its name does not say which of sub-1_run-1_FLAIR.nii, sub-1_run-2_FLAIR.nii it is of",
        "sub-2: sub-2_T1w_label-lesion_roi.nii.gz is no mask of its FLAIR",
        "sub-3_roi.nii.gz: no FLAIR beside it",
        "sub-4_FLAIR.nii.gz is a link to ../.git/annex/objects/x, which is not there; fetch it",
        f"case a stands in {flat}, {other}",
        f"{only_t1}: no FLAIR in it; it holds *T1w (2)",
        "twice.tsv: column image stands 2 times",
        "none.tsv: no column image; found path; no column mask; found path",
        f"rows.tsv: line 2: image {tmp_path / 'x.nii'}: no such file",
        f"rows.tsv: line 3: mask {tmp_path / 'y.nii'}: no such file",
        "rows.tsv: line 4: synthetic is 'perhaps'; allowed are 1 and 0",
        "rows.tsv: line 5: image is empty",
        "rows.tsv: line 6: 1 values, the header has 3 columns",
        "rows.tsv: line 7: found ~nobody_here/x.nii; this machine has no user nobody_here",
        f"{tmp_path / 'no'}: no such folder or table",
        "data.exclude: no case nobody in it",
        "or leave cases out with -P 'data.exclude=[ID, ...]'",
    ):
        assert words in told
    with pytest.raises(DataError, match="no pair in .*: 1 volumes, none with a mask"):
        find_pairs([touch(tmp_path / "alone", "x_FLAIR.nii.gz")], pair_data())


ENTITY = st.from_regex(r"[A-Za-z0-9]{1,4}", fullmatch=True)


@settings(max_examples=25)
@given(st.lists(st.tuples(ENTITY, ENTITY, st.booleans()), min_size=1, max_size=5, unique_by=lambda one: one[0].lower()))
def test_whatever_subjects_are_called_each_mask_is_of_its_own_flair(tmp_path_factory, subjects):
    root = tmp_path_factory.mktemp("bids")
    for subject, acquisition, beside in subjects:
        stem = f"sub-{subject}_acq-{acquisition}"
        mask = f"sub-{subject}/anat/{stem}_FLAIR_roi.nii.gz"
        if not beside:
            mask = f"derivatives/l/sub-{subject}/anat/sub-{subject}_label-lesion_mask.nii.gz"
        touch(root, f"sub-{subject}/anat/{stem}_FLAIR.nii.gz", f"sub-{subject}/anat/{stem}_T1w.nii.gz", mask)
    told = found(root)
    assert set(told) == {f"sub-{subject}" for subject, *_ in subjects}
    for case, (patient, image, mask) in told.items():
        assert patient == case and image.startswith(f"{case}_acq-") and image.endswith("_FLAIR.nii.gz")
        assert mask.startswith(f"{case}_") and mask.endswith(("_roi.nii.gz", "_mask.nii.gz"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["C-001/C-001-t2f.nii.gz", "C-001/C-009-seg.nii.gz"],
            "C-001: C-001-t2f.nii.gz and C-009-seg.nii.gz are called as two",
        ),
        (
            ["C-003/C-007-t2f.nii.gz", "C-003/C-007-seg.nii.gz"],
            "C-003: its files are called C-007, and patients go by the folder",
        ),
        (
            ["sub-04/anat/sub-05_FLAIR.nii.gz", "sub-04/anat/sub-05_roi.nii.gz"],
            "sub-05: sub-05_FLAIR.nii.gz lies under sub-04",
        ),
        (
            ["sub-1/ses-1/sub-1_ses-2_FLAIR.nii.gz", "sub-1/ses-1/sub-1_ses-2_roi.nii.gz"],
            "sub-1_ses-1: sub-1_ses-2_FLAIR.nii.gz lies under ses-1",
        ),
    ],
)
def test_a_file_of_another_case_is_told_and_left_out_with_its_case(tmp_path, files, words):
    touch(tmp_path, *files, "sub-99/anat/sub-99_FLAIR.nii.gz", "sub-99/anat/sub-99_roi.nii.gz")
    with pytest.raises(DataError) as error:
        find_pairs([tmp_path], pair_data())
    assert words in str(error.value) and "sub-99" not in str(error.value)
    assert list(found(tmp_path, exclude=(words.partition(":")[0],))) == ["sub-99"]


def test_names_without_an_id_and_words_behind_one_are_of_one_case(tmp_path):
    touch(tmp_path, "P1/brain_FLAIR.nii.gz", "P1/lesion_mask.nii.gz", "P2/P2_reg_FLAIR.nii.gz", "P2/P2_lesion_mask.nii.gz")
    assert [mask for _, _, mask in found(tmp_path).values()] == ["lesion_mask.nii.gz", "P2_lesion_mask.nii.gz"]


def test_a_volume_of_another_format_is_told_and_not_left_out_in_silence(tmp_path: Path) -> None:
    """MONAI 7371: of the same NRRD file different readers make different axes."""
    touch(tmp_path, "a_FLAIR.nii.gz", "a_roi.nii.gz", "b_FLAIR.nii.gz", "b_roi.nrrd")
    with pytest.raises(DataError, match=r"b_roi.nrrd: NIfTI alone is read; convert it to .nii.gz"):
        find_pairs([tmp_path], pair_data())
    (tmp_path / "alone").mkdir()
    with pytest.raises(DataError, match=r"^pairs: .*no NIfTI file; a_FLAIR.mha: NIfTI alone is read"):
        find_pairs([touch(tmp_path / "alone", "a_FLAIR.mha")], pair_data(), block="pair_data")
