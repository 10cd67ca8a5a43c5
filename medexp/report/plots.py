"""What the page draws, with every place worked out: estimates with their intervals, and courses. The template only draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 320.0, 180.0, 44.0, 24.0
_PANELS = 12
_SHADES = 6  # colours of arms that can be told apart
FIRST = ("loss", "dice", "accuracy", "balanced_accuracy", "auroc", "cross_entropy")


@dataclass(frozen=True)
class Dot:
    """An estimate with its interval, placed along its panel.

    Attributes:
        label: What it is of, such as an arm.
        estimate: The estimate.
        low: Lower bound; NaN where there is none.
        high: Upper bound; NaN likewise.
        at: Where the estimate is, in percent of the panel's width.
        left: Where the interval begins, in percent.
        right: Where it ends, in percent.
        main: Whether it is what the run registers.
    """

    label: str
    estimate: float
    low: float
    high: float
    at: float
    left: float
    right: float
    main: bool

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Dots:
    """A panel of estimates on one axis.

    Attributes:
        title: What is estimated.
        dots: The estimates.
        ticks: Value and place in percent.
        zero: Place of 0 in percent, where 0 is within the panel and means no difference; None elsewhere.
        signed: Whether the figures are differences, shown with their sign.
    """

    title: str
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[str, float], ...]
    zero: float | None
    signed: bool


@dataclass(frozen=True)
class Line:
    """A course.

    Attributes:
        label: The arm.
        shade: Number of its colour.
        dashed: Whether it is of the training cases, beside one of the validation cases.
        points: As SVG's polyline has them.
        marks: The points themselves, with what a pointer tells: x, y, text.
    """

    label: str
    shade: int
    dashed: bool
    points: str
    marks: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Curves:
    """A panel of courses.

    Attributes:
        title: What is drawn.
        lines: The courses.
        across: Ticks of the x axis: text and place.
        up: Ticks of the y axis: text and place.
        axis: What the x axis is.
    """

    title: str
    lines: tuple[Line, ...]
    across: tuple[tuple[str, float], ...]
    up: tuple[tuple[str, float], ...]
    axis: str
    width: float = _WIDTH
    height: float = _HEIGHT
    left: float = _LEFT
    bottom: float = _HEIGHT - _BOTTOM


def digits(value: float, signed: bool = False) -> str:
    """A figure as a table shows it: of the size of 1 with three decimals."""
    if not math.isfinite(value):
        return ""
    if signed:
        return f"{value:+.3f}" if abs(value) < 100 else f"{value:+.3g}"
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    decimals = 3 if abs(value) < 10 else 1
    return f"{value:.{decimals}f}"


def dots(title: str, rows: Sequence[tuple[str, float, float, float, bool]], signed: bool = False) -> Dots:
    """A panel of rows: label, estimate, low, high, and whether it is what the run registers."""
    values = [value for row in rows for value in row[1:4] if math.isfinite(value)] + ([0.0] if signed else [])
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2) if math.isfinite(value) else math.nan

    drawn = [Dot(label, est, lo, hi, place(est), place(lo), place(hi), main) for label, est, lo, hi, main in rows]
    ticks = tuple((_tick(value), place(value)) for value in _nice(low, high, 4))
    return Dots(title, tuple(drawn), ticks, place(0.0) if low < 0 < high else None, signed)


def curves(histories: Mapping[str, pd.DataFrame], name: str) -> list[Curves]:
    """A panel for each figure that training logged, with every arm in it, of training dashed and of validation solid.

    Args:
        histories: As of `medexp.report.facts.Facts.histories`.
        name: What the arm '' is called.
    """
    found: dict[str, list[tuple[str, int, bool, pd.Series, pd.Series]]] = {}
    axis = next((key for key in ("epoch", "step") if any(key in table for table in histories.values())), "")
    for shade, (arm, table) in enumerate(histories.items()):
        x = pd.to_numeric(table[axis], errors="coerce") + (axis == "epoch") if axis in table else pd.Series(range(len(table)))
        for column in map(str, table.columns):
            values = pd.to_numeric(table[column], errors="coerce")
            rate = column.rpartition("/")[2].startswith("lr")
            if column in ("epoch", "step") or rate or not values.notna().any():  # rates are a setting
                continue
            split, _, measure = column.rpartition("/")
            split, measure = ("train", column) if not split else (split.rpartition("/")[2], measure)
            found.setdefault(measure, []).append((arm or name, min(shade, _SHADES - 1), split == "train", x, values))
    # One point is no course; beside one, as the only validation of a training, it is worth its place.
    found = {measure: courses for measure, courses in found.items() if any(y.notna().sum() > 1 for *_, y in courses)}
    order = sorted(found, key=lambda measure: (FIRST.index(measure) if measure in FIRST else len(FIRST), measure))
    return [_panel(measure, found[measure], axis) for measure in order[:_PANELS]]


def _panel(title: str, courses: Sequence[tuple[str, int, bool, pd.Series, pd.Series]], axis: str) -> Curves:
    every_x = np.concatenate([x[y.notna()].to_numpy(float) for *_, x, y in courses])
    every_y = np.concatenate([y.dropna().to_numpy(float) for *_, y in courses])
    every_y = every_y[np.isfinite(every_y)]
    (x0, x1), (y0, y1) = _range(every_x), _range(every_y)

    def across(value: float) -> float:
        return round(_LEFT + (value - x0) / (x1 - x0) * (_WIDTH - _LEFT - 8), 1)

    def up(value: float) -> float:
        return round(8 + (y1 - value) / (y1 - y0) * (_HEIGHT - _BOTTOM - 8), 1)

    lines = []
    for label, shade, dashed, x, y in courses:
        rows = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
        of = "training" if dashed else "validation"
        marks = [(across(a), up(b), f"{label}, {of}, {axis or 'row'} {a:g}: {digits(b)}") for a, b in rows]
        points = " ".join(f"{px},{py}" for px, py, _ in marks)
        lines.append(Line(label, shade, dashed, points, tuple(marks) if len(marks) <= 60 else ()))
    ticks_x = tuple((f"{value:g}", across(value)) for value in _nice(x0, x1, 6) if axis != "epoch" or value == int(value))
    return Curves(title, tuple(lines), ticks_x, tuple((_tick(value), up(value)) for value in _nice(y0, y1, 4)), axis)


def _range(values: "np.ndarray") -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _nice(low: float, high: float, most: int) -> list[float]:
    """Round values within a range, at most so many and one."""
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(count * step, 12) for count in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
