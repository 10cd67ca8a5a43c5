"""Networks and their adapters: blocks that several phases have."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval, MinLen, MultipleOf

from medexp.config.bounds import Count, Fraction, Positive, Told
from medexp.config.keys import Called, Short

Stage = Annotated[int, Interval(ge=1, le=4)]
Linear = Literal["qkv", "proj", "linear1", "linear2"]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj"]
Attention = Literal["q", "k", "v", "out"]
FeatureKind = Literal["gap10", "multiscale", "tumour_weighted"]
"""What is pooled from an encoder's maps; `medexp.models.swin.features.KINDS` says what each is."""


@dataclass(frozen=True)
class NetworkConfig:
    """The SwinUNETR. BrainSegFounder-Tiny is feature_size 48, window_size 7.

    Args:
        feature_size: Channels after patch embedding; a multiple of 12. The bottleneck has 16 times as many.
        window_size: Edge of an attention window in tokens.
    """

    feature_size: Annotated[int, Ge(12), MultipleOf(12), Told("give a multiple of 12")]
    window_size: Annotated[int, Ge(2), Told("at least 2 tokens")]


@dataclass(frozen=True)
class UNetConfig:
    """The multi-task U-Net. base_filters 32 and depth 3 give the 2,014,019 parameters of docs/requirements/phase2.md.

    Args:
        base_filters: Channels at full resolution; each level below has twice as many.
        depth: How often the resolution is halved; data.input_size is a multiple of 2 ** depth.
    """

    base_filters: Count
    depth: Count


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

    rank: Annotated[Count, Called("r"), Short("rank")]
    alpha: Annotated[Positive, Called("a")]
    target_stages: Annotated[tuple[Stage, ...], MinLen(1), Told("one or more of 1, 2, 3, 4", list)]
    target_modules: Annotated[tuple[Linear, ...], MinLen(1), Told("one or more of qkv, proj, linear1, linear2", list)]
    lora_dropout: Fraction
    mode: Literal["lora", "dora"]


@dataclass(frozen=True)
class DecoderLoraConfig:
    """Low-rank adapters in the attention of a vision-language model's decoder, and nowhere else: W0 + (alpha / rank) B A.

    Args:
        rank: Rank of the update; at least 1.
        alpha: Scale of the update, as alpha / rank.
        dropout: Dropout on the adapter's input, 0 to below 1.
        targets: Projections of each layer's attention that are adapted: q_proj, k_proj, v_proj, o_proj.
    """

    rank: Annotated[Count, Called("r"), Short("rank")]
    alpha: Annotated[Positive, Called("a")]
    dropout: Fraction
    targets: Annotated[tuple[Projection, ...], MinLen(1), Told("one or more of q_proj, k_proj, v_proj, o_proj", list)]


@dataclass(frozen=True)
class FlowLoraConfig:
    """Low-rank adapters in the attention of a MeanFlow U-Net, W0 + (alpha / rank) B A, and what trains beside them.

    Args:
        rank: Rank of the update; at least 1.
        alpha: Scale of the update, as alpha / rank.
        dropout: Dropout on the adapter's input, 0 to below 1.
        target_modules: Projections of each attention that are adapted: q, k, v, out.
        boundary: What trains of the first and the last convolution: slices, what is new in them for the mask's channels;
            convolutions, all of both, so that the base is no longer frozen.
    """

    rank: Annotated[Count, Called("r"), Short("rank")]
    alpha: Annotated[Positive, Called("a")]
    dropout: Fraction
    target_modules: Annotated[tuple[Attention, ...], MinLen(1), Told("one or more of q, k, v, out", list)]
    boundary: Literal["slices", "convolutions"]
