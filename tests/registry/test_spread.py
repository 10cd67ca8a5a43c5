"""What earlier versions say of how far scores differ, and what a gain takes, on a real registry."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp.config.shared import Resampling
from medexp.errors import RegistryError
from medexp.evaluation.intervals import MIN_PATIENTS
from medexp.phases.shared.foresight import in_words, known_spread
from medexp.registry.definitions import load_definition
from medexp.registry.planning import plan
from medexp.registry.spread import spread_alone, spread_of
from medexp.registry.store import Registered
from tests.packages import EVALUATION, scores

NAME = "phase1_encoder_merged"
DICE = ["dice_TC", "dice_WT", "dice_ET"]
Publish = Callable[..., Registered]


def alone() -> pd.DataFrame:
    """`scores()` whose Dice varies enough that they say something without another's."""
    table = scores()
    return table.assign(**{column: 0.5 + 4 * (table[column] - table[column].mean()) for column in DICE})


def differing(by: float, seed: int = 1, of: pd.DataFrame | None = None) -> pd.DataFrame:
    """Scores that differ from those, or `scores()`, by this SD, in the mean by nothing."""
    table, noise = scores() if of is None else of, np.random.default_rng(seed).normal(size=12)
    shift = by * (noise - noise.mean()) / noise.std(ddof=1)
    return table.assign(**{column: table[column] + shift for column in DICE})


def test_the_spread_is_that_of_two_versions_on_the_same_cases(publish: Publish) -> None:
    assert spread_of(NAME, DICE) is None
    publish(seed=0, per_case=alone())
    single = spread_of(NAME, DICE)
    assert single is not None and "scores of version 1" in single.source
    assert single.value == pytest.approx(2**0.5 * alone()["dice_TC"].std(), rel=0.1)
    publish(seed=1, per_case=differing(0.04, of=alone()))
    both = spread_of(NAME, DICE)
    assert both is not None and not both.doubt and both.source.startswith("differences between versions 2 and 1")
    assert (both.value, both.patients) == (pytest.approx(0.04, rel=0.1), 12)
    publish(seed=2, per_case=differing(0.02, seed=5, of=alone()), evaluation={**EVALUATION, "data_digest": "other cases"})
    other = spread_of(NAME, DICE)
    assert other is not None and "scores of version 3" in other.source, "no other version was judged on those cases"
    assert spread_of(NAME, DICE, "2") == both
    assert spread_of(NAME, ["correct"]) is None


def test_an_arm_of_the_versions_own_run_tells_most(publish: Publish, store: MlflowClient) -> None:
    version = publish(seed=0)
    run = store.get_model_version(NAME, version.version).run_id
    arms = pd.concat([scores().assign(arm="lora"), differing(0.03).assign(arm="control")])
    store.log_text(run, arms.to_csv(index=False), "per_case.csv")
    found = spread_of(NAME, DICE)
    assert found is not None and found.source == f"differences of version 1 of {NAME} from the arm control of its run"
    assert found.value == pytest.approx(0.03, rel=0.1)
    assert "Arms of one run differ less than two models do" in plan(f"models:/{NAME}/1", 0.02).in_words


def test_another_version_tells_more_than_the_base_that_it_was_adapted_from(publish: Publish, store: MlflowClient) -> None:
    """Native Dice is had of the base alone, which differs far more from a version than another version does."""
    runs = [store.get_model_version(NAME, publish(seed=0).version).run_id]
    runs.append(store.get_model_version(NAME, publish(seed=1, per_case=differing(0.03)).version).run_id)
    arms = pd.concat([scores().assign(arm="lora"), differing(0.2, seed=3).assign(arm="baseline")])
    for run in runs:
        store.log_text(run, arms.to_csv(index=False), "per_case.csv")
    found = spread_of(NAME, DICE, "1")
    assert found is not None and found.source.startswith("differences between versions 1 and 2")
    assert found.value == pytest.approx(0.03, rel=0.1) and not found.doubt
    store.delete_model_version(NAME, "2")
    alone = spread_of(NAME, DICE, "1")
    assert alone is not None and "from the arm baseline" in alone.source and "it may take far fewer" in alone.doubt


def test_a_version_judged_on_other_cases_and_one_that_failed_are_said_to_be_that(publish: Publish) -> None:
    publish("FAILED", seed=0, per_case=alone())
    assert (found := spread_of(NAME, DICE)) and found.source.endswith("; its checks failed")
    publish(seed=1, per_case=alone(), evaluation={**EVALUATION, "data_digest": "other cases"})
    publish("FAILED", seed=2, per_case=alone())
    assert (found := spread_of(NAME, DICE, digest="d1")) and "version 2" in found.source, "the one that passed"
    assert found.source.endswith("; judged on other cases")
    assert (found := spread_of(NAME, DICE, digest="other cases")) and "judged on" not in found.source
    assert "judged on other cases: SD" in in_words("Dice", 16, "validation", known_spread(DICE, [NAME], digest="d1"))


