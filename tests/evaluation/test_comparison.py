"""Two models on the same cases: figures, direction, the sentence with both its controls, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from medexp.config.shared import Resampling
from medexp.errors import DataError
from medexp.evaluation.comparison import compare_tables, direction, read_per_case

RESAMPLING = Resampling(1000, 0.95, 0)


def scores(patients=12, scans=2, seed=0):
    rng = np.random.default_rng(seed)
    rows = [(f"p{patient:02d}-{scan}", f"p{patient:02d}") for patient in range(patients) for scan in range(scans)]
    table = pd.DataFrame(rows, columns=["case", "patient"])
    return table.assign(dice_WT=rng.uniform(0.5, 0.9, len(rows)), hd95_WT=rng.uniform(2, 20, len(rows)))


def compared(one, other):
    tables = [read_per_case(table, name) for table, name in ((one, "A"), (other, "B"))]
    return compare_tables(*tables, ("A", "B"), RESAMPLING)


def by_metric(found):
    return {row.metric: row for row in found.rows}


def test_a_gain_that_is_there_is_told_in_the_right_direction():
    rng, one = np.random.default_rng(1), scores()
    other = one.assign(
        dice_WT=one["dice_WT"] + rng.normal(0.05, 0.02, len(one)), hd95_WT=one["hd95_WT"] + rng.normal(3, 1, len(one))
    )
    rows = by_metric(compared(one, other))
    assert rows["dice_WT"].told.startswith("dice_WT: B is better than A: +0.05")
    assert rows["hd95_WT"].told.startswith("hd95_WT: B is worse than A: -")
    assert by_metric(compared(other, one))["hd95_WT"].told.startswith("hd95_WT: B is better than A: +")


def test_a_gain_that_is_not_there_is_not_told():
    one, rng = scores(), np.random.default_rng(2)
    noise = rng.normal(0, 0.05, len(one))
    told = by_metric(compared(one, one.assign(dice_WT=one["dice_WT"] + noise - noise.mean())))
    assert told["dice_WT"].told.startswith("dice_WT: no difference between B and A that could be measured")
    assert told["hd95_WT"].told == "hd95_WT: no difference between B and A that could be measured: the figures are the same."
    few = compared(scores(3), scores(3, seed=1))
    assert "too few patients to tell B from A" in by_metric(few)["dice_WT"].told


def test_the_figures_are_those_of_a_plain_calculation():
    one, other = scores(20, 1), scores(20, 1, seed=3)
    row = by_metric(compared(one, other.sample(frac=1, random_state=0)))["dice_WT"]
    gains = other["dice_WT"] - one["dice_WT"]
    assert (row.one, row.other, row.cases) == (
        pytest.approx(one["dice_WT"].mean()),
        pytest.approx(other["dice_WT"].mean()),
        20,
    )
    assert row.gain.estimate == pytest.approx(gains.mean())
    plain = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (row.gain.low, row.gain.high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_classifiers_are_compared_by_their_probabilities():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 20)
    table = pd.DataFrame({"case": [f"c{place}" for place in range(40)], "label": np.where(truth, "tumour", "none")})
    one = table.assign(probability=(0.5 + 0.1 * (truth * 2 - 1) + rng.normal(0, 0.2, 40)).clip(0.01, 0.99))
    other = table.assign(label=truth, probability=(0.5 + 0.3 * (truth * 2 - 1) + rng.normal(0, 0.1, 40)).clip(0.01, 0.99))
    rows = by_metric(compared(one, other))
    assert rows["auroc"].one == pytest.approx(roc_auc_score(truth, one["probability"]))
    assert rows["cross_entropy"].other == pytest.approx(log_loss(truth, other["probability"]))
    assert rows["correct"].one == pytest.approx(((one["probability"] > 0.5) == truth).mean())
    assert rows["cross_entropy"].told.startswith("cross_entropy: B is better than A")
    assert rows["auroc"].gain.patients == 40, "a case is a patient where nobody says"


def test_a_region_that_a_case_lacks_is_no_figure_of_it():
    one, other = scores(), scores(seed=1)
    one.loc[:3, "dice_WT"] = other.loc[:3, "dice_WT"] = np.nan
    other.loc[5, "hd95_WT"] = np.nan
    found = compared(one, other)
    assert by_metric(found)["dice_WT"].cases == 20
    assert by_metric(found)["hd95_WT"].cases == 23
    assert found.left_out == ("hd95_WT of 1 case, which one alone has: p02-1",)
    told = {metric: row.told for metric, row in by_metric(found).items()}
    assert told["hd95_WT"].endswith(
        "Of the 23 cases alone in which both have a value: B has none in 1 case in which A has one."
    )
    assert "alone" not in told["dice_WT"], "where neither has one, nothing is left out"
    least, most = found.extremes("dice_WT", 2)
    gains = (other["dice_WT"] - one["dice_WT"]).sort_values()
    assert list(least["gain"]) == pytest.approx(list(gains[:2])) and list(most["gain"]) == pytest.approx(
        list(gains.dropna()[:-3:-1])
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table[:-3], r"not the same cases: 3 in A alone \(p10-1, p11-0, p11-1\), 21 in both"),
        (lambda table: pd.concat([table, table[:1]]), "1 cases in several rows: p00-0"),
        (lambda table: table.rename(columns={"case": "id"}), "no column 'case', found id, patient"),
        (lambda table: table[["case", "patient"]].assign(score=1.0), "no metric in common: found .*Known are dice"),
        (
            lambda table: table.assign(dice_WT=[np.nan, *table["dice_WT"][1:]]),
            "dice_WT: 1 cases have a value in one alone .*p00-0",
        ),
        (lambda table: table.assign(dice_WT=["good", *table["dice_WT"][1:]]), "column dice_WT: 1 values are no numbers"),
        (
            lambda table: table.assign(dice_WT=100 * table["dice_WT"]),
            "dice_WT: 24 values are outside 0 to 1, .*divide percent by",
        ),
        (lambda table: table.assign(dice_WT=-table["dice_WT"]), "dice_WT: 24 values are outside 0 to 1, from -0.*"),
        (lambda table: table.assign(patient="x"), "24 cases are of other patients"),
        (lambda table: table.assign(case=["", *table["case"][1:]]), "1 rows have no case"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(change, told):
    with pytest.raises(DataError, match=told):
        compared(scores(), change(scores()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"probability": [0.2, 1.5]}, "1 rows have no probabilities from 0 to 1"),
        ({"probability": [0.2, np.nan]}, r"1 rows have no probabilities .*NaN is none"),
        ({"label": ["yes", "no"]}, "2 cases have other labels: a, b"),
        ({"label": ["no", None]}, "1 rows have no label"),
        ({"predicted": ["no", "Yes"]}, "predicted holds Yes, which is no label; these are no, yes"),
        ({"predicted": ["0", "yes"]}, "predicted holds 0, which is no label; these are no, yes"),
    ],
)
def test_probabilities_and_labels_are_checked(change, told):
    table = pd.DataFrame({"case": ["a", "b"], "label": ["no", "yes"], "probability": [0.2, 0.7]})
    with pytest.raises(DataError, match=told):
        compared(table, table.assign(**change))


def test_the_direction_of_a_metric_is_known_or_nothing_is_said():
    assert [direction(name) for name in ("dice_TC", "hd95_ET", "cross_entropy", "false_ET", "correct", "auroc")] == [
        1,
        -1,
        -1,
        -1,
        1,
        1,
    ]
    for name in ("slices", "dices", "probability", "dice_loss_WT", "dice_loss", "dice_std", "accuracy_loss", "dice_WT_std"):
        assert direction(name) == 0, name
    one, other = (scores(seed=seed).assign(dice_loss_WT=0.1, iou_WT=0.5) for seed in (0, 1))
    found = compared(one, other.drop(columns="iou_WT"))
    assert {*by_metric(found)} == {"dice_WT", "hd95_WT"}
    unknown, alone = found.left_out
    assert unknown.startswith("dice_loss_WT: nothing says whether more or less is better. Known are dice, ")
    assert alone == "iou_WT: A alone has it"


def test_patients_that_nobody_names_are_said_to_be_cases():
    nameless = [scores(seed=seed).drop(columns="patient") for seed in (0, 1)]
    (note,) = compared(*nameless).notes
    assert "each case counts as a patient of its own, and the intervals rest on that" in note
    assert compared(scores(), nameless[1]).notes == ()


def classified(sharpness, seed):
    """Labels of 40 cases and a probability of `tumour`, that is right where the sharpness is above 0."""
    truth, rng = np.repeat([0, 1], 20), np.random.default_rng(seed)
    table = pd.DataFrame({"case": [f"c{place}" for place in range(40)], "patient": [f"p{place}" for place in range(40)]})
    chance = (0.5 + sharpness * (truth * 2 - 1) + rng.normal(0, 0.2, 40)).clip(0.01, 0.99)
    return table.assign(label=np.where(truth, "tumour", "none"), probability=chance)


@pytest.mark.parametrize("numbered", [False, True], ids=["names", "numbers"])
def test_one_column_of_probabilities_and_one_a_label_say_the_same(numbered):
    one, other = classified(0.1, 0), classified(0.3, 1)
    names = ("0", "1") if numbered else ("none", "tumour")
    wide = other.assign(**{f"probability_{name}": abs(other["probability"] - 1 + n) for n, name in enumerate(names)})
    wide = wide.drop(columns="probability").replace({"label": dict(zip(("none", "tumour"), names, strict=True))})
    assert compared(one, wide).rows == compared(one, other).rows
    assert {"auroc", "balanced_accuracy", "cross_entropy", "correct"} == {*by_metric(compared(wide, one))}


def test_a_class_that_no_case_has_is_judged_all_the_same():
    one = classified(0.3, 0)
    wide = one.assign(probability_none=(1 - one["probability"]) / 2, probability_other=(1 - one["probability"]) / 2)
    wide = wide.assign(probability_tumour=one["probability"], predicted="other").drop(columns="probability")
    assert {"auroc", "balanced_accuracy"} <= {*by_metric(compared(one, wide))}


def test_predicted_as_numbers_is_taken_by_the_names_of_the_labels():
    one = classified(0.3, 0).drop(columns="probability")
    named = one.assign(predicted=one["label"].where(one.index % 5 > 0, "none"))
    numbered = named.assign(predicted=(named["predicted"] == "tumour").astype(int))
    assert by_metric(compared(named, numbered))["correct"].told.endswith("the figures are the same.")


def test_probabilities_of_the_other_class_are_asked_about():
    one, other = classified(0.3, 0), classified(-0.3, 1)
    (note,) = compared(one, other).notes
    assert note.startswith("B: AUROC 0.") and "is below chance: are its probabilities those of another class?" in note
    assert "of tumour, the second in alphabetical order" in note
    assert compared(one, classified(0.0, 2)).notes == ()
