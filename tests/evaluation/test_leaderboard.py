"""A leaderboard on entries of which it is known which is better: what is there is found, and what is not is not."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from sklearn.metrics import f1_score

from medexp.config.shared import Resampling
from medexp.errors import DataError
from medexp.evaluation.classification import Predictions
from medexp.evaluation.leaderboard import (
    Entry,
    Leaderboard,
    leaderboard,
    pairs,
    predictions_table,
    read_predictions,
    spread_table,
)
from tests.evaluation.boards import CLASSES, board_entries, entry, people, truth_of

RESAMPLING = Resampling(samples=400, confidence=0.95, seed=0)


def board(entries: list[Entry], count: int = 120) -> Leaderboard:
    return leaderboard(entries, people(count), CLASSES, RESAMPLING)


@pytest.fixture(scope="module")
def known() -> Leaderboard:
    return board(board_entries(120))


def test_a_better_one_is_found_and_equal_ones_are_not(known: Leaderboard) -> None:
    assert known.sentence == (
        "The data support: layers_supervised above all others; single, again and random weights cannot be told apart; "
        "again and multi_domain are the same weights."
    )
    found = known.pair("layers_supervised", "single")
    assert found is not None and found.relation == "better" and found.gain.low > 0.2
    turned = known.pair("single", "layers_supervised")
    assert turned is not None and turned.relation == "worse" and turned.gain.high == -found.gain.low
    assert found.confidence > 0.98, "more than one difference is looked at"


def test_figures_are_the_means_of_the_seeds_and_sorted_by_balanced_accuracy(known: Leaderboard) -> None:
    table = known.table()
    assert list(table["balanced_accuracy"]) == sorted(table["balanced_accuracy"], reverse=True)
    row = table[table["name"] == "single"].iloc[0]
    made = next(one.entry for one in known.rows if one.entry.name == "single").predictions
    assert row["accuracy"] == pytest.approx(np.mean([(one.predicted == one.truth).mean() for one in made.values()]))
    each = [f1_score(one.truth, one.predicted, average=None) for one in made.values()]
    assert row[[f"f1_{name}" for name in CLASSES]].to_numpy(float) == pytest.approx(np.mean(each, axis=0))
    assert row["macro_f1"] == pytest.approx(np.mean(each)) and row["macro_f1_seeds_sd"] == pytest.approx(
        np.std(np.mean(each, axis=1), ddof=1)
    )
    assert row["balanced_accuracy_low"] < row["balanced_accuracy"] < row["balanced_accuracy_high"]


def test_a_checkpoint_that_beats_no_control_is_said_first(known: Leaderboard) -> None:
    assert [line.partition(":")[0] for line in known.first] == [
        "Not better than the files' headers alone",
        "Not better than random weights",
        "Not better than the majority class",
    ]
    assert "single (+0.006)" in known.first[0] and not any("layers_supervised" in line for line in known.first)
    better = [one for one in board_entries(120) if one.name != "single" and "multi" not in one.name and one.name != "again"]
    assert board(better).first == []


def test_one_pair_has_the_interval_of_one_pair() -> None:
    first, second = board_entries(120)[:2]
    (alone,) = pairs([(first, second)], people(120), RESAMPLING)
    assert alone.confidence == RESAMPLING.confidence


def test_a_resample_without_one_of_the_classes_takes_no_interval_away() -> None:
    """Of five people a class one in some hundred resamples has nobody of it, and defines nothing."""
    truth = truth_of(20)
    made = board([entry(name, truth, skill, seed) for name, skill, seed in (("a", 6.0, 1), ("b", 0.2, 2), ("c", 0.1, 3))], 20)
    assert [pair.relation for pair in made.order] == ["better", "better", "open"]
    assert {0.95 < pair.confidence < 1 for pair in made.order} == {True}
    few = board([entry("a", truth[:7], 6.0, 1), Entry("m", "chance", "control", board_entries(7)[-1].predictions)], 7)
    assert few.first == ["Too few participants to say what is better than chance: a (+0.750)."]


def test_what_another_seed_changes_is_in_the_interval_and_is_said() -> None:
    truth = truth_of(200)
    steady = entry("steady", truth, 1.0, 1)
    first, second, third = (entry("restless", truth, skill, 2).predictions[0] for skill in (0.2, 1.1, 2.0))
    restless = Entry("restless", "restless", "checkpoint", {0: first, 1: second, 2: third})
    found = board([steady, restless], 200).pair("steady", "restless")
    once = board([replace(one, predictions={0: one.predictions[0]}) for one in (steady, restless)], 200)
    assert found is not None and found.below_seeds and "less than what another seed changes (SD 0.18" in found.told
    (alone,) = once.order
    assert alone.relation == "better" and found.relation == "open", "one seed knows nothing of the others"
    assert found.gain.high - found.gain.low > 2 * (alone.gain.high - alone.gain.low)
    assert "Of steady and restless there is one seed" in " ".join(once.words)


def test_a_constant_answer_is_beaten_by_one_that_is_always_right() -> None:
    truth = truth_of(40)
    right = Entry("right", "right", "checkpoint", {seed: Predictions(truth, np.eye(4)[truth]) for seed in range(2)})
    majority = Entry("majority", "the majority class", "control", {0: Predictions(truth, np.full((40, 4), 0.25))})
    collapsed = Entry("collapsed", "c", "checkpoint", {0: Predictions(truth, np.tile(np.eye(4)[2], (40, 1)))})
    made = board([right, majority, collapsed], 40)
    (found,) = made.order
    assert found.relation == "better" and 0 < found.gain.low < found.gain.estimate == 0.75
    assert {(pair.one.name, pair.relation) for pair in made.controls} == {("right", "better"), ("collapsed", "alike")}
    assert made.rows[0].scores["balanced_accuracy"].low > 0.6, "always right has an interval too"


def test_copies_that_were_trained_apart_tie_all_the_same() -> None:
    truth = truth_of(120)
    one, other = (entry(name, truth, skill, seed, digest="d") for name, skill, seed in (("a", 2.0, 1), ("b", 0.5, 2)))
    made = board([one, other])
    assert made.order[0].relation == "copy" and "trained anew they differ by +0." in made.order[0].told
    assert made.sentence == "There is nothing to be ranked; a and b are the same weights."


def test_a_partial_order_is_told_as_one() -> None:
    truth = truth_of(120)
    entries = [entry(name, truth, skill, seed) for name, skill, seed in (("a", 1.7, 1), ("b", 1.5, 2), ("c", 1.1, 3))]
    made = board(entries)
    assert {(pair.one.name, pair.other.name): pair.relation for pair in made.order} == {
        ("a", "b"): "open",
        ("a", "c"): "better",
        ("b", "c"): "open",
    }
    assert made.sentence == "The data support no full order: among a, b and c only a above c."


def test_a_class_that_nobody_is_of_or_that_is_never_predicted() -> None:
    truth = np.arange(90) % 3
    entries = [entry(name, truth, skill, seed) for name, skill, seed in (("a", 2.5, 1), ("b", 0.2, 2))]
    made = board(entries, 90)
    assert "No judged participant is of insulin: the figures rest on the other classes." in made.words
    assert made.order[0].relation == "better"
    never = Predictions(truth_of(40), np.tile([0.4, 0.3, 0.2, 0.1], (40, 1)))
    row = board([Entry("n", "n", "control", {0: never})], 40).rows[0]
    assert row.class_f1.tolist()[1:] == [0, 0, 0] and row.class_f1[0] == pytest.approx(0.4)


def test_one_participant_has_figures_and_no_interval() -> None:
    truth = truth_of(8)
    entries = [entry(name, truth, skill, seed) for name, skill, seed in (("a", 9.0, 1), ("b", 0.2, 2))]
    made = leaderboard(entries, ["p"] * 8, CLASSES, RESAMPLING)
    assert made.order[0].relation == "few" and made.order[0].told.startswith("Too few participants to tell a from b (")
    assert made.sentence == "The data support no order: a and b cannot be told apart by so few participants."
    assert made.words[0] == "1 judged participant: too few for any interval."


def test_random_labels_give_no_order_in_95_percent_of_data_sets() -> None:
    """Familywise: whatever is said of any of ten differences. Three seeds, whose trainings differ."""
    rng, sets, said = np.random.default_rng(0), 300, 0
    for _ in range(sets):
        entries = [entry(str(name), rng.permutation(truth_of(60)), 0.0, int(rng.integers(1 << 30))) for name in range(5)]
        entries = [
            replace(one, predictions={s: Predictions(truth_of(60), p.probabilities) for s, p in one.predictions.items()})
            for one in entries
        ]
        couples = [(one, other) for place, one in enumerate(entries) for other in entries[place + 1 :]]
        found = pairs(couples, people(60), Resampling(200, 0.95, 0))
        said += any(pair.relation in ("better", "worse") for pair in found)
    assert said / sets <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / sets)


def test_what_was_saved_gives_the_same_leaderboard(known: Leaderboard) -> None:
    entries = [row.entry for row in known.rows]
    cases = people(120)
    tables = [predictions_table(entries, cases, cases, CLASSES, split) for split in ("val", "test")]
    saved = read_predictions(pd.concat(tables).sample(frac=1, random_state=0), "run", "test", CLASSES, spread_table(entries))
    again = leaderboard(saved.entries, saved.patients, saved.classes, RESAMPLING)
    order = np.argsort(cases)
    same = leaderboard(
        [
            replace(
                one, predictions={s: Predictions(p.truth[order], p.probabilities[order]) for s, p in one.predictions.items()}
            )
            for one in entries
        ],
        [cases[index] for index in order],
        CLASSES,
        RESAMPLING,
    )
    assert again.table().to_csv() == same.table().to_csv()
    assert again.sentence == known.sentence and list(saved.cases) == sorted(cases)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.assign(probability_oral=np.nan), "480 rows of a, b have no probabilities from 0 to 1"),
        (lambda rows: rows.drop(columns="seed"), "no column seed; found case, "),
        (lambda rows: rows.assign(label=rows["label"].replace("oral", "moral")), "label: found moral; there are healthy"),
        (lambda rows: rows.assign(kind="encoder"), "kind: found encoder; there are checkpoint, random, control"),
        (lambda rows: rows.iloc[1:], "a, seed 0: lacks 1 cases that others have: p000"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), "1 cases stand twice for one arm and seed: p000"),
        (lambda rows: rows.assign(split="val"), "no rows of the split test; there are val. Give a run that was judged on it"),
        (
            lambda rows: rows.assign(label=np.where((rows["arm"] == "b") & (rows["case"] == "p000"), "oral", rows["label"])),
            "1 cases have several labels: p000",
        ),
    ],
)
def test_what_was_saved_wrong_is_told(change, told: str) -> None:
    entries = [entry(name, truth_of(120), 1.0, seed, seeds=2) for name, seed in (("a", 1), ("b", 2))]
    rows = predictions_table(entries, people(120), people(120), CLASSES, "test")
    with pytest.raises(DataError, match=re.escape(told)):
        read_predictions(change(rows), "run x", "test", CLASSES)


def test_entries_that_do_not_belong_together_are_refused() -> None:
    truth = truth_of(40)
    other = Entry("b", "b", "checkpoint", {0: Predictions(truth[::-1].copy(), np.full((40, 4), 0.25))})
    with pytest.raises(DataError, match="2 problems\n  - a: 2 entries are called so\n  - b: other labels than a"):
        board([entry("a", truth, 1.0, 1), entry("a", truth, 1.0, 2), other], 40)
    with pytest.raises(DataError, match="no entry"):
        board([], 40)


def test_intervals_hold_the_true_differences_all_at_once() -> None:
    """Not only nothing: of classifiers of known skill, whose trainings differ from seed to seed."""
    rng, sets, held = np.random.default_rng(1), 300, 0
    level, shift = np.array([0.0, 0.3, 0.6, 1.0]), 0.15
    true = ndtr(level / np.sqrt(1 + shift**2))
    truth = truth_of(80)
    for _ in range(sets):
        entries = []
        common = rng.normal(size=80)
        for index, mean in enumerate(level):
            made = {}
            own = rng.normal(size=80)
            for seed in range(3):
                noise = 0.6 * common + 0.64 * own + 0.48 * rng.normal(size=80)
                right = noise < mean + shift * rng.normal()
                made[seed] = Predictions(truth, np.eye(4)[np.where(right, truth, (truth + 1) % 4)])
            entries.append(Entry(str(index), "", "checkpoint", made))
        couples = [(one, other) for place, one in enumerate(entries) for other in entries[place + 1 :]]
        found = pairs(couples, people(80), Resampling(200, 0.95, 0))
        wanted = [true[int(pair.one.name)] - true[int(pair.other.name)] for pair in found]
        held += all(pair.gain.low <= each <= pair.gain.high for pair, each in zip(found, wanted, strict=True))
    assert held / sets >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / sets)
