"""Pretrained encoders ranked on the same participants, and which of the ranks the data support.

What decides is balanced accuracy, the mean of the seeds' figures. Two families of paired differences have intervals that hold
at once, each family with the coverage that was asked for: the checkpoints from each other and from random weights, which is
the order; and each checkpoint from each control. Their errors hold what other participants would change and what other seeds
would. Entries of the same weights are no hypothesis: they tie.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.errors import DataError, all_problems
from medexp.evaluation.classification import METRICS, Predictions, class_f1, groups_of
from medexp.evaluation.collapse import Spread
from medexp.evaluation.controls import Control, gain_over
from medexp.evaluation.intervals import GAIN, MIN_OF_A_CLASS, MIN_PATIENTS, NOISE, Interval, Scatter, band_by_patient
from medexp.words import listed, some

Kind = Literal["checkpoint", "random", "control"]
KINDS: tuple[Kind, ...] = ("checkpoint", "random", "control")
PRIMARY = "balanced_accuracy"
"""What the entries are sorted and told apart by."""
PREDICTIONS = ("case", "patient", "split", "label", "arm", "kind", "called", "seed", "predicted")
"""Columns of `predictions.parquet`, beside a `probability_<class>` of each class."""
_COLUMN = "probability_"


@dataclass(frozen=True)
class Entry:
    """What is ranked.

    Attributes:
        name: Unique; of a file, as its user gave it.
        called: In words; of what is no checkpoint unique too.
        kind: checkpoint; random, an encoder of the same shape with initial weights; or control, which has no encoder.
        predictions: By seed, of the same participants in the same order as those of all other entries.
        digest: Of the weights and of what volumes become before them; empty where it is not known. Entries with the same one
            are the same encoder.
        spread: Of the encoder's features; None where it has none or nobody looked.
    """

    name: str
    called: str
    kind: Kind
    predictions: Mapping[int, Predictions]
    digest: str = ""
    spread: Spread | None = None

    @property
    def label(self) -> str:
        """What sentences call it: a checkpoint by its name, the others in words."""
        return self.name if self.kind == "checkpoint" else self.called

    @property
    def control(self) -> Control:
        """The same as what a figure of several seeds is measured of."""
        return Control(self.name, self.called, list(self.predictions.values()))

    @cached_property
    def by_seed(self) -> dict[int, float]:
        """The primary figure of each seed."""
        every = np.ones((1, len(next(iter(self.predictions.values())).truth)))
        return {seed: float(METRICS[PRIMARY](one, every)[0]) for seed, one in self.predictions.items()}


@dataclass(frozen=True)
class Row:
    """An entry's figures, each the mean of its seeds'.

    Attributes:
        entry: The entry.
        scores: By metric of METRICS, with intervals by participant.
        class_f1: F1 of each class (K,); NaN of one that is neither there nor predicted.
        seeds_sd: SD over seeds by metric; NaN of one seed.
    """

    entry: Entry
    scores: Mapping[str, Interval]
    class_f1: Array
    seeds_sd: Mapping[str, float]


Group = Sequence[Entry]
Relation = Literal["better", "worse", "open", "few", "alike", "copy"]


@dataclass(frozen=True)
class Pair:
    """How much larger the primary figure of one entry is than another's.

    Attributes:
        one: The entry.
        other: What it is held against.
        gain: The paired difference, with an interval that holds at once with those of its family.
        seeds_sd: SD of the difference from seed to seed; NaN where there is one seed.
        confidence: Coverage of that interval alone.
        relation: better or worse: the interval excludes 0; open: it does not; few: there is none; alike: it is none;
            copy: both are the same weights.
    """

    one: Entry
    other: Entry
    gain: Interval
    seeds_sd: float
    confidence: float
    relation: Relation

    @property
    def below_seeds(self) -> bool:
        """Whether there is a difference, and another seed changes it by more than it is."""
        return NOISE <= abs(self.gain.estimate) < self.seeds_sd

    @property
    def seen(self) -> float:
        """The difference that would have been seen with 80 %; NaN where nothing says it."""
        return self.gain.seen_at(self.confidence)

    @property
    def told(self) -> str:
        """What it says, in a sentence."""
        names, figures = f"{self.one.label} and {self.other.label}", self.gain.as_gain
        ends: Mapping[Relation, str] = {
            "copy": f"{names} are the same weights" + ("" if self.gain.none else f" (trained anew they differ by {figures})"),
            "alike": f"{names} have the same figures",
            "few": f"Too few participants to tell {self.one.label} from {self.other.label} ({figures})",
            "better": f"{self.one.label} is above {self.other.label}: {figures}",
            "worse": f"{self.one.label} is below {self.other.label}: {figures}",
            "open": f"{names} cannot be told apart: {figures}",
        }
        seeds = f"; less than what another seed changes (SD {self.seeds_sd:.3f})" if self.below_seeds else ""
        return ends[self.relation] + (seeds if self.relation not in ("copy", "alike") else "") + "."


@dataclass(frozen=True)
class Leaderboard:
    """Entries on the same participants.

    Attributes:
        classes: Names of the classes.
        patients: Participant of each judged row.
        truth: Class of each judged row.
        rows: A row an entry, the largest balanced accuracy first; equals by name.
        order: The differences of the checkpoints and random weights from each other.
        controls: The differences of each checkpoint from each control.
        confidence: Coverage of each family's intervals at once, and of a row's intervals each.
    """

    classes: Sequence[str]
    patients: Sequence[str]
    truth: NDArray[np.int_]
    rows: Sequence[Row]
    order: Sequence[Pair]
    controls: Sequence[Pair]
    confidence: float

    def pair(self, one: str, other: str) -> Pair | None:
        """The first's difference from the second, by name; None where nothing compares them."""
        for found in (*self.order, *self.controls):
            if (found.one.name, found.other.name) == (one, other):
                return found
            if (found.one.name, found.other.name) == (other, one):
                turned = replace(found.gain, estimate=-found.gain.estimate, low=-found.gain.high, high=-found.gain.low)
                swapped: Mapping[Relation, Relation] = {"better": "worse", "worse": "better"}
                relation = swapped.get(found.relation, found.relation)
                return replace(found, one=found.other, other=found.one, gain=turned, relation=relation)
        return None

    @property
    def sentence(self) -> str:
        """Which order the data support, plainly."""
        groups: list[list[Entry]] = []  # of the same weights each
        for entry in (row.entry for row in self.rows if row.entry.kind != "control"):
            alike = next((group for group in groups if _is_copy(group[0], entry)), None)
            groups.append([entry]) if alike is None else alike.append(entry)
        blocks = list(self._blocks(groups))
        if len(groups) < 2:
            told = ["There is nothing to be ranked"]
        elif len(blocks) > 1:
            names = [_named(block) for block in blocks]
            if len(blocks) == 2 and len(blocks[1]) > 2:
                names[1] = "all others"
            told = [f"The data support: {' above '.join(names)}"]
            told += [self._within(block) for block in blocks if len(block) > 1]
        else:
            some_order = any(self._is_above(*couple) for couple in itertools.combinations(groups, 2))
            told = [f"The data support no {'full ' if some_order else ''}order: {self._within(groups)}"]
        ties = [f"{listed([one.label for one in group])} are the same weights" for group in groups if len(group) > 1]
        return "; ".join(told + ties) + "."

    @property
    def first(self) -> list[str]:
        """What a reader must know before any figure: what has collapsed, and which checkpoint is no better than what needs
        none; nothing where there is nothing."""
        collapsed = [
            f"{row.entry.label} {row.entry.spread.told}."
            for row in self.rows
            if row.entry.spread and row.entry.spread.collapsed
        ]
        told = []
        for against, pairs in itertools.groupby(self._against(), key=lambda pair: pair.other):
            by_relation = sorted(pairs, key=lambda pair: pair.relation == "few")
            for few, lacking in itertools.groupby(by_relation, key=lambda pair: pair.relation == "few"):
                named = ", ".join(f"{pair.one.label} ({_as_short(pair)})" for pair in lacking if pair.relation != "better")
                start = "Too few participants to say what is better than" if few else "Not better than"
                told += [f"{start} {against.label}: {named}."] if named else []
        return collapsed + told

    @property
    def words(self) -> list[str]:
        """What else the figures say."""
        told = []
        absent = [name for index, name in enumerate(self.classes) if not (self.truth == index).any()]
        if absent:
            told.append(f"No judged participant is of {listed(absent)}: the figures rest on the other classes.")
        count = len(set(self.patients))
        if count < MIN_PATIENTS:
            told.append(f"{count} judged participant{'s' if count > 1 else ''}: too few for any interval.")
        told += [pair.told for pair in self.order if pair.relation == "copy" and not pair.gain.none]
        if small := [pair for pair in self.order if pair.below_seeds and pair.relation != "copy"]:
            largest = max(small, key=lambda pair: abs(pair.gain.estimate))
            share = f"{len(small)} of {len(self.order)} differences in the order are less than what another seed changes"
            told.append(f"{share}; the largest of these: {largest.told}")
        if single := [row.entry.label for row in self.rows if len(row.entry.predictions) == 1 and row.entry.kind != "control"]:
            told.append(f"Of {listed(single)} there is one seed: what another would change is in no interval.")
        undecided = [pair for pair in self.order if pair.relation == "open" and not math.isnan(pair.seen)]
        if seen := sorted({f"{pair.seen:.2g}" for pair in undecided if pair.seen < pair.gain.most}, key=float):
            between = " to ".join([seen[0], *seen[1:][-1:]])
            told.append(f"Of those that cannot be told apart a difference of about {between} would have been seen with 80 %.")
        elif undecided:
            told.append("Of those that cannot be told apart none at all would have been seen with 80 %, of so few.")
        for name, pairs in (("in the order", self.order), ("from a control", self.controls)):
            tested = [pair for pair in pairs if pair.relation in ("better", "worse", "open")]
            if len(tested) > 1:
                alone = f"Each interval of a difference {name} is one of {tested[0].confidence:.1%}"
                told.append(f"{alone}, so that all {len(tested)} hold at once with {self.confidence:.0%}.")
        return told

    def table(self) -> pd.DataFrame:
        """A row an entry, as `leaderboard.csv` has it: name, called, kind, seeds, and of each metric its value, bounds
        and SD over seeds; F1 of each class; the spread of the features; the digest of the weights."""
        rows = []
        for row in self.rows:
            entry, spread = row.entry, row.entry.spread
            cells: dict[str, object] = {"name": entry.name, "called": entry.called, "kind": entry.kind}
            cells["seeds"] = len(entry.predictions)
            for metric in (PRIMARY, *(name for name in METRICS if name != PRIMARY)):
                found = row.scores[metric]
                cells |= {metric: found.estimate, f"{metric}_low": found.low, f"{metric}_high": found.high}
                cells[f"{metric}_seeds_sd"] = row.seeds_sd[metric]
            cells |= {f"f1_{name}": value for name, value in zip(self.classes, row.class_f1, strict=True)}
            for figure in ("relative_sd", "effective_rank", "cosine"):
                cells[figure] = getattr(spread, figure) if spread else math.nan
            rows.append(cells | {"participants": row.scores[PRIMARY].patients, "digest": entry.digest})
        return pd.DataFrame(rows)

    def differences(self) -> pd.DataFrame:
        """A row a pair: family, one, other, difference, low, high, confidence (of that interval alone), seeds_sd, relation and
        what it says."""
        families = {"order": self.order, "controls": self.controls}
        return pd.DataFrame(
            [
                (family, pair.one.name, pair.other.name, pair.gain.estimate, pair.gain.low, pair.gain.high, pair.confidence)
                + (pair.seeds_sd, pair.relation, pair.told)
                for family, pairs in families.items()
                for pair in pairs
            ],
            columns=["family", "one", "other", "difference", "low", "high", "confidence", "seeds_sd", "relation", "told"],
        )

    def _against(self) -> list[Pair]:
        """Each checkpoint's difference from random weights and from each control, by what it is held against."""
        found = [
            self.pair(row.entry.name, other.entry.name)
            for other in self.rows
            for row in self.rows
            if row.entry.kind == "checkpoint" and other.entry.kind != "checkpoint"
        ]
        return [pair for pair in found if pair is not None]

    def _is_above(self, one: Group, other: Group) -> bool:
        found = [self.pair(first.name, second.name) for first in one for second in other]
        return all(pair is not None and pair.relation == "better" for pair in found)

    def _blocks(self, ranked: Sequence[Group]) -> Iterator[Sequence[Group]]:
        """Groups in blocks, each of which is above all that follows."""
        start = 0
        for cut in range(1, len(ranked)):
            if all(self._is_above(one, other) for one in ranked[:cut] for other in ranked[cut:]):
                yield ranked[start:cut]
                start = cut
        yield ranked[start:]

    def _within(self, block: Sequence[Group]) -> str:
        """What is known of groups of which none is told apart from all the others."""
        couples = list(itertools.combinations(block, 2))
        if not any(self._is_above(*couple) for couple in couples):
            found = [self.pair(one[0].name, other[0].name) for one, other in couples]
            alike = all(pair is not None and pair.relation == "alike" for pair in found)
            few = all(pair is not None and pair.relation == "few" for pair in found)
            apart = "cannot be told apart" + (" by so few participants" if few else "")
            return f"{_named(block)} {'have the same figures' if alike else apart}"
        above = {_named([one]): [other for other in block if self._is_above(one, other)] for one in block}
        supported = [f"{name} above {_named(others)}" for name, others in above.items() if others]
        return f"among {_named(block)} only {listed(supported)}"


