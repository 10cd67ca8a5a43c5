"""Networks and their adapters: blocks that several phases have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkConfig:
    """The SwinUNETR. BrainSegFounder-Tiny is feature_size 48, window_size 7.

    Args:
        feature_size: Channels after patch embedding; a multiple of 12. The bottleneck has 16 times as many.
        window_size: Edge of an attention window in tokens.
    """

    feature_size: int
    window_size: int

    def problems(self) -> Iterator[str]:
        if self.feature_size < 12 or self.feature_size % 12:
            yield f"feature_size: found {self.feature_size}; give a multiple of 12"
        if self.window_size < 2:
            yield f"window_size: found {self.window_size}; at least 2 tokens"


@dataclass(frozen=True)
class UNetConfig:
    """The multi-task U-Net. The specification's has base_filters 32 and depth 3: 2,014,019 parameters.

    Args:
        base_filters: Channels at full resolution; each level below has twice as many.
        depth: How often the resolution is halved; data.input_size is a multiple of 2 ** depth.
    """

    base_filters: int
    depth: int

    def problems(self) -> Iterator[str]:
        for key in ("base_filters", "depth"):
            if getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; at least 1"


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in the SwinViT: W0 + (alpha / rank) B A.

    Args:
        rank: Rank of the update; at least 1.
        alpha: Scale of the update, as alpha / rank.
        target_stages: Stages of the SwinViT that are adapted, 1 to 4.
        target_modules: Linear layers of a block that are adapted: qkv and proj of the attention, linear1, linear2 of the MLP.
        lora_dropout: Dropout on the adapter's input, 0 to below 1.
        mode: lora, or dora for weight-decomposed adapters.
    """

    rank: int
    alpha: float
    target_stages: tuple[int, ...]
    target_modules: tuple[Literal["qkv", "proj", "linear1", "linear2"], ...]
    lora_dropout: float
    mode: Literal["lora", "dora"]

    def problems(self) -> Iterator[str]:
        if self.rank < 1:
            yield f"rank: found {self.rank}; at least 1"
        if self.alpha <= 0:
            yield f"alpha: found {self.alpha}; above 0"
        if not self.target_stages or set(self.target_stages) - {1, 2, 3, 4}:
            yield f"target_stages: found {list(self.target_stages)}; one or more of 1, 2, 3, 4"
        if not self.target_modules:
            yield "target_modules: none given; one or more of qkv, proj, linear1, linear2"
        if not 0 <= self.lora_dropout < 1:
            yield f"lora_dropout: found {self.lora_dropout}; 0 to below 1"
