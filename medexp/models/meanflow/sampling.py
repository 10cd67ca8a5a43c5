"""Samples of a MeanFlow network, in one step or a few."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def noise(count: int, shape: Sequence[int], seed: int, first: int = 0) -> Tensor:
    """Standard normal noise (count, C, x, y, z) on the CPU; the i-th follows from (seed, first + i) alone.

    Args:
        count: How many.
        shape: Of one of them, (C, x, y, z).
        seed: From 0.
        first: Number of the first one, from 0.
    """
    drawn = [np.random.default_rng([seed, first + i]).standard_normal(shape, dtype=np.float32) for i in range(count)]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.empty(0, *shape)


@torch.no_grad()
def sample(net: nn.Module, noise: Tensor, steps: int = 1, batch_size: int = 16) -> Tensor:
    """Latents of noise, from time 1 to 0 on an even grid: z_r = z_t - (t - r) u(z_t, t, r); one step is eps - u(eps, 1, 0).

    Args:
        net: Takes z, t, r; it is used in the mode in which it is. What of it could be trained makes no difference, to the bit.
        noise: (N, C, x, y, z).
        steps: At least 1.
        batch_size: How many at a time; changes no more of a sample than rounding.

    Returns:
        (N, C, x, y, z), on the noise's device.
    """
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    device = next(net.parameters()).device
    times = torch.linspace(1, 0, steps + 1, device=device)

    def flown(z: Tensor) -> Tensor:
        for t, r in itertools.pairwise(times):
            z = z - (t - r) * net(z, t.expand(len(z)), r.expand(len(z)))
        return z

    for parameter in parameters:  # torch's kernels for weights that could be trained round differently, also without gradients
        parameter.requires_grad_(False)
    try:
        return torch.cat([flown(part.to(device)).to(noise.device) for part in noise.split(batch_size)])
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