def leaderboard(
    entries: Sequence[Entry], patients: Sequence[str], classes: Sequence[str], resampling: Resampling
) -> Leaderboard:
    """Entries ranked on the same participants, with what the data support.

    Args:
        entries: At least one; names are unique.
        patients: Participant of each judged row: whose rows are drawn together.
        classes: Names of the classes, in the order of the probabilities.
        resampling: How resamples are drawn, and the coverage.

    Raises:
        DataError: No entry, a name twice, or entries of other rows, classes or truth; all problems at once.
    """
    _demand_same_rows(entries, len(patients), len(classes))
    ranked = sorted(entries, key=lambda entry: (-round(float(np.mean(list(entry.by_seed.values()))), 9), entry.name))
    kinds = {kind: [entry for entry in ranked if entry.kind == kind] for kind in KINDS}
    rivals = [entry for entry in ranked if entry.kind != "control"]
    order = [(one, other) for one, other in itertools.combinations(rivals, 2) if "checkpoint" in (one.kind, other.kind)]
    beside = [(one, other) for other in kinds["control"] for one in kinds["checkpoint"]]
    return Leaderboard(
        tuple(classes),
        tuple(patients),
        next(iter(entries[0].predictions.values())).truth,
        tuple(_row(entry, patients, resampling) for entry in ranked),
        tuple(pairs(order, patients, resampling)),
        tuple(pairs(beside, patients, resampling)),
        resampling.confidence,
    )


