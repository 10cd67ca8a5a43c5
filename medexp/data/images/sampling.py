"""Which images an epoch draws where they come from several sources."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medexp.errors import ConfigError


def sampling_order(sources: Sequence[str], weights: Mapping[str, float], seed: int) -> Callable[[int], NDArray[np.intp]]:
    """The indices of an epoch's items, as many as there are items, at least one; they follow from (seed, epoch) alone.

    Each source gets a share of the epoch in proportion to its weight, however many items it has. Within a source every item is
    used equally often, give or take one: some are left out of an epoch where the share is smaller than the source, all are
    used again where it is larger. So equal weights give half of the epoch to each of two sources, which is NOT each item once:
    of 300 slices and 100 pictures, 200 of the slices come and every picture twice. Each item comes once where the weights are
    as the numbers of items.

    Args:
        sources: Source of each item.
        weights: By source, above 0; those of sources without items do not count.
        seed: Seed of the draw.

    Returns:
        From the number of an epoch to indices (N,), N being the number of items.

    Raises:
        ConfigError: A source without a weight above 0.
    """
    members, shares = _shares(sources, weights)

    def order(epoch: int) -> NDArray[np.intp]:
        rng = np.random.default_rng((seed, epoch))
        drawn = []
        for indices, share in zip(members, shares, strict=True):
            rounds, rest = divmod(int(share), len(indices))
            drawn += [*[indices] * rounds, rng.permutation(indices)[:rest]]
        return rng.permutation(np.concatenate(drawn))

    return order


def expected_draws(sources: Sequence[str], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """How often an epoch of `sampling_order` draws each item, on average over epochs (N,); they add up to N.

    Args:
        sources: As of `sampling_order`.
        weights: As of `sampling_order`.

    Raises:
        ConfigError: A source without a weight above 0.
    """
    draws = np.zeros(len(sources))
    for indices, share in zip(*_shares(sources, weights), strict=True):
        draws[indices] = share / len(indices)
    return draws


def _shares(sources: Sequence[str], weights: Mapping[str, float]) -> tuple[list[NDArray[np.intp]], NDArray[np.intp]]:
    """The indices of each source's items, and how many items of an epoch are its own."""
    members = {source: np.flatnonzero(np.array(sources) == source) for source in sorted(set(sources))}
    if missing := [source for source in members if not weights.get(source, 0) > 0]:
        raise ConfigError(f"data.weights: no weight above 0 for {', '.join(missing)}; found {dict(weights)}")
    exact = np.array([weights[source] for source in members]) * len(sources) / sum(weights[source] for source in members)
    shares = np.floor(exact).astype(np.intp)
    shares[np.argsort(shares - exact, kind="stable")[: len(sources) - shares.sum()]] += 1  # the largest remainders
    return list(members.values()), shares
