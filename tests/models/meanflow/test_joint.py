"""Latents of pairs: standardised, brought back, and what is kept of them."""

import json

import pytest
import torch
from torch import Tensor, nn

from medexp.models.autoencoder.network import Autoencoder
from medexp.models.meanflow.joint import Joint, Pooling, Strategy


class Blocks(Autoencoder):
    """An autoencoder that can be reckoned with: four times the mean of each block of 4 voxels a side, and 0.6 of it back."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.latent_channels = 4
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool3d(x, 4).expand(-1, 4, -1, -1, -1) * torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        return 0.6 * nn.functional.interpolate(z[:, :1], scale_factor=4.0, mode="nearest")


def pairs(count: int = 3) -> tuple[Tensor, Tensor]:
    """Volumes, and masks of whole blocks."""
    generator = torch.Generator().manual_seed(0)
    masks = nn.functional.interpolate((torch.rand(count, 1, 4, 4, 4, generator=generator) > 0.8).float(), scale_factor=4.0)
    return torch.rand(count, 1, 16, 16, 16, generator=generator), masks


@pytest.mark.parametrize(("strategy", "channels"), [("vae", 8), ("downsample", 5), ("image", 4)])
def test_training_latents_have_mean_0_and_standard_deviation_1_in_each_channel(strategy: Strategy, channels: int) -> None:
    images, masks = pairs()
    joint = Joint.fit(Blocks(), images, None if strategy == "image" else masks, strategy)
    z = joint.encode(images, masks)
    assert z.shape == (3, channels, 4, 4, 4) and joint.channels == channels
    flat = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(channels), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(1, unbiased=False), torch.ones(channels), atol=1e-4, rtol=0)
    x, soft = joint.decode(z)
    assert x.shape == soft.shape == images.shape
    torch.testing.assert_close(
        x, (0.6 * Blocks().encode(images)[:, :1]).repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    )
    if strategy == "image":
        assert not soft.any()


def test_the_threshold_is_the_one_that_brings_the_masks_back() -> None:
    """Lesions come back as 0.6, so a threshold of 0.95 would find none; of those that find all, the nearest to a half."""
    images, masks = pairs()
    joint = Joint.fit(Blocks(), images, masks, "vae")
    assert joint.threshold == 0.5
    assert torch.equal(joint.masks(joint.decode(joint.encode(images, masks))[1]), masks > 0.5)
    dim = Blocks()
    dim.decode = lambda z: 0.3 * Blocks.decode(dim, z)  # type: ignore[method-assign]
    assert Joint.fit(dim, images, masks, "vae").threshold == 0.15


def test_average_pooling_keeps_the_share_and_nearest_a_voxel() -> None:
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., :4, :4, :2] = 1  # half of one cell
    pooled: dict[Pooling, Tensor] = {
        pooling: Joint(Blocks(), "downsample", pooling).encode(mask, mask)[0, 4] for pooling in ("average", "nearest")
    }
    assert float(pooled["average"][0, 0, 0]) == 0.5 and float(pooled["nearest"][0, 0, 0]) in {0, 1}
    assert pooled["average"].sum() == 0.5


def test_it_comes_back_from_json_to_the_bit() -> None:
    images, masks = pairs()
    joint = Joint.fit(Blocks(), images, masks, "downsample", "nearest")
    again = Joint.from_record(Blocks(), json.loads(json.dumps(joint.record())))
    assert again.record() == joint.record()
    assert torch.equal(again.encode(images, masks), joint.encode(images, masks))


def test_what_does_not_go_together() -> None:
    images, masks = pairs()
    with pytest.raises(ValueError, match="strategy vae encodes masks as well; none was given"):
        Joint(Blocks(), "vae").encode(images)
    with pytest.raises(ValueError, match=r"mean: found \(4,\); strategy downsample has 5 channels"):
        Joint(Blocks(), "downsample", mean=[0.0] * 4)
    with pytest.raises(ValueError, match="images: found none"):
        Joint.fit(Blocks(), [], [], "vae")
    with pytest.raises(ValueError, match="shorter"):
        Joint.fit(Blocks(), images, masks[:2], "vae")


def test_the_autoencoder_stays_as_it_is() -> None:
    vae = Autoencoder((4, 4, 8), norm_groups=2)
    joint = Joint(vae, "vae")
    assert not vae.training and not any(parameter.requires_grad for parameter in joint.parameters())
    assert not joint.encode(*pairs(1)).requires_grad