def pairs(couples: Sequence[tuple[Entry, Entry]], patients: Sequence[str], resampling: Resampling) -> list[Pair]:
    """Paired differences of the primary figure, with intervals that hold at once: one family.

    A couple with the same figures whoever is drawn is in it and costs the others nothing.

    Args:
        couples: Entries of the same rows; the first's figure minus the second's.
        patients: Participant of each row.
        resampling: How resamples are drawn, and the coverage of all intervals together.
    """
    if not couples:
        return []
    metric, involved = METRICS[PRIMARY], {entry.name: entry for couple in couples for entry in couple}

    def differences(weights: Array) -> Array:
        found = {name: entry.control.measure(metric, weights) for name, entry in involved.items()}
        return np.stack([found[one.name] - found[other.name] for one, other in couples], axis=1)

    scatter = [_over_seeds(one, other) for one, other in couples]
    errors, freedom = (np.array([found[index] for found in scatter]) for index in (1, 2))
    groups = groups_of(metric, next(iter(couples[0][0].predictions.values())))
    beyond = Scatter(errors, freedom)
    band = band_by_patient(differences, patients, resampling, within=GAIN, groups=groups, at_once=True, beyond=beyond)
    owners = np.asarray(patients)
    enough = len({*patients}) >= MIN_PATIENTS and all(len({*owners[rows]}) >= MIN_OF_A_CLASS for rows in groups)
    made = []
    for index, (one, other) in enumerate(couples):
        gain = band.at(index)
        if math.isnan(gain.low) and gain.error < NOISE:  # a constant answer, against which there may be an exact interval
            gain = _from_constant(one, other, patients, replace(resampling, confidence=band.confidence)) or gain
        made.append(Pair(one, other, gain, scatter[index][0], band.confidence, _relation(one, other, gain, enough)))
    return made


