"""Whether an encoder gives other features for other cases: one that has collapsed gives all of them the same."""

from dataclasses import dataclass

import numpy as np

from medexp.arrays import Array
from medexp.errors import TrainingDiverged

CONSTANT = 1e-3
"""Features whose `relative_sd` is below this are the same for all cases but for what arithmetic does."""
ONE_DIRECTION = 1.5
"""Features whose effective rank is below this differ along one line alone."""


@dataclass(frozen=True)
class Spread:
    """How much the features of cases differ.

    Attributes:
        relative_sd: SD over cases, all dimensions together, relative to the features' root mean square: 0 where all cases have
            the same features, 1 where their mean is 0.
        effective_rank: In how many directions they differ: the exponential of the entropy of the singular values of the
            centred features, as RankMe has it of the features (Garrido et al., ICML 2023); 0 where they do not, at most
            the smaller of `dimensions` and `cases` - 1.
        cosine: Mean cosine similarity of two cases, -1 to 1; 1 where all point alike, NaN of one case.
        dimensions: Of a feature vector.
        cases: Number of them.
    """

    relative_sd: float
    effective_rank: float
    cosine: float
    dimensions: int
    cases: int

    @property
    def collapsed(self) -> bool:
        """Whether the features tell cases apart along one direction at most; never of fewer than four cases."""
        return self.cases > 3 and (self.relative_sd < CONSTANT or self.effective_rank < ONE_DIRECTION)

    @property
    def told(self) -> str:
        """The collapse in words, or the figures."""
        if self.collapsed:
            how = "the same for all cases" if self.relative_sd < CONSTANT else "different along one direction alone"
            return f"has collapsed: its features are {how} ({self._figures})"
        return self._figures

    @property
    def _figures(self) -> str:
        rank = f"effective rank {self.effective_rank:.1f} of {min(self.dimensions, self.cases - 1)}"
        return f"relative SD {self.relative_sd:.2g}, {rank}, cosine {self.cosine:.3f}"


def spread_of(features: Array) -> Spread:
    """How much features differ from case to case.

    Args:
        features: (N, D), a row a case.

    Raises:
        TrainingDiverged: A feature is NaN or infinite.
    """
    rows = np.asarray(features, np.float64)
    if bad := int((~np.isfinite(rows)).any(axis=1).sum()):
        raise TrainingDiverged(f"the encoder's features: NaN or infinite in {bad} of {len(rows)} cases. Give finite weights")
    cases, dimensions = rows.shape
    centred = rows - rows.mean(axis=0)
    size, scatter = float((rows**2).sum()), float((centred**2).sum())
    relative = float(np.sqrt(scatter / size)) if size else 0.0
    rank = 0.0
    if relative >= np.finfo(np.float32).eps:  # below it is what rounding leaves
        values = np.linalg.svd(centred, compute_uv=False)
        shares = values[values > 0] / values.sum()
        rank = float(np.exp(-(shares * np.log(shares)).sum()))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    cosine = float(((unit.sum(axis=0) ** 2).sum() - (unit**2).sum()) / (cases * (cases - 1))) if cases > 1 else float("nan")
    return Spread(relative, rank, cosine, dimensions, cases)
