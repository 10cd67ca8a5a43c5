"""Dice of slices added up over a scan, against values known by hand and MONAI's Dice of the stacked volume."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice
from torch import Tensor
from torch.utils.data import Dataset

from medexp.errors import TrainingDiverged
from medexp.evaluation.batches import Batches
from medexp.evaluation.segmentation import dice_by_scan, evaluate_slices, left_apart

Slice = tuple[str, Tensor, Tensor]


class Slices(Dataset[dict[str, Any]]):
    """Slices whose image is the answer, as a probability; a scan's name is what stands before the dash."""

    def __init__(self, slices: list[Slice], unmasked: frozenset[str] = frozenset()) -> None:
        self.slices, self.unmasked = slices, unmasked

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case, truth, answer = self.slices[index]
        return {"image": answer[None], "mask": truth[None], "has_mask": case not in self.unmasked, "case": case, "label": 1}

    @property
    def manifest(self) -> pd.DataFrame:
        cases = [case for case, *_ in self.slices]
        scans = [case.partition("-")[0] for case in cases]
        patients = [f"patient of {scan}" for scan in scans]
        return pd.DataFrame({"case": cases, "scan": scans, "patient": patients, "source": "brats"}).sort_values("case")


def oracle(image: Tensor) -> Tensor:
    return torch.logit(image, eps=1e-6)


def pixels(*indices: int) -> Tensor:
    """A mask of 4 x 4 with these pixels."""
    mask = torch.zeros(16)
    mask[list(indices)] = 1
    return mask.reshape(4, 4)


def evaluate(data: Slices, batch_size: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    return evaluate_slices(oracle, Batches(data, batch_size), data.manifest, Accelerator(cpu=True))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_slices_of_a_scan_are_one_case(batch_size: int) -> None:
    data = Slices(
        [
            ("b-0", pixels(0, 1, 2, 3), pixels(0, 1, 2, 3)),
            ("a-0", pixels(0, 1), pixels(1, 2)),
            ("b-1", pixels(5), pixels(6, 7)),
            ("b-2", pixels(), pixels(8)),
        ]
    )
    scans, slices = evaluate(data, batch_size)
    assert scans.to_dict("list") == {
        "case": ["a", "b"],
        "patient": ["patient of a", "patient of b"],
        "source": ["brats", "brats"],
        "dice": [0.5, 2 * 4 / (5 + 7)],  # and not the mean of 1, 0 and 0
        "false_pixels": pytest.approx([math.nan, math.nan], nan_ok=True),
        "slices": [1, 3],
    }
    assert list(slices["case"]) == ["b-0", "a-0", "b-1", "b-2"]
    assert slices.loc[2, ["truth", "predicted", "overlap"]].tolist() == [1, 2, 0]


def test_a_scan_without_tumour_has_no_dice_whatever_is_predicted() -> None:
    data = Slices([("a-0", pixels(), pixels()), ("a-1", pixels(), pixels()), ("b-0", pixels(), pixels(3))])
    scans, _ = evaluate(data)
    assert scans["dice"].isna().all()
    assert dict(zip(scans["case"], scans["false_pixels"], strict=True)) == {"a": 0, "b": 1}
    told = "tumour: 2 of 2 cases hold none and have no Dice; predicted there in 1, 1 pixels in all."
    assert left_apart(scans) == [told]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_no_empty_mask(bad: float) -> None:
    answer = torch.full((4, 4), 0.9)
    answer[2, 2] = bad
    data = Slices([("a-0", pixels(0), pixels(0)), ("a-1", pixels(0), answer)])
    with pytest.raises(TrainingDiverged, match=r"the network's output: a-1: 1 NaN or infinite values"):
        evaluate_slices(lambda image: image, Batches(data, 2), data.manifest, Accelerator(cpu=True))


def test_a_pixel_is_tumour_above_one_half() -> None:
    answer = torch.full((4, 4), 0.5)
    answer[0, 0], answer[0, 1] = 0.51, 0.49
    _, slices = evaluate(Slices([("a-0", pixels(0, 1, 2), answer)]))
    assert slices.loc[0, ["predicted", "overlap"]].tolist() == [1, 1]


def test_slices_without_a_mask_are_left_out() -> None:
    pair = pixels(1), pixels(1)
    scans, slices = evaluate(Slices([("a-0", *pair), ("k-0", *pair), ("a-1", *pair)], frozenset({"k-0"})))
    assert list(scans["case"]) == ["a"] and list(slices["case"]) == ["a-0", "a-1"]
    scans, slices = evaluate(Slices([("k-0", *pair)], frozenset({"k-0"})))
    assert scans.empty and slices.empty
    assert list(scans) == ["case", "patient", "source", "dice", "false_pixels", "slices"]


def test_a_slice_that_the_manifest_lacks_is_not_dropped_in_silence() -> None:
    slices = pd.DataFrame({"case": ["a-0", "x-0"], "truth": 1, "predicted": 1, "overlap": 1})
    with pytest.raises(KeyError, match="x-0"):
        dice_by_scan(slices, Slices([("a-0", pixels(), pixels())]).manifest)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_it_is_the_dice_of_the_volume(seed: int, scans: list[int]) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (torch.as_tensor(rng.random((len(scans), 3, 3)) < 0.3) for _ in range(2))
    rows = [
        {"case": f"{scan}-{i}", "truth": int(t.sum()), "predicted": int(p.sum()), "overlap": int((t & p).sum())}
        for i, (scan, t, p) in enumerate(zip(scans, truth, predicted, strict=True))
    ]
    cases = [row["case"] for row in rows]
    manifest = pd.DataFrame({"case": cases, "scan": scans, "patient": "p", "source": "brats"})
    for row in dice_by_scan(pd.DataFrame(rows), manifest).itertuples():
        of_scan = torch.tensor(scans) == row.case
        volumes = (part[of_scan][None, None].float() for part in (predicted, truth))
        assert row.dice == pytest.approx(float(compute_dice(*volumes, include_background=True)), nan_ok=True)
        assert math.isnan(row.dice) != math.isnan(row.false_pixels)
        assert row.slices == of_scan.sum()
