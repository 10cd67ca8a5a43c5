"""What is odd in the cases is named, all at once, and stops whoever reads them until it is meant; what is not odd never is."""

import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medexp.config.editions import EDITIONS, fitting
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.cases import REGION_CLASSES, Volume
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.oddities import account, odd
from medexp.data.volumes.prepared import prepare_volumes
from medexp.data.volumes.regions import to_regions
from medexp.data.volumes.transforms import preprocess
from medexp.errors import DataError
from tests.data.volumes.small_cases import AFFINE, SHAPE, blob, write_case
from tests.small import prepare_config


def dot(value: int = 3, **place: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[place.get("x", 6), place.get("y", 6), place.get("z", 4)] = value
    return label


def cored() -> np.ndarray:
    """Edema with one voxel of core in it."""
    label = blob(2)
    label[6, 6, 4] = 1
    return label


def lost_tumour(root):
    for number in (1, 2):
        write_case(root, f"BraTS-MEN-0000{number}-000", seed=number, seg=dot())
    return "2 of 4 cases have no voxel of the tumour left at 6 x 6 x 9 mm: BraTS-MEN-00001-000, BraTS-MEN-00002-000"


def lost_region(root):
    write_case(root, "BraTS-MEN-00002-000", seed=2, seg=cored())
    return "1 of 4 cases has no voxel of a region left at 6 x 6 x 9 mm: BraTS-MEN-00002-000 (TC)"


def no_background(root):
    full = np.random.default_rng(0).integers(100, 900, SHAPE).astype(np.int16)
    write_case(root, "BraTS-MEN-00003-000", seed=3, t1n=full)
    return "1 of 4 cases has a channel in which nothing can be told from the brain"


def outside_brain(root):
    label = blob()
    label[0, :, :] = 2
    write_case(root, "BraTS-MEN-00001-000", seed=1, seg=label)
    return "1 of 4 cases has a tumour that lies where all channels are background: BraTS-MEN-00001-000 (32%)"


def edition(root):
    write_case(root, "BraTS-PED-00004-000", seed=4)
    return "1 of 5 cases has the name of BraTS-PED, of which the edition of 2023 alone has the labels of brats2023"


def two_affines(root):
    file = write_case(root, "BraTS-MEN-00002-000", seed=2) / "BraTS-MEN-00002-000-seg.nii.gz"
    image = nib.load(file)
    image.set_qform(np.diag([-1.3, -1.3, 10, 1]), 1)
    nib.save(image, file)
    said = "2 x 2 x 3 mm LPS by its sform, 1.3 x 1.3 x 10 mm LPS by its qform"
    told = "1 of 4 cases has a header that says two geometries, of which the sform is read"
    return f"{told}: BraTS-MEN-00002-000 ({file.name}: {said})"


def same_channels(root):
    folder = write_case(root, "BraTS-MEN-00001-000", seed=1)
    shutil.copy(folder / "BraTS-MEN-00001-000-t1n.nii.gz", folder / "BraTS-MEN-00001-000-t1c.nii.gz")
    return "1 of 4 cases has a channel that is a copy of another one: BraTS-MEN-00001-000 (t1c = t1n)"


def inverted(root):
    file = write_case(root, "BraTS-MEN-00002-000", seed=2) / "BraTS-MEN-00002-000-t2w.nii.gz"
    image = nib.load(file)
    values = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image((values.max() - values).astype(values.dtype), image.affine), file)
    return "1 of 4 cases has a channel whose brain is darker than its background, as of inverted grey"


KINDS = (lost_tumour, lost_region, no_background, outside_brain, edition, two_affines, same_channels, inverted)
ODD = {make.__name__: make for make in KINDS}


@pytest.fixture
def config(tmp_path, data_config):
    """Four good cases of four patients, on a coarse grid."""
    for number in range(4):
        write_case(tmp_path / "data", f"BraTS-MEN-0000{number}-000", seed=number)
    return prepare_config(tmp_path / "cache", data_dir=str(tmp_path / "data"), data=data_config(spacing=(6, 6, 9)))


def test_good_cases_are_not_odd(config):
    prepared = prepare_volumes(config)
    assert odd(tuple(prepared.cases.values()), tuple(prepared.facts.values()), config.data) == {}


