"""A segmentation that looks at no image: where the training cases have their tumours."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_SHARES = torch.linspace(0.05, 0.95, 19)  # of the largest probability: where a threshold is looked for


def mean_mask(cases: Sequence[Callable[[], Tensor]]) -> Tensor:
    """How much more probable each region is at a place than where its mask begins (1, R, *size): above 0 is the mask.

    Each region's threshold has the best mean Dice on the training cases, each held against the mean of the others. The same
    mask is held against every picture of a case, whose Dice is of all of them together.

    Args:
        cases: Reads the masks of a training case (pictures, R, *size), from 0 to 1, of which above 0.5 is the region; a volume
            is one picture. Asked twice, for they may be many.
    """

    def masks() -> Iterator[Tensor]:
        return (read().float() for read in cases)

    total, count = torch.zeros(()), 0
    for own in masks():
        total, count = total + own.sum(0), count + len(own)
    inside = tuple(range(1, total.ndim))
    largest = total.amax(inside) / count
    steps = (_SHARES[:, None] * largest).reshape(len(_SHARES), -1, *[1] * len(inside))
    scores = []
    for own in masks():
        others, there = max(count - len(own), 1), (own > 0.5).float().sum(0)
        predicted = ((total - own.sum(0)) / others > steps).float()
        across = tuple(range(2, predicted.ndim))
        sizes = len(own) * predicted.sum(across) + there.sum(inside)
        scores.append((2 * (predicted * there).sum(across) / sizes).where(there.sum(inside) > 0, torch.nan))
    best = torch.stack(scores).nanmean(0).nan_to_num(0).argmax(0)
    return (total / count - (_SHARES[best] * largest).reshape(-1, *[1] * len(inside)))[None]
