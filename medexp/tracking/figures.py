"""Pictures of a run. Figures are made without pyplot, so nothing is shared between them and nothing stays open."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from medexp.data.volumes.regions import REGIONS
from medexp.evaluation.classification import Reliability
from medexp.evaluation.intervals import Band, Interval

_COLOURS = {"TC": "#ff5a5f", "WT": "#3ddbd9", "ET": "#ffd23f"}  # told apart on grey and by colour-blind eyes
_WIDTHS = {"TC": 3.0, "WT": 1.6, "ET": 1.2}  # ET often ends where TC does: both lines stay visible
_ARMS = ("#8c8c8c", "#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756")
_OUTLINES: Mapping[str, Mapping[str, Any]] = {
    "truth": {"colors": "#3ddbd9", "linestyles": "solid", "linewidths": 1.2},
    "prediction": {"colors": "#ffd23f", "linestyles": "dashed", "linewidths": 1.2},
}
_FORMULA = r"$\mathdefault{"  # what matplotlib writes itself, such as powers of ten on an axis
GALLERY = 24
"""Images of a gallery at most."""
_PLANES = (("axial", 2, "R", "L", "A", "P"), ("coronal", 1, "R", "L", "S", "I"), ("sagittal", 0, "A", "P", "S", "I"))
# Per channel of the input: its name and the regions that a reader looks for in it.
_ROWS = ((0, "FLAIR", ("WT",)), (1, "T1c", ("TC", "ET")))


def as_written(figure: Figure) -> Figure:
    """The figure, in which names stand as they are: `grade $2_$` is no formula. To be called before it is drawn."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if "$" in text.get_text() and not text.get_text().startswith(_FORMULA):
            text.set_parse_math(False)
    return figure


def overlay(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    title: str,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Figure:
    """Prediction (filled) against truth (outlined, if known), in the three planes through the largest cut of the tumour.

    Shown as radiologists look at it: the patient's left is on the right.

    Args:
        image: FLAIR, t1c, t1n, t2w (4, X, Y, Z) along R, A, S; any intensity scale.
        truth: Labels 0 to 3 (X, Y, Z), or regions TC, WT, ET (3, X, Y, Z); None where it is not known.
        prediction: Regions TC, WT, ET (3, X, Y, Z), 0 or 1.
        title: Written above.
        spacing: Voxel spacing in mm along R, A, S.
    """
    predicted = dict(zip(REGIONS, prediction.astype(bool), strict=True))
    true: dict[str, np.ndarray] = {}
    if truth is not None:
        true = dict(zip(REGIONS, truth.astype(bool) if truth.ndim == 4 else _regions(truth), strict=True))
    shown = next((known["WT"] for known in (true, predicted) if known and known["WT"].any()), None)
    size = np.array(image.shape[1:]) * np.asarray(spacing)
    widths, heights = (size[0], size[0], size[1]), (size[1], size[2], size[2])
    figure = Figure(figsize=(11, 2 * 11 * max(heights) / sum(widths) + 1.1), dpi=110, layout="constrained", facecolor="black")
    axes = figure.subplots(2, 3, width_ratios=widths, squeeze=False)
    for row, (channel, name, regions) in zip(axes, _ROWS, strict=True):
        low, high = np.percentile(image[channel], (1, 99.5))
        for panel, (plane, axis, left, right, top, bottom) in zip(row, _PLANES, strict=True):
            index = _largest_cut(shown, axis) if shown is not None else image.shape[axis + 1] // 2
            across, up = (other for other in range(3) if other != axis)
            look: dict[str, Any] = {"origin": "lower", "aspect": spacing[up] / spacing[across]}
            panel.imshow(_cut(image[channel], axis, index), cmap="gray", vmin=low, vmax=high, **look)
            for region in regions:
                filled = _cut(predicted[region], axis, index)
                panel.imshow(filled[..., None] * np.array(to_rgba(_COLOURS[region], 0.35)), interpolation="nearest", **look)
                if true and (outlined := _cut(true[region], axis, index)).any():
                    panel.contour(outlined, levels=[0.5], colors=[_COLOURS[region]], linewidths=_WIDTHS[region])
            _letter(panel, left, right, top, bottom)
            panel.set_title(f"{name}, {plane} {index}", color="white", fontsize=10)
            panel.set_axis_off()
    handles: list[Any] = [Patch(color=to_rgba(_COLOURS[region], 0.6), label=f"{region} predicted") for region in REGIONS]
    handles += [Line2D([], [], color=_COLOURS[region], linewidth=_WIDTHS[region], label=f"{region} truth") for region in true]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, labelcolor="white", fontsize=9)
    figure.suptitle(title, color="white", fontsize=12)
    return figure


