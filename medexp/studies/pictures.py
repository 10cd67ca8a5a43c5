"""Pictures of a study, drawn by Optuna, for the UI of its run."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib.figure import Figure
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as draw


def pictures(study: optuna.Study, goals: Sequence[str]) -> dict[str, Figure]:
    """What a study's trials came to: `figures/<name>.png` to the figure.

    History, importance of the parameters and parallel coordinates, of each goal; with one goal the intermediate values that
    pruning went by, with two the Pareto front. What too few trials have finished for is left out.

    Args:
        study: The study.
        goals: Names of its goals, in the study's order.
    """
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state is TrialState.COMPLETE]
    several = len(goals) > 1
    drawn: dict[str, Figure] = {}

    def add(name: str, plot: Callable[..., Any], **options: Any) -> None:
        with _optunas_own_look():
            axes = plot(study, **options)
            figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
            figure.set_size_inches(9, 5)
            figure.tight_layout()  # or long names are cut off
            drawn[f"figures/{name}.png"] = figure

    for index, (goal, direction) in enumerate(zip(goals, study.directions, strict=True)):
        target, ending = (partial(_value, index, 1), f"_{goal.replace('/', '_')}") if several else (None, "")
        if finished:
            add(f"history{ending}", draw.plot_optimization_history, target_name=goal, target=target)
        if len(finished) > 1:
            add(f"parallel_coordinates{ending}", draw.plot_parallel_coordinate, target_name=goal, target=target)
            sign = -1 if direction is StudyDirection.MAXIMIZE else 1  # a target of one's own is taken as one to be lowered
            ranked = partial(_value, index, sign) if several else None
            add(f"importance{ending}", draw.plot_param_importances, target_name=goal, target=ranked)
    if several and finished:
        add("pareto_front", draw.plot_pareto_front, target_names=list(goals))
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        add("intermediate_values", draw.plot_intermediate_values)
    return drawn


def _value(index: int, sign: int, trial: FrozenTrial) -> float:
    return sign * float(trial.values[index])


@contextmanager
def _optunas_own_look() -> Iterator[None]:
    """Optuna sets a style for the whole process, and warns that its pictures may change or are of few trials."""
    mpl.use("Agg")
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
