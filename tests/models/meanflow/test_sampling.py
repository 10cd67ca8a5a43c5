"""Samples: noise by its number, and steps along the flow."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medexp.models.meanflow.sampling import noise, sample


class Exact(nn.Module):
    """The exact average velocity of the flow from noise to one point: z_t = (1 - t) z + t eps."""

    def __init__(self, point: float) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor(point))
        self.times: list[tuple[float, float]] = []

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        assert t.shape == r.shape == (len(z),)
        self.times.append((float(t[0]), float(r[0])))
        return (z - self.point) / t.view(-1, 1, 1, 1, 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), first=st.integers(0, 1000), count=st.integers(0, 4))
def test_noise_follows_from_seed_and_number_alone(seed: int, first: int, count: int) -> None:
    found = noise(count, (2, 3, 2, 2), seed, first)
    assert found.shape == (count, 2, 3, 2, 2)
    assert all(torch.equal(found[i], noise(1, (2, 3, 2, 2), seed, first + i)[0]) for i in range(count))
    if count:
        assert not torch.equal(found[0], noise(1, (2, 3, 2, 2), seed + 1, first)[0])


def test_noise_is_standard_normal() -> None:
    drawn = noise(8, (4, 16, 16, 16), 0)
    assert abs(float(drawn.mean())) < 0.01 and abs(float(drawn.std()) - 1) < 0.01


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_an_exact_average_velocity_arrives_in_any_number_of_steps(steps: int, batch_size: int) -> None:
    net = Exact(3.0)
    z = sample(net, noise(3, (1, 2, 2, 2), 0), steps, batch_size)
    assert z.shape == (3, 1, 2, 2, 2) and not z.requires_grad
    torch.testing.assert_close(z, torch.full_like(z, 3.0))
    grid = [1 - step / steps for step in range(steps + 1)]
    assert net.times[:steps] == [pytest.approx(pair) for pair in itertools.pairwise(grid)]