def test_no_gain_takes_fewer_patients_than_a_promotion_compares(publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1, per_case=differing(0.005))
    found, policy = plan(f"models:/{NAME}/2", 0.5), load_definition(NAME).promotion
    assert policy and found.patients == found.between[0] == max(MIN_PATIENTS, policy.min_cases)
    assert "are the fewest that are compared" in found.in_words


def test_a_plan_says_how_many_patients_a_gain_takes_and_how_sure_that_is(publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1, per_case=differing(0.05))
    few, many = plan(f"models:/{NAME}/2", 0.1), plan(f"models:/{NAME}/2", 0.02, "dice")
    assert few.patients is not None and many.patients is not None and few.patients < 12 < 45 < many.patients < 60
    assert many.between[0] is not None and many.between[1] is not None
    assert many.between[0] < many.patients < many.between[1]
    assert "mean of dice_TC, dice_WT, dice_ET: a difference of 0.02 takes" in many.in_words
    assert "differences between versions 2 and 1" in many.in_words and "measured on 12 patients" in many.in_words


def test_a_version_that_folds_judged_takes_more_patients(publish: Publish) -> None:
    """Its intervals are wider by a root of 1 + K / (K - 1), so that it takes that many times the patients."""
    in_folds = scores().assign(fold=[1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2])
    publish(seed=0, per_case=in_folds)
    publish(seed=1, per_case=differing(0.05, of=in_folds))
    publish(seed=2, per_case=scores())
    folded = plan(f"models:/{NAME}/2", 0.02, "dice")
    assert folded.patients is not None and 2.25 * 45 < folded.patients < 2.25 * 60
    assert "an interval of 95 % that 5 folds make wider." in folded.in_words


@pytest.mark.parametrize(("metric", "told"), [("f1", r"--metric=f1: .* there are dice_TC"), ("dice_XX", "--metric=dice_XX")])
def test_a_metric_that_is_not_there_is_answered_with_those_that_are(publish: Publish, metric: str, told: str) -> None:
    publish(seed=0)
    with pytest.raises(RegistryError, match=told):
        plan(f"models:/{NAME}/1", 0.1, metric)


def test_scores_that_are_all_the_same_say_nothing(publish: Publish) -> None:
    publish(seed=0, per_case=scores().assign(**dict.fromkeys(DICE, 0.5)))
    with pytest.raises(RegistryError, match="the same in all cases"):
        plan(f"models:/{NAME}/1", 0.1)


def test_before_training_a_line_says_what_can_be_seen_and_by_what(publish: Publish) -> None:
    assert in_words("Dice", 8, "validation", known_spread(DICE, [NAME])) == (
        "What difference in Dice 8 validation patients can show is not known: no earlier scores say it."
    )
    frozen = known_spread(DICE, [NAME], alone())
    assert "with 80 % (scores of the frozen network alone" in in_words("Dice", 16, "validation", frozen)
    assert "With 1 validation patient no difference" in in_words("Dice", 1, "validation", frozen)
    publish(seed=0)
    publish(seed=1, per_case=differing(0.04))
    line = in_words("Dice", 16, "validation", known_spread(DICE, [NAME], scores()))
    assert line.startswith(
        "With 16 validation patients a difference in Dice of about 0.03 would be seen with 80 % (differences betw"
    )
    folded = in_words("Dice", 16, "out-of-fold", known_spread(DICE, [NAME]), Resampling(100, 0.95, 0, folds=5).excess)
    assert folded.startswith("With 16 out-of-fold patients a difference in Dice of about 0.045 would be seen"), (
        "1.5 times as much"
    )
    assert "in intervals that are wider because of the folds" in folded and "folds" not in line
    assert "disagreed on 30%" in in_words("accuracy", 40, "test", known_spread(["correct"], [NAME]))


def test_the_frozen_network_alone_is_taken_as_unrelated() -> None:
    table = alone()
    found = spread_alone(table, DICE, "scores")
    assert found is not None and found.value == pytest.approx(2**0.5 * table["dice_TC"].std(), rel=0.1)
    assert spread_alone(table.assign(**dict.fromkeys(DICE, 0.5)), DICE, "scores") is None
    assert spread_alone(scores(dice=0.05), DICE, "scores") is None, "where all fail nothing says how another's will scatter"
