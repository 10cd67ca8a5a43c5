"""Pairs of known origin: smooth heads with one bright lesion, and generators that do one thing wrong."""

import numpy as np
from scipy.ndimage import gaussian_filter

from medexp.evaluation.synthesis import Pairs

SIZE = 20
_GRID = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"))


def heads(count: int, seed: int, called: str = "sub") -> Pairs:
    """Heads (count, 20, 20, 20) whose size, texture, lesion, its place and its contrast differ."""
    rng = np.random.default_rng([seed, count])
    images, masks = np.zeros((count, SIZE, SIZE, SIZE), np.float32), np.zeros((count, SIZE, SIZE, SIZE), bool)
    for image, mask in zip(images, masks, strict=True):
        radii, middle = rng.uniform(6.5, 8.5, 3), SIZE / 2 + rng.uniform(-0.7, 0.7, 3)
        place = (_GRID - middle.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)
        texture = gaussian_filter(rng.normal(size=image.shape), 1.5)
        inside = (place**2).sum(axis=0) < 1
        lesion = middle + rng.uniform(-0.5, 0.5, 3) * radii
        mask[:] = ((_GRID - lesion.reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < rng.uniform(1.8, 3.0) ** 2
        image[:] = np.where(inside, 0.45 + 0.06 * texture / texture.std() + rng.normal(0.25, 0.04) * mask, 0)
    return Pairs(images.clip(0, 1), masks, [f"{called}-{index:03d}" for index in range(count)])


def drawn(count: int = 48, seed: int = 9) -> Pairs:
    """Fresh ones, as the best of all generators would draw them."""
    fresh = heads(count, seed)
    return Pairs.generated(fresh.images, fresh.masks)
