"""transformers' V-JEPA 2 encoder on OCT volumes: B-scans are the frames of its video.

Assran et al., "V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning" (2025).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import VJEPA2Config
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Model

from medexp.errors import CheckpointError, RegistryError
from medexp.models.transformer import demand_size, grid_of


class VJepa2(nn.Module):
    """The encoder of transformers' VJEPA2Model, under its own keys, without the predictor.

    Args:
        size: D, H and W of a volume, H as W: D frames of a video.
        patch: Edges of a patch along D, H and W, the latter alike.
        dim: Width of a token.
        depth: Layers.
        heads: Attention heads; `dim` is a multiple of it.
        in_channels: Channels that the patch embedding takes; a volume's one is repeated to them.
        mlp_ratio: Width of an MLP in widths of a token.
        qkv_bias: Whether queries, keys and values have a bias.
        norm_eps: Added to the variance in a layer norm.

    Attributes:
        width: Features of a volume: `dim`.

    Raises:
        RegistryError: The size is no multiple of the patch, is not square, or `dim` is no multiple of `heads`.
    """

    def __init__(
        self,
        size: Sequence[int],
        patch: Sequence[int],
        dim: int,
        depth: int,
        heads: int,
        in_channels: int = 1,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.size, self.grid = tuple(size), grid_of(size, patch, dim, heads)
        if size[1] != size[2] or patch[1] != patch[2]:
            raise RegistryError(f"architecture vjepa2: size {list(size)}, patch {list(patch)}; H and W are alike in both")
        self.width, self.channels = dim, in_channels
        config = VJEPA2Config(
            frames_per_clip=size[0],
            crop_size=size[1],
            tubelet_size=patch[0],
            patch_size=patch[1],
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            in_chans=in_channels,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            layer_norm_eps=norm_eps,
            pred_num_hidden_layers=0,
        )
        self.encoder = VJEPA2Model(config).encoder

    @property
    def checkpointing(self) -> bool:
        """Whether a training step computes the inside of layers again instead of keeping it: less memory, more time."""
        return any(getattr(layer, "gradient_checkpointing", False) for layer in self.encoder.layer)

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        for layer in self.encoder.layer:
            layer.__dict__["gradient_checkpointing"] = on
            layer.__dict__["_gradient_checkpointing_func"] = partial(checkpoint, use_reentrant=False)

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) of normalised volumes (B, 1, D, H, W).

        Raises:
            DataError: The volumes have another size.
        """
        demand_size(x, self.size, "vjepa2")
        frames = x.transpose(1, 2).expand(-1, -1, self.channels, -1, -1)
        return torch.as_tensor(self.encoder(frames).last_hidden_state)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, dim), float32 in any precision, of normalised volumes (B, 1, D, H, W): the mean over tokens."""
        return self.tokens(x).float().mean(dim=1)


def architecture_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture that a Hugging Face `config.json` of model type vjepa2 says.

    Raises:
        CheckpointError: Its values do not hold.
    """
    try:
        full = VJEPA2Config(**config)
    except Exception as error:  # the library's own, of another library, for a value of a wrong type
        raise CheckpointError(f"config.json of a vjepa2: {str(error).splitlines()[0]}") from error
    return {
        "kind": "vjepa2",
        "size": [full.frames_per_clip, full.crop_size, full.crop_size],
        "patch": [full.tubelet_size, full.patch_size, full.patch_size],
        "dim": full.hidden_size,
        "depth": full.num_hidden_layers,
        "heads": full.num_attention_heads,
        "in_channels": full.in_chans,
        "mlp_ratio": float(full.mlp_ratio),
        "qkv_bias": full.qkv_bias,
        "norm_eps": full.layer_norm_eps,
    }
