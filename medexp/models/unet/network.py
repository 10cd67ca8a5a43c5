"""The multi-task U-Net of phases 2.1 to 2.3: one encoder, a segmentation decoder, a classification head.

With base_filters 32, depth 3, one input channel and two classes it has 2,014,019 parameters: encoder 1,172,640, segmentation
decoder 775,073, head 66,306. Ronneberger et al., "U-Net" (2015), with batch norm and bilinear upsampling.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medexp.models.heads import ClassificationHead


class _ConvBlock(nn.Sequential):
    """Two 3 x 3 convolutions without bias, each followed by batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNetEncoder(nn.Module):
    """Blocks of convolutions, each at half the resolution and twice the width of the one before.

    Args:
        in_channels: Channels of the input.
        base_filters: Channels at full resolution.
        depth: How often the resolution is halved; height and width are multiples of 2 ** depth.
    """

    def __init__(self, in_channels: int, base_filters: int, depth: int) -> None:
        super().__init__()
        widths = [in_channels, *(base_filters * 2**level for level in range(depth + 1))]
        self.blocks = nn.ModuleList(_ConvBlock(*pair) for pair in itertools.pairwise(widths))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps of images (B, C, H, W), from full resolution to the bottleneck
        (B, base_filters 2 ** depth, H / 2 ** depth, W / 2 ** depth)."""
        maps = [self.blocks[0](x)]
        for block in self.blocks[1:]:
            maps.append(block(nn.functional.max_pool2d(maps[-1], 2)))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, base_filters 2 ** depth), the global average of the bottleneck, of images (B, C, H, W)."""
        return self.maps(x)[-1].mean(dim=(2, 3))


class UNetDecoder(nn.Module):
    """From feature maps to logits: bilinear upsampling, the map of the same resolution beside it, convolutions.

    Args:
        base_filters: As of the encoder.
        depth: As of the encoder.
        out_channels: Channels of the logits.
    """

    def __init__(self, base_filters: int, depth: int, out_channels: int = 1) -> None:
        super().__init__()
        widths = [base_filters * 2**level for level in range(depth + 1)]
        self.blocks = nn.ModuleList(_ConvBlock(widths[level] + widths[level + 1], widths[level]) for level in range(depth))
        self.out = nn.Conv2d(base_filters, out_channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, out_channels, H, W) of the encoder's maps."""
        up = maps[-1]
        for block, skip in zip(reversed(self.blocks), reversed(maps[:-1]), strict=True):
            up = interpolate(up, size=skip.shape[2:], mode="bilinear", align_corners=False)
            up = block(torch.cat([skip, up], dim=1))
        return torch.as_tensor(self.out(up))


class MultiTaskModel(nn.Module):
    """One encoder for two tasks: whether and where there is a tumour.

    Args:
        in_channels: Channels of the input.
        base_filters: Channels at full resolution.
        depth: How often the resolution is halved.
        classes: Classes of the head.

    Attributes:
        keep_statistics: Whether batch norm keeps its statistics in training too.
    """

    def __init__(self, in_channels: int = 1, base_filters: int = 32, depth: int = 3, classes: int = 2) -> None:
        super().__init__()
        self.encoder = UNetEncoder(in_channels, base_filters, depth)
        self.seg_decoder = UNetDecoder(base_filters, depth)
        self.cls_head = ClassificationHead(base_filters * 2**depth, classes)
        self.keep_statistics = False

    def train(self, mode: bool = True) -> "MultiTaskModel":
        """Training mode, or eval mode; with `keep_statistics` batch norm stays in eval mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and self.keep_statistics:
                module.eval()
        return self

    def forward(self, x: Tensor, do_seg: bool = True, do_cls: bool = True) -> dict[str, Any]:
        """Both tasks, or one.

        Args:
            x: Normalised images (B, C, H, W), float32; H and W multiples of 2 ** depth.
            do_seg: Whether the decoder runs.
            do_cls: Whether the head runs.

        Returns:
            `seg`: logits (B, 1, H, W) or None; `cls`: logits (B, classes) or None; `features`: the encoder's maps, from full
            resolution to the bottleneck.
        """
        maps = self.encoder.maps(x)
        return {
            "seg": self.seg_decoder(maps) if do_seg else None,
            "cls": self.cls_head(maps[-1].mean(dim=(2, 3))) if do_cls else None,
            "features": maps,
        }


def part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one part of a network, such as `encoder`, under that part's own keys."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def size_of(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """`base_filters` and `depth` of the multi-task U-Net whose weights these are; None when they are of another network."""
    first = state.get("encoder.blocks.0.0.weight")
    if first is None:
        return None
    blocks = {key.split(".")[2] for key in state if key.startswith("encoder.blocks.")}
    return {"base_filters": len(first), "depth": len(blocks) - 1}
