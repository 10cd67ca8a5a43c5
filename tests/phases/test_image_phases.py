"""What phases 2.1 to 2.3 share: two networks that are compared are judged alike, and what a trial needs is asked for first."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from medexp.models.multitask import MultiTaskModel
from medexp.phases.images import classify, in_batches
from medexp.phases.launch import forget_precision, start_accelerator


class Noise(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(index))}


@pytest.fixture
def fresh_precision() -> Iterator[None]:
    forget_precision()
    yield
    forget_precision()


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_a_network_that_was_trained_here_is_judged_as_one_that_was_pulled(fresh_precision: None, precision: str) -> None:
    """Preparing a network for training makes it compute in the precision of training from then on."""
    torch.manual_seed(0)
    pulled = MultiTaskModel(1, 4, 2).eval()
    trained = copy.deepcopy(pulled)
    accelerator = start_accelerator("cpu", 1, precision)
    accelerator.prepare(trained)
    found = [
        in_batches(lambda images, net=net: classify(net, images), Noise(), accelerator, 4, "") for net in (trained, pulled)
    ]
    np.testing.assert_array_equal(*found)
