"""SwinUNETR and the part of it that outlives phase 1: the encoder.

Hatamizadeh et al., "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images" (2022);
BrainSegFounder-Tiny is this network with feature_size 48 (62,191,941 parameters with 4 input and 3 output channels).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.networks.nets.swin_unetr import SwinTransformer, SwinUNETR
from monai.transforms import DivisiblePad
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from medexp.config.networks import FeatureKind
from medexp.models.convolutions import by_onednn
from medexp.models.swin.features import averages, demand_decoder, multiscale, tumour_weighted

ENCODER_MODULES = ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10")
DIVISOR = 32


class SwinSegmenter(SwinUNETR):
    """MONAI's SwinUNETR, with its own keys, that can give the bottleneck along with the logits.

    Args:
        in_channels: Channels of the input.
        out_channels: Regions.
        feature_size: Channels after patch embedding.
        window_size: Edge of an attention window in tokens.
        features: The kind of features that it gives instead of logits: what a classifier stands on.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feature_size: int,
        window_size: int,
        features: FeatureKind | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, feature_size=feature_size, window_size=window_size)
        self.gives, self.out_channels = features, out_channels
        by_onednn(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, regions, X, Y, Z) of normalised volumes (B, C, X, Y, Z), or features (B, D) of the kind that it gives."""
        return torch.as_tensor(super().forward(x)) if self.gives is None else features(self, x, [self.gives])[self.gives]

    def with_bottleneck(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and bottleneck of one pass.

        Args:
            x: Normalised volumes (B, C, X, Y, Z), float32; X, Y, Z multiples of 32.

        Returns:
            Logits (B, regions, X, Y, Z) and bottleneck (B, 16 feature_size, X/32, Y/32, Z/32).
        """
        hidden = self.swinViT(x, self.normalize)
        logits, maps = self.decode(self.encoder1(x), hidden)
        return logits, maps[-1]

    def decode(self, shallow: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits, and the maps of the encoder that they are made of, of what `encoder1` and the SwinViT made of volumes.

        Args:
            shallow: The finest map (B, feature_size, X, Y, Z).
            hidden: The patch embedding and the outputs of stages 1 to 4: (B, 2^s feature_size, X/2^(s+1), ...), s from 0 to 4.
        """
        maps = feature_maps(self, shallow, hidden)
        up = self.decoder5(maps[4], hidden[3])
        up = self.decoder4(up, maps[3])
        up = self.decoder3(up, maps[2])
        up = self.decoder2(up, maps[1])
        return self.out(self.decoder1(up, shallow)), maps


class SwinEncoder(nn.Module):
    """What is kept of a SwinUNETR after phase 1: swinViT, encoder1-4 and encoder10, under the network's own keys.

    Args:
        in_channels: Channels of the input.
        feature_size: Channels after patch embedding.
        window_size: Edge of an attention window in tokens.
        features: The kind of features that it gives, one that takes no decoder.

    Raises:
        RegistryError: The features take a decoder.
    """

    swinViT: SwinTransformer
    encoder1: nn.Module
    encoder2: nn.Module
    encoder3: nn.Module
    encoder4: nn.Module
    encoder10: nn.Module

    def __init__(self, in_channels: int, feature_size: int, window_size: int, features: FeatureKind = "gap10") -> None:
        super().__init__()
        demand_decoder(features != "tumour_weighted", "a swin_encoder")
        self.gives = features
        net = SwinSegmenter(in_channels, 1, feature_size, window_size)
        for name in ENCODER_MODULES:
            self.add_module(name, getattr(net, name))
        self.normalize = net.normalize

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) of normalised volumes (B, C, X, Y, Z); X, Y, Z multiples of 32."""
        return features(self, x, [self.gives])[self.gives]


def padded(volume: Tensor) -> Tensor:
    """A volume (C, X, Y, Z), padded with zeros on all sides to edges that are multiples of DIVISOR.

    Without MONAI's metadata, with which each operation of a network on it would go through Python.
    """
    return convert_to_tensor(DivisiblePad(k=DIVISOR)(volume))


def feature_maps(net: SwinSegmenter | SwinEncoder, shallow: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The five maps that a decoder takes, encoder1 to encoder4 and encoder10: F channels of (D, H, W), F of half of each edge,
    2 F of a quarter, 4 F of an eighth and 16 F of 1/32, where F is `feature_size`.

    Args:
        net: The network.
        shallow: The finest map (B, F, D, H, W), which `encoder1` made of volumes.
        hidden: As of `SwinSegmenter.decode`.
    """
    blocks = zip((net.encoder2, net.encoder3, net.encoder4, net.encoder10), (0, 1, 2, 4), strict=True)
    return shallow, *(block(hidden[at]) for block, at in blocks)


def features(net: SwinSegmenter | SwinEncoder, x: Tensor, kinds: Iterable[FeatureKind]) -> dict[FeatureKind, Tensor]:
    """Features of each kind that is asked for, of one pass.

    Args:
        net: A SwinSegmenter, adapted or not, or a SwinEncoder.
        x: Normalised volumes (B, C, X, Y, Z), float32; X, Y, Z multiples of 32.
        kinds: Of `medexp.models.swin.features.KINDS`, which says what they are.

    Returns:
        By kind (B, D).

    Raises:
        RegistryError: A kind takes the decoder, which a SwinEncoder lacks.
    """
    asked = set(kinds)
    hidden = net.swinViT(x, net.normalize)
    if asked <= {"gap10"}:  # the finest maps take longer than all else
        return {"gap10": averages(net.encoder10(hidden[4]))}
    found: dict[FeatureKind, Tensor] = {}
    shallow = net.encoder1(x)
    if "tumour_weighted" in asked:
        demand_decoder(isinstance(net, SwinSegmenter), f"a {type(net).__name__}")
        assert isinstance(net, SwinSegmenter)
        logits, maps = net.decode(shallow, hidden)
        found["tumour_weighted"] = tumour_weighted(hidden, logits)
    else:
        maps = feature_maps(net, shallow, hidden)
    found |= {"gap10": averages(maps[-1]), "multiscale": multiscale(maps[:-1])}
    return {kind: value for kind, value in found.items() if kind in asked}


def segmenter_of(encoder: Mapping[str, Any], regions: int) -> dict[str, Any]:
    """The architecture of the SwinSegmenter that has an encoder of this architecture."""
    return {**encoder, "kind": "swin_unetr", "out_channels": regions}


def is_encoder_key(key: str) -> bool:
    """Whether a key of a SwinUNETR belongs to the encoder that is kept."""
    return key.split(".", 1)[0] in ENCODER_MODULES


def encoder_state(net: nn.Module) -> dict[str, Tensor]:
    """The encoder's weights of a SwinSegmenter, under the network's own keys: those of ENCODER_MODULES."""
    return {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items() if is_encoder_key(key)}


def decoder_state(net: nn.Module) -> dict[str, Tensor]:
    """The rest of a SwinSegmenter's weights: what turns the encoder's maps into logits."""
    return {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items() if not is_encoder_key(key)}
