"""Dice, HD95 and cross-entropy per case, against values known by hand."""

import math
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from medexp.data.volumes.regions import to_regions
from medexp.errors import TrainingDiverged
from medexp.evaluation.segmentation import evaluate_segmentation, left_apart, mean_scores, sliding_window

SIZE = (32, 32, 32)


class Oracle(nn.Module):
    """Answers the regions hidden in its input, as logits."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :3] - 0.5) * 20


class Cases(Dataset[dict[str, Any]]):
    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label, answer = self.pairs[index]
        image = torch.cat([to_regions(answer.unsqueeze(0))[0], torch.zeros(1, *SIZE)])
        return {"image": image, "label": label, "case": f"case-{index}"}


def cube(start: int, stop: int, value: int, shift: int = 0) -> Tensor:
    label = torch.zeros(SIZE, dtype=torch.uint8)
    label[start + shift : stop + shift, start:stop, start:stop] = value
    return label


def scores(*pairs: tuple[Tensor, Tensor], **settings: Any) -> Any:
    return judged(Oracle(), list(pairs), **settings)


def judged(net: nn.Module, pairs: list[tuple[Tensor, Tensor]], **settings: Any) -> Any:
    accelerator = Accelerator(cpu=True)
    predict = sliding_window(net, SIZE, 0.5, accelerator)
    return evaluate_segmentation(predict, Cases(pairs), spacing=(2.0, 1.0, 1.0), accelerator=accelerator, **settings)


def test_a_perfect_prediction() -> None:
    row = scores((cube(8, 16, 3), cube(8, 16, 3))).iloc[0]
    assert [row[f"dice_{r}"] for r in ("TC", "WT", "ET")] == [1, 1, 1]
    assert [row[f"hd95_{r}"] for r in ("TC", "WT", "ET")] == [0, 0, 0]
    assert 0 < row["ce"] < 1e-3


def test_regions_overlap_as_brats_defines_them() -> None:
    row = scores((cube(8, 16, 1), cube(8, 16, 2))).iloc[0]
    assert row["dice_WT"] == 1
    assert row["dice_TC"] == 0  # edema is no core
    assert math.isnan(row["dice_ET"]) and row["false_ET"] == 0  # neither has any


def test_hd95_is_in_millimetres() -> None:
    row = scores((cube(8, 16, 3), cube(8, 16, 3, shift=2))).iloc[0]
    assert row["hd95_WT"] == pytest.approx(4.0)  # two voxels of 2 mm
    assert row["dice_WT"] == pytest.approx(6 / 8)


def test_hd95_of_a_missing_region_is_nan_and_is_left_out_of_the_mean() -> None:
    empty = torch.zeros(SIZE, dtype=torch.uint8)
    table = scores((cube(8, 16, 3), empty), (cube(8, 16, 3), cube(8, 16, 3)))
    assert math.isnan(table["hd95_WT"][0])
    assert mean_scores(table)["hd95_WT"] == 0
    assert mean_scores(table)["dice_WT"] == 0.5


EMPTY = torch.zeros(SIZE, dtype=torch.uint8)


def test_what_predicts_nothing_earns_nothing_where_there_is_nothing() -> None:
    """Of a lesion that is lost on the network's grid, an empty mask was right before, with Dice 1."""
    table = scores((EMPTY, EMPTY), (EMPTY, EMPTY))
    assert table[["dice_TC", "dice_WT", "dice_ET"]].isna().all(axis=None)
    assert math.isnan(mean_scores(table)["dice_WT"])
    assert (table[["false_TC", "false_WT", "false_ET"]] == 0).all(axis=None)


def test_a_region_that_a_case_lacks_is_apart_and_in_no_mean() -> None:
    """The second case has edema alone; what is predicted of the core is 8 x 8 x 8 voxels of 2 mm^3."""
    table = scores((cube(8, 16, 3), cube(8, 16, 3)), (cube(8, 16, 2), cube(8, 16, 1)), (cube(8, 16, 2), cube(8, 16, 2)))
    means = mean_scores(table)
    assert [means[f"dice_{region}"] for region in ("TC", "WT", "ET")] == [1, 1, 1]
    assert table["false_TC"].tolist() == pytest.approx([math.nan, 1024, 0], nan_ok=True)
    assert table["false_WT"].isna().all()
    assert not any(name.startswith("false_") for name in means)
    assert left_apart(table) == [
        "TC: 2 of 3 cases hold none and have no Dice; predicted there in 1, 1,024 mm^3 in all.",
        "ET: 2 of 3 cases hold none and have no Dice; predicted there in 0, 0 mm^3 in all.",
    ]
    assert left_apart(scores((cube(8, 16, 3), cube(8, 16, 3)))) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_no_empty_mask(bad: float) -> None:
    class Diverged(Oracle):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits[..., 3, 3, 3] = bad
            return logits

    with pytest.raises(TrainingDiverged, match=r"the network's output: case-0: 3 NaN or infinite values"):
        judged(Diverged(), [(cube(8, 16, 3), EMPTY)])


def test_cases_keep_their_order_and_predictions_are_handed_on() -> None:
    seen = []
    table = scores(
        *[(cube(8, 16, 3), cube(8, 16, 3))] * 3,
        hd95=False,
        on_prediction=lambda case, image, label, predicted: seen.append((case, predicted.shape)),
    )
    assert list(table["case"]) == ["case-0", "case-1", "case-2"]
    assert seen == [(f"case-{i}", (3, *SIZE)) for i in range(3)]
    assert "hd95_WT" not in table
