import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medexp.data.volumes.background import ground_of
from medexp.data.volumes.cases import Volume
from medexp.data.volumes.semantics import (
    INTENSITY_STATISTICS,
    SEMANTIC_FEATURES,
    SHAPE_STATISTICS,
    intensity_statistics,
    semantic_features,
    shape_statistics,
)


def volume(label, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.ones((4, *label.shape), np.float32), label.astype(np.uint8), np.diag([*spacing, 1.0]))


def features(label, spacing=(1.0, 1.0, 1.0)):
    return dict(zip(SEMANTIC_FEATURES, semantic_features(volume(label, spacing)), strict=True))


def ball(shape, radius, spacing, centre=(0.5, 0.5, 0.5)):
    axes = [(np.arange(n) + 0.5 - n * c) * edge for n, edge, c in zip(shape, spacing, centre, strict=True)]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) <= radius**2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
def test_a_ball_has_the_features_of_a_ball_in_millimetres(spacing):
    shape = tuple(int(40 / edge) for edge in spacing)
    found = features(ball(shape, 12, spacing) * 3, spacing)
    assert np.expm1(found["log_volume_whole"]) == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.02)
    assert found["log_volume_enhancing"] == found["log_volume_whole"]
    assert found["log_volume_core"] == found["log_volume_edema"] == 0
    assert np.expm1(found["log_surface_area"]) == pytest.approx(4 * np.pi * 12**2, rel=0.15)  # a mesh of voxels has steps
    assert 0.85 < found["sphericity"] <= 1
    assert found["solidity"] > 0.9
    assert [found[f"centroid_{axis}"] for axis in "ras"] == pytest.approx([0.5, 0.5, 0.5])


def test_labels_have_a_volume_each():
    label = np.zeros((8, 8, 8))
    label[1, 1, 1:3], label[2, 1, 1:5], label[3, 1, 1:7] = 1, 2, 3
    found = features(label, (1.0, 2.0, 3.0))
    names = ("whole", "core", "edema", "enhancing")
    assert [np.expm1(found[f"log_volume_{name}"]) for name in names] == pytest.approx([72, 12, 24, 36])


def test_a_rod_is_less_spherical_and_a_shell_corner_less_solid_than_a_cube():
    cube, rod, corner = (np.zeros((30, 30, 30)) for _ in range(3))
    cube[8:20, 8:20, 8:20] = 1
    rod[2:28, 10:13, 10:13] = 1
    corner[5:25, 5:25, 5:8] = corner[5:25, 5:8, 5:25] = corner[5:8, 5:25, 5:25] = 1
    assert features(rod)["sphericity"] < features(cube)["sphericity"] - 0.1
    assert features(corner)["solidity"] < 0.7 < features(cube)["solidity"]


@pytest.mark.parametrize("axes", ["LPS", "ASL", "SRA", "PIR"])
def test_the_orientation_of_the_file_changes_nothing(axes):
    label = np.zeros((20, 16, 12), np.uint8)
    label[12:17, 3:8, 6:9], label[13:15, 4:6, 7:8] = 2, 1
    image = nib.Nifti1Image(label, np.diag([1.0, 1.5, 2.5, 1.0]))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    turned = image.as_reoriented(turn)
    other = np.asanyarray(turned.dataobj)
    expected = semantic_features(Volume(np.ones((4, *label.shape), np.float32), label, image.affine))
    found = semantic_features(Volume(np.ones((4, *other.shape), np.float32), other, turned.affine))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[4] > 0.6 > 0.4 > expected[5]  # right and posterior


@pytest.mark.parametrize(
    "box", [np.s_[4:5, 4:5, 4:5], np.s_[2:7, 4:5, 4:5], np.s_[2:7, 2:7, 4:5], np.s_[:, :, :], np.s_[:1, :, :1]]
)
def test_degenerate_masks_give_finite_features(box):
    label = np.zeros((9, 9, 9))
    label[box] = 2
    found = features(label, (1.0, 1.0, 5.0))
    assert all(np.isfinite(value) for value in found.values())
    assert 0 < found["sphericity"] <= 1 and 0 < found["solidity"] <= 1


