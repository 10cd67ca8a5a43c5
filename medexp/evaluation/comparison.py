"""Two models on the same cases: each metric of both, the paired difference with its interval, and what that says in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medexp.config.shared import Resampling
from medexp.data.volumes.cases import REGION_CLASSES
from medexp.errors import DataError, all_problems
from medexp.evaluation.classification import METRICS, Predictions, cross_entropy, gain, scores
from medexp.evaluation.intervals import GAIN, NOISE, UNBOUNDED, Interval, mean_by_patient
from medexp.words import PATIENTS, counted, some

DIRECTIONS: Mapping[str, int] = {
    "dice": 1,
    "iou": 1,
    "hd95": -1,  # mm
    "native_dice": 1,  # native: on each case's own grid
    "native_hd95": -1,
    "false": -1,  # mm^3 predicted of a region that is not there
    "false_pixels": -1,
    "correct": 1,
    "cross_entropy": -1,  # nats
    "contrast_gap": -1,  # of a drawn lesion from the middle of real ones
    "empty_mask": -1,
    **dict.fromkeys(METRICS, 1),
}
"""Of each metric that is known whether more of it is better (1) or less (-1). A column `<metric>_<region>` is of a region."""

_NO_SHARE = ("hd95", "native_hd95", "false", "false_pixels", "cross_entropy", "contrast_gap")  # the others are from 0 to 1
_KNOWN = f"{', '.join(DIRECTIONS)}, alone or with {', '.join(f'_{region}' for region in REGION_CLASSES)} after it"
_MAY_LACK = ("hd95", "native_hd95")  # not defined where nothing is predicted: the other's value alone compares with nothing
_CASE = {"case": str, "patient": str, "label": str, "predicted": str, "split": str}


@dataclass(frozen=True)
class Compared:
    """A metric of two models.

    Attributes:
        metric: Column of the tables, such as `dice_WT`, or a metric of all cases together, such as `auroc`.
        cases: Cases that both have a value of.
        one: Of the first.
        other: Of the second.
        gain: Of the second over the first, positive where it is better, also where less of the metric is.
        told: What that says.
    """

    metric: str
    cases: int
    one: float
    other: float
    gain: Interval
    told: str


@dataclass(frozen=True)
class Comparison:
    """Two models on the same cases.

    Attributes:
        rows: A row a metric.
        cases: A row a case and metric: case, patient, metric, one, other, gain.
        left_out: What was not compared, and why.
        notes: What to know of the tables before the figures are believed.
        units: What a patient is called, one and several.
    """

    rows: tuple[Compared, ...]
    cases: pd.DataFrame
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    units: tuple[str, str] = PATIENTS

    def extremes(self, metric: str, count: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The cases in which the second gains least, and those in which it gains most."""
        rows = self.cases[self.cases["metric"] == metric].sort_values(["gain", "case"])
        return rows.head(count), rows.tail(count)[::-1]


def direction(column: str) -> int:
    """1 where more of a column is better, -1 where less is, 0 where that is not known."""
    return DIRECTIONS.get(_metric(column), 0)


def _metric(column: str) -> str:
    """The metric of a column: `<metric>_<region>` is one too, and `dice_loss` or `dice_std` is another than Dice."""
    metric, _, region = column.rpartition("_")
    return metric if region in REGION_CLASSES else column