@pytest.mark.parametrize("name", ODD)
def test_each_oddity_is_refused_until_it_is_meant(tmp_path, config, name):
    words = ODD[name](tmp_path / "data")
    with pytest.raises(DataError) as error:
        prepare_volumes(config)
    for expected in (str(tmp_path / "data"), f"{name}: {words}", f"-P 'data.meant=[{name}]'"):
        assert expected in str(error.value)
    meant = replace(config, data=replace(config.data, meant=(name,)))
    prepared = prepare_volumes(meant)
    told = dict(account(tuple(prepared.cases.values()), tuple(prepared.facts.values()), meant.data))
    assert words in told[f"meant: {name}"]


def test_all_oddities_come_at_once_with_one_flag_for_all(tmp_path, config):
    lost_region(tmp_path / "data"), no_background(tmp_path / "data"), outside_brain(tmp_path / "data")
    already = replace(config, data=replace(config.data, meant=("no_background",)))
    with pytest.raises(DataError, match=r"(?s)2 problems.*lost_region: .*outside_brain: ") as error:
        prepare_volumes(already)
    (flag,) = re.findall(r"-P 'data\.meant=\[(.*)\]'", str(error.value))
    prepare_volumes(replace(config, data=replace(config.data, meant=tuple(flag.split(",")))))


def test_a_region_that_no_case_holds_is_not_lost(tmp_path, config):
    write_case(tmp_path / "data", "BraTS-MEN-00001-000", seed=1, seg=blob(2))
    prepared = prepare_volumes(config)
    told = dict(account(tuple(prepared.cases.values()), tuple(prepared.facts.values()), config.data))
    assert told["regions"] == "tumour core (TC) in 3 cases, whole tumour (WT) in 4, enhancing tumour (ET) in 3"
    assert told["regions lost on the grid of 6 x 6 x 9 mm"] == "none"


def test_the_account_says_what_the_files_hold(tmp_path, config):
    shape = np.zeros(SHAPE, bool)
    shape[1:-1, 1:-1, 1:-1] = True
    rng = np.random.default_rng(7)
    voxels = np.where(shape, rng.integers(100, 900, SHAPE), -2000)
    voxels[5, 5, 5] = 30000
    write_case(tmp_path / "data", "other", t2w=voxels.astype(np.int16))
    write_case(tmp_path / "data", "BraTS-MEN-00001-001", seed=8)
    prepared = prepare_volumes(config)
    assert dict(account(tuple(prepared.cases.values()), tuple(prepared.facts.values()), config.data)) == {
        "cases": "6 cases of 5 patients, 1 with several, such as BraTS-MEN-00001; "
        "data.patient_pattern names the patient of 5 cases, 1 case counts as a patient (other)",
        "labels, brats2023": "1 necrotic or non-enhancing core in 0 cases, 2 edema in 6, 3 enhancing tumour in 6",
        "regions": "tumour core (TC) in 6 cases, whole tumour (WT) in 6, enhancing tumour (ET) in 6",
        "regions lost on the grid of 6 x 6 x 9 mm": "none",
        "spacing in mm": "2 x 2 x 3 (6 cases)",
        "orientation": "LPS (6 cases)",
        "headers of two geometries": "none",
        "unit in headers": "none named; by their size the voxels are in mm (6 cases)",
        "background": "0 (5 cases), -2000 and 0 set to 0 (1 case)",
        "voxels of no tissue": "other t2w: 1 (up to 30000); taken for background",
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    label=st.lists(st.tuples(*(st.integers(2, size - 3) for size in SHAPE), st.integers(1, 3)), min_size=1, max_size=12),
    spacing=st.tuples(st.floats(0.7, 12), st.floats(0.7, 12), st.floats(1, 15)),
    size=st.integers(1, 3),
)
def test_what_is_lost_is_what_a_network_does_not_see(tmp_path_factory, data_config, label, spacing, size):
    voxels = np.zeros(SHAPE, np.uint8)
    for x, y, z, value in label:
        voxels[x : x + size, y : y + size, z : z + size] = value
    for axis in range(3):  # within the brain: what lies outside is another oddity
        voxels.swapaxes(0, axis)[[0, -1]] = 0
    root, config = tmp_path_factory.mktemp("lost"), data_config(spacing=spacing, input_size=(64, 32, 32))
    write_case(root / "data", "a", seg=voxels)
    cases = find_cases(root / "data", config)
    (fact,) = describe_cases(cases, config, root / "cache")
    image = np.zeros((4, *SHAPE), np.float32)
    image[:, 1:-1, 1:-1, 1:-1] = np.random.default_rng(0).integers(1, 900, image[:, 1:-1, 1:-1, 1:-1].shape)
    seen = to_regions(preprocess(Volume(image, voxels, AFFINE), config)["label"][None])[0].flatten(1).any(1)
    left = {region for region, there in zip(REGION_CLASSES, seen.tolist(), strict=True) if there}
    assert set(fact.regions) - set(fact.lost) == left