def predictions_table(
    entries: Sequence[Entry], cases: Sequence[str], patients: Sequence[str], classes: Sequence[str], split: str
) -> pd.DataFrame:
    """What `predictions.parquet` holds of a split: a row a case, entry and seed, with the columns of PREDICTIONS and a
    `probability_<class>` of each class; `read_predictions` reads it."""
    names, tables = np.asarray(classes), []
    for entry in entries:
        for seed, one in entry.predictions.items():
            known = {"case": cases, "patient": patients, "split": split, "label": names[one.truth], "arm": entry.name}
            said = {"kind": entry.kind, "called": entry.called, "seed": seed, "predicted": names[one.predicted]}
            columns = zip((f"{_COLUMN}{name}" for name in classes), one.probabilities.T.astype(np.float64), strict=True)
            tables.append(pd.DataFrame({**known, **said, **dict(columns)}))
    return pd.concat(tables, ignore_index=True)


def spread_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """What `spread.csv` holds: a row an entry that has weights: arm, digest, and the attributes of `Spread`."""
    rows = [
        {"arm": entry.name, "digest": entry.digest} | (asdict(entry.spread) if entry.spread else {})
        for entry in entries
        if entry.digest or entry.spread
    ]
    return pd.DataFrame(rows, columns=["arm", "digest", *(one.name for one in fields(Spread))])


