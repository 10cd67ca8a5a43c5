"""Arrays that users prepared: what a contract's steps make passes, and what they cannot have made does not."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.data.images import transforms as images
from medexp.data.volumes import transforms as volumes
from medexp.data.volumes.cases import Volume
from medexp.data.volumes.steps import PadToMultiple
from medexp.errors import RegistryError
from medexp.models.kinds import Spec
from medexp.registry.arrays import demand_prepared

VOLUMES = volumes.preprocessing((2.0, 2.0, 3.0), (64, 32, 32)).then(PadToMultiple(32))
IMAGES = images.preprocessing((32, 48))
VOLUME, IMAGE = Spec("float32", (-1, 4, -1, -1, -1)), Spec("float32", (-1, 1, -1, -1))
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
NOISE = np.random.default_rng(0).normal(size=(2, 4, 64, 32, 32)).astype(np.float32)
PICTURES = np.random.default_rng(0).normal(size=(2, 1, 32, 48)).astype(np.float32)


def of_volumes(array: Any) -> tuple[str, ...]:
    return demand_prepared(VOLUMES, VOLUME, array, "segmenter")


def of_images(array: Any) -> tuple[str, ...]:
    return demand_prepared(IMAGES, IMAGE, array, "classifier")


def drawn(rng: np.random.Generator, shape: tuple[int, ...], kind: str, scale: float) -> np.ndarray:
    """Intensities above 0 as scanners, scalings and long tails have them."""
    match kind:
        case "counts":
            values = rng.integers(1, 1 + max(2, int(scale)), shape)
        case "tail":
            values = scale * rng.lognormal(0, 1.5, shape)
        case "two":
            values = scale * rng.choice([1.0, 3.0], shape, p=[0.97, 0.03])
        case _:
            values = scale * rng.uniform(0.2, 1, shape)
    return values.astype(np.float32)


ANY = {
    "seed": st.integers(0, 2**20),
    "kind": st.sampled_from(["counts", "tail", "two", "uniform"]),
    "scale": st.sampled_from([1e-3, 1.0, 255.0, 4095.0, 1e5]),
}


@settings(max_examples=15, deadline=None)
@given(shape=st.tuples(*[st.integers(8, 40)] * 3), floor=st.sampled_from([0.0, -1024.0]), **ANY)
def test_whatever_the_steps_make_of_a_volume_passes(seed: int, kind: str, scale: float, shape: Any, floor: float) -> None:
    rng = np.random.default_rng(seed)
    brain = np.zeros(shape, bool)
    brain[1:-1, 1:-1, 1:-1] = rng.uniform(size=[size - 2 for size in shape]) < 0.9
    image = np.stack([np.where(brain, drawn(rng, shape, kind, scale), 0) for _ in range(4)]).astype(np.float32) + floor
    made = volumes.execute(VOLUMES.steps, Volume(image.astype(np.float32), np.zeros(shape, np.uint8), AFFINE))["image"]
    assert of_volumes(made.numpy()[None]) == ()


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(st.integers(16, 90), st.integers(16, 90)), **ANY)
def test_whatever_the_steps_make_of_a_picture_passes(seed: int, kind: str, scale: float, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    picture = np.where(rng.uniform(size=shape) < 0.5, drawn(rng, shape, kind, scale), 0).astype(np.float32)
    assert of_images(images.execute(IMAGES.steps, picture).numpy()[None]) == ()


def test_noise_and_a_picture_in_black_and_white_pass() -> None:
    assert of_volumes(NOISE) == of_images(PICTURES) == of_images((PICTURES > 0).astype(np.float32)) == ()


def changed(change: Callable[[np.ndarray], Any], array: np.ndarray = NOISE) -> np.ndarray:
    return np.asarray(change(array.copy()), np.float32)


def with_one(value: float) -> np.ndarray:
    array = NOISE.copy()
    array[1, 2, 3, 4, 5] = value
    return array


FAULTS = {
    "no batch": (changed(lambda x: x[0]), "its shape is (4, 64, 32, 32); taken are 5 axes (B, C, X, Y, Z), the batch first"),
    "three channels": (changed(lambda x: x[:, :3]), "3 channels along the second axis; taken are 4 (t2f, t1c, t1n, t2w)"),
    "channels last": (changed(lambda x: np.moveaxis(x, 1, -1)), "64 channels along the second axis"),
    "sizes": (changed(lambda x: x[:, :, :63, :, :31]), "X 63, Z 31 voxels; the contract leaves multiples of 32"),
    "one voxel": (changed(lambda x: x[:, :, :32]), "32 voxels along each axis leave one voxel to normalise over"),
    "no case": (changed(lambda x: x[:0]), "an empty array"),
    "NaN": (with_one(float("nan")), "1 NaN or infinite values"),
    "infinity": (with_one(float("-inf")), "1 NaN or infinite values"),
    "constant": (changed(lambda x: 0 * x + 1), "1 of 2: a constant array, all 1"),
    "intensities": (changed(lambda x: 4095 * (x > 0)), "1 of 2: values of 0 to 4095 are no z-scores"),
    "Hounsfield": (changed(lambda x: 300 * x), "are no z-scores; the contract leaves mean 0 and SD 1"),
    "scaled to 1": (
        changed(lambda x: (x - x.min()) / np.ptp(x)),
        "values of 0 to 1, none below 0, are no z-scores; the contract leaves mean 0 and SD 1; 1 more are such",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_steps_cannot_have_made_is_refused_in_a_line(fault: str) -> None:
    array, told = FAULTS[fault]
    with pytest.raises(
        RegistryError, match="^array for segmenter: .*" + re.escape(told) + r".*column path.*registry\.predictor"
    ) as caught:
        of_volumes(array)
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(
    fault=st.sampled_from(["three channels", "sizes", "NaN", "constant", "intensities", "scaled to 1"]),
    seed=st.integers(0, 99),
)
def test_a_fault_in_one_of_several_cases_is_refused(fault: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.normal(rng.uniform(-1, 1), rng.uniform(0.5, 2), (1, 4, 64, 32, 32)).astype(np.float32)
    of_volumes(whole)  # which a window of a case may be
    broken = FAULTS[fault][0][1:]
    same = broken.shape == whole.shape
    with pytest.raises(RegistryError, match="2 of 2: " if same and fault != "NaN" else "array for segmenter"):
        of_volumes(np.concatenate([whole, broken]) if same else broken)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(RegistryError, match="cases of 48 x 48; the contract makes 32 x 48 of each"):
        of_images(changed(lambda x: np.concatenate([x, x[:, :, :16]], axis=2), PICTURES))
    with pytest.raises(RegistryError, match="values of 0 to 255 are no z-scores"):
        of_images(changed(lambda x: 255 * (x > 0), PICTURES))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x + 0.5, "nonzero values of a channel have the mean 0.5"),
        (lambda x: 0.3 * x, "nonzero values of a channel have the root mean square 0.3"),
        (
            lambda x: x[..., :32, :32, :32].repeat(2, -1),
            "32 x 32 x 64 voxels; the contract pads cases to 64 x 32 x 32 at least",
        ),
    ],
)
def test_what_only_a_window_of_a_case_can_be_is_named(change: Callable[[np.ndarray], Any], told: str) -> None:
    (odd,) = of_volumes(changed(change))
    assert odd.startswith(f"array for segmenter: {told}") and "\n" not in odd
