"""What vision transformers have in common: the pre-norm block, under the names of keys that timm, MAE and V-JEPA give it.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from medexp.errors import DataError, RegistryError
from medexp.models.kinds import Tensors

HEAD = 64
"""Features of an attention head, in nearly all vision transformers."""


class Attention(nn.Module):
    """Self-attention of tokens.

    Args:
        dim: Width of a token.
        heads: Attention heads; `dim` is a multiple of it.
        qkv_bias: Whether queries, keys and values have a bias.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) of tokens (B, N, dim)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return torch.as_tensor(self.proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Two linear layers with GELU between.

    Args:
        dim: Width of a token.
        hidden: Width between the layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (..., dim) of tokens (..., dim)."""
        return torch.as_tensor(self.fc2(self.act(self.fc1(x))))


class Block(nn.Module):
    """Attention and MLP, each on normalised tokens and added to them.

    Args:
        dim: Width of a token.
        heads: Attention heads.
        mlp_ratio: Width of the MLP in widths of a token.
        qkv_bias: Whether queries, keys and values have a bias.
        norm_eps: Added to the variance in a layer norm.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, qkv_bias: bool, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.attn = Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) of tokens (B, N, dim)."""
        x = x + self.attn(self.norm1(x))
        return x + torch.as_tensor(self.mlp(self.norm2(x)))


def through(blocks: Iterable[nn.Module], x: Tensor, checkpointing: bool) -> Tensor:
    """Tokens (B, N, dim) after all blocks.

    Args:
        blocks: The blocks in their order.
        x: Tokens (B, N, dim).
        checkpointing: Whether what a block computes inside is computed again in the backward pass instead of kept.
    """
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if checkpointing and torch.is_grad_enabled() else block(x)
    return x


def grid_of(size: Iterable[int], patch: Iterable[int], dim: int, heads: int) -> tuple[int, ...]:
    """How many patches lie along each axis.

    Raises:
        RegistryError: A size is no multiple of its patch, or `dim` none of `heads`.
    """
    size, patch = tuple(size), tuple(patch)
    if len(size) != len(patch) or any(
        edge < 1 or length < edge or length % edge for length, edge in zip(size, patch, strict=True)
    ):
        raise RegistryError(f"architecture: size {list(size)} is no multiple of patch {list(patch)} along each axis")
    if dim % heads:
        raise RegistryError(f"architecture: dim {dim} is no multiple of heads {heads}")
    return tuple(length // edge for length, edge in zip(size, patch, strict=True))


def demand_size(x: Tensor, size: tuple[int, ...], kind: str) -> None:
    """Volumes of the size that the position embedding is of.

    Raises:
        DataError: They have another.
    """
    if x.ndim != 5 or x.shape[1:] != (1, *size):
        raise DataError(
            f"{kind}: volumes of shape {tuple(x.shape)}; it takes (B, 1, {', '.join(map(str, size))}): its position embedding "
            "is of that grid, and none is made up for another. Resize the volumes to it"
        )


def said_by(weights: Tensors, patch: str, blocks: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What the shapes of a vision transformer's weights say of it: `patch`, `dim`, `depth`, and `heads` as they mostly are.

    Args:
        weights: By key.
        patch: The key of the patch embedding's weight (dim, channels, *patch).
        blocks: The list of its blocks.

    Returns:
        Arguments, without `heads` where `dim` is no multiple of HEAD, and why those that were inferred.
    """
    dim, edges = len(weights[patch]), list(weights[patch].shape[2:])
    places = {int(key.split(".")[1]) for key in weights if key.startswith(f"{blocks}.") and key.split(".")[1].isdigit()}
    said: dict[str, Any] = {"patch": edges, "dim": dim, "depth": len(places)}
    if dim % HEAD:
        return said, {}
    return said | {"heads": dim // HEAD}, {"heads": f"{dim // HEAD} attention heads, since heads mostly have {HEAD} features"}


def start(net: nn.Module) -> None:
    """Initial weights as V-JEPA's: normal values of standard deviation 0.02, cut at two units; biases zero."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
