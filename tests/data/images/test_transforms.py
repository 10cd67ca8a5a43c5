import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.data.images.background import without_padding
from medexp.data.images.transforms import preprocess
from tests.data.images.small_images import mask_of, pixels


@pytest.mark.parametrize(("shape", "size"), [((40, 30), (32, 24)), ((16, 4000), (32, 32)), ((4000, 16), (48, 24))])
def test_pictures_of_any_shape_are_padded_to_that_of_the_input(shape, size):
    """As when the whole picture is padded first, which a thin one of 80,000 pixels has no memory for."""
    image, mask = pixels(3, shape).astype(np.float32), mask_of(shape[0] * 2, shape)
    height, width = (
        max(side, round(other * a / b))
        for side, other, a, b in ((shape[0], shape[1], *size), (shape[1], shape[0], *size[::-1]))
    )
    margins = [(whole - part) // 2 for whole, part in ((height, shape[0]), (width, shape[1]))]
    place = tuple(slice(margin, margin + side) for margin, side in zip(margins, shape, strict=True))
    whole, outlined = np.zeros((height, width), np.float32), np.zeros((height, width), np.uint8)
    whole[place], outlined[place] = image, mask
    for found, wanted in zip(preprocess(image, mask, size), preprocess(whole, outlined, size), strict=True):
        assert found.shape == (1, *size)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    thin = preprocess(pixels(3, (80_000, 16)).astype(np.float32), None, size)[0]
    assert thin.shape == (1, *size) and thin.isfinite().all()


def a_slice(seed: int) -> np.ndarray:
    """Tissue of 100 to 400 in an ellipse, around it 0."""
    rows, columns = np.ogrid[:40, :32]
    inside = ((rows - 19.5) / 17) ** 2 + ((columns - 15.5) / 13) ** 2 < 1
    tissue = 100 + 300 * np.random.default_rng(seed).random((40, 32))
    return np.where(inside, tissue, 0).astype(np.float32)


@given(
    padding=st.floats(-40_000, 0, width=32)
    | st.floats(110, 40_000, width=32)
    | st.sampled_from([1, 999, -32768, 10_000, 65_535, -1, 401]),
    unit=st.sampled_from([1, 0.01, 50]),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_padding_of_any_value_is_background(padding, unit, seed):
    """The pixels that reach the network are those of the image that nobody padded; resampled at its border, too.

    A level between 0 and the darkest tissue, which is 100 here, may be air as a picture has it: tissue is counted from it.
    """
    image = a_slice(seed)
    wanted = preprocess(image, None, (32, 24))[0]
    padded = np.where(image > 0, image, np.float32(padding))
    found = preprocess(padded * np.float32(unit), None, (32, 24))[0]
    torch.testing.assert_close(found, wanted, atol=0.06 if 0 <= padding <= 450 else 1e-3, rtol=0)


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (a_slice(0), None),
        (np.where(a_slice(0) > 0, a_slice(0), np.float32(999)), 999),
        (np.where(a_slice(0) > 0, a_slice(0), np.float32(255)), 255),
        (np.where(a_slice(0) > 0, a_slice(0), np.float32(50)), None),
        (np.where(a_slice(0) > 0, a_slice(0) / 100 - 2.5, np.float32(0)), 0),  # z-scored
        (np.pad(pixels(1), 2, constant_values=255).astype(np.float32), 255),  # a white frame
        (a_slice(0) + np.random.default_rng(0).integers(0, 9, (40, 32)).astype(np.float32), None),  # the air of a JPEG
    ],
    ids=["0", "above", "within", "below", "z-scored", "frame", "air"],
)
def test_what_is_padding(image, value):
    """Air is none: a picture as scanners and their software write it goes on as it is."""
    done, found = without_padding(image)
    assert found == value
    assert done is image if value is None else done.min() == done[0, 0]
