"""Images in batches: in order, whoever reads them, and read again only where there was no room to keep them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from medexp.evaluation import batches as judged
from medexp.evaluation.batches import Batches, in_batches


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
