"""What synthetic pairs are worth: from generators of known worth, and from tables in which the gain is known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from accelerate import Accelerator

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.errors import DataError
from medexp.evaluation.synthesis import Masks, Pairs
from medexp.phases.phase7.config import UtilityConfig
from medexp.phases.phase7.segmenters import BOTH, REAL, SYNTHETIC, TWICE, Utility, arms, compare_arms, half_of, measure
from medexp.reporting import NullReporter
from tests.evaluation.heads import heads

RESAMPLING = Resampling(samples=300, confidence=0.95, seed=0)
CONFIG = UtilityConfig(seeds=2, synthetic=1.0, steps=40, batch_size=4, lr=0.1, channels=(4, 8))
TRAIN, TEST, FRESH = (
    replace(one, images=one.images[:, 2:18, 2:18, 2:18], masks=one.masks[:, 2:18, 2:18, 2:18])
    for one in (heads(12, 1, "train"), heads(16, 2, "test"), heads(64, 5))
)
CASES = [f"{patient}-scan" for patient in TRAIN.patients]


class Generator:
    """Draws fresh heads, noise, or copies of all training patients, and knows what it was given."""

    def __init__(self, what: str) -> None:
        self.what, self.given = what, list[tuple[tuple[str, ...], int, int]]()

    def __call__(self, cases: Sequence[str], count: int, seed: int) -> tuple[Array, Masks]:
        self.given.append((tuple(cases), count, seed))
        rng = np.random.default_rng(seed)
        if self.what == "noise":
            return rng.random((count, 16, 16, 16)).astype(np.float32), rng.random((count, 16, 16, 16)) < 0.01
        source = TRAIN if self.what == "copies" else FRESH
        chosen = rng.choice(len(source.images), count, replace=False)
        return source.images[chosen], source.masks[chosen]


def run(
    generator: Generator, folder: Path, config: UtilityConfig = CONFIG, train: Pairs = TRAIN, test: Pairs = TEST
) -> Utility:
    return measure(
        train,
        CASES,
        test,
        [f"{patient}-scan" for patient in test.patients],
        generator,
        config,
        voxel_ml=0.2,
        resampling=RESAMPLING,
        seed=3,
        accelerator=Accelerator(cpu=True),
        reporter=NullReporter(),
        folder=folder,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noise")


@pytest.fixture(scope="module")
def noise(folder: Path) -> tuple[Utility, Generator]:
    generator = Generator("noise")
    return run(generator, folder), generator


def test_pairs_of_noise_are_of_no_use_and_that_is_seen(noise: tuple[Utility, Generator]) -> None:
    found, _ = noise
    assert found.scores[REAL].estimate > 0.3, "the segmenter learns"
    assert found.of(SYNTHETIC, REAL).relation == "worse"
    assert found.first == [] and "better" not in found.answer


def test_a_generator_is_given_one_half_of_the_patients_and_nothing_else(noise: tuple[Utility, Generator]) -> None:
    found, generator = noise
    assert [(count, seed) for _, count, seed in generator.given] == [(6, 3), (6, 4)]
    first, second = (cases for cases, _, _ in generator.given)
    assert len(first) == 6 and set(first) < set(CASES) and first != second, "another half in each seed"
    assert {seed: tuple(cases) for seed, cases in found.halves.items()} == {3: first, 4: second}
    assert found.counts == {REAL: (6, 0), SYNTHETIC: (0, 6), BOTH: (6, 6), TWICE: (12, 0)}


def test_a_generator_that_saw_the_other_half_is_told_first(tmp_path: Path) -> None:
    quick = replace(CONFIG, seeds=1, steps=5)
    seen = run(Generator("copies"), tmp_path / "seen", quick)
    outside = set(TRAIN.patients) - {case.removesuffix("-scan") for case in seen.halves[3]}
    assert seen.copies and set(seen.copies) <= outside
    assert "copy" in seen.first[0] and seen.copies[0] in seen.first[0]
    fresh = run(Generator("fresh"), tmp_path / "fresh", quick)
    assert fresh.copies == () and not any("copy" in line for line in fresh.first)
    assert "in no interval" in " ".join(fresh.words), "one seed says nothing of another"


def test_a_training_that_is_gone_on_with_comes_to_the_same_figures(noise: tuple[Utility, Generator], folder: Path) -> None:
    (folder / TWICE / "seed4" / "last.pt").unlink()
    pd.testing.assert_frame_equal(run(Generator("noise"), folder).per_case, noise[0].per_case)


def test_several_scans_of_a_patient_are_in_one_half() -> None:
    halves = [half_of(CASES, [f"patient{index // 3}" for index in range(12)], seed) for seed in range(4)]
    assert all(len(half) == 6 and len({CASES.index(case) // 3 for case in half}) == 2 for half in halves)
    assert len(set(map(tuple, halves))) > 1


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 test cases have no lesion: test-000-scan, test-001-scan"):
        run(
            Generator("fresh"),
            tmp_path,
            test=Pairs(TEST.images, TEST.masks * (np.arange(16) > 1)[:, None, None, None], TEST.patients),
        )
    with pytest.raises(DataError, match="1 patients are trained on and tested: train-003"):
        run(Generator("fresh"), tmp_path, test=replace(TEST, patients=["train-003", *TEST.patients[1:]]))
    with pytest.raises(DataError, match="found 1 real training patient"):
        run(Generator("fresh"), tmp_path, train=replace(TRAIN, patients=["one"] * 12))


def per_case(gains: dict[str, float], patients: int, seeds: int, noise: float, between_seeds: float = 0.0) -> pd.DataFrame:
    """Dice of which each arm's gain over the real one is known."""
    rng = np.random.default_rng(0)
    base = rng.normal(0.6, 0.1, patients)
    rows = []
    for seed in range(seeds):
        for name, gain in gains.items():
            dice = (base + gain + rng.normal(0, between_seeds) + rng.normal(0, noise, patients)).clip(0, 1)
            rows += [
                {"arm": name, "seed": seed, "case": f"c{i}", "patient": f"p{i}", "dice": one} for i, one in enumerate(dice)
            ]
    return pd.DataFrame(rows)