def read_per_case(table: pd.DataFrame, called: str) -> pd.DataFrame:
    """A table that holds a row a case, checked; with `correct` and `cross_entropy` where labels and probabilities give them.

    Args:
        table: `case` and metrics, as shares from 0 to 1, mm, mm^3 or nats; `patient`, and of a classifier `label` with
            `predicted`, with `probability` (of the second label in alphabetical order) or with a column
            `probability_<label>` each. Of two labels `predicted` may be 0 and 1, in the same order.
        called: What messages call it.

    Returns:
        The same, with a column `probability_<label>` each instead of `probability`.

    Raises:
        DataError: No column `case`, a case without a name or twice, metrics in percent, `predicted` that is none of the
            labels, or probabilities that are none; all problems at once.
    """
    if "case" not in table:
        raise DataError(f"{called}: no column 'case', found {some(list(map(str, table.columns)), 12)}. A row a case is wanted")
    table = table.astype({name: kind for name, kind in _CASE.items() if name in table}).reset_index(drop=True)
    table = table.fillna(dict.fromkeys(_CASE, "nan"))
    problems = []
    twice = sorted(set(table.loc[table["case"].duplicated(), "case"]))
    if twice:
        problems.append(f"{len(twice)} cases in several rows: {some(twice)}; keep one each, or name one arm")
    for column in ("case", "patient", "label"):
        if column in table and (nameless := int(table[column].isin(["", "nan"]).sum())):
            problems.append(f"{nameless} rows have no {column}")
    table, bad_metrics = _metrics_in(table)
    table, strange = _predicted_in(table)
    problems += [*bad_metrics, *strange]
    shares = probabilities(table)
    if shares is not None:
        wrong = ~((shares >= 0) & (shares <= 1)).all(axis=1) | (np.abs(shares.sum(axis=1) - 1) > 1e-3)
        if wrong.any():
            problems.append(f"{int(wrong.sum())} rows have no probabilities from 0 to 1 whose sum is 1 (NaN is none)")
    if problems:
        raise DataError(all_problems(called, problems))
    if shares is not None:
        predictions = Predictions(_truth(table), shares)
        named = {f"probability_{name}": share for name, share in zip(_classes(table), shares.T, strict=True)}
        table = table.drop(columns="probability", errors="ignore").assign(
            **named,
            correct=(predictions.truth == predictions.predicted).astype(float),
            cross_entropy=cross_entropy(predictions),
        )
    elif {"label", "predicted"} <= {*table}:
        table = table.assign(correct=(table["label"] == table["predicted"]).astype(float))
    return table


def _metrics_in(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with its metrics as numbers, and what is wrong with them."""
    problems, numbers = [], {}
    for column in [name for name in map(str, table) if direction(name)]:
        values = numbers[column] = pd.to_numeric(table[column], errors="coerce")
        if bad := int((values.isna() & table[column].notna()).sum()):
            problems.append(f"column {column}: {bad} values are no numbers")
        if _metric(column) not in _NO_SHARE and (bad := int(((values < -NOISE) | (values > 1 + NOISE)).sum())):
            found = f"{bad} values are outside 0 to 1, from {values.min():g} to {values.max():g}"
            problems.append(f"column {column}: {found}; it is a share: divide percent by 100")
    return table.assign(**numbers), problems


def _predicted_in(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with labels by name in `predicted`, and which of these are none."""
    if not {"label", "predicted"} <= {*table}:
        return table, []
    labels = sorted(set(table["label"]))
    if len(labels) == 2 and set(table["predicted"]) <= {"0", "1"} and not {"0", "1"} & {*labels}:
        table = table.assign(predicted=table["predicted"].map(dict(zip(("0", "1"), labels, strict=True))))
    strange = sorted(set(table["predicted"]) - {*_classes(table)})
    if strange and len(labels) > 1:  # where all are of one class, it may be the other's name
        return table, [f"predicted holds {some(strange)}, which is no label; these are {some(labels)}"]
    return table, []


def probabilities(table: pd.DataFrame) -> np.ndarray | None:
    """Probabilities (N, K) of the labels in alphabetical order; None where a table has none of them all."""
    if "label" not in table:
        return None
    classes = _classes(table)
    columns = [f"probability_{name}" for name in classes]
    if set(columns) <= {*table}:
        return table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if "probability" in table and len(classes) == 2:
        second = pd.to_numeric(table["probability"], errors="coerce").to_numpy(float)
        return np.stack([1 - second, second], axis=1)
    return None


def paired(one: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str], sign: int = 1) -> pd.DataFrame:
    """What the second gains over the first in each case that both tables hold.

    Args:
        one: A row a case: `case` and the columns, of which a case may lack some.
        other: Likewise. One of the two says the `patient`, the second where both do; where neither does a case is a patient.
        columns: They are averaged.
        sign: 1 where more of them is better, -1 where less is.

    Returns:
        `case`, `patient`, `one`, `other` and `gain`, positive where the second is better; NaN where one has a value of a
        column that the other lacks. A case without a value of either is left out.
    """
    first, second = (table.set_index("case") for table in (one, other))
    owner = next((table["patient"] for table in (second, first) if "patient" in table), first.index.to_series())
    first, second = first[list(columns)].align(second[list(columns)], join="inner", axis=0)
    of_the_same = (first.notna() == second.notna()).all(axis=1)
    means = {name: table.mean(axis=1).where(of_the_same) for name, table in (("one", first), ("other", second))}
    both = pd.DataFrame({"patient": owner.reindex(first.index), **means})
    both = both.assign(gain=sign * (both["other"] - both["one"]))[first.notna().any(axis=1) | second.notna().any(axis=1)]
    return both.rename_axis("case").reset_index()