def curves(history: pd.DataFrame, columns: Sequence[str] | None = None) -> Figure:
    """Metrics over epochs: losses in one panel, scores from 0 to 1 in another, all others in a third.

    Args:
        history: One row an epoch; a column `epoch`, counted from 0, and one column a metric, NaN where it was not measured.
        columns: The metrics to draw; without them all but `epoch`, `step` and learning rates.
    """
    if columns is None:
        columns = [
            name for name in map(str, history.select_dtypes("number")) if name not in ("epoch", "step") and "/lr_" not in name
        ]
    panels = {"loss": [name for name in columns if "loss" in name or name.endswith("/ce")]}
    scores = ("dice", "accuracy", "both")  # `both` is the mean of these two
    panels["score"] = [name for name in columns if name not in panels["loss"] and any(word in name for word in scores)]
    panels["other"] = [name for name in columns if name not in panels["loss"] + panels["score"]]
    panels = {label: names for label, names in panels.items() if names} or {"nothing measured": []}
    figure = Figure(figsize=(1 + 4.6 * len(panels), 3.8), dpi=110, layout="constrained")
    for axes, (label, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for colour, name in zip(_colours(len(names) + 1)[1:], names, strict=True):
            measured = history[["epoch", name]].dropna()
            axes.plot(measured["epoch"] + 1, measured[name], marker="o", markersize=3, linewidth=1.6, color=colour, label=name)
        axes.set(xlabel="epoch", title=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if label == "score":
            axes.set_ylim(0, 1)
        _plain_frame(axes)
        if names:
            axes.legend(frameon=False, fontsize=8)
    return figure


def run_curves(panels: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Metrics of several runs over their steps: a panel a metric, a line a run, in the same colour throughout.

    Args:
        panels: By metric, then by the run's name as the legend shows it: columns `step` and `value`. Values that differ
            by orders of magnitude are drawn on a logarithmic axis.
    """
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    styles: itertools.cycle[Any] = itertools.cycle(("-", "--", ":", "-."))
    looks = dict(zip(names, zip(_colours(len(names)), styles, strict=False), strict=True))
    figure = Figure(figsize=(1 + 4.6 * len(panels), 4.2), dpi=110, layout="constrained")
    for axes, (metric, runs) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in runs.items():
            colour, style = looks[name]  # runs that hardly differ lie on each other: lines show through each other's gaps
            axes.plot(points["step"], points["value"], style, marker="o", markersize=2.5, linewidth=1.6, color=colour)
        axes.set(xlabel="step", title=metric)
        values = pd.concat([points["value"] for points in runs.values()]) if runs else pd.Series(dtype=float)
        if "dice" in metric:
            axes.set_ylim(0, 1)
        elif values.min() > 0 and values.max() > 100 * values.min():
            axes.set_yscale("log")
        _plain_frame(axes)
    handles = [Line2D([], [], color=looks[name][0], linestyle=looks[name][1]) for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6), frameon=False)
    return figure


def dice_bars(per_case: pd.DataFrame) -> Figure:
    """Dice per case, compared between arms in each region: box of the quartiles, a point a case, the mean as a diamond.

    Args:
        per_case: One row a case and arm; columns `arm` and `dice_<region>`, 0 to 1. Arms are drawn in the order they come in.
    """
    arms = list(per_case["arm"].unique())
    figure = Figure(figsize=(9, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(arms)
    jitter = np.random.default_rng(0)
    for place, (arm, colour) in enumerate(zip(arms, _colours(len(arms)), strict=True)):
        for index, region in enumerate(REGIONS):
            values = per_case.loc[per_case["arm"] == arm, f"dice_{region}"].dropna().to_numpy()
            if not values.size:
                continue
            at = index + (place - (len(arms) - 1) / 2) * width
            axes.boxplot(
                values,
                positions=[at],
                widths=width * 0.8,
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": to_rgba(colour, 0.25), "edgecolor": colour},
                medianprops={"color": colour, "linewidth": 2},
                whiskerprops={"color": colour},
                capprops={"color": colour},
            )
            spread = at + jitter.uniform(-0.25, 0.25, values.size) * width
            axes.scatter(spread, values, s=12, color=colour, alpha=0.7, linewidths=0, zorder=3)
            axes.scatter([at], [values.mean()], marker="D", s=34, color="white", edgecolors=colour, linewidths=1.5, zorder=4)
    cases = per_case.groupby("arm").size().max()
    axes.set(ylim=(-0.02, 1.02), ylabel="Dice", title=f"Dice per case ({cases} cases; diamond: mean, line: median)")
    axes.set_xticks(range(len(REGIONS)), REGIONS)
    _plain_frame(axes)
    handles = [
        Patch(facecolor=to_rgba(c, 0.25), edgecolor=c, label=arm) for arm, c in zip(arms, _colours(len(arms)), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(arms), 3), frameon=False)
    return figure


def reach_bars(table: pd.DataFrame) -> Figure:
    """What the stages of an encoder carry: how much logits and Dice change when a set of stages tells nothing of a case.

    Args:
        table: Columns `stages`, `targeted`, `logits` and `dice_<region>`; see `medexp.phases.phase1.reach`.
    """
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    places, names = np.arange(len(table)), [f"{row.stages}*" if row.targeted else row.stages for row in table.itertuples()]
    left.bar(places, table["logits"], color=[_ARMS[2] if targeted else _ARMS[0] for targeted in table["targeted"]])
    left.set(title="change in logits / their spread", ylim=(0, None))
    for place, region in enumerate(REGIONS):
        right.bar(places + (place - 1) * 0.27, table[f"dice_{region}"], width=0.27, color=_COLOURS[region], label=region)
    right.set(title="change in Dice", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xticks(places, names)
        axes.set_xlabel("stages without what they tell of a case (*: adapted)")
        _plain_frame(axes)
    return figure


def gains(per_case: pd.DataFrame) -> Figure:
    """What a version gains over the champion, case by case, sorted.

    Args:
        per_case: Columns `case` and `gain`, positive where the version is better.
    """
    rows = per_case.sort_values("gain")
    better, worse, mean = "#0072B2", "#D55E00", float(rows["gain"].mean())
    figure = Figure(figsize=(max(6.0, 0.3 * len(rows)), 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(rows)), rows["gain"], color=[better if gain > 0 else worse for gain in rows["gain"]])
    axes.set_xticks(range(len(rows)), rows["case"])
    axes.axhline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:+.4f}")
    axes.set(ylabel="gain over the champion", title=f"{(rows['gain'] > 0).sum()} of {len(rows)} cases better")
    axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    _plain_frame(axes)
    axes.legend(frameon=False)
    return figure


def differences(cases: pd.DataFrame, title: str) -> Figure:
    """What one model gains over another, a panel a metric: a dot a case, sorted, and their mean.

    Args:
        cases: Columns `metric`, `case` and `gain`, positive where the second is better.
        title: Written above.
    """
    better, worse = "#0072B2", "#D55E00"
    metrics = list(cases["metric"].unique())
    figure = Figure(figsize=(9, 0.6 + 1.8 * len(metrics)), dpi=110, layout="constrained")
    for axes, metric in zip(figure.subplots(len(metrics), squeeze=False)[:, 0], metrics, strict=True):
        rows = cases[cases["metric"] == metric].sort_values("gain")
        places, gained = np.arange(len(rows)), rows["gain"].to_numpy()
        colours = [better if gain > 0 else worse if gain < 0 else "grey" for gain in gained]
        axes.vlines(places, 0, gained, color=colours, linewidth=1)
        axes.scatter(places, gained, color=colours, s=14)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.axhline(gained.mean(), color="black", linestyle="--", linewidth=1)
        axes.set(ylabel="gain")
        axes.set_title(f"{metric}: {(gained > 0).sum()} of {len(rows)} cases better, mean {gained.mean():+.4f}", fontsize=9)
        axes.set_xticks([])
        _plain_frame(axes)
    figure.suptitle(title, fontsize=10)
    return figure


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], title: str, band: Band | None = None) -> Figure:
    """Cases by true and predicted class; the shade is the share of the true class.

    Args:
        counts: Cases (K, K), true class along the rows.
        classes: Names of the classes.
        title: Written above.
        band: Interval of each count (K, K), written beside it.
    """
    size = 2.6 + (0.7 if band is None else 1.1) * len(classes)
    figure = Figure(figsize=(size + 0.8, size), dpi=110, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.6 else "black"
        shown = f"{counts[row, column]:.0f}"
        if band is not None and not np.isnan(band.low[row, column]):
            shown += f" [{band.low[row, column]:.0f}, {band.high[row, column]:.0f}]"
        axes.text(column, row, f"{shown}\n{shares[row, column]:.0%}", ha="center", va="center", color=colour)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    return figure


def heat_maps(panels: Mapping[str, pd.DataFrame], texts: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Shares from 0 (red) to 1 (green), a panel each, rows such as models and columns such as modalities.

    Args:
        panels: By title; NaN is left white.
        texts: Written into the cells, likewise.
        title: Written above.
    """
    rows, columns = next(iter(panels.values())).shape
    wide = max(len(str(name)) for name in next(iter(panels.values())).index)
    figure = Figure(
        figsize=(0.4 + 0.065 * wide + 1.25 * columns * len(panels), 1.5 + 0.55 * rows), dpi=110, layout="constrained"
    )
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, shares) in zip(grid, panels.items(), strict=True):
        values = shares.to_numpy(float)
        drawn = axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(*shares.shape):
            shown = str(texts[name].iloc[row, column])
            pale = 0.12 < values[row, column] < 0.92 or np.isnan(values[row, column])
            axes.text(column, row, shown, ha="center", va="center", fontsize=8, color="black" if pale else "white")
        axes.set_xticks(range(columns), shares.columns, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(rows), shares.index)
        axes.set_title(name, fontsize=10)
    figure.colorbar(drawn, ax=list(grid), shrink=0.8)
    figure.suptitle(title, fontsize=11)
    return figure


def roc(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    title: str,
    bands: Mapping[str, Mapping[str, tuple[np.ndarray, Band]]] | None = None,
) -> Figure:
    """ROC curves of several arms, a panel a class.

    Args:
        panels: By class, then by the arm's name as the legend shows it: false and true positive rates, from (0, 0) to (1, 1).
        title: Written above.
        bands: By class and arm, for those that have one: false positive rates and the interval of the true ones, shaded.
    """
    figure = Figure(figsize=(1.4 + 4.2 * len(panels), 4.8), dpi=110, layout="constrained")
    for axes, (label, arms) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, (colour, (arm, (false, true))) in enumerate(zip(_colours(len(arms) + 1)[1:], arms.items(), strict=True)):
            axes.plot(false, true, linewidth=1.8, color=colour, label=arm, clip_on=False, zorder=3 - 0.1 * place)
            if drawn := (bands or {}).get(label, {}).get(arm):
                axes.fill_between(drawn[0], drawn[1].low, drawn[1].high, color=colour, alpha=0.18, linewidth=0)
        axes.plot([0, 1], [0, 1], linewidth=1, linestyle=":", color="#8c8c8c")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"{label} against the rest")
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        _plain_frame(axes)
        axes.legend(axes.lines[: len(arms)], arms, frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(title)
    return figure


def calibration(panels: Mapping[str, Reliability], positive: str, title: str) -> Figure:
    """Reliability diagrams, a panel each: how often it was the class against how probable it was said to be; cases per bin.

    On the diagonal the probabilities can be taken at their word. A bin without an interval is a hollow point.

    Args:
        panels: By what is written above the panel, such as a source and its calibration error.
        positive: Name of class 1.
        title: Written above all.
    """
    figure = Figure(figsize=(max(4 * len(panels), 5), 5.7), dpi=110, layout="constrained")
    rows = figure.subplots(2, len(panels), squeeze=False, height_ratios=(1, 0.24), sharex="col")
    for axes, below, (name, found) in zip(*rows, panels.items(), strict=True):
        share, colour = found.share, _ARMS[1]
        axes.plot([0, 1], [0, 1], linewidth=1, linestyle=":", color="#8c8c8c")
        axes.vlines(found.probability, share.low, share.high, color=colour, linewidth=1.4)
        faces = ["white" if unknown else colour for unknown in np.isnan(share.low)]
        axes.scatter(found.probability, share.estimate, s=30, color=faces, edgecolors=colour, clip_on=False, zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), title=name, ylabel=f"share with {positive}")
        edges = np.linspace(0, 1, len(found.cases) + 1)
        look: dict[str, Any] = {"align": "edge", "color": to_rgba(colour, 0.3), "edgecolor": colour}
        bars = below.bar(edges[:-1], found.cases, np.diff(edges), **look)
        below.bar_label(bars, [str(count) if count else "" for count in found.cases], fontsize=7, padding=1)
        below.set(xlabel=f"predicted probability of {positive}", ylabel="cases", ylim=(0, 1.3 * max(found.cases.max(), 1)))
        below.yaxis.get_major_locator().set_params(integer=True, nbins=3)
        _plain_frame(axes)
        _plain_frame(below)
    figure.suptitle(title)
    return figure


def bars(panels: Mapping[str, Mapping[str, Interval]], title: str) -> Figure:
    """Figures from 0 to 1 of several arms, a panel a metric and a bar an arm, with their intervals where there are any.

    Args:
        panels: By metric, then by arm, in the same order throughout; the first is what the others stand beside.
        title: Written above.
    """
    names = [textwrap.fill(name, 24) for name in next(iter(panels.values()))]
    figure = Figure(figsize=(2 + 3.2 * len(panels), 1.2 + 0.5 * len(names)), dpi=110, layout="constrained")
    for axes, (metric, arms) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        estimates = np.array([interval.estimate for interval in arms.values()])
        reach = np.array([[interval.estimate - interval.low, interval.high - interval.estimate] for interval in arms.values()])
        places = np.arange(len(names))
        axes.barh(places, estimates, color=[_ARMS[1], *[_ARMS[0]] * (len(names) - 1)])
        axes.errorbar(estimates, places, xerr=np.maximum(reach.T, 0), fmt="none", ecolor="black", capsize=3)
        axes.set(xlim=(0, 1), title=metric)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    figure.axes[0].set_yticks(places, names)  # the others share it
    figure.axes[0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    return figure


def gallery(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    title: str,
    truths: Sequence[np.ndarray | None] = (),
    predictions: Sequence[np.ndarray | None] = (),
    of: int = 0,
    across: int = 6,
) -> Figure:
    """Images in a grid, such as those that were misclassified: the first GALLERY of them; the title says of how many.

    Args:
        images: (H, W) each, of any size and intensity scale, or of colours (H, W, 3) from 0 to 255.
        captions: Written below each: case, truth, predicted probability.
        title: Written above.
        truths: A mask (H, W) for each, outlined; None for an image without one. Nothing at all where no image has one.
        predictions: Likewise, outlined with dashes.
        of: How many there are, where these are but some.
        across: Images in a row at most.
    """
    shown = min(len(images), GALLERY)
    rows = max(1, math.ceil(shown / across))
    columns = max(1, math.ceil(shown / rows))
    wrapped = [
        "\n".join(textwrap.fill(line, 30, break_on_hyphens=False) for line in caption.split("\n"))
        for caption in captions[:shown]
    ]
    lines = max((caption.count("\n") + 1 for caption in wrapped), default=1)
    tallest = max((image.shape[0] / image.shape[1] for image in images[:shown]), default=0.5)
    size = max(2.0 * columns, 4.5), rows * (1.85 * min(tallest, 2) + 0.13 * lines + 0.12) + 0.5
    figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor="black")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
        axes.set_anchor("N")
    outlines = {"truth": truths, "prediction": predictions}
    for index, axes in enumerate(grid[:shown]):
        if images[index].ndim == 3:
            axes.imshow(images[index])
        else:
            low, high = np.percentile(images[index], (1, 99.5))
            axes.imshow(images[index], cmap="gray", vmin=low, vmax=high)
        for name, masks in outlines.items():
            if masks and (mask := masks[index]) is not None and mask.any():
                height, width = mask.shape
                at = np.arange(-1, width + 1), np.arange(-1, height + 1)  # a tumour at the edge is closed along it
                axes.contour(*at, np.pad(mask, 1), levels=[0.5], **_OUTLINES[name])
                axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.text(0.5, -0.03, wrapped[index], transform=axes.transAxes, ha="center", va="top", color="#dddddd", fontsize=6.5)
    if not shown:
        grid[0].text(0.5, 0.5, "none", transform=grid[0].transAxes, ha="center", va="center", color="#bbbbbb", fontsize=12)
    drawn = [name for name, masks in outlines.items() if any(mask is not None for mask in masks)]
    if drawn:
        looks = [_OUTLINES[name] for name in drawn]
        handles = [
            Line2D([], [], color=look["colors"], linestyle=look["linestyles"], label=name)
            for name, look in zip(drawn, looks, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, labelcolor="white", fontsize=9)
    figure.suptitle(
        title if shown >= max(of, len(images)) else f"{title} ({shown} of {max(of, len(images))})", color="white", fontsize=12
    )
    return figure


def pairs(rows: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Figure:
    """Volumes with their masks: the axial plane through the largest cut of each, as it is and, below, with the mask's outline.

    The patient's left is on the right. A volume whose mask is empty is cut in its middle, and says so.

    Args:
        rows: By name, such as `real`: volumes (N, X, Y, Z) along R, A, S, from 0 to 1, and masks of their shape.
        title: Written above.
        spacing: Voxel spacing in mm along R, A, S.
    """
    columns = max((len(images) for images, _ in rows.values()), default=1)
    figure = Figure(figsize=(1.5 * columns + 1.2, 3.0 * len(rows) + 0.6), dpi=110, layout="constrained", facecolor="black")
    grid = figure.subplots(2 * len(rows), columns, squeeze=False)
    look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "origin": "lower", "aspect": spacing[1] / spacing[0]}
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[], facecolor="black")
        for spine in axes.spines.values():
            spine.set_visible(False)
    for place, (name, (images, masks)) in enumerate(rows.items()):
        plain, outlined = grid[2 * place], grid[2 * place + 1]
        plain[0].set_ylabel(name, color="white", fontsize=9)
        for column, (image, mask) in enumerate(zip(images, masks, strict=True)):
            index = _largest_cut(mask, 2) if mask.any() else image.shape[2] // 2
            for axes in (plain[column], outlined[column]):
                axes.imshow(_cut(image, 2, index), **look)
            if mask.any():
                outlined[column].contour(_cut(mask, 2, index), levels=[0.5], **_OUTLINES["truth"])
            else:
                outlined[column].text(0.5, 0.03, "no mask", transform=outlined[column].transAxes, ha="center", color="#ffd23f")
    figure.suptitle(title, color="white", fontsize=11)
    return figure


def _regions(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (labels == 1) | (labels == 3), labels > 0, labels == 3


def _largest_cut(mask: np.ndarray, axis: int) -> int:
    return int(mask.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())


def _cut(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A plane with the higher axis up. The other one is mirrored: R or A on the left."""
    return np.take(volume, index, axis=axis).T[:, ::-1]


def _letter(axes: Axes, left: str, right: str, top: str, bottom: str) -> None:
    for x, y, letter in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.96, top), (0.5, 0.04, bottom)):
        axes.text(x, y, letter, transform=axes.transAxes, color="#bbbbbb", fontsize=8, ha="center", va="center")


def _colours(count: int) -> list[Any]:
    return list(_ARMS[:count]) if count <= len(_ARMS) else list(mpl.colormaps["tab20"](np.linspace(0, 1, count)))


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
