"""What of a study is drawn, and that it can be."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import optuna
import pytest
from optuna.trial import TrialState

from medexp.studies.pictures import pictures

DICE, LOSS = "val/final/dice", "train/loss"
SPACE = {
    "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "mode": optuna.distributions.CategoricalDistribution(["lora", "dora"]),
}


def study(*states: TrialState, goals: int = 1, steps: int = 3) -> optuna.Study:
    """A study whose trials ended so; each has values that follow from its number."""
    made = optuna.create_study(directions=["maximize", "minimize"][:goals])
    for number, state in enumerate(states):
        made.add_trial(
            optuna.trial.create_trial(
                state=state,
                params={"rate": 10.0 ** -(1 + number % 4), "mode": ("lora", "dora")[number % 2]},
                distributions=SPACE,
                values=[0.1 * number, 1.0 / (1 + number)][:goals] if state is TrialState.COMPLETE else None,
                intermediate_values={step: 0.1 * number * step for step in range(1, steps + 1)},
            )
        )
    return made


def drawn(made: optuna.Study, goals: Sequence[str] = (DICE,)) -> dict[str, Any]:
    """The pictures, after each was rendered."""
    found = pictures(made, goals)
    for figure in found.values():
        figure.canvas.draw()
    return found


DONE, PRUNED, FAILED, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


@pytest.mark.parametrize(
    ("states", "names"),
    [
        ([], set()),
        ([RUNNING], {"intermediate_values"}),
        ([DONE], {"history", "intermediate_values"}),
        ([FAILED, FAILED], {"intermediate_values"}),
        ([PRUNED, PRUNED], {"intermediate_values"}),
        ([DONE, PRUNED, FAILED], {"history", "intermediate_values"}),
        ([DONE, DONE, PRUNED], {"history", "parallel_coordinates", "intermediate_values"}),
        ([DONE] * 9, {"history", "parallel_coordinates", "intermediate_values"}),
        ([DONE] * 10, {"history", "importance", "parallel_coordinates", "intermediate_values"}),
    ],
)
def test_what_too_few_trials_have_finished_for_is_left_out(states: list[TrialState], names: set[str]) -> None:
    assert set(drawn(study(*states))) == {f"figures/{name}.png" for name in names}


def test_where_nothing_was_measured_step_by_step_there_is_no_picture_of_it() -> None:
    assert "figures/intermediate_values.png" not in drawn(study(DONE, DONE, steps=0))


def test_of_two_goals_each_has_its_pictures_and_both_have_a_front() -> None:
    each = {
        f"{name}_{goal}"
        for name in ("history", "importance", "parallel_coordinates")
        for goal in ("val_final_dice", "train_loss")
    }
    found = drawn(study(*[DONE] * 10, goals=2, steps=0), (DICE, LOSS))
    assert set(found) == {f"figures/{name}.png" for name in {*each, "pareto_front"}}
    assert _labels(found["figures/history_train_loss.png"]) == ["Trial", LOSS]
    assert _labels(found["figures/pareto_front.png"]) == [DICE, LOSS]


def test_of_two_goals_one_trial_has_no_importance() -> None:
    names = {"history_val_final_dice", "history_train_loss", "pareto_front"}
    assert set(drawn(study(DONE, goals=2, steps=0), (DICE, LOSS))) == {f"figures/{name}.png" for name in names}


def test_the_history_shows_what_each_trial_came_to() -> None:
    figure = drawn(study(*[DONE] * 3))["figures/history.png"]
    assert _labels(figure) == ["Trial", DICE]
    points = figure.axes[0].collections[0].get_offsets()
    assert points[:, 1].tolist() == pytest.approx([0.0, 0.1, 0.2])


def test_the_look_of_other_pictures_is_left_as_it_was() -> None:
    mpl.use("Agg")
    with mpl.rc_context({"axes.facecolor": "yellow"}):
        drawn(study(*[DONE] * 3))
        assert mpl.rcParams["axes.facecolor"] == "yellow"


def _labels(figure: Any) -> list[str]:
    return [figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()]


def test_nothing_is_cut_off() -> None:
    made = optuna.create_study(direction="maximize")
    long = {"aux_heads.lambda_aux_of_all": SPACE["rate"], "training.weight_decay_of_all": SPACE["rate"]}
    for number in range(4):
        params = dict.fromkeys(long, 5e-3 + 1e-4 * number)  # of which each tick has a number
        value = 0.1 * number
        made.add_trial(
            optuna.trial.create_trial(params=params, distributions=long, value=value, intermediate_values={1: value})
        )
    for path, figure in drawn(made, ["val/final/balanced_accuracy"]).items():
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height, path
        if "parallel" in path:  # the numbers of the last parameter end before the colour bar
            (colours,) = (part for part in figure.axes if part.get_ylabel())
            parameters = [part for part in figure.axes if part is not colours]
            ends = [label.get_window_extent().x1 for part in parameters for label in part.yaxis.get_ticklabels(which="both")]
            assert max(ends) < colours.get_window_extent().x0, path
