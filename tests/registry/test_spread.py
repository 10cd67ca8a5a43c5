"""What earlier versions say of how far scores differ, and what a gain takes, on a real registry."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp.config.shared import Resampling
from medexp.errors import RegistryError
from medexp.phases.shared.foresight import in_words, known_spread
from medexp.registry.planning import plan
from medexp.registry.spread import spread_alone, spread_of
from medexp.registry.store import Registered
from tests.packages import EVALUATION, scores

NAME = "phase1_encoder_merged"
DICE = ["dice_TC", "dice_WT", "dice_ET"]
Publish = Callable[..., Registered]


def differing(by: float, seed: int = 1) -> pd.DataFrame:
    """Scores that differ from `scores()` by this SD, in the mean by nothing."""
    table, noise = scores(), np.random.default_rng(seed).normal(size=12)
    shift = by * (noise - noise.mean()) / noise.std(ddof=1)
    return table.assign(**{column: table[column] + shift for column in DICE})


def test_the_spread_is_that_of_two_versions_on_the_same_cases(publish: Publish) -> None:
    assert spread_of(NAME, DICE) is None
    publish(seed=0)
    alone = spread_of(NAME, DICE)
    assert alone is not None and alone.most and "scores of version 1" in alone.source
    assert alone.value == pytest.approx(2**0.5 * scores()["dice_TC"].std(), rel=0.1)
    publish(seed=1, per_case=differing(0.04))
    both = spread_of(NAME, DICE)
    assert both is not None and not both.most and both.source.startswith("differences between versions 2 and 1")
    assert (both.value, both.patients) == (pytest.approx(0.04, rel=0.1), 12)
    publish(seed=2, per_case=differing(0.02, seed=5), evaluation={**EVALUATION, "data_digest": "other cases"})
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


def test_a_plan_says_how_many_patients_a_gain_takes_and_how_sure_that_is(publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1, per_case=differing(0.05))
    few, many = plan(f"models:/{NAME}/2", 0.1), plan(f"models:/{NAME}/2", 0.02, "dice")
    assert few.patients is not None and many.patients is not None and few.patients < 12 < 45 < many.patients < 60
    assert many.between[0] is not None and many.between[1] is not None
    assert many.between[0] < many.patients < many.between[1]
    assert "mean of dice_TC, dice_WT, dice_ET: a difference of 0.02 takes" in many.in_words
    assert "differences between versions 2 and 1" in many.in_words and "measured on 12 patients" in many.in_words


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
        "What difference in Dice 8 validation patients can show is not known before a first version is judged."
    )
    frozen = known_spread(DICE, [NAME], scores())
    assert "with 80 % (scores of the frozen network alone" in in_words("Dice", 16, "validation", frozen)
    assert "With 1 validation patient no difference" in in_words("Dice", 1, "validation", frozen)
    publish(seed=0)
    publish(seed=1, per_case=differing(0.04))
    line = in_words("Dice", 16, "validation", known_spread(DICE, [NAME], scores()))
    assert line.startswith(
        "With 16 validation patients a difference in Dice of 0.03 would be seen with 80 % (differences betw"
    )
    folded = in_words("Dice", 16, "out-of-fold", known_spread(DICE, [NAME]), Resampling(100, 0.95, 0, folds=5).excess)
    assert folded.startswith("With 16 out-of-fold patients a difference in Dice of 0.045 would be seen"), "1.5 times as much"
    assert "in intervals that are wider because of the folds" in folded and "folds" not in line
    assert "disagreed on 30%" in in_words("accuracy", 40, "test", known_spread(["correct"], [NAME]))


def test_the_frozen_network_alone_is_taken_as_unrelated() -> None:
    table = scores()
    found = spread_alone(table, DICE, "scores")
    assert found is not None and found.most and found.value == pytest.approx(2**0.5 * table["dice_TC"].std(), rel=0.1)
    assert spread_alone(table.assign(**dict.fromkeys(DICE, 0.5)), DICE, "scores") is None