def mean_gain(both: pd.DataFrame, resampling: Resampling) -> Interval:
    """The mean over cases of `paired`'s gains, none of them NaN, with its interval by patient."""
    within = GAIN if both[["one", "other"]].abs().to_numpy().max() <= 1 else UNBOUNDED
    return mean_by_patient(both["gain"].to_numpy(), list(both["patient"]), resampling, within)


def compare_tables(
    one: pd.DataFrame,
    other: pd.DataFrame,
    called: tuple[str, str],
    resampling: Resampling,
    units: tuple[str, str] = Comparison.units,
) -> Comparison:
    """The second's gain over the first in every metric that both have, paired by case, with an interval by patient.

    Args:
        one: As `read_per_case` gives it.
        other: Likewise, of the same cases.
        called: What both are called.
        resampling: How resamples are drawn, and the coverage.
        units: What a patient is called, one and several.

    Raises:
        DataError: Other cases, patients or labels, a value that one alone has, or no metric in common; all problems at once.
    """
    one, other = _same_cases(one, other, called)
    owner = next(table[name] for name in ("patient", "case") for table in (one, other) if name in table)
    rows, cases, left_out, notes = [], [], [], []
    if not any("patient" in table for table in (one, other)):
        told = f"no column patient: each case counts as a {units[0]} of its own, and the intervals rest on that"
        notes.append(f"{told}; they are too narrow where a {units[0]} has several cases")
    columns = [name for name in dict.fromkeys(map(str, [*one, *other])) if name not in _CASE]
    unknown = [name for name in columns if not direction(name) and not name.startswith("probability")]
    if unknown:
        left_out.append(f"{', '.join(unknown)}: nothing says whether more or less is better. Known are {_KNOWN}")
    for column in columns:
        if not (sign := direction(column)):
            continue
        if alone := [name for name, table in zip(called, (other, one), strict=True) if column not in table]:
            left_out.append(f"{column}: {alone[0]} alone has it")
            continue
        both = paired(one, other, [column], sign)
        if lacking := both["case"][both["gain"].isna()].tolist():
            left_out.append(f"{column} of {counted(len(lacking), 'case')}, which one alone has: {some(lacking, 3)}")
        lack = [int((mine.isna() & its.notna()).sum()) for mine, its in permutations((one[column], other[column]))]
        both = both.dropna()
        if both.empty:
            left_out.append(f"{column}: no case has a value of both")
            continue
        means = float(both["one"].mean()), float(both["other"].mean())
        rows.append(_compared(column, len(both), means, mean_gain(both, resampling), called, units[1], lack))
        cases.append(both.assign(metric=column)[["case", "patient", "metric", "one", "other", "gain"]])
    if not cases:
        raise DataError(all_problems(f"{called[0]} and {called[1]}", left_out))
    judged = [Predictions(_truth(table), found) for table in (one, other) if (found := probabilities(table)) is not None]
    if len(judged) == 2:
        first, second = judged
        every = np.ones((1, len(one)))
        for name in ("balanced_accuracy", "auroc"):
            values = float(METRICS[name](first, every)[0]), float(METRICS[name](second, every)[0])
            interval = gain(METRICS[name], second, first, list(owner), resampling)
            rows.append(_compared(name, len(one), values, interval, called, units[1]))
        for name, table, predictions in zip(called, (one, other), judged, strict=True):
            area = scores(predictions, list(owner), resampling, {"auroc": METRICS["auroc"]})["auroc"]
            if area.high < 0.5:
                asked = "are its probabilities those of another class?"
                wanted = f" A column probability is of {_classes(table)[1]}, the second in alphabetical order"
                notes.append(f"{name}: AUROC {area} is below chance: {asked}{wanted if predictions.binary else ''}")
    return Comparison(tuple(rows), pd.concat(cases, ignore_index=True), tuple(left_out), tuple(notes), units)


