"""A vision transformer for pictures, run over the B-scans of a volume.

Zhou et al., "A foundation model for generalizable disease detection from retinal images" (RETFound, 2023), a masked
autoencoder (He et al., 2022) of ViT-L/16, whose names of keys these are.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medexp.errors import RegistryError
from medexp.models.transformer import Block, demand_size, grid_of, start, through

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Patches2D(nn.Module):
    """Patches of a picture as tokens.

    Args:
        patch: Edges of a patch along H and W.
        dim: Width of a token.
    """

    def __init__(self, patch: Sequence[int], dim: int) -> None:
        super().__init__()
        edges = (patch[0], patch[1])
        self.proj = nn.Conv2d(3, dim, kernel_size=edges, stride=edges)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) of pictures (B, 3, H, W), W the fastest."""
        return torch.as_tensor(self.proj(x).flatten(2).transpose(1, 2))


class BscanTransformer(nn.Module):
    """A vision transformer over some B-scans of a volume, gray repeated to three channels.

    Args:
        size: D, H and W of a volume: H and W are multiples of the patch's edges.
        patch: Edges of a patch along H and W.
        dim: Width of a token.
        depth: Blocks.
        heads: Attention heads; `dim` is a multiple of it.
        bscans: B-scans that are looked at, chosen evenly, the first and the last among them; at most D.
        pool: The norm after the blocks: `norm`, of each token, as in pretraining; or `fc_norm`, of the mean over a B-scan's
            patches, as RETFound's own fine-tuning has it.
        imagenet: Whether intensities, 0 to 1, are brought to the means and deviations of ImageNet, as RETFound has it.
        mlp_ratio: Width of an MLP in widths of a token.
        norm_eps: Added to the variance in a layer norm.

    Attributes:
        width: Features of a volume: `dim`.
        checkpointing: Whether a training step computes the inside of blocks again instead of keeping it: less memory, more
            time.

    Raises:
        RegistryError: The size is no multiple of the patch, `dim` none of `heads`, or there are fewer B-scans than `bscans`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        size: Sequence[int],
        patch: Sequence[int],
        dim: int,
        depth: int,
        heads: int,
        bscans: int,
        pool: Literal["norm", "fc_norm"] = "norm",
        imagenet: bool = True,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        rows, columns = grid_of(size[1:], patch, dim, heads)
        if not 1 <= bscans <= size[0]:
            raise RegistryError(f"architecture bscan_vit: bscans {bscans}; a volume has {size[0]}")
        if pool not in ("norm", "fc_norm"):
            raise RegistryError(f"architecture bscan_vit: pool {pool!r}; known are norm and fc_norm")
        self.size, self.width, self.bscans, self.pool, self.checkpointing = tuple(size), dim, bscans, pool, False
        self.patch_embed = Patches2D(patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, True, norm_eps) for _ in range(depth))
        self.add_module(pool, nn.LayerNorm(dim, norm_eps))
        of_channels = (IMAGENET_MEAN, IMAGENET_DEVIATION) if imagenet else ((0.0,) * 3, (1.0,) * 3)
        for name, values in zip(("mean", "deviation"), of_channels, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        for parameter in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(parameter, std=0.02)
        start(self)

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens (B, bscans x N, dim) of normalised volumes (B, 1, D, H, W), B-scan by B-scan, without the class tokens.

        Raises:
            DataError: The volumes have another size.
        """
        return self._normed(self._patches(x)).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, dim), float32 in any precision, of normalised volumes (B, 1, D, H, W): the mean over B-scans of the
        mean over their tokens."""
        patches = self._patches(x)
        if self.pool == "norm":
            return self._normed(patches).float().mean(dim=(1, 2))
        return self._normed(patches.float().mean(dim=2)).float().mean(dim=1)

    def _normed(self, tokens: Tensor) -> Tensor:
        return torch.as_tensor(self.get_submodule(self.pool)(tokens))

    def _patches(self, x: Tensor) -> Tensor:
        """What the blocks make of each patch (B, bscans, N, dim)."""
        demand_size(x, self.size, "bscan_vit")
        chosen = torch.linspace(0, x.shape[2] - 1, self.bscans, device=x.device).round().long()
        pictures = x[:, 0, chosen].flatten(0, 1).unsqueeze(1)  # (B x bscans, 1, H, W)
        tokens = self.patch_embed((pictures - self.mean) / self.deviation)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        return through(self.blocks, tokens, self.checkpointing)[:, 1:].unflatten(0, (len(x), self.bscans))
