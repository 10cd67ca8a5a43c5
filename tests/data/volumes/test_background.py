"""What surrounds the brain is told from it whatever value it has, and a value that no tissue has counts nowhere."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medexp.data.volumes.background import from_zero, ground_of
from medexp.data.volumes.cases import Volume
from medexp.data.volumes.transforms import preprocess

SHAPE = (24, 22, 20)
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


def head(seed: int = 0) -> np.ndarray:
    """A round brain (X, Y, Z) of 100 +- 15 on a background of 0, with a rim of small values as resampling leaves it."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    brain = np.where(radius < 0.8, rng.normal(100, 15, SHAPE).clip(20), 0)
    brain[2, 2, 2:4] = -0.3
    return brain.astype(np.float32)


def volume(image: np.ndarray) -> Volume:
    label = np.zeros(SHAPE, np.uint8)
    label[9:14, 8:13, 8:12] = 3
    return Volume(image, label, AFFINE)


def prepared(image: np.ndarray, data_config) -> torch.Tensor:
    return preprocess(volume(image), data_config(spacing=(2, 2, 3), input_size=(64, 32, 32)))["image"]


@pytest.fixture
def image() -> np.ndarray:
    return np.stack([head(seed) for seed in range(4)])


def test_an_image_on_zero_comes_back_as_it_is(image):
    assert np.array_equal(from_zero(image)[0], image)
    (ground, *_) = map(ground_of, image)
    assert (ground.level, ground.lowest, ground.highest, ground.hot) == (0, 0, 0, 0)
    np.testing.assert_array_equal(ground.brain, image[0] != 0)


@pytest.mark.parametrize("level", [-1, 37])
def test_a_background_of_another_value_changes_nothing(image, data_config, level):
    """The lowest z-score; a positive constant."""
    padded = np.where(image == 0, level, image).astype(np.float32)
    expected = prepared(np.where(image == 0, 0, image - level).astype(np.float32), data_config)
    torch.testing.assert_close(prepared(padded, data_config), expected, atol=1e-4, rtol=1e-4)
    assert ground_of(padded[0]).level == level


PADDING = st.sampled_from([999.0, 65535.0, -32768.0, 1e9, -1e30, float(np.finfo(np.float32).max)]) | st.floats(-3e4, -2e3)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(padding=PADDING, degrees=st.sampled_from([0, 20, 45]), edges=st.sampled_from([(2, 2, 3), (3, 3, 4)]))
def test_padding_of_any_value_says_nothing_on_any_grid(image, data_config, padding, degrees, edges):
    """Padding above the brain left nothing of it, and a voxel between a far one and the brain outweighed all tissue."""
    image = np.pad(image, ((0, 0), (4, 4), (4, 4), (4, 4)))
    filled = image == 0  # a volume that ends where the brain does, or one with air around it that was turned
    if degrees:
        filled = ndimage.rotate(np.ones(image.shape[1:]), degrees, reshape=False, order=0, cval=0)[None] < 0.5
    padded = np.where(filled, np.float32(padding), image).astype(np.float32)
    data = data_config(spacing=edges, input_size=(32, 32, 32))
    label = np.zeros(image.shape[1:], np.uint8)
    label[13:18, 12:17, 12:16] = 3
    found, expected = (preprocess(Volume(one, label, AFFINE), data)["image"] for one in (padded, np.where(filled, 0, image)))
    assert found.shape == expected.shape
    assert float((found - expected).abs().mean()) < 0.02 and float((found - expected).abs().max()) < 0.5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shift=st.floats(-3000, 3000), scale=st.floats(0.01, 50))
def test_units_and_where_they_begin_do_not_matter(image, data_config, shift, scale):
    moved = (image.astype(np.float64) * scale + shift).astype(np.float32)
    torch.testing.assert_close(prepared(moved, data_config), prepared(image, data_config), atol=0.05, rtol=0.05)


def test_noise_around_the_brain_is_background(image, data_config):
    """Before, the statistics counted it in: the background came to about -1 and the brain was squeezed."""
    noise = np.random.default_rng(9).normal(0, 0.02, image.shape)
    noisy = np.where(image == 0, noise, image).astype(np.float32)
    ground = ground_of(noisy[0])
    assert -1 < ground.lowest < 0 < ground.highest < 1 and abs(ground.level) < 0.01
    assert np.count_nonzero(ground.brain != (np.abs(image[0]) > 1)) == 0
    clean = prepared(image * (np.abs(image) > 1), data_config)
    torch.testing.assert_close(prepared(noisy, data_config), clean, atol=1e-3, rtol=1e-3)