@dataclass(frozen=True)
class Saved:
    """What a run left of its judged rows.

    Attributes:
        entries: Its entries.
        cases: Of the judged rows.
        patients: Likewise.
        classes: Names of the classes.
    """

    entries: Sequence[Entry]
    cases: Sequence[str]
    patients: Sequence[str]
    classes: Sequence[str]


def read_predictions(
    table: pd.DataFrame, called: str, split: str, classes: Sequence[str] = (), spread: pd.DataFrame | None = None
) -> Saved:
    """Entries from what a run left.

    Args:
        table: As of `predictions_table`.
        called: What messages call it.
        split: The split whose rows are judged.
        classes: Names of the classes, in order; without them those of the columns, as they stand.
        spread: As of `spread_table`; None where there is none.

    Raises:
        DataError: A column is missing, the split has no row, a label or prediction is no class, a kind is unknown, an entry
            lacks cases of another or has one twice, cases of one name have two labels or patients, or probabilities that are
            none; all problems at once.
    """
    found = [str(name)[len(_COLUMN) :] for name in table if str(name).startswith(_COLUMN)]
    names = tuple(classes or found)
    columns = [f"{_COLUMN}{name}" for name in names]
    if missing := [name for name in (*PREDICTIONS, *columns) if name not in table]:
        raise DataError(f"{called}: no column {', '.join(missing)}; found {some([*map(str, table)], 16)}")
    rows = table[table["split"] == split]
    if rows.empty:
        there = ", ".join(sorted(set(table["split"]))) or "none"
        raise DataError(f"{called}: no rows of the split {split}; there are {there}. Give a run that was judged on it")
    problems = _problems(rows, names, columns)
    if problems:
        raise DataError(all_problems(called, problems))
    rows = rows.sort_values("case", kind="stable")
    number = {name: index for index, name in enumerate(names)}
    known = {} if spread is None else {row["arm"]: row for row in spread.to_dict("records")}
    entries = []
    for name, of_arm in rows.groupby("arm", sort=False):
        predictions = {
            seed: Predictions(np.array([number[label] for label in part["label"]]), part[columns].to_numpy(np.float64))
            for seed, part in ((int(str(seed)), part) for seed, part in of_arm.groupby("seed"))
        }
        first, row = of_arm.iloc[0], known.get(name, {})
        figures = None
        if not pd.isna(row.get("cases", math.nan)):
            sd, rank, cosine = (float(row[figure]) for figure in ("relative_sd", "effective_rank", "cosine"))
            figures = Spread(sd, rank, cosine, int(row["dimensions"]), int(row["cases"]))
        digest = row.get("digest", "")
        entries.append(
            Entry(str(name), first["called"], first["kind"], predictions, "" if pd.isna(digest) else digest, figures)
        )
    one = rows[(rows["arm"] == entries[0].name) & (rows["seed"] == min(entries[0].predictions))]
    return Saved(entries, list(one["case"]), list(one["patient"]), names)


