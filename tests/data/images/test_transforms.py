import numpy as np
import pytest
import torch

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