def test_dark_tissue_inside_the_brain_is_no_background(image):
    noisy = np.where(image == 0, np.random.default_rng(9).normal(0, 0.02, image.shape), image).astype(np.float32)
    noisy[:, 11:13, 10:12, 9:11] = 0.01
    assert ground_of(noisy[0]).brain[11:13, 10:12, 9:11].all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(*(st.integers(0, size - 1) for size in SHAPE)), min_size=1, max_size=6, unique=True),
    value=st.floats(5e3, 1e9) | st.floats(-1e9, -5e3),
)
def test_hot_voxels_anywhere_say_nothing(image, data_config, places, value):
    hot = image.copy()
    for place in places:
        hot[(slice(None), *place)] = value
    clean, found = prepared(image, data_config), prepared(hot, data_config)
    assert clean.shape == found.shape and float((clean - found).abs().mean()) < 0.01
    told = {place for place in places if image[(0, *place)] > 1}
    assert len(told) <= ground_of(hot[0]).hot <= len(places)


@pytest.mark.parametrize("value", [60000, -60000])
@pytest.mark.parametrize("where", [(0, 0, 0), (12, 11, 10)], ids=["in a corner", "in the brain"])
def test_one_hot_voxel_changes_nothing_but_itself(image, data_config, value, where):
    """In a corner it left no brain at all: brain was what is brighter than 1 % of the maximum."""
    hot = image.copy()
    hot[:, *where] = value
    ground = ground_of(hot[0])
    assert (ground.hot, ground.hottest) == (1, value) and not ground.brain[where]
    expected, found = prepared(image, data_config), prepared(hot, data_config)
    assert found.shape == expected.shape
    differs = (found - expected).abs() > 0.01
    assert differs[0].sum() <= 1


def test_bright_vessels_are_tissue(image):
    bright = image.copy()
    bright[:, 10, 10, 9:12] = 100 + 5 * 35  # 35 is how far the 99th percentile lies from the median
    assert ground_of(bright[0]).hot == 0


def test_a_brain_that_fills_the_volume_has_no_background():
    full = np.random.default_rng(0).normal(100, 15, SHAPE).astype(np.float32)
    ground = ground_of(full)
    assert ground.level is None and ground.brain.all()
    assert np.array_equal(from_zero(full[None])[0][0], full)


def test_a_brain_that_is_cropped_tightly_keeps_its_background(image):
    cut = image[0, 4:-4, 4:-4, 3:-3]
    ground = ground_of(cut)
    assert ground.level == 0
    np.testing.assert_array_equal(ground.brain, cut != 0)


@pytest.mark.parametrize("level", [0, -500])
@pytest.mark.parametrize("clipped", [False, True], ids=["signed", "cut off below 0"])
@pytest.mark.parametrize("margin", [0, 3])
def test_noisy_air_is_no_brain_whatever_margin_it_has(image, margin, clipped, level):
    """A zero margin was taken for the background and the air inside it for brain."""
    air = np.random.default_rng(9).normal(0, 12, SHAPE)
    noisy = np.where(np.abs(image[0]) < 1, air.clip(0 if clipped else None), image[0]).astype(np.float32)
    padded = np.pad(noisy, [(margin, margin), (0, 0), (0, 0)], constant_values=level)
    assert ground_of(padded).level is None


def test_faint_noise_inside_a_margin_is_background(image):
    faint = np.where(image[0] == 0, np.random.default_rng(9).normal(0, 0.02, SHAPE), image[0]).astype(np.float32)
    padded = np.pad(faint, [(3, 3), (0, 0), (0, 0)])
    ground = ground_of(padded)
    assert abs(ground.level) < 0.01
    np.testing.assert_array_equal(ground.brain[3:-3], np.abs(image[0]) > 1)
    assert not ground.brain[:3].any() and not ground.brain[-3:].any()


def test_a_cropped_brain_inside_a_margin_keeps_its_background(image):
    padded = np.pad(image[0, 6:-6, 6:-6, 5:-5], 2, constant_values=-2000)
    ground = ground_of(padded)
    assert ground.level == -2000
    np.testing.assert_array_equal(ground.brain, padded != -2000)