def _problems(rows: pd.DataFrame, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    problems = []
    for column, allowed in (("label", names), ("predicted", names), ("kind", KINDS)):
        if strange := sorted(set(map(str, rows[column])) - {*allowed}):
            problems.append(f"{column}: found {some(strange)}; there are {some(list(allowed), 12)}")
    shares = rows[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = ~((shares >= 0) & (shares <= 1)).all(axis=1) | ~(np.abs(shares.sum(axis=1) - 1) <= 1e-3)
    if wrong.any():
        arms = some(sorted(set(rows.loc[wrong, "arm"])))
        problems.append(f"{int(wrong.sum())} rows of {arms} have no probabilities from 0 to 1 whose sum is 1 (NaN is none)")
    keys = ["arm", "seed", "case"]
    if twice := sorted(set(rows.loc[rows.duplicated(keys), "case"])):
        problems.append(f"{len(twice)} cases stand twice for one arm and seed: {some(twice)}")
    every = set(rows["case"])
    for (arm, seed), part in rows.groupby(["arm", "seed"], sort=False):
        if lacking := sorted(every - set(part["case"])):
            problems.append(f"{arm}, seed {seed}: lacks {len(lacking)} cases that others have: {some(lacking)}")
    for column in ("label", "patient"):
        unlike = rows.groupby("case")[column].nunique()
        if (unlike > 1).any():
            problems.append(
                f"{int((unlike > 1).sum())} cases have several {column}s: {some(sorted(unlike.index[unlike > 1]))}"
            )
    for column in ("kind", "called"):
        unlike = rows.groupby("arm")[column].nunique()
        if (unlike > 1).any():
            problems.append(f"{some(sorted(unlike.index[unlike > 1]))}: several values of {column}")
    return problems


def _demand_same_rows(entries: Sequence[Entry], rows: int, classes: int) -> None:
    problems = []
    names = [entry.name for entry in entries]
    if not entries:
        problems.append("no entry: give at least one")
    for known in (names, [entry.label for entry in entries]):
        problems += [f"{one}: {known.count(one)} entries are called so" for one in sorted({*known}) if known.count(one) > 1]
    every = [(entry.name, one) for entry in entries for one in entry.predictions.values()]
    problems += [f"{entry.name}: has predictions of no seed" for entry in entries if not entry.predictions]
    for name, one in every:
        if one.probabilities.shape != (rows, classes):
            found = " x ".join(map(str, one.probabilities.shape))
            problems.append(f"{name}: predictions of {found} (cases x classes), wanted {rows} x {classes}")
        elif not np.array_equal(one.truth, every[0][1].truth):
            problems.append(f"{name}: other labels than {every[0][0]}")
    if problems:
        raise DataError(all_problems("leaderboard", list(dict.fromkeys(problems))))


def _row(entry: Entry, patients: Sequence[str], resampling: Resampling) -> Row:
    every, control = np.ones((1, len(patients))), entry.control
    of_seeds = {name: [float(metric(one, every)[0]) for one in control.predictions] for name, metric in METRICS.items()}
    deviation = {name: float(np.std(ones, ddof=1)) if len(ones) > 1 else math.nan for name, ones in of_seeds.items()}
    by_class = np.mean([class_f1(one, every)[0] for one in control.predictions], axis=0)
    return Row(entry, control.scores(patients, resampling), by_class, deviation)


def _over_seeds(one: Entry, other: Entry) -> tuple[float, float, float]:
    """SD of a difference from seed to seed, standard error of its mean over seeds, and degrees of freedom; NaN, 0 and 1 where
    nothing is known. Seeds that both have are pairs."""
    first, second = one.by_seed, other.by_seed
    if first.keys() == second.keys():
        ones = [first[seed] - second[seed] for seed in first]
        deviation = float(np.std(ones, ddof=1)) if len(ones) > 1 else math.nan
        return deviation, float(np.nan_to_num(deviation)) / math.sqrt(len(ones)), max(len(ones) - 1, 1)
    parts = [(float(np.var(list(of.values()), ddof=1)), len(of)) for of in (first, second) if len(of) > 1]
    errors = [variance / count for variance, count in parts]
    freedom = sum(errors) ** 2 / sum(e**2 / (n - 1) for e, (_, n) in zip(errors, parts, strict=True)) if sum(errors) else 1.0
    return math.sqrt(sum(variance for variance, _ in parts)) if parts else math.nan, math.sqrt(sum(errors)), freedom


def _from_constant(one: Entry, other: Entry, patients: Sequence[str], resampling: Resampling) -> Interval | None:
    """The difference where one of both answers the same whatever the case; None where neither does or the rest has seeds."""
    metric = METRICS[PRIMARY]
    for varying, constant, sign in ((one, other, 1), (other, one, -1)):
        said = list(varying.predictions.values())
        if all(np.ptp(each.predicted) == 0 for each in constant.predictions.values()):
            answers = [
                Predictions(each.truth, np.eye(each.probabilities.shape[1])[each.predicted])
                for each in constant.predictions.values()
            ]
            gain = gain_over(replace(constant.control, predictions=answers), metric, said[0], patients, resampling)
            return gain if sign > 0 else replace(gain, estimate=-gain.estimate, low=-gain.high, high=-gain.low)
    return None


def _relation(one: Entry, other: Entry, gain: Interval, enough: bool) -> Relation:
    if _is_copy(one, other):
        return "copy"
    if gain.none:
        return "alike"
    if gain.above or gain.below:
        return "better" if gain.above else "worse"
    if math.isnan(gain.low):
        always = enough and gain.error < NOISE  # the same difference whoever is drawn
        return ("better" if gain.estimate > 0 else "worse") if always else "few"
    return "open"


def _is_copy(one: Entry, other: Entry) -> bool:
    return bool(one.digest) and one.digest == other.digest


def _as_short(pair: Pair) -> str:
    ends: Mapping[Relation, str] = {"worse": ", worse", "alike": ", the same figures"}
    return f"{pair.gain.estimate:+.3f}{ends.get(pair.relation, '')}"


def _named(groups: Sequence[Group]) -> str:
    return listed([group[0].label for group in groups])
