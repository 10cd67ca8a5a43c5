"""Slices in batches; their Dice added up over a scan, against values known by hand and MONAI's Dice of the stacked volume."""

import os
from pathlib import Path
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

from medexp.evaluation import slices as judged
from medexp.evaluation.slices import Batches, dice_by_scan, evaluate_slices, in_batches

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
    return torch.logit(image)


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
        "slices": [1, 3],
    }
    assert list(slices["case"]) == ["b-0", "a-0", "b-1", "b-2"]
    assert slices.loc[2, ["truth", "predicted", "overlap"]].tolist() == [1, 2, 0]


def test_a_scan_without_tumour_is_right_when_none_is_predicted() -> None:
    data = Slices([("a-0", pixels(), pixels()), ("a-1", pixels(), pixels()), ("b-0", pixels(), pixels(3))])
    scans, _ = evaluate(data)
    assert dict(zip(scans["case"], scans["dice"], strict=True)) == {"a": 1, "b": 0}


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
    assert list(scans) == ["case", "patient", "source", "dice", "slices"]


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
        assert row.dice == pytest.approx(float(compute_dice(*volumes, include_background=True, ignore_empty=False)))
        assert row.slices == of_scan.sum()


class Counted(Dataset[dict[str, Any]]):
    """Items of 400 bytes; notes in a file, which all processes share, which were read, and by how many processes."""

    def __init__(self, log: Path, items: int = 7) -> None:
        self.log, self.items = log, items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.log.open("a") as log:
            log.write(f"{index} {os.getpid()}\n")
        return {"image": torch.full((1, 10, 10), float(index)), "case": str(index)}

    def read(self) -> tuple[list[int], int]:
        """Which were read since the last call, and whether all in this process."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return sorted(int(index) for index, _ in lines), {int(process) for _, process in lines} == {os.getpid()}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_whoever_reads_them(tmp_path: Path, workers: int) -> None:
    data = Counted(tmp_path / "log")
    batches = Batches(data, 3, workers)
    state = torch.get_rng_state()
    for _ in range(2):
        found = list(batches)
        assert [batch["case"] for batch in found] == [list("012"), list("345"), list("6")] and len(batches) == 3
        assert torch.cat([batch["image"] for batch in found])[:, 0, 0, 0].tolist() == list(range(7))
    assert torch.equal(torch.get_rng_state(), state), "or judging would change what dropout draws next"
    assert data.read()[1] == (workers == 0)
    means = in_batches(lambda images: images.mean(dim=(2, 3)), batches, Accelerator(cpu=True), "")
    assert means.dtype == np.float32 and means.tolist() == [[index] for index in range(7)]


@pytest.mark.parametrize(("room", "again"), [(2**29, []), (2 * 3 * 400, [6]), (3 * 400, [3, 4, 5, 6]), (0, list(range(7)))])
def test_what_workers_read_is_kept_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, again: list[int]
) -> None:
    monkeypatch.setattr(judged, "_MOST_BYTES", room)
    data = Counted(tmp_path / "log")
    batches = Batches(data, 3, 1)
    first = list(batches)
    assert data.read()[0] == list(range(7))
    second = list(batches)
    assert data.read()[0] == again if again else not (tmp_path / "log").read_text()
    for one, other in zip(first, second, strict=True):
        assert one["case"] == other["case"] and torch.equal(one["image"], other["image"])
    assert not room or first[0]["image"].is_shared() > second[0]["image"].is_shared(), "of which a container has little"


def test_what_this_process_reads_is_left_to_the_data_set_to_keep(tmp_path: Path) -> None:
    data = Counted(tmp_path / "log")
    batches = Batches(data, 3)
    for _ in range(2):
        assert len(list(batches)) == 3
        assert data.read() == (list(range(7)), True)
