"""How many patients a comparison with a registered version takes: `medexp power`."""

import math
from dataclasses import dataclass

import pandas as pd

from medexp.config.shared import excess_of
from medexp.data.folds import folds_of
from medexp.errors import RegistryError
from medexp.evaluation.intervals import MIN_PATIENTS
from medexp.evaluation.power import MOST, patients_needed, smallest_difference, spread_bounds
from medexp.registry.definitions import load_definition
from medexp.registry.spread import LEAST, Spread, per_case_of, spread_of
from medexp.registry.store import resolve


@dataclass(frozen=True)
class Plan:
    """What a gain takes.

    Attributes:
        model: NAME/VERSION.
        metric: What is compared, in words.
        gain: The difference that is to be seen, in the metric's unit.
        patients: That it takes, of them or of what else is the unit; None: more than 10,000.
        between: Fewest and most that it takes, as the spread itself was measured on few; None: more than 10,000.
        seen: The smallest difference that the patients at hand show.
        spread: What it follows from.
        fewest: As few patients as a promotion compares at all: no gain takes fewer.
        folds: By how many the version was judged, whose intervals are wider; 0 by one split.
        unit: What `patients` counts, as the model's policy has it.
    """

    model: str
    metric: str
    gain: float
    patients: int | None
    between: tuple[int | None, int | None]
    seen: float
    spread: Spread
    fewest: int
    folds: int
    unit: str = "patients"

    @property
    def in_words(self) -> str:
        """The whole answer, for a terminal."""
        spread, low, high = self.spread, *map(_counted, self.between)
        arms = f" {spread.doubt}" if spread.doubt else ""
        by_folds = f" that {self.folds} folds make wider" if self.folds else ""
        floor = f" {self.fewest} are the fewest that are compared." if self.patients == self.fewest else ""
        return (
            f"{self.model}, {self.metric}: a difference of {self.gain:g} takes {_counted(self.patients)} {self.unit} to "
            f"be seen with 80 %, in an interval of 95 %{by_folds}.{floor}\n"
            f"Between {low} and {high}, as sure as the spread is: SD of differences {spread.value:.3g}, measured on "
            f"{spread.patients} {self.unit}; {spread.source}.{arms}\n"
            f"With {spread.patients} {self.unit} a difference of about {self.seen:.2g} would be seen."
        )


def plan(uri: str, gain: float, metric: str | None = None) -> Plan:
    """How many patients it takes to see a difference from a version.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        gain: The difference, above 0, in the metric's unit.
        metric: A column of its `per_case.csv`, or what several begin with (`dice` of `dice_TC`, `dice_WT`, `dice_ET`), which
            are averaged; None: what the model's promotion policy compares.

    Raises:
        RegistryError: There is no such version, its scores hold no such metric, or nothing says how far they differ.
        StorageError: The registry does not answer.
    """
    version = resolve(uri)
    table = per_case_of(version)
    if table is None:
        raise RegistryError(
            f"{uri}: the store holds no per-case scores of version {version.version}; give one that medexp made"
        )
    policy = load_definition(version.name).promotion
    fewest = max(MIN_PATIENTS, policy.min_cases if policy else 0)
    if metric is None:
        columns = list(policy.columns) if policy else []
        if table.empty:
            raise RegistryError(f"{uri}: was registered without scores of cases; there is nothing to compare it by")
        if not columns:
            raise RegistryError(f"--metric: {version.name} has no promotion policy; give a metric of {_known(table)}")
    else:
        columns = [name for name in _numbers(table) if name == metric or name.startswith(f"{metric}_")]
    if not columns or not {*columns} <= {*table.columns}:
        wanted = f"--metric={metric}" if metric else f"the policy's {', '.join(columns)}"
        raise RegistryError(f"{wanted}: is not in the scores of {version.name}/{version.version}; there are {_known(table)}")
    spread = spread_of(version.name, columns, str(version.version))
    if spread is None:
        raise RegistryError(
            f"{uri}: {', '.join(columns)} is the same in all cases or nearly, as an SD below {LEAST:g} is, or there is one "
            "patient alone: nothing says how far it differs; judge the version on more of them"
        )

    folds = folds_of(table)
    wider = math.sqrt(excess_of(folds))

    def takes(differing: float) -> int | None:
        needed = patients_needed(gain, differing * wider)
        return needed and max(needed, fewest)

    low, high = spread_bounds(spread.value, spread.patients)
    return Plan(
        model=f"{version.name}/{version.version}",
        metric=columns[0] if len(columns) == 1 else f"mean of {', '.join(columns)}",
        gain=gain,
        patients=takes(spread.value),
        between=(takes(low), takes(high)),
        seen=smallest_difference(spread.patients, spread.value * wider),
        spread=spread,
        fewest=fewest,
        folds=folds,
        unit=policy.unit if policy else "patients",
    )


def _counted(patients: int | None) -> str:
    return f"more than {MOST:,}" if patients is None else f"{patients:,}"


def _numbers(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.select_dtypes(["number", "bool"]).columns]


def _known(table: pd.DataFrame) -> str:
    return ", ".join(_numbers(table)) or "no figures"
