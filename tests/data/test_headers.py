"""What files say besides pixels, as facts of a case keep it."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medexp.data.headers import two_affines
from medexp.data.images.facts import describe_images
from medexp.data.images.kaggle import find_kaggle
from medexp.data.images.slices import find_slices
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.facts import describe_cases
from tests.data.images.small_images import pixels, write_slice
from tests.data.volumes.small_cases import AFFINE, SHAPE, write_case


@pytest.fixture
def headers(tmp_path, image_config):
    """Of pictures in yes/ and no/, by file name."""

    def read():
        images = find_kaggle(tmp_path, image_config().patient_pattern)
        facts = describe_images(images, image_config(), tmp_path / "cache")
        return {image.path.name: dict(fact.header) for image, fact in zip(images, facts, strict=True)}

    for name in ("yes", "no"):
        (tmp_path / name).mkdir()
    return read


def test_pictures_keep_size_format_and_who_made_them(tmp_path, headers):
    picture = Image.fromarray(pixels(1))
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0131] = "Acme", "MR 1", "export 2"
    picture.save(tmp_path / "yes" / "a.jpg", quality=95, exif=exif, dpi=(300, 300))
    picture.convert("RGB").save(tmp_path / "yes" / "b.jpg", quality=40, progressive=True)
    picture.save(tmp_path / "no" / "c.png")
    np.savez(tmp_path / "no" / "d.npz", image=pixels(2))
    found = headers()
    for name, header in found.items():
        (path,) = tmp_path.glob(f"*/{name}")
        assert header["file size"] == path.stat().st_size
        assert (header["height"], header["width"], header["aspect"]) == (40, 32, 0.8)
    assert [header["format"] for header in found.values()] == ["PNG", "npz", "JPEG", "JPEG"]
    assert (found["a.jpg"]["device"], found["a.jpg"]["software"], found["a.jpg"]["dpi"]) == ("Acme MR 1", "export 2", 300)
    assert (found["a.jpg"]["mode"], found["b.jpg"]["mode"], found["c.png"]["mode"]) == ("L", "RGB", "L")
    assert found["a.jpg"]["JPEG quantisation"] < found["b.jpg"]["JPEG quantisation"]
    assert found["c.png"]["JPEG quantisation"] is None and found["c.png"]["device"] is None
    assert (found["a.jpg"]["progressive"], found["b.jpg"]["progressive"]) == ("False", "True")
    assert headers() == found, "from the cache"


def test_a_picture_that_is_turned_keeps_the_size_that_its_file_states(tmp_path, headers):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(1)).save(tmp_path / "yes" / "a.jpg", exif=exif)
    Image.fromarray(pixels(2)).save(tmp_path / "no" / "b.jpg")
    assert headers()["a.jpg"]["height"] == 40


def test_slices_keep_their_place_in_the_volume(tmp_path, image_config):
    write_slice(tmp_path / "slices", "P1-000", 7)
    facts = describe_images(find_slices(tmp_path / "slices", "^(P[0-9]+)-"), image_config(), tmp_path / "cache")
    header = facts[0].header
    assert (header["slice"], header["height"], header["width"]) == (7, 40, 32)
    assert "case" not in header and "patient" not in header, "who it is of would tell the label of a case seen before"


def test_volumes_keep_geometry_types_and_what_wrote_them(tmp_path, data_config):
    folder = write_case(tmp_path / "data", "a")
    image = nib.Nifti1Image(np.random.default_rng(0).random(SHAPE), AFFINE)
    image.header["descrip"] = b"scanner 3T"
    image.set_data_dtype(np.int16)
    nib.save(image, folder / "a-t1c.nii.gz")
    config = data_config()
    (fact,) = describe_cases(find_cases(tmp_path / "data", config), config, tmp_path / "cache")
    header = fact.header
    assert [header[f"spacing {axis}"] for axis in "xyz"] == [2, 2, 3]
    assert [header[f"voxels {axis}"] for axis in "xyz"] == list(SHAPE) and header["orientation"] == "LPS"
    assert header["t1c descrip"] == "scanner 3T" and header["t2f descrip"] is None
    assert header["t2w slope"] == 1 and 0 < header["t1c slope"] < 1, "numbers that were scaled to fit 16 bits"
    assert header["t2w data type"] == "int16" and header["t2w file size"] == (folder / "a-t2w.nii.gz").stat().st_size
    again = describe_cases(find_cases(tmp_path / "data", config), config, tmp_path / "cache")
    assert dict(again[0].header) == dict(header)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edges=st.tuples(*[st.floats(0.4, 8)] * 3),
    scale=st.sampled_from([1.0, 1.01, 1.1, 3.0]),
    flip=st.booleans(),
    tilt=st.floats(-0.3, 0.3),
    codes=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_a_header_of_two_geometries_is_told_and_no_other(tmp_path, edges, scale, flip, tilt, codes):
    """Rounding, a tilt of a few degrees and another origin are no other geometry; a form whose code is 0 says nothing."""
    sform, turn = np.diag([*edges, 1.0]), np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    qform = turn @ sform @ np.diag([-1 if flip else 1, 1, scale, 1])
    qform[:3, 3] = 5
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), None)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    nib.save(image, tmp_path / "a.nii")
    said = two_affines([tmp_path / "a.nii"])
    assert bool(said) == (all(codes) and (flip or scale > 1.05))
    assert not said or said.startswith("a.nii: ")