def _same_cases(one: pd.DataFrame, other: pd.DataFrame, called: tuple[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in one order of cases, with the same names of labels."""
    subject = f"{called[0]} and {called[1]}"
    cases = [set(table["case"]) for table in (one, other)]
    if cases[0] != cases[1]:
        alone = [
            f"{len(mine - theirs)} in {name} alone ({some(sorted(mine - theirs), 3)})"
            for name, mine, theirs in zip(called, cases, cases[::-1], strict=True)
            if mine - theirs
        ]
        told = f"{', '.join(alone)}, {len(cases[0] & cases[1])} in both"
        raise DataError(
            f"{subject}: not the same cases: {told}. Judge both on the same ones, or leave the others out of the table"
        )
    one, other = (table.sort_values("case", ignore_index=True) for table in (one, other))
    problems = []
    if {"patient"} <= {*one} & {*other} and (unlike := one["case"][one["patient"] != other["patient"]].tolist()):
        problems.append(f"{len(unlike)} cases are of other patients: {some(unlike, 3)}")
    if {"label"} <= {*one} & {*other}:
        one, other = _same_labels(one, other), _same_labels(other, one)
        if unlike := one["case"][one["label"] != other["label"]].tolist():
            problems.append(f"{len(unlike)} cases have other labels: {some(unlike, 3)}")
    columns = [name for name in map(str, one) if name in other and direction(name)]
    for column in columns:
        lacking = one["case"][one[column].isna() != other[column].isna()].tolist()
        if lacking and not column.startswith(_MAY_LACK):
            problems.append(f"{column}: {len(lacking)} cases have a value in one alone (NaN is none): {some(lacking, 3)}")
    if not columns:
        found = f"{some([*map(str, one)], 12)}, and {some([*map(str, other)], 12)}"
        problems.append(f"no metric in common: found {found}. Known are {_KNOWN}")
    if problems:
        raise DataError(all_problems(subject, problems, "Correct the table, or compare others."))
    return one, other


def _compared(
    metric: str,
    cases: int,
    means: tuple[float, float],
    interval: Interval,
    called: tuple[str, str],
    unit: str,
    lack: Sequence[int] = (0, 0),
) -> Compared:
    """`lack` says how many cases each has no value of where the other has one: one that finds nothing is no better for it."""
    first, second = called
    told = interval.told(
        few=f"{metric}: too few {unit} to tell {second} from {first}",
        better=f"{metric}: {second} is better than {first}",
        worse=f"{metric}: {second} is worse than {first}",
        same=f"{metric}: no difference between {second} and {first} that could be measured",
    )
    sides = zip(lack, called, called[::-1], strict=True)
    if missing := [
        f"{mine} has none in {counted(count, 'case')} in which {its} has one" for count, mine, its in sides if count
    ]:
        told += f" Of the {counted(cases, 'case')} alone in which both have a value: {', and '.join(missing)}."
    return Compared(metric, cases, *means, interval, told)


def _classes(table: pd.DataFrame) -> list[str]:
    """The labels in alphabetical order, also those that no case has where all have a column `probability_<label>`."""
    labels, named = ({*table["label"]}, {name[12:] for name in map(str, table) if name.startswith("probability_")})
    return sorted(named if labels <= named else labels)


def _truth(table: pd.DataFrame) -> NDArray[np.int_]:
    return np.searchsorted(_classes(table), table["label"].to_numpy(str))


def _same_labels(table: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """Labels 0 and 1 by the names that the other table has for them."""
    names = _classes(named)
    if set(table["label"]) <= {"0", "1"} and len(names) == 2:
        called = dict(zip(("0", "1"), names, strict=True))
        columns = {f"probability_{number}": f"probability_{name}" for number, name in called.items()}
        return table.assign(label=table["label"].map(called)).rename(columns=columns)
    return table
