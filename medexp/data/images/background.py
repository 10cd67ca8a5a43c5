"""What pads an image: told from its pixels, whatever value it has, as in volumes."""

import numpy as np
from numpy.typing import NDArray

from medexp.data.volumes.background import ground_of, is_padding, unpadded
from medexp.data.volumes.cases import FOREGROUND


def without_padding(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], float | None]:
    """An image whose padding is as dark as its darkest tissue, or 0 where that is air, and the value that the padding had;
    None, and the image as it is, where its background is no padding or nothing can be told from it.

    Left as it is, bright padding would count as tissue, and where far padding is resampled the pixels between both would
    outweigh all tissue. Pixels of a value that no tissue has go with the padding.

    Args:
        image: As it is stored (H, W), not constant.
    """
    ground = ground_of(image)
    tissue = image[ground.brain]
    if ground.level is None or not tissue.size:
        return image, None
    darkest, spread = tissue.min(), np.ptp(tissue)
    found = next((value for value in (ground.highest, ground.lowest) if is_padding(value, tissue)), None)
    if found is None and ground.lowest == ground.highest:  # noise is not of one value, and so much of it stays as it is
        within, below = ground.level > darkest + FOREGROUND * spread, ground.level < 0 <= darkest
        found = ground.level if within or below else None
    if found is None:
        return image, None
    return np.where(ground.brain, image, np.float32(unpadded(tissue))), found
