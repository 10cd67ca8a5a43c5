from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.images.sampling import expected_draws, sampling_order
from medexp.errors import ConfigError

SOURCES = ["brats"] * 30 + ["kaggle"] * 10


@pytest.mark.parametrize(
    ("weights", "kaggle"),
    [((1, 1), 20), ((3, 1), 10), ((1, 3), 30), ((30, 10), 10), ((1, 0.01), 0), ((1, 0.02), 1)],
)
def test_sources_get_their_shares(weights, kaggle):
    order = sampling_order(SOURCES, dict(zip(("brats", "kaggle"), weights, strict=True)), 0)
    for epoch in range(3):
        counts = Counter(order(epoch).tolist())
        assert sum(counts.values()) == 40
        assert sum(count for index, count in counts.items() if index >= 30) == kaggle
        for members in (range(30), range(30, 40)):
            used = [counts[index] for index in members]
            assert max(used) - min(used) <= 1


def test_the_order_follows_from_seed_and_epoch_alone():
    weights = {"brats": 1.0, "kaggle": 2.0}
    order = sampling_order(SOURCES, weights, 5)
    assert np.array_equal(order(7), sampling_order(SOURCES, weights, 5)(7))
    assert not np.array_equal(order(7), order(8)) and not np.array_equal(order(7), sampling_order(SOURCES, weights, 6)(7))
    assert np.ptp(np.flatnonzero(order(0) >= 30)) > 20, "sources are mixed"
    assert set(np.concatenate([order(epoch) for epoch in range(40)]).tolist()) == set(range(40))


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=2), data=st.data(), seed=st.integers(0, 2**31))
def test_any_weights_fill_an_epoch(counts, data, seed):
    names = ("brats", "kaggle")[: len(counts)]
    weights = {name: data.draw(st.floats(1e-3, 1e3)) for name in names}
    sources = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    drawn = sampling_order(sources, weights, seed)(1)
    assert len(drawn) == len(sources)
    for name in names:
        share = len(sources) * weights[name] / sum(weights.values())
        used = Counter({index: 0 for index, source in enumerate(sources) if source == name})
        used.update(index for index in drawn.tolist() if sources[index] == name)
        assert abs(used.total() - share) < 1 and max(used.values()) - min(used.values()) <= 1


@pytest.mark.parametrize(("weights", "wanted"), [((1, 1), (20 / 30, 2)), ((3, 1), (1, 1)), ((1, 2), (13 / 30, 2.7))])
def test_how_often_an_item_is_drawn_on_average(weights, wanted):
    weights = dict(zip(("brats", "kaggle"), weights, strict=True))
    found = expected_draws(SOURCES, weights)
    np.testing.assert_allclose(found, np.repeat(wanted, (30, 10)))
    order = sampling_order(SOURCES, weights, 0)
    drawn = np.mean([np.bincount(order(epoch), minlength=40) for epoch in range(400)], axis=0)
    np.testing.assert_allclose(drawn, found, atol=0.12)  # five standard deviations


@pytest.mark.parametrize("weights", [{"brats": 1.0}, {"brats": 1.0, "kaggle": 0.0}, {"brats": 1.0, "kaggle": float("nan")}])
def test_a_source_without_a_weight(weights):
    with pytest.raises(ConfigError, match="data.weights: no weight above 0 for kaggle"):
        sampling_order(SOURCES, weights, 0)
    with pytest.raises(ConfigError, match="data.weights: no weight above 0 for kaggle"):
        expected_draws(SOURCES, weights)
    assert len(sampling_order(["brats"] * 3, weights, 0)(0)) == 3
    assert expected_draws(["brats"] * 3, weights).tolist() == [1, 1, 1]