@settings(max_examples=60, deadline=None)
@given(label=arrays(np.uint8, (5, 4, 3), elements=st.integers(0, 3)).filter(np.any), edge=st.floats(0.3, 8))
def test_any_mask_gives_finite_features_in_their_range(label, edge):
    found = features(label, (edge, 1.0, 2.0))
    assert all(np.isfinite(value) for value in found.values())
    assert all(0 < found[f"centroid_{axis}"] < 1 for axis in "ras")
    assert 0 < found["solidity"] <= 1 and found["sphericity"] > 0


def test_intensity_statistics_are_of_the_brain_per_channel():
    image = np.zeros((4, 10, 10, 10), np.float32)
    for channel in range(4):
        image[channel, :, :, :5] = np.arange(1, 501).reshape(10, 10, 5) * (channel + 1)
    found = intensity_statistics(image, [ground_of(channel) for channel in image])
    assert len(found) == len(INTENSITY_STATISTICS) == 12
    values = np.arange(1, 501)
    expected = [
        scale * figure for scale in (1, 2, 3, 4) for figure in (values.mean(), values.std(), np.percentile(values, 99))
    ]
    np.testing.assert_allclose(found, expected)
    assert INTENSITY_STATISTICS[:4] == ("t2f_mean", "t2f_sd", "t2f_p99", "t1c_mean")


def test_the_shape_of_a_ball_is_that_of_a_ball_in_millimetres_however_it_lies():
    spacing = (1.0, 1.5, 2.0)
    brain = ball((60, 40, 30), 20, spacing)
    brain[1, 1, 1] = True  # noise beside it
    image = nib.Nifti1Image(brain.astype(np.uint8), np.diag([*spacing, 1.0]))
    found = dict(zip(SHAPE_STATISTICS, shape_statistics(brain, image.affine), strict=True))
    assert found["volume_ml"] == pytest.approx(4 / 3 * np.pi * 20**3 / 1000, rel=0.02)
    assert [found[f"extent_{axis}_mm"] for axis in "ras"] == pytest.approx([40, 40, 40], abs=2)
    assert [found[f"axis_{number}_mm"] for number in (1, 2, 3)] == pytest.approx([40, 40, 40], rel=0.03)
    assert 0.85 < found["sphericity"] <= 1 and found["solidity"] > 0.9
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("SLA"))
    other = image.as_reoriented(turn)
    again = shape_statistics(np.asanyarray(other.dataobj) > 0, other.affine)
    np.testing.assert_allclose(again, list(found.values()), rtol=1e-5)


def test_a_long_head_has_a_long_axis_and_a_dented_one_is_less_solid():
    long, whole = (ball((40, 40, 40), radius, edges) for radius, edges in ((8, (1.0, 0.5, 1.0)), (15, (1.0, 1.0, 1.0))))
    dented = whole.copy()
    dented[15:25, 15:25, 20:] = False
    first, second, third = (
        dict(zip(SHAPE_STATISTICS, shape_statistics(brain, np.eye(4)), strict=True)) for brain in (long, whole, dented)
    )
    assert first["axis_1_mm"] > 1.8 * first["axis_2_mm"] and first["extent_a_mm"] > 1.5 * first["extent_r_mm"]
    assert third["solidity"] < second["solidity"] - 0.05


@settings(max_examples=40, deadline=None)
@given(brain=arrays(np.bool_, (5, 4, 3)).filter(np.any), edge=st.floats(0.3, 8))
def test_any_shape_is_finite(brain, edge):
    found = shape_statistics(brain, np.diag([edge, 1.0, 2.0, 1.0]))
    assert np.isfinite(found).all() and (found > 0).all() and found[-1] <= 1
