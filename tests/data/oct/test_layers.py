"""The classical figures see what they are named for, and nothing where there is nothing."""

import numpy as np
import pytest

from medexp.data.oct.layers import (
    INTENSITY_STATISTICS,
    LAYER_STATISTICS,
    intensity_statistics,
    layer_statistics,
    upside_down,
)
from medexp.data.oct.phantoms.retina import DEVICES, Device, scan, severity
from medexp.data.oct.phantoms.retina import retina as drawn
from tests.data.oct.small_scans import retina

SHAPE = (12, 96, 60)
ROW = 0.02


def layers(voxels: np.ndarray, row_mm: float | None = ROW) -> dict[str, float]:
    return dict(zip(LAYER_STATISTICS, layer_statistics(voxels, row_mm).tolist(), strict=True))


@pytest.mark.parametrize("device", DEVICES, ids=[device.model for device in DEVICES])
@pytest.mark.parametrize("group", range(4))
def test_a_retina_is_upside_down_where_its_rows_are_reversed_and_not_before(device: Device, group: int) -> None:
    entropy = (0, 11, group)
    voxels, _ = scan(drawn(severity(group, np.random.default_rng(entropy)), "R", entropy), device, (*entropy, 4))
    assert upside_down(voxels[:, ::-1]) and not upside_down(voxels) and not upside_down(voxels[:, :, ::-1])


@pytest.mark.parametrize("power", [0.5, 1, 2, 4])
def test_a_grey_scale_turns_nothing_upside_down_nor_does_noise(power: float) -> None:
    """Devices write logarithms, fourth roots and plain amplitudes."""
    entropy = (0, 12)
    voxels = scan(drawn(1.0, "L", entropy), DEVICES[0], (*entropy, 4))[0].astype(np.float32) ** power
    assert upside_down(voxels[:, ::-1]) and not upside_down(voxels)
    noise = np.random.default_rng(0).gamma(4, 1, SHAPE) ** power
    assert not upside_down(noise) and not upside_down(noise[:, ::-1]) and not upside_down(np.zeros(SHAPE))


@pytest.mark.parametrize("thickness", [0.15, 0.25, 0.4])
def test_thickness_is_measured_in_mm(thickness: float) -> None:
    found = layers(retina(SHAPE, thickness=thickness))
    assert found["thickness_mean"] == pytest.approx(thickness * 96 * ROW, abs=5 * ROW)
    assert found["thickness_sd"] < 2 * ROW and abs(found["pit"]) < ROW
    assert found["peak_depth_mean"] == pytest.approx(thickness * 96 * ROW, abs=4 * ROW)


def test_thicker_is_found_thicker_in_every_pair() -> None:
    thin = [layers(retina(SHAPE, seed, thickness=0.25))["thickness_mean"] for seed in range(8)]
    thick = [layers(retina(SHAPE, seed + 50, thickness=0.28))["thickness_mean"] for seed in range(8)]
    assert max(thin) < min(thick)


def test_neither_where_the_retina_lies_nor_brightness_is_thickness() -> None:
    one, other = retina(SHAPE, 1, top=0.2), retina(SHAPE, 2, top=0.5)
    assert layers(one)["thickness_mean"] == pytest.approx(layers(other)["thickness_mean"], abs=ROW)
    dim = (one * 0.4).astype(np.uint8)
    assert layers(dim)["thickness_mean"] == pytest.approx(layers(one)["thickness_mean"], abs=2 * ROW)


def test_a_pit_is_thinner_in_the_centre() -> None:
    voxels = retina(SHAPE)
    pitted = voxels.copy()
    pitted[4:8, :42, 20:40] = voxels[4:8, :12, 20:40].repeat(4, axis=1)[:, :42]
    assert layers(pitted)["pit"] < -5 * ROW < abs(layers(voxels)["pit"]) * -1


def test_a_tilt_is_no_change_of_thickness() -> None:
    voxels = retina(SHAPE)
    tilted = np.stack([np.roll(voxels[:, :, column], column // 6, axis=1) for column in range(60)], axis=2)
    assert layers(tilted)["tilt"] > 4 * ROW > layers(voxels)["tilt"]
    assert layers(tilted)["thickness_mean"] == pytest.approx(layers(voxels)["thickness_mean"], abs=2 * ROW)


def test_without_a_spacing_a_volume_counts_as_two_mm_deep() -> None:
    voxels = retina(SHAPE)
    assert np.allclose(layer_statistics(voxels, None), layer_statistics(voxels, 2 / 96))


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_gives_finite_figures(seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (5, 17, 3)).astype(np.uint8)
    assert np.isfinite(layer_statistics(noise, 0.01)).all() and np.isfinite(intensity_statistics(noise)).all()


def test_intensities_are_those_of_the_voxels() -> None:
    voxels = retina((5, 40, 40))
    found = dict(zip(INTENSITY_STATISTICS, intensity_statistics(voxels).tolist(), strict=True))
    assert found["mean"] == pytest.approx(voxels.mean()) and found["sd"] == pytest.approx(voxels.std(), rel=1e-5)
    assert found["p50"] == pytest.approx(np.median(voxels), abs=2)
    smooth = np.repeat(voxels[:, :, ::8], 8, axis=2)
    assert dict(zip(INTENSITY_STATISTICS, intensity_statistics(smooth), strict=True))["speckle"] < found["speckle"] / 2
