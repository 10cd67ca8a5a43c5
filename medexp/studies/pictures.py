"""Pictures of a study, drawn by Optuna, for the UI of its run."""

import html
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_COLOURS = "viridis"  # Optuna's own end in white, on white
_RANKING = 10
"""Finished trials from which on parameters are ranked: the forest that ranks them makes an order of two trials too."""


@dataclass(frozen=True)
class _Plot:
    """A plot that Optuna draws in two ways: by matplotlib and, to be played with, by Plotly."""

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)


def pictures(study: optuna.Study, goals: Sequence[str]) -> dict[str, Figure]:
    """What a study's trials came to: `figures/<name>.png` to the figure.

    History, importance of the parameters and parallel coordinates, of each goal; with one goal the intermediate values that
    pruning went by, with two the Pareto front. What too few trials have finished for is left out, importance of fewer than 10.

    Args:
        study: The study.
        goals: Names of its goals, in the study's order.
    """
    drawn: dict[str, Figure] = {}
    for plot in _plots(study, goals):
        with _optunas_own_look():
            axes = getattr(optuna.visualization.matplotlib, plot.function)(study, **plot.options)
            figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
            for lines in (one for part in figure.axes for one in part.collections if isinstance(one, LineCollection)):
                lines.set_cmap(_COLOURS)
            for part in figure.axes if "parallel" in plot.name else ():
                names = [_whole(study, label.get_text()) for label in part.get_xticklabels()]
                part.set_xticks(part.get_xticks(), names)
                if part.get_yscale() == "log":  # as powers of ten they run into the colour bar
                    part.yaxis.set_major_formatter("{x:.3g}")
                    part.yaxis.set_minor_formatter("{x:.3g}")
            figure.set_size_inches(9, 5)
            figure.tight_layout()  # or long names are cut off
            drawn[f"figures/{plot.name}.png"] = figure
    return drawn


def page(study: optuna.Study, goals: Sequence[str]) -> str:
    """The same plots as one page of HTML that needs no network, with what each point is under the pointer; empty: no plot."""
    with _optunas_own_look():
        drawn = [getattr(optuna.visualization, plot.function)(study, **plot.options) for plot in _plots(study, goals)]
    for figure in drawn:
        figure.update_traces(line_colorscale=_COLOURS, selector={"type": "parcoords"})
        for part in figure.data:
            for dimension in getattr(part, "dimensions", None) or ():
                dimension.label = _whole(study, dimension.label)
    parts = [figure.to_html(full_html=False, include_plotlyjs=number == 0) for number, figure in enumerate(drawn)]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(study.study_name)}</title><body>'
    return f"{head}{''.join(parts)}</body></html>" if parts else ""


def _plots(study: optuna.Study, goals: Sequence[str]) -> Iterator[_Plot]:
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    several = len(goals) > 1
    for index, (goal, direction) in enumerate(zip(goals, study.directions, strict=True)):
        target, ending = (partial(_value, index, 1), f"_{goal.replace('/', '_')}") if several else (None, "")
        named = {"target_name": goal, "target": target}
        if finished:
            yield _Plot(f"history{ending}", "plot_optimization_history", named)
        if len(finished) > 1:
            yield _Plot(f"parallel_coordinates{ending}", "plot_parallel_coordinate", named)
        if len(finished) >= _RANKING:
            sign = -1 if direction is StudyDirection.MAXIMIZE else 1  # a target of one's own is taken as one to be lowered
            ranked = partial(_value, index, sign) if several else None
            yield _Plot(f"importance{ending}", "plot_param_importances", named | {"target": ranked})
    if several and finished:
        yield _Plot("pareto_front", "plot_pareto_front", {"target_names": list(goals)})
    if any(trial.intermediate_values for trial in trials):
        yield _Plot("intermediate_values", "plot_intermediate_values")


def _whole(study: optuna.Study, label: str) -> str:
    """The name of a parameter of which Optuna shows the first letters."""
    names = {name for trial in study.get_trials(deepcopy=False) for name in trial.params}
    return next((name for name in sorted(names) if label.endswith("...") and name.startswith(label[:-3])), label)


def _value(index: int, sign: int, trial: FrozenTrial) -> float:
    return sign * float(trial.values[index])


@contextmanager
def _optunas_own_look() -> Iterator[None]:
    """Optuna sets a style for the whole process, and warns that its pictures may change or are of few trials."""
    mpl.use("Agg")
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
