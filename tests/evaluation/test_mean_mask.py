"""The mean mask: what is told of a case from where others have their tumours."""

from functools import partial

import torch
from torch import Tensor

from medexp.data.volumes.regions import to_regions
from medexp.evaluation.mean_mask import mean_mask
from medexp.phases.phase1.mean_mask import onto


def test_it_finds_what_lies_where_it_lay_in_training_on_any_grid() -> None:
    label = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    label[:, 4:10, 4:10, 4:10] = 2
    label[:, 6:8, 6:8, 6:8] = 3
    elsewhere = torch.roll(label, 6, 1)

    def of(labels: list[Tensor]) -> Tensor:
        return mean_mask([partial(onto, to_regions(one), (8, 8, 8)) for one in labels])

    logits = of([label] * 3 + [elsewhere])
    assert logits.shape == (1, 3, 8, 8, 8)
    truth = to_regions(label[:, ::2, ::2, ::2])
    assert (((logits > 0) == (truth > 0.5)).float().mean((2, 3, 4)) > 0.98).all()
    without = of([label.clamp(max=2) * (label == 2)] * 3)
    assert not (without[0, 2] > 0).any()  # no training case holds an enhancing tumour


def test_one_mask_is_for_all_slices_of_a_scan_and_no_scan_vouches_for_where_its_own_tumour_lies() -> None:
    """Three scans have a tumour in the corner of two of three slices; a fourth has a pixel elsewhere, and nobody else has.

    Were it held against a mean that it is a part of, a threshold that finds that pixel would have the best mean Dice.
    """
    corner, own = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    corner[:2, :, :3, :3] = 1
    own[:, :, 6, 6] = 1
    logits = mean_mask([lambda: corner] * 3 + [lambda: own])
    assert logits.shape == (1, 1, 8, 8)
    assert torch.equal(logits > 0, corner[:1] > 0)
