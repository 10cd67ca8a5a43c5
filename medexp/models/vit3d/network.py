"""A vision transformer on 3D patches.

Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video" (V-JEPA, 2024) and Assran et al.,
"V-JEPA 2" (2025), with a learned position embedding of a fixed grid, and the names of keys that their code gives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medexp.models.transformer import Block, demand_size, grid_of, start, through


class Patches3D(nn.Module):
    """Patches of a volume as tokens.

    Args:
        patch: Edges of a patch along D, H and W.
        dim: Width of a token.
    """

    def __init__(self, patch: Sequence[int], dim: int) -> None:
        super().__init__()
        edges = (patch[0], patch[1], patch[2])
        self.proj = nn.Conv3d(1, dim, kernel_size=edges, stride=edges)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) of volumes (B, 1, D, H, W), W the fastest."""
        return torch.as_tensor(self.proj(x).flatten(2).transpose(1, 2))


class VisionTransformer3D(nn.Module):
    """A vision transformer on 3D patches.

    Args:
        size: D, H and W of a volume: multiples of the patch's edges, since the position embedding is of that grid alone.
        patch: Edges of a patch along D, H and W.
        dim: Width of a token.
        depth: Blocks.
        heads: Attention heads; `dim` is a multiple of it.
        mlp_ratio: Width of an MLP in widths of a token.
        qkv_bias: Whether queries, keys and values have a bias.
        norm_eps: Added to the variance in a layer norm: 1e-5 where PyTorch's default was kept, 1e-6 in V-JEPA's own code.

    Attributes:
        width: Features of a volume: `dim`.
        checkpointing: Whether a training step computes the inside of blocks again instead of keeping it: less memory, more
            time.

    Raises:
        RegistryError: The size is no multiple of the patch, or `dim` none of `heads`.
    """

    def __init__(
        self,
        size: Sequence[int],
        patch: Sequence[int],
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.size, self.grid = tuple(size), grid_of(size, patch, dim, heads)
        self.width, self.checkpointing = dim, False
        self.patch_embed = Patches3D(patch, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1] * self.grid[2], dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, qkv_bias, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, norm_eps)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        start(self)

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """What the network makes of each patch.

        Args:
            x: Volumes (B, 1, D, H, W), normalised as the network was trained.
            keep: Patches that it sees (B, K), by their place among the N; all where None. Pretraining masks the others.

        Returns:
            Tokens (B, N, dim), or (B, K, dim).

        Raises:
            DataError: The volumes have another size.
        """
        demand_size(x, self.size, "vit3d")
        tokens = self.patch_embed(x) + self.pos_embed
        if keep is not None:
            tokens = tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, self.width))
        return torch.as_tensor(self.norm(through(self.blocks, tokens, self.checkpointing)))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, dim), float32 in any precision, of normalised volumes (B, 1, D, H, W): the mean over tokens."""
        return self.tokens(x).float().mean(dim=1)
