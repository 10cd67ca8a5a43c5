import subprocess
import sys
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from medexp.data.volumes.brats import find_cases, read_case
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.phantoms import ensure_phantoms
from medexp.data.volumes.phantoms.head import Head
from medexp.errors import StorageError

LABELS = {1: 1, 2: 2, 3: 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=["meningioma", "glioma"])
def folder(request, cache):
    return ensure_phantoms(request.param, 12, 3, cache)


def test_readers_take_every_phantom(folder, cache, data_config):
    config = data_config()
    cases = find_cases(folder, config)
    facts = describe_cases(cases, config, cache)
    prefix = "BraTS-MEN" if "meningioma" in folder.name else "BraTS-GLI"
    assert cases[0].id == f"{prefix}-300001-000" and cases[0].images[0].name == f"{prefix}-300001-000-t2f.nii.gz"
    scans = Counter(case.patient for case in cases)
    assert len(scans) == 12 and max(scans.values()) == 2, "twelve patients, some with two time points"
    voxels = Counter(fact.voxels_sha256 for fact in facts)
    assert sorted(voxels.values())[-2:] == [1, 2], "one exact duplicate"
    (twin,) = [digest for digest, count in voxels.items() if count == 2]
    assert len({fact.case.rsplit("-", 1)[0] for fact in facts if fact.voxels_sha256 == twin}) == 2, "under another patient"


def test_grids_vary_as_in_real_data(folder, data_config):
    images = [nib.load(case.label) for case in find_cases(folder, data_config())]
    axes = {"".join(nib.aff2axcodes(image.affine)) for image in images}
    assert {"LPS", "RAS"} < axes and len(axes) == 3
    assert {tuple(sorted(np.round(nib.affines.voxel_sizes(image.affine), 3))) for image in images} == {
        (3, 3, 4.5),
        (2.5, 2.5, 6),
    }
    oblique = [nib.affines.obliquity(image.affine).max() > 0.02 for image in images]
    assert any(oblique) and not all(oblique)


def test_files_hold_integers_and_nothing_outside_the_brain(folder, data_config):
    for case in find_cases(folder, data_config())[:4]:
        voxels = np.stack([np.asanyarray(nib.load(path).dataobj) for path in case.images])
        label = np.asanyarray(nib.load(case.label).dataobj)
        assert voxels.dtype == np.int16 and label.dtype == np.uint8 and voxels.min() == 0
        brain = (voxels > 0).all(axis=0)
        assert (voxels[:, ~brain] == 0).all() and not label[~brain].any()
        assert 0.1 < brain.mean() < 0.45


def medians(volume, mask):
    return [float(np.median(channel[mask])) for channel in volume.image]


def test_gliomas_have_a_core_in_a_bright_rim_in_edema(cache, data_config):
    for case in find_cases(ensure_phantoms("glioma", 12, 3, cache), data_config()):
        volume = read_case(case, LABELS)
        whole = np.count_nonzero(volume.label)
        assert np.count_nonzero(volume.label == 2) > 0.25 * whole
        healthy = medians(volume, (volume.label == 0) & (volume.image[0] > 0))
        assert medians(volume, volume.label == 2)[0] > healthy[0], "edema is bright on t2f"
        assert medians(volume, volume.label == 3)[1] > healthy[1], "the rim enhances on t1c"
        if (core := volume.label == 1).any():
            assert medians(volume, core)[1] < medians(volume, volume.label == 3)[1], "the core does not"


def test_meningiomas_enhance_at_the_surface(cache, data_config):
    from scipy import ndimage

    edema = []
    for case in find_cases(ensure_phantoms("meningioma", 12, 3, cache), data_config()):
        volume = read_case(case, LABELS)
        tumour = (volume.label == 3) | (volume.label == 1)
        brain = volume.image.min(axis=0) > 0
        spacing = nib.affines.voxel_sizes(volume.affine)
        depth = ndimage.distance_transform_edt(brain, sampling=spacing)
        assert depth[tumour].min() <= max(spacing), "it touches the brain's surface"
        assert np.count_nonzero(volume.label == 3) > 0.5 * np.count_nonzero(tumour)
        assert medians(volume, volume.label == 3)[1] > medians(volume, brain & (volume.label == 0))[1]
        edema.append((volume.label == 2).any())
    assert any(edema) and not all(edema)


def test_tumours_grow_between_time_points(cache, data_config):
    cases = {case.id: case for case in find_cases(ensure_phantoms("meningioma", 12, 3, cache), data_config())}
    first, second = (read_case(cases[f"BraTS-MEN-300003-00{scan}"], LABELS) for scan in (0, 1))
    assert np.count_nonzero(second.label) > np.count_nonzero(first.label)
    assert not np.array_equal(first.image, second.image)


def test_phantoms_follow_from_domain_and_seed_whatever_their_number(cache, tmp_path, data_config):
    def digests(domain, patients, seed, where):
        config = data_config()
        facts = describe_cases(find_cases(ensure_phantoms(domain, patients, seed, where), config), config, where)
        return {fact.case.split("-", 2)[2]: fact.voxels_sha256 for fact in facts}

    twelve, four = digests("meningioma", 12, 3, cache), digests("meningioma", 4, 3, tmp_path)
    assert {name: twelve[name] for name in four if not name.startswith("300004")} == {
        name: digest for name, digest in four.items() if not name.startswith("300004")
    }
    other_seed = digests("meningioma", 4, 4, tmp_path)
    assert set(four.values()).isdisjoint(other_seed.values()) and set(four).isdisjoint(other_seed), (
        "other patients, other names"
    )
    assert set(four.values()).isdisjoint(digests("glioma", 4, 3, tmp_path).values())


def test_phantoms_are_written_once_and_whole(tmp_path):
    folder = ensure_phantoms("glioma", 4, 0, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert ensure_phantoms("glioma", 4, 0, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    code = (
        "import resource, sys, pathlib; from medexp.data.volumes.phantoms import ensure_phantoms\n"
        "from medexp.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "try: ensure_phantoms('glioma', 4, 0, pathlib.Path(sys.argv[1]))\n"
        "except StorageError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "glioma-4" in done.stdout and "cannot be written (File too large)" in done.stdout
    assert not list((tmp_path / "phantoms").iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "phantoms").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="meningioma-4.*cannot be written"):
        ensure_phantoms("meningioma", 4, 0, tmp_path)


@pytest.mark.parametrize("domain", ["glioma", "meningioma"])
def test_findings_that_are_no_tumour_lie_on_the_other_side_and_change_no_label(domain):
    axes = [np.arange(-edge, edge, 8) for edge in (96, 96, 72)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
    found = 0
    for patient in range(24):
        image, label, brain = Head(domain, (patient,), findings=True).scan(points, 0)
        plain, without, _ = Head(domain, (patient,)).scan(points, 0)
        assert np.array_equal(label, without)
        changed = brain & (label == 0) & (image[0] - plain[0] > 0.15)  # bright on t2f, as tumour is, and labelled as none
        side = np.sign(points[label > 0, 0].mean())
        found += np.count_nonzero(changed) > 1
        assert (points[changed, 0] * side < 8).all(), "on the other side"
    assert 8 < found < 24, "in some, not in all"
