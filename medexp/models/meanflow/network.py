"""MAISI's U-Net with a second time: it gives the average velocity of a flow between two times.

Geng et al., "Mean Flows for One-step Generative Modeling" (2025); Guo et al., "MAISI: Medical AI for Synthetic Imaging"
(2024).
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

from medexp.models.convolutions import by_onednn

BOUNDARY = ("unet.conv_in", "unet.out.2")
"""The first and the last convolution, by their names in the network."""
NEW = ".new."
"""Stands in the names of the parameters of channels that `widen` added."""


class _Interval(nn.Module):
    """Embedding of t - r (B,) to (B, embedded); zero at first, so that the network begins as one of a single time."""

    def __init__(self, width: int, embedded: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        nn.init.zeros_(cast(nn.Linear, self.layers[2]).weight)
        nn.init.zeros_(cast(nn.Linear, self.layers[2]).bias)

    def forward(self, interval: Tensor) -> Tensor:
        return self.layers(get_timestep_embedding(interval, self.width).to(next(self.parameters())))


class MeanFlowUNet(nn.Module):
    """The average velocity u(z, t, r) of a flow between times r and t; at r = t the flow's own velocity.

    Everything in it has a derivative in forward mode, which MeanFlow's training takes.

    Args:
        channels: Channels of latents.
        num_channels: Widths of the levels.
        attention_levels: Which of them have attention.
        num_head_channels: Channels of an attention's head; 0 for levels without one.
        num_res_blocks: Residual blocks a level.
        norm_groups: Groups of the group norms; divides each width.
        include_fc: Whether attention has a projection at its end (`out_proj`); MAISI's has none.
        flash_attention: False.
        gradient_checkpointing: False.

    Raises:
        TypeError: Either is True.
    """

    def __init__(
        self,
        channels: int = 4,
        num_channels: Sequence[int] = (64, 128, 256, 512),
        attention_levels: Sequence[bool] = (False, False, True, True),
        num_head_channels: int | Sequence[int] = 32,
        num_res_blocks: int | Sequence[int] = 2,
        norm_groups: int = 32,
        include_fc: bool = False,
        flash_attention: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        asked = {"flash_attention": flash_attention, "gradient_checkpointing": gradient_checkpointing}
        if refused := [name for name, found in asked.items() if found]:
            raise TypeError(
                f"{' and '.join(refused)}: found True; MeanFlow's training takes a derivative in forward mode, a "
                "Jacobian-vector product, which neither flash attention nor checkpointing has. Give false"
            )
        self.channels = channels
        self.unet = DiffusionModelUNetMaisi(
            spatial_dims=3,
            in_channels=channels,
            out_channels=channels,
            num_channels=tuple(num_channels),
            attention_levels=tuple(attention_levels),
            num_head_channels=num_head_channels if isinstance(num_head_channels, int) else tuple(num_head_channels),
            num_res_blocks=num_res_blocks if isinstance(num_res_blocks, int) else tuple(num_res_blocks),
            norm_num_groups=norm_groups,
            include_fc=include_fc,
            num_class_embeds=1,  # opens the place of a second embedding, which is added to that of the time
        )
        self.unet.add_module("class_embedding", _Interval(num_channels[0], 4 * num_channels[0]))
        by_onednn(self)

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Average velocities.

        Args:
            z: Latents at time t (B, C, X, Y, Z); sizes are multiples of 2 ** (levels - 1).
            t: Times (B,) from 0, the data, to 1, the noise.
            r: Times (B,) that it is averaged from, at most t.

        Returns:
            (B, C, X, Y, Z).
        """
        return self.unet(z, t, class_labels=t - r)


class _WidenedInput(nn.Module):
    """A convolution that takes more channels: the first ones as before, the new ones by weights of their own."""

    def __init__(self, base: nn.Module, new: nn.Conv3d, taken: int) -> None:
        super().__init__()
        self.base, self.new, self.taken = base, new, taken

    def forward(self, z: Tensor) -> Tensor:
        return self.base(z[:, : self.taken]) + self.new(z[:, self.taken :])


class _WidenedOutput(nn.Module):
    """A convolution that gives more channels: the first ones as before, the new ones by weights of their own."""

    def __init__(self, base: nn.Module, new: nn.Conv3d) -> None:
        super().__init__()
        self.base, self.new = base, new

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([self.base(hidden), self.new(hidden)], dim=1)


def channels_of(state: Mapping[str, Tensor]) -> int | None:
    """Channels of latents of the network whose weights these are; None of another network's, or of one that was widened."""
    taken = state.get(f"{BOUNDARY[0]}.conv.weight")
    return None if taken is None else taken.shape[1]


def widen(net: MeanFlowUNet, channels: int) -> None:
    """Let a network take and give more channels, in place.

    Its own convolutions stay as they are, and the new channels have modules of their own, `unet.conv_in.new` and
    `unet.out.2.new`. Their weights start at zero, so the first channels of its output are, bit for bit, what the network gave
    before, whatever the new ones hold, and the new ones of its output are zero.

    Args:
        net: A network that was not widened before.
        channels: Channels of latents from now on; more than it has.

    Raises:
        ValueError: It has been widened, or has as many channels.
    """
    conv_in, conv_out = (net.get_submodule(name) for name in BOUNDARY)
    if isinstance(conv_in, _WidenedInput):
        raise ValueError("the network has been widened before")
    if channels <= net.channels:
        raise ValueError(f"channels: found {channels}; the network has {net.channels}, and can be given more")
    more, width = channels - net.channels, net.unet.block_out_channels[0]
    like = next(conv_in.parameters())
    new_in = nn.Conv3d(more, width, 3, padding=1, bias=False, device=like.device, dtype=like.dtype)
    new_out = nn.Conv3d(width, more, 3, padding=1, device=like.device, dtype=like.dtype)
    for parameter in (*new_in.parameters(), *new_out.parameters()):
        nn.init.zeros_(parameter)
    net.set_submodule(BOUNDARY[0], _WidenedInput(conv_in, new_in, net.channels))
    net.set_submodule(BOUNDARY[1], _WidenedOutput(conv_out, new_out))
    net.channels = channels
