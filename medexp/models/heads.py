"""Heads on frozen or adapted encoders."""

import torch
from torch import Tensor, nn

from medexp.models.swin.network import SwinSegmenter

HIDDEN = 256
"""Width of a classification head's hidden layer."""


class SemanticHeads(nn.Module):
    """Linear regression of volume, location and shape from GAP(encoder10).

    Features and targets are standardised with statistics of the training cases, kept as buffers: after instance norm the
    pooled features are almost constant over cases, and log-volumes and centroids have different scales.

    Args:
        features: Features of the training cases under the base encoder (N, 16 feature_size).
        targets: Their semantic features (N, 10): 4 log-volumes, 3 centroid coordinates, 3 shape features.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        super().__init__()
        for name, values in (("feature", features), ("target", targets)):
            self.register_buffer(f"{name}_mean", values.mean(0))
            self.register_buffer(f"{name}_scale", _scale(values))
        width = features.shape[1]
        self.vol_head = nn.Linear(width, 4)
        self.loc_head = nn.Linear(width, 3)
        self.shape_head = nn.Linear(width, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Standardised predictions (B, 10) from features (B, 16 feature_size)."""
        standard = (features - self.feature_mean) / self.feature_scale
        return torch.cat([head(standard) for head in (self.vol_head, self.loc_head, self.shape_head)], dim=1)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of standardised predictions (B, 10) against targets (B, 10) in their own units."""
        return nn.functional.mse_loss(predictions.float(), (targets - self.target_mean) / self.target_scale)

    def predict(self, features: Tensor) -> Tensor:
        """Predictions (B, 10) in the units of the targets."""
        return self(features) * self.target_scale + self.target_mean


class ClassificationHead(nn.Module):
    """Logits of pooled features: a hidden layer of HIDDEN units with ReLU.

    Features are standardised with buffers, which are no parameters: after instance norm the pooled features of a SwinUNETR are
    almost constant over cases. Before `standardise` they change nothing.

    Args:
        in_features: D.
        classes: Number of classes.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, in_features: int, classes: int = 2) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(in_features))
        self.register_buffer("feature_scale", torch.ones(in_features))
        self.layers = nn.Sequential(nn.Linear(in_features, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, classes))

    def standardise(self, features: Tensor) -> None:
        """Take mean and standard deviation of the training cases' features (N, D)."""
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(_scale(features))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of features (B, D)."""
        return torch.as_tensor(self.layers((features - self.feature_mean) / self.feature_scale))


def head_parameters(features: int, classes: int = 2) -> int:
    """Parameters of a classification head, by arithmetic; 256 features and two classes give 66,306."""
    return (features + 1) * HIDDEN + (HIDDEN + 1) * classes


def _scale(values: Tensor) -> Tensor:
    """Standard deviation per column; 1 where a column does not vary or has a single row."""
    deviation = values.std(0, correction=0)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))


class SegmenterWithHeads(nn.Module):
    """A SwinSegmenter and, where they train, its semantic heads: one forward pass for both, as distributed training needs.

    Args:
        net: The network, adapted or not.
        heads: Heads on its pooled bottleneck, or None.
    """

    def __init__(self, net: SwinSegmenter, heads: SemanticHeads | None = None) -> None:
        super().__init__()
        self.net = net
        self.heads = heads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, 3, X, Y, Z) and standardised semantic predictions (B, 10), or None without heads."""
        logits, bottleneck = self.net.with_bottleneck(x)
        return logits, None if self.heads is None else self.heads(bottleneck.mean(dim=(2, 3, 4)))
