"""Files are told by how their names end, and what stands before says whose they are: no file of another case goes unseen, and
no real data set is refused for how it names its own."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medexp.config.data import SUFFIXES, known_by, suffix_problems
from medexp.data.volumes.brats import find_cases, image_files
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.inputs import find_inputs
from medexp.data.volumes.steps import ReadChannels
from medexp.data.volumes.suffixes import cases_in, modality_of, two_cases
from medexp.errors import DataError
from tests.data.volumes.small_cases import write_case

READ = ReadChannels(CHANNELS, SUFFIXES)
SCHEMES = (
    r"BraTS-(MEN|GLI|PED|SSA|MET)-[0-9]{5}-[0-9]{3}",
    r"BraTS-MEN-RT-[0-9]{4}-[1-3]",
    r"Brats(17|18)_CBICA_A[A-Z]{2}_1",
    r"BraTS20_Training_[0-9]{3}",
    r"UPENN-GBM-[0-9]{5}_[12]1",
    r"UCSF-PDGM-[0-9]{4}",
    r"TCGA-[0-9]{2}-[0-9]{4}_[12][0-9]{3}\.0[1-9]\.[0-2][1-9]",
    r"PatientID_[0-9]{4}_Timepoint_[1-6]",
    r"sub-[a-z0-9]{2,6}_ses-[0-9]{1,2}",
    r"[0-9]{6}[AB]",
    r"[0-9]{4}",
)
WORDS = st.lists(st.sampled_from(["brain", "reg", "skullstripped", "preproc", "bias", "final"]), max_size=2, unique=True)


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@settings(max_examples=150, deadline=None)
@given(data=st.data(), scheme=st.sampled_from(SCHEMES), words=WORDS, others=WORDS)
def test_two_ids_of_a_scheme_are_two_cases_and_words_behind_an_id_are_not(data, scheme, words, others):
    one, other = (data.draw(st.from_regex(scheme, fullmatch=True), label=name) for name in ("one", "other"))
    mine, also, theirs = "_".join([one, *words]), "_".join([one, *others]), "_".join([other, *others])
    assert not two_cases(mine, also)
    assert two_cases(mine, theirs) == two_cases(theirs, mine) == (one != other)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), scheme=st.sampled_from(SCHEMES), strange=st.sampled_from([*CHANNELS, "seg"]))
def test_a_file_of_another_case_is_named_by_whoever_reads_folders(tmp_path_factory, data_config, data, scheme, strange):
    one, other = (data.draw(st.from_regex(scheme, fullmatch=True), label=name) for name in ("one", "other"))
    root = tmp_path_factory.mktemp("root")
    folder = touch(root / "scan", *(f"{other if name == strange else one}_{name}.nii.gz" for name in SUFFIXES))
    readers = {
        "prepare": lambda: find_cases(root, data_config()),
        "a table": lambda: image_files(folder, CHANNELS),
        "predict": lambda: "; ".join(find_inputs(root, READ).problems.values()),
        "a bundle": lambda: cases_in(root, {name: SUFFIXES[name] for name in CHANNELS}),
    }
    for name, read in readers.items():
        told = ""
        try:
            told = str(read())
        except (DataError, FileNotFoundError) as error:
            told = str(error)
        mixed = one != other and (strange != "seg" or name in ("prepare", "predict"))  # others read no segmentation
        assert ("files of several cases" in told) == mixed, name
        assert not mixed or f"{other}_{strange}.nii.gz" in told, name


FULL = ("FLAIR", "T1c", "T1", "T2", "tumor_segmentation", "brain_segmentation", "T1c_bias", "ADC")
REAL = {
    "UCSF-PDGM": ("UCSF-PDGM-0004_nifti", [f"UCSF-PDGM-0004_{name}.nii.gz" for name in FULL], {}),
    "UPENN-GBM": (
        "UPENN-GBM-00002_11",
        [f"UPENN-GBM-00002_11_{name}.nii.gz" for name in ("FLAIR", "T1GD", "T1", "T2", "automated_approx_segm")],
        {},
    ),
    "BraTS-TCGA": (
        "TCGA-02-0003",
        [f"TCGA-02-0003_1997.06.08_{name}.nii.gz" for name in ("flair", "t1Gd", "t1", "t2", "GlistrBoost")],
        {"seg": ("GlistrBoost",)},
    ),
    "BraTS 2019": (
        "BraTS19_CBICA_AAB_1",
        [f"BraTS19_CBICA_AAB_1_{name}.nii" for name in ("flair", "t1ce", "t1", "t2", "seg")],
        {},
    ),
    "MU-Glioma-Post": (
        "Timepoint_1",
        [
            f"PatientID_0003_Timepoint_1_{name}.nii.gz"
            for name in ("brain_t2f", "brain_t1c", "brain_t1n", "brain_t2w", "tumorMask")
        ],
        {"seg": ("tumorMask",)},
    ),
    "BIDS": (
        "anat",
        [f"sub-01_ses-2_{name}.nii.gz" for name in ("FLAIR", "ce-gd_T1w", "acq-3_T1w", "run-2_T2w", "space-x_label-1_mask")],
        {"t1c": ("ce-gd_T1w",), "t1n": ("T1w",), "seg": ("mask",)},
    ),
    "no id": ("P1", [f"{name}.nii.gz" for name in ("brain_flair", "brain_t1ce", "reg_t1", "reg_t2", "tumor_seg")], {}),
    "nnU-Net": (
        "BRATS_001",
        [f"BRATS_001_{name}.nii.gz" for name in ("0000", "0001", "0002", "0003", "label")],
        dict(
            zip(
                (*CHANNELS[:1], "t1n", "t1c", "t2w", "seg"),
                (("0000",), ("0001",), ("0002",), ("0003",), ("label",)),
                strict=True,
            )
        ),
    ),
}


@pytest.mark.parametrize(("folder", "names", "suffixes"), REAL.values(), ids=REAL)
def test_real_data_sets_are_found_as_they_lie(tmp_path, data_config, folder, names, suffixes):
    touch(tmp_path / folder, *names)
    assert not list(suffix_problems(suffixes))
    (case,) = find_cases(tmp_path, data_config(suffixes=suffixes))
    assert [path.name for path in case.files] == [names[0], names[1], names[2], names[3], names[4]] or "BRATS" in folder
    assert image_files(tmp_path / folder, CHANNELS, known_by(suffixes)) == case.images
    (found,) = find_inputs(tmp_path, ReadChannels(CHANNELS, known_by(suffixes))).cases
    assert (found.images, found.label) == (case.images, case.label)


@pytest.mark.parametrize(
    ("folder", "files", "told"),
    [
        ("BraTS-MEN-00003-000", "BraTS-MEN-00044-000", True),
        ("BraTS-MEN-00003", "BraTS-MEN-00044-000", True),
        ("Brats18_CBICA_AAB_1", "Brats18_CBICA_AAG_1", True),
        ("0011", "0012", True),
        ("sub-01", "sub-02_ses-1", True),
        ("BraTS-MEN-00003", "BraTS-MEN-00003-001", False),
        ("UCSF-PDGM-0004_nifti", "UCSF-PDGM-0004", False),
        ("7", "BraTS-MEN-00044-000", False),
        ("patient_01", "subject_44", False),
    ],
)
def test_a_folder_may_be_called_otherwise_but_not_as_another_case(tmp_path, data_config, folder, files, told):
    touch(tmp_path / folder, *(f"{files}-{name}.nii.gz" for name in SUFFIXES))
    if told:
        with pytest.raises(DataError, match=f"{folder}: its files are called {files}.*rename"):
            find_cases(tmp_path, data_config())
        assert list(find_inputs(tmp_path, READ).problems) == [folder]
    else:
        assert find_cases(tmp_path, data_config())[0].id == folder
        assert [case.id for case in find_inputs(tmp_path, READ).cases] == [folder]


ENDINGS = st.from_regex(r"[a-z0-9]{1,6}([-_][a-z0-9]{1,6})?", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(names=st.lists(ENDINGS, min_size=5, max_size=5, unique_by=str.lower), upper=st.booleans())
def test_any_five_endings_are_told_apart(names, upper):
    suffixes = dict(zip(SUFFIXES, ((name,) for name in names), strict=True))
    assert not list(suffix_problems(suffixes))
    for modality, (ending,) in suffixes.items():
        name = f"case-1_{ending.upper() if upper else ending}.nii.gz"
        assert modality_of(name, suffixes) == ("case-1", modality)


@pytest.mark.parametrize(
    ("suffixes", "words"),
    [
        ({"t3": ("x",)}, "found t3; known are t2f, t1c, t1n, t2w, seg"),
        ({"seg": ()}, "seg has no ending"),
        ({"seg": ("mask.nii.gz",)}, "what stands between"),
        ({"seg": ("_",)}, "what stands between"),
        ({"seg": ("a/b",)}, "what stands between"),
        ({"t1c": ("T1",)}, r"t1 \(t1c and t1n\) would be two files' ending"),
    ],
)
def test_endings_that_cannot_be(suffixes, words):
    with pytest.raises(AssertionError, match=words):
        assert not list(suffix_problems(suffixes))


def test_channels_may_change_their_endings(tmp_path, data_config):
    swapped = {"t1c": ("t1n",), "t1n": ("t1c",)}
    assert not list(suffix_problems(swapped))
    write_case(tmp_path, "c")
    (case,) = find_cases(tmp_path, data_config(suffixes=swapped))
    assert [path.name for path in case.images[1:3]] == ["c-t1n.nii.gz", "c-t1c.nii.gz"]


def two_levels(root):
    for name in ("HGG", "LGG"):
        write_case(root / name, f"{name}_1")
    return ["in its folders: HGG/ (1), LGG/ (1)", f"ln -s {root}/*/* ALL/"]


def one_level(root):
    write_case(root / "training", "a")
    write_case(root / "training", "b")
    return [f"no case in it, but 2 in training/: give data_dir={root / 'training'}"]


def flat(root):
    for case in ("a", "b"):
        for file in write_case(root / "x", case).iterdir():
            file.rename(root / file.name)
        (root / "x" / case).rmdir()
    (root / "x").rmdir()
    return ["the files of 2 cases side by side", "as a/"]


def a_folder_like_a_file(root):
    file = write_case(root, "a") / "a-t1c.nii.gz"
    file.rename(root / "moved")
    file.mkdir()
    (root / "moved").rename(file / "x.nii.gz")
    return ["a: no t1c", "not taken: a-t1c.nii.gz (a folder; put the file that it holds in its place)"]


def another_name(root):
    file = write_case(root, "a") / "a-seg.nii.gz"
    file.rename(file.with_name("a-lesion.nii.gz"))
    return ["a: no seg", "not taken: a-lesion.nii.gz", "data.suffixes={t1c: [ENDING], seg: [ENDING]}"]


def another_case(root):
    file = write_case(root, "BraTS20_Training_355") / "BraTS20_Training_355-seg.nii.gz"
    file.rename(file.with_name("W39_1998.09.19_Segm.nii.gz"))
    return ["W39_1998.09.19 (W39_1998.09.19_Segm.nii.gz)", "rename those that are of this one"]


def a_dead_folder(root):
    write_case(root, "a")
    (root / "b").symlink_to(root / "unmounted")
    return [f"b is a link to {root / 'unmounted'}, which is not there"]


@pytest.mark.parametrize(
    "layout", [two_levels, one_level, flat, a_folder_like_a_file, another_name, another_case, a_dead_folder]
)
def test_another_layout_is_told_with_what_is_there_and_what_to_give(tmp_path, data_config, layout):
    words = layout(tmp_path)
    with pytest.raises(DataError) as error:
        find_cases(tmp_path, data_config())
    for expected in words:
        assert expected in str(error.value)


def test_what_is_advised_for_two_levels_works(tmp_path, data_config):
    (tmp_path / "data").mkdir()
    two_levels(tmp_path / "data")
    (tmp_path / "ALL").mkdir()
    for case in sorted((tmp_path / "data").glob("*/*")):
        (tmp_path / "ALL" / case.name).symlink_to(case)
    assert [case.id for case in find_cases(tmp_path / "ALL", data_config())] == ["HGG_1", "LGG_1"]


def test_a_dead_link_among_folders_to_predict_is_no_case_less(tmp_path):
    write_case(tmp_path, "a")
    (tmp_path / "b").symlink_to(tmp_path / "unmounted")
    found = find_inputs(tmp_path, READ)
    assert [case.id for case in found.cases] == ["a"] and "which is not there" in found.problems["b"]
    assert np.all([path.exists() for path in found.cases[0].files])
