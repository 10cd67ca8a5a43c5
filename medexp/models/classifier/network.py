"""An encoder with a head: the classifiers that phase 2.2 and oct register."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medexp.models.heads import ClassificationHead, Head, HeadsSideBySide, head_on
from medexp.models.kinds import build


class EncoderClassifier(nn.Module):
    """An encoder with a head.

    An encoder of which no parameter requires gradients is frozen: it stays in eval mode, so that batch norm's statistics stay
    as they are, and nothing is kept of it for a backward pass.

    Args:
        encoder: From images or volumes to features (B, D), or, by `tokens`, to tokens (B, N, D).
        head: From what it `takes`, features or tokens, to logits (B, classes).
        frozen: Whether the encoder is frozen to begin with.
    """

    def __init__(self, encoder: nn.Module, head: Head | HeadsSideBySide, frozen: bool = True) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not frozen)
        self.head = head

    @property
    def frozen(self) -> bool:
        """Whether no parameter of the encoder requires gradients now."""
        return not any(parameter.requires_grad for parameter in self.encoder.parameters())

    def train(self, mode: bool = True) -> "EncoderClassifier":
        """Training mode, or eval mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes); of K heads side by side (K, B, classes)."""
        encode: Any = self.encoder.tokens if self.head.takes == "tokens" else self.encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            given = encode(x)
        return torch.as_tensor(self.head(given))


def classifier(encoder: Mapping[str, Any], features: int, classes: int) -> EncoderClassifier:
    """A classifier on a frozen encoder, with initial weights.

    Args:
        encoder: Architecture of the encoder, which gives features (B, `features`).
        features: D, what the head takes.
        classes: Number of classes.
    """
    return EncoderClassifier(build(encoder), ClassificationHead(features, classes))


def oct_classifier(
    encoder: Mapping[str, Any],
    classes: int,
    pooling: Literal["mean", "attentive"] = "mean",
    hidden: int = 0,
    dropout: float = 0.0,
    frozen: bool = True,
) -> EncoderClassifier:
    """A classifier of OCT volumes, with initial weights.

    Args:
        encoder: Architecture of an encoder of OCT volumes, which has a `width` and gives `tokens`.
        classes: Number of classes.
        pooling: As of `medexp.models.heads.head_on`, and what follows.
        hidden: Units of the head's hidden layer; 0: none.
        dropout: Before the head's last layer, 0 to below 1.
        frozen: Whether the encoder is frozen.
    """
    net = build(encoder)
    assert isinstance(net.width, int)
    return EncoderClassifier(net, head_on(net.width, classes, pooling, hidden, dropout), frozen)
