"""Heads on frozen or adapted encoders."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from medexp.errors import RegistryError
from medexp.models.swin.network import SwinSegmenter
from medexp.models.transformer import HEAD, Mlp, start

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
    """Logits of pooled features: linear, or with a hidden layer with ReLU.

    Features are standardised with buffers, which are no parameters: after instance norm the pooled features of a SwinUNETR are
    almost constant over cases. Before `standardise` they change nothing.

    Args:
        in_features: D.
        classes: Number of classes.
        hidden: Units of the hidden layer; 0: none, a linear head.
        dropout: Share of what the last layer takes that is set to zero in training, 0 to below 1.
    """

    takes: ClassVar[Literal["features", "tokens"]] = "features"
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, in_features: int, classes: int = 2, hidden: int = HIDDEN, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(in_features))
        self.register_buffer("feature_scale", torch.ones(in_features))
        inner = {"0": nn.Linear(in_features, hidden), "1": nn.ReLU(inplace=True)} if hidden else {}
        # dropout has a name, so that the last layer's is the one that it had before there was any
        last = {"dropout": nn.Dropout(dropout), "2" if hidden else "0": nn.Linear(hidden or in_features, classes)}
        self.layers = nn.Sequential(OrderedDict(inner | last))

    def standardise(self, features: Tensor) -> None:
        """Take mean and standard deviation of the training cases' features (N, D)."""
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(_scale(features))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, classes), float32 in any precision, of features (B, D)."""
        return torch.as_tensor(self.layers((features - self.feature_mean) / self.feature_scale)).float()


class AttentivePooling(nn.Module):
    """One vector of all tokens: a learned query looks at them, as V-JEPA 2's attentive probe has it (one layer).

    q + attention(q, norm(tokens)), then + MLP(norm(.)). Assran et al., "V-JEPA 2" (2025), which has no output projection.

    Args:
        width: Of a token, D.
        heads: Attention heads; None: of 64 features, where D is a multiple of such.
        mlp_ratio: Width of the MLP in widths of a token.
    """

    def __init__(self, width: int, heads: int | None = None, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.heads = heads or math.gcd(width, max(1, width // HEAD))
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.mlp = Mlp(width, int(width * mlp_ratio))
        nn.init.trunc_normal_(self.query, std=0.02)
        start(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors (B, D) of tokens (B, N, D)."""
        seen, query = self.norm1(tokens), self.query.expand(len(tokens), -1, -1)
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q(query), self.k(seen), self.v(seen))]
        pooled = query + scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        return torch.as_tensor(pooled + self.mlp(self.norm2(pooled))).squeeze(1)


class AttentiveHead(nn.Module):
    """Logits of all tokens: `AttentivePooling`, then a head on its vector. Tokens are normalised in it, each by itself.

    Args:
        width: Of a token.
        classes: Number of classes.
        hidden: As of `ClassificationHead`.
        dropout: As of `ClassificationHead`.
    """

    takes: ClassVar[Literal["features", "tokens"]] = "tokens"

    def __init__(self, width: int, classes: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.pooling = AttentivePooling(width)
        self.head = ClassificationHead(width, classes, hidden, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, classes), float32 in any precision, of tokens (B, N, D)."""
        return torch.as_tensor(self.head(self.pooling(tokens)))


Head = ClassificationHead | AttentiveHead


def head_on(
    width: int, classes: int, pooling: Literal["mean", "attentive"] = "mean", hidden: int = 0, dropout: float = 0.0
) -> Head:
    """A head with initial weights.

    Args:
        width: Of what it takes.
        classes: Number of classes.
        pooling: mean: it takes the mean of tokens (B, width); attentive: all of them (B, N, width).
        hidden: Units of its hidden layer; 0: none.
        dropout: Before its last layer, 0 to below 1.

    Raises:
        RegistryError: Such a pooling is not known.
    """
    if pooling not in ("mean", "attentive"):
        raise RegistryError(f"head: pooling {pooling!r}; known are mean and attentive")
    made = ClassificationHead if pooling == "mean" else AttentiveHead
    return made(width, classes, hidden, dropout)


@dataclass(frozen=True)
class Rates:
    """What heads that are trained side by side differ in.

    Attributes:
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
    """

    lr: float
    weight_decay: float

    @property
    def name(self) -> str:
        """Both, for a metric's name and a table."""
        return f"lr{self.lr:g}_wd{self.weight_decay:g}"


class HeadsSideBySide(nn.Module):
    """Copies of one head, each trained with rates of its own on the same batches: one pass of the encoder for all of them, as
    V-JEPA 2's probes are searched. Their losses are added, so that the gradients of each are those that it has alone.

    Args:
        head: Whose initial weights all of them have.
        rates: Of each; none twice.
    """

    def __init__(self, head: Head, rates: Sequence[Rates]) -> None:
        super().__init__()
        if len(set(rates)) != len(rates) or not rates:
            raise ValueError(f"rates: found {[one.name for one in rates]}; at least one, and none twice")
        self.rates, self.takes = tuple(rates), head.takes
        self.heads = nn.ModuleList(deepcopy(head) for _ in rates)

    def __iter__(self) -> Iterator[tuple[Rates, nn.Module]]:
        """Each with its rates: the parameter groups of a training."""
        return iter(zip(self.rates, self.heads, strict=True))

    def standardise(self, features: Tensor) -> None:
        """As of `ClassificationHead`, each of them."""
        for head in self.heads:
            assert isinstance(head, ClassificationHead)
            head.standardise(features)

    def forward(self, given: Tensor) -> Tensor:
        """Logits (K, B, classes) of K heads."""
        return torch.stack([head(given) for head in self.heads])

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The sum over heads of the mean cross-entropy of each.

        Args:
            logits: (K, B, classes).
            labels: (B,), from 0.
            weights: Of the classes (classes,).
        """
        return torch.stack([nn.functional.cross_entropy(one.float(), labels, weights) for one in logits]).sum()

    def chosen(self, at: int) -> Head:
        """The head at a place."""
        head = self.heads[at]
        assert isinstance(head, ClassificationHead | AttentiveHead)
        return head


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
