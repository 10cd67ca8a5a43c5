"""The demo's base: shipped for the code's own recipe."""

import torch

from medexp.models.meanflow.sampling import noise, sample
from medexp.phases.phase7.pretrained import SHIPPED, demo_base, key


def test_the_shipped_base_is_the_recipes_own_and_small():
    assert [folder.name for folder in SHIPPED.iterdir()] == [key()], "python -m benchmarks.phase7_base makes it anew"
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= 8 * 2**20


def test_it_draws_heads_in_one_step():
    base = demo_base()
    z = sample(base.net, noise(4, (base.joint.channels, *(edge // 4 for edge in base.size)), 0))
    images, masks = base.joint.decode(z)
    assert tuple(images.shape) == (4, 1, *base.size) and not masks.any()
    assert bool((images[:, :, 12:20, 16:24, 8:16].mean((1, 2, 3, 4)) > 0.2).all()), "there is a brain in the middle"
    assert bool((images[:, :, :2, :2].mean((1, 2, 3, 4)) < 0.05).all()), "and nothing in a corner"
    assert float(torch.cdist(images.flatten(1), images.flatten(1))[0, 1:].min()) > 1, "and each is another"
    assert demo_base().digest == base.digest
