"""A frozen encoder with a head: the classifier that phase 2.2 registers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medexp.models.heads import ClassificationHead
from medexp.models.kinds import build


class EncoderClassifier(nn.Module):
    """A frozen encoder with a head: the classifier that phase 2.2 registers.

    The encoder stays in eval mode, so that batch norm's statistics stay as they are, and gets no gradients.

    Args:
        encoder: From images or volumes to features (B, D).
        head: From features (B, D) to logits (B, classes).
    """

    def __init__(self, encoder: nn.Module, head: ClassificationHead) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.head = head

    def train(self, mode: bool = True) -> "EncoderClassifier":
        """Training mode, or eval mode, of the head alone."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        with torch.no_grad():
            features = self.encoder(x)
        return torch.as_tensor(self.head(features))


def classifier(encoder: Mapping[str, Any], features: int, classes: int) -> EncoderClassifier:
    """A classifier with initial weights.

    Args:
        encoder: Architecture of the encoder, which gives features (B, `features`).
        features: D, what the head takes.
        classes: Number of classes.
    """
    return EncoderClassifier(build(encoder), ClassificationHead(features, classes))
