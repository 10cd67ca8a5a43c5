"""An image and its lesion's mask as one latent, and back."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate

from medexp.models.autoencoder.network import FACTOR, Autoencoder

Strategy = Literal["vae", "downsample", "image"]
Pooling = Literal["average", "nearest"]

_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


class Joint(nn.Module):
    """Standardised latents of pairs.

    Args:
        vae: The autoencoder; it is frozen.
        strategy: What stands behind the image's latent: `vae`: the mask's, by the same autoencoder; `downsample`: the mask
            itself on the latent's grid, one channel; `image`: nothing.
        pooling: How `downsample` brings a mask to that grid: the share of lesion in a cell, or the voxel at its centre.
        mean: Mean of each channel over the training latents.
        std: Standard deviation of each channel over them.
        threshold: From which value on a soft mask is lesion.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vae: Autoencoder,
        strategy: Strategy,
        pooling: Pooling = "average",
        mean: Iterable[float] | None = None,
        std: Iterable[float] | None = None,
        threshold: float = 0.5,
    ) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.strategy, self.pooling, self.threshold = strategy, pooling, threshold
        self.channels = vae.latent_channels + {"vae": vae.latent_channels, "downsample": 1, "image": 0}[strategy]
        self.register_buffer("mean", torch.tensor([0.0] * self.channels if mean is None else list(mean)))
        self.register_buffer("std", torch.tensor([1.0] * self.channels if std is None else list(std)))
        for name, found in (("mean", self.mean), ("std", self.std)):
            if found.shape != (self.channels,):
                raise ValueError(f"{name}: found {tuple(found.shape)}; strategy {strategy} has {self.channels} channels")

    @classmethod
    def fit(
        cls,
        vae: Autoencoder,
        images: Iterable[Tensor] | None,
        masks: Iterable[Tensor] | None,
        strategy: Strategy,
        pooling: Pooling = "average",
        known: "Joint | None" = None,
    ) -> "Joint":
        """With mean and standard deviation of the latents of these pairs, and the threshold of the best mean Dice between
        their masks and what comes back of them.

        Args:
            vae: The autoencoder.
            images: Training images (1, X, Y, Z) in [0, 1], one after the other; None where they are `known`.
            masks: Their masks (1, X, Y, Z), 0 or 1, none of them empty; None under strategy `image`.
            strategy: As of the class.
            pooling: As of the class.
            known: Of strategy `image`: what the images' latents are standardised by, where that is known before.

        Raises:
            ValueError: There are no images, or more of the ones than of the others.
        """
        joint = cls(vae, strategy, pooling).to(next(vae.parameters()).device)
        given = [one for one in (images, masks) if one is not None]
        sums = torch.zeros(2, 1, dtype=torch.float64)  # as wide as the latents from the first pair on
        dice: list[Tensor] = []
        voxels = 0
        for pair in zip(*given, strict=True):
            tensors = [one[None].to(joint.mean) for one in pair]
            with torch.no_grad():
                z = [vae.encode(tensors[0])] if images is not None else []
                if masks is not None and strategy != "image":
                    z.append(joint._of_masks(tensors[-1]))
                    dice.append(_dice_by_threshold(joint._soft(z[-1]), tensors[-1]))
            flat = torch.cat(z, dim=1)[0].flatten(1).double().cpu()
            sums = sums + torch.stack([flat.sum(1), flat.square().sum(1)])
            voxels += flat.shape[1]
        if not voxels:
            raise ValueError("images: found none; latents are standardised by those of the training images")
        mean = sums[0] / voxels
        std = (sums[1] / voxels - mean.square()).clamp_min(1e-12).sqrt()
        if known is not None:
            mean, std = torch.cat([known.mean.cpu(), mean]), torch.cat([known.std.cpu(), std])
        best = joint.threshold
        if dice:
            means = torch.stack(dice).mean(dim=0)
            # of equal ones the nearest to a half, as nothing else speaks for either
            best = max(zip(means.tolist(), _THRESHOLDS, strict=True), key=lambda one: (one[0], -abs(one[1] - 0.5)))[1]
        return cls(vae, strategy, pooling, mean.tolist(), std.tolist(), best).to(joint.mean.device)

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(C, x, y, z) of the latent of a volume of this size (X, Y, Z), in voxels."""
        return (self.channels, *(edge // FACTOR for edge in size))

    @torch.no_grad()
    def encode(self, x: Tensor, m: Tensor | None = None) -> Tensor:
        """Standardised latents.

        Args:
            x: Images (B, 1, X, Y, Z) in [0, 1]; sizes are multiples of FACTOR.
            m: Their masks (B, 1, X, Y, Z), 0 or 1; not needed under strategy `image`.

        Returns:
            (B, C, X / FACTOR, Y / FACTOR, Z / FACTOR); C = 8 of a VAE with 4 channels under `vae`, 5 under `downsample`, 4
            under `image`.
        """
        z = self.vae.encode(x)
        if self.strategy != "image":
            if m is None:
                raise ValueError(f"m: strategy {self.strategy} encodes masks as well; none was given")
            z = torch.cat([z, self._of_masks(m)], dim=1)
        return (z - _per_channel(self.mean)) / _per_channel(self.std)

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Images and soft masks of standardised latents.

        Args:
            z: (B, C, x, y, z).

        Returns:
            Both (B, 1, FACTOR x, FACTOR y, FACTOR z) in [0, 1]; the masks are 0 under strategy `image`.
        """
        z = z * _per_channel(self.std) + _per_channel(self.mean)
        image, mask = z.tensor_split([self.vae.latent_channels], dim=1)
        x = self.vae.decode(image).clamp(0, 1)
        if self.strategy == "image":
            return x, torch.zeros_like(x)
        return x, self._soft(mask)

    @torch.no_grad()
    def returned(self, m: Tensor) -> Tensor:
        """Soft masks (B, 1, X, Y, Z), 0 to 1, as they come back of masks of that shape, 0 or 1; no image is needed."""
        return self._soft(self._of_masks(m))

    def masks(self, soft: Tensor) -> Tensor:
        """Masks (B, 1, X, Y, Z), bool, of soft ones of that shape, 0 to 1."""
        return soft > self.threshold

    def record(self) -> dict[str, Any]:
        """All of it but the VAE, for JSON."""
        return {
            "strategy": self.strategy,
            "pooling": self.pooling,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "threshold": self.threshold,
        }

    @classmethod
    def from_record(cls, vae: Autoencoder, record: Mapping[str, Any]) -> "Joint":
        """What `record` told of, with its VAE."""
        return cls(vae, **record)

    def _of_masks(self, m: Tensor) -> Tensor:
        if self.strategy == "vae":
            return self.vae.encode(m)
        if self.pooling == "average":
            return avg_pool3d(m, FACTOR)
        return interpolate(m, scale_factor=1 / FACTOR, mode="nearest-exact")

    def _soft(self, z: Tensor) -> Tensor:
        if self.strategy == "vae":
            return self.vae.decode(z).clamp(0, 1)
        return interpolate(z, scale_factor=float(FACTOR), mode="trilinear").clamp(0, 1)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


def _dice_by_threshold(soft: Tensor, m: Tensor) -> Tensor:
    """Dice of one soft mask (1, 1, X, Y, Z) with a mask, at each threshold."""
    masks = torch.stack([soft > threshold for threshold in _THRESHOLDS])
    lesion = m > 0.5
    both = (masks & lesion).flatten(1).sum(1)
    return (2 * both / (masks.flatten(1).sum(1) + lesion.sum()).clamp_min(1)).double().cpu()