def compared(table: pd.DataFrame) -> Utility:
    every = arms(1.0)
    scores, gains = compare_arms(every, table, RESAMPLING)
    seeds = {int(seed): [] for seed in table["seed"].unique()}
    return Utility(every, table, scores, gains, seeds, {arm.name: (1, 1) for arm in every}, (0, 1), (), RESAMPLING.confidence)


def test_a_gain_that_is_there_is_found_with_its_size_and_one_that_is_not_is_a_null() -> None:
    found = compared(per_case({REAL: 0, SYNTHETIC: -0.1, BOTH: 0.1, TWICE: 0.1}, 30, 3, 0.03))
    relations = {(gain.one.name, gain.other.name): gain.relation for gain in found.gains}
    assert relations[BOTH, REAL] == relations[TWICE, REAL] == "better" and relations[SYNTHETIC, REAL] == "worse"
    assert relations[TWICE, BOTH] == "open"
    assert found.of(BOTH, REAL).gain.estimate == pytest.approx(0.1, abs=0.02)
    assert found.answer.startswith("Synthetic pairs beside the real ones make the segmenter better: +0.")
    null = found.of(TWICE, BOTH).told
    assert null.startswith("No difference between twice the real pairs and real and synthetic pairs could be measured")
    assert "would have been seen with 80 %" in null
    assert found.of(BOTH, REAL).confidence > 0.97 and "all 6 hold at once with 95%" in found.words[-1]
    worse = compared(per_case({REAL: 0, SYNTHETIC: -0.1, BOTH: -0.1, TWICE: 0.1}, 30, 3, 0.03))
    assert worse.answer.startswith("Synthetic pairs beside the real ones make the segmenter worse: -0.")


def test_a_null_says_whether_the_test_could_have_seen_anything() -> None:
    saw = compared(per_case({REAL: 0, SYNTHETIC: 0, BOTH: 0, TWICE: 0.1}, 30, 3, 0.03)).answer
    assert saw.startswith("No use of synthetic pairs") and "which the test did see" in saw
    blind = compared(per_case({REAL: 0, SYNTHETIC: 0, BOTH: 0, TWICE: 0.0}, 30, 3, 0.03)).answer
    assert blind.startswith("No use of synthetic pairs") and "could not see either" in blind
    few = compared(per_case({REAL: 0, SYNTHETIC: 0, BOTH: 0.2, TWICE: 0.2}, 4, 3, 0.03))
    assert few.of(BOTH, REAL).relation == "few" and "cannot be told from so few test patients" in few.answer


def test_what_another_seed_changes_is_in_the_interval() -> None:
    steady = compared(per_case({REAL: 0, SYNTHETIC: 0, BOTH: 0.06, TWICE: 0.06}, 30, 3, 0.03))
    moving = compared(per_case({REAL: 0, SYNTHETIC: 0, BOTH: 0.06, TWICE: 0.06}, 30, 3, 0.03, between_seeds=0.08))
    assert steady.of(BOTH, REAL).relation == "better" and moving.of(BOTH, REAL).relation == "open"
    two = compared(per_case({REAL: 0, SYNTHETIC: 0, BOTH: 0, TWICE: 0}, 30, 2, 0.03, between_seeds=0.08))
    assert any("none at all would have been seen" in gain.told for gain in two.gains), "two seeds say next to nothing"
    assert moving.of(BOTH, REAL).seeds_sd > 2 * steady.of(BOTH, REAL).seeds_sd


def test_where_nothing_was_learned_gains_say_nothing() -> None:
    table = per_case({REAL: 0, SYNTHETIC: 0, BOTH: 0, TWICE: 0}, 30, 2, 0.03)
    assert "No segmenter learned to segment" in compared(table.assign(dice=table["dice"] * 0.05)).first[0]
    assert compared(table).first == []


def test_more_synthetic_pairs_than_real_ones_are_arms_of_their_own() -> None:
    assert [arm.name for arm in arms(1.0)] == [REAL, SYNTHETIC, BOTH, TWICE]
    assert [arm.name for arm in arms(4.0)] == [REAL, SYNTHETIC, BOTH, f"{SYNTHETIC}_x4", f"{BOTH}_x4", TWICE]
    assert [arm.synthetic for arm in arms(4.0)] == [0, 1, 1, 4, 4, 0]
