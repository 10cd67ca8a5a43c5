"""SwinUNETR and the part of it that outlives phase 1: the encoder.

Hatamizadeh et al., "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images" (2022);
BrainSegFounder-Tiny is this network with feature_size 48 (62,191,941 parameters with 4 input and 3 output channels).
"""

from collections.abc import Sequence

import torch
from monai.networks.nets.swin_unetr import SwinTransformer, SwinUNETR
from torch import Tensor, nn

ENCODER_MODULES = ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10")
DIVISOR = 32


class SwinSegmenter(SwinUNETR):
    """MONAI's SwinUNETR, with its own keys, that can give the bottleneck along with the logits."""

    def with_bottleneck(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and bottleneck of one pass.

        Args:
            x: Normalised volumes (B, C, X, Y, Z), float32; X, Y, Z multiples of 32.

        Returns:
            Logits (B, regions, X, Y, Z) and bottleneck (B, 16 feature_size, X/32, Y/32, Z/32).
        """
        hidden = self.swinViT(x, self.normalize)
        return self.decode(self.encoder1(x), hidden)

    def decode(self, shallow: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and bottleneck of what `encoder1` and the SwinViT made of volumes.

        Args:
            shallow: The finest map (B, feature_size, X, Y, Z).
            hidden: The patch embedding and the outputs of stages 1 to 4: (B, 2^s feature_size, X/2^(s+1), ...), s from 0 to 4.
        """
        bottleneck = self.encoder10(hidden[4])
        up = self.decoder5(bottleneck, hidden[3])
        up = self.decoder4(up, self.encoder4(hidden[2]))
        up = self.decoder3(up, self.encoder3(hidden[1]))
        up = self.decoder2(up, self.encoder2(hidden[0]))
        return self.out(self.decoder1(up, shallow)), bottleneck


class SwinEncoder(nn.Module):
    """What is kept of a SwinUNETR after phase 1: swinViT, encoder1-4 and encoder10, under the network's own keys.

    Args:
        in_channels: Channels of the input.
        feature_size: Channels after patch embedding; features are 16 times as wide.
        window_size: Edge of an attention window in tokens.
    """

    swinViT: SwinTransformer
    encoder1: nn.Module
    encoder2: nn.Module
    encoder3: nn.Module
    encoder4: nn.Module
    encoder10: nn.Module

    def __init__(self, in_channels: int, feature_size: int, window_size: int) -> None:
        super().__init__()
        net = SwinUNETR(in_channels=in_channels, out_channels=1, feature_size=feature_size, window_size=window_size)
        for name in ENCODER_MODULES:
            self.add_module(name, getattr(net, name))
        self.normalize = net.normalize

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 16 feature_size) of normalised volumes (B, C, X, Y, Z); X, Y, Z multiples of 32."""
        return embed(self, x)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The five maps that a decoder takes, from full resolution to 1/32."""
        hidden = self.swinViT(x, self.normalize)
        inputs = (x, hidden[0], hidden[1], hidden[2], hidden[4])
        blocks = (self.encoder1, self.encoder2, self.encoder3, self.encoder4, self.encoder10)
        return tuple(block(value) for block, value in zip(blocks, inputs, strict=True))


def embed(net: SwinSegmenter | SwinEncoder, x: Tensor) -> Tensor:
    """Global average of the bottleneck, GAP(encoder10).

    Args:
        net: A SwinSegmenter, adapted or not, or a SwinEncoder.
        x: Normalised volumes (B, C, X, Y, Z), float32; X, Y, Z multiples of 32.

    Returns:
        Features (B, 16 feature_size).
    """
    hidden = net.swinViT(x, net.normalize)
    return torch.as_tensor(net.encoder10(hidden[4]).mean(dim=(2, 3, 4)))


def is_encoder_key(key: str) -> bool:
    """Whether a key of a SwinUNETR belongs to the encoder that is kept."""
    return key.split(".", 1)[0] in ENCODER_MODULES


def encoder_state(net: nn.Module) -> dict[str, Tensor]:
    """The encoder's weights of a SwinSegmenter, under the network's own keys: those of ENCODER_MODULES."""
    return {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items() if is_encoder_key(key)}


def decoder_state(net: nn.Module) -> dict[str, Tensor]:
    """The rest of a SwinSegmenter's weights: what turns the encoder's maps into logits."""
    return {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items() if not is_encoder_key(key)}