# ----------------------------------------------------------------------------------------------------------------- editions


@pytest.mark.parametrize(
    ("labels", "regions"),
    [
        ("brats2021", {"TC": {1, 4}, "WT": {1, 2, 4}, "ET": {4}}),
        ("brats2023", {"TC": {1, 3}, "WT": {1, 2, 3}, "ET": {3}}),
        ("brats-gli-2024", {"TC": {1, 3}, "WT": {1, 2, 3}, "ET": {3}}),
        ("brats-ped", {"TC": {1, 2, 3}, "WT": {1, 2, 3, 4}, "ET": {1}}),
    ],
)
def test_each_edition_has_the_regions_of_its_challenge(data_config, labels, regions):
    classes = data_config(labels=labels).classes
    assert classes.keys() == EDITIONS[labels].tissues.keys()
    found = {region: {value for value, label in classes.items() if label in of} for region, of in REGION_CLASSES.items()}
    assert found == regions


@pytest.mark.parametrize(
    ("values", "editions"),
    [
        ({1, 2, 3}, ["brats2023", "brats-gli-2024", "brats-ped"]),
        ({1, 2, 4}, ["brats2021", "brats-gli-2024", "brats-ped"]),
        ({0, 3, 4}, ["brats-gli-2024", "brats-ped"]),
        ({1, 5}, []),
    ],
)
def test_the_editions_that_fit_are_told(values, editions):
    assert [re.findall("data.labels=(.*?) ", told)[0] for told in fitting(values)] == editions


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.sets(st.integers(1, 6), min_size=1, max_size=5), labels=st.sampled_from(sorted(EDITIONS)))
def test_no_value_is_taken_for_what_its_edition_does_not_say(tmp_path_factory, data_config, values, labels):
    """Any values in a mask: read as their edition says, or refused with each edition that has them all, and with no other."""
    voxels = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(sorted(values)):
        voxels[4:8, 4:8, 2 + place] = value
    root = tmp_path_factory.mktemp("edition")
    write_case(root / "data", "a", seg=voxels)
    config, edition = data_config(labels=labels), EDITIONS[labels]
    cases = find_cases(root / "data", config)
    if values <= edition.classes.keys() and any(edition.classes[value] for value in values):
        (fact,) = describe_cases(cases, config, root / "cache")
        classes = {edition.classes[value] for value in values}
        assert set(fact.values) == values
        assert set(fact.regions) == {region for region, of in REGION_CLASSES.items() if classes & {*of}}
        return
    with pytest.raises(DataError) as error:
        describe_cases(cases, config, root / "cache")
    if not values <= edition.classes.keys():
        advised = re.findall(r"-P data\.labels=(brats\S*) ", str(error.value))
        assert advised == [name for name, other in EDITIONS.items() if values <= other.tissues.keys()]


def test_a_folder_of_another_edition_is_refused_with_the_flags_that_all_of_it_fits(tmp_path, config):
    """One case alone might be of BraTS 2021; both together hold 3 and 4."""
    write_case(tmp_path / "data", "BraTS-MEN-00001-000", seed=1, seg=blob(4))
    with pytest.raises(DataError) as error:
        prepare_volumes(config)
    assert "labels that data.labels does not have: 4 (27 voxels); it has [0, 1, 2, 3]" in str(error.value)
    assert "-P data.labels=brats-gli-2024 (2 is surrounding FLAIR hyperintensity, 3 is enhancing tissue, 4 is" in str(
        error.value
    )
    assert "-P data.labels=brats-ped (" in str(error.value)
    assert "data.labels=brats2021" not in str(error.value)
    with pytest.raises(DataError, match="does not have: 3"):
        prepare_volumes(replace(config, data=replace(config.data, labels="brats2021")))
    prepared = prepare_volumes(replace(config, data=replace(config.data, labels="brats-gli-2024")))
    assert prepared.facts["BraTS-MEN-00001-000"].regions == ("WT",), "the cavity is no tumour"
    assert prepared.facts["BraTS-MEN-00002-000"].regions == ("TC", "WT", "ET")
