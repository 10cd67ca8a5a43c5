"""Runs, registered versions and tables from elsewhere, compared case by case: `medexp compare A B`."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medexp.addresses import local_path
from medexp.config.shared import Resampling
from medexp.data.folds import folds_of
from medexp.data.inputs import lines_of
from medexp.errors import DataError, StorageError, all_problems
from medexp.evaluation.comparison import Comparison, compare_tables, direction, read_per_case
from medexp.files import NAMES, read_csv, replacing
from medexp.phases import phases
from medexp.registry.promotion import scores_of
from medexp.registry.store import pull, resolve
from medexp.terminal import show_table, terminal
from medexp.tracking.figures import as_written, differences
from medexp.tracking.past import PastRun, artifact, find_run, past_run
from medexp.words import some

_EMPTY = ["", "nan", "NaN", "NA"]
_TOLD = 20  # problems that a message names
_TABLES = {".csv": ",", ".tsv": "\t"}
_VERSION = re.compile(r"(models:/)?[\w.-]+(@[\w.-]+|/\d+)")


@dataclass(frozen=True)
class Source:
    """The scores of a model, a row a case.

    Attributes:
        called: What it is called.
        table: As of `read_per_case`.
        digests: sha256 of the cases that are known, by case.
        splits: Split of the cases that are known, by case.
        data_digest: Of all its cases together; None where that is not known.
        units: What its phase calls a patient, one and several (`medexp.phases.Phase`); None where no phase of medexp made it.
    """

    called: str
    table: pd.DataFrame
    digests: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    data_digest: str | None = None
    units: tuple[str, str] | None = None


def compare(one: str, other: str, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Comparison:
    """What the second gains over the first, case by case on the same data, in every metric that both have.

    Args:
        one: A run by id or name (`RUN:ARM` where its `per_case.csv` has several arms), a registered version (`NAME/VERSION` or
            `NAME@alias`, with or without `models:/`), or a CSV or TSV file (`medexp.evaluation.comparison.read_per_case`).
        other: Likewise.
        samples: Resamples of an interval.
        confidence: Coverage of an interval.
        seed: Seed of the resamples.

    Raises:
        DataError: One of them cannot be read, both are one version, or were not judged on the same cases of the same data.
        ConfigError: There is no such run, or there are several.
        RegistryError: There is no such version.
    """
    first, second = source(one), source(other)
    if first.called == second.called and _VERSION.fullmatch(one) and not is_table(one):
        raise DataError(f"{one} and {other}: both are {first.called}. Give two that differ: medexp models lists them")
    _demand_same_data(first, second)
    names, folds = (first.called, second.called), max(folds_of(one.table) for one in (first, second))
    said = {one.units for one in (first, second)} - {None}
    units = said.pop() if len(said) == 1 else None
    return compare_tables(
        first.table, second.table, names, Resampling(samples, confidence, seed, folds), units or Comparison.units
    )


def is_table(given: str) -> bool:
    """Whether a file is meant, which no store needs to know of."""
    return Path(given).suffix.lower() in _TABLES


def source(given: str) -> Source:
    """A model's scores, wherever they are; arguments and errors as of `compare`."""
    file = local_path(given)
    if is_table(given):
        return Source(file.name, read_per_case(_read(file, given), given))
    if _VERSION.fullmatch(given):
        pulled = pull(given if given.startswith("models:/") else f"models:/{given}")
        scores, called = scores_of(pulled), f"{pulled.name} version {pulled.version}"
        if scores.per_case.empty:
            raise DataError(
                f"{called}: was registered without scores; compare the run that made it, or a version that was judged"
            )
        made = resolve(f"models:/{pulled.name}/{pulled.version}").tags.get("medexp.run", "")
        units = _units(past_run(made)) if made else None
        return Source(called, read_per_case(scores.per_case, called), *_known(made), scores.data_digest, units)
    name, _, arm = given.partition(":")
    run = find_run(name)
    with tempfile.TemporaryDirectory() as folder:
        path = artifact(run.id, "per_case.csv", Path(folder))
        if path is None:
            raise DataError(f"run {name}: logged no per_case.csv. Give a run of a phase that judges cases")
        table = read_csv(path)
    if "arm" in table:
        arms = list(table["arm"].unique())
        if arm not in arms:
            raise DataError(
                f"run {name}: has the arms {', '.join(arms)}, found {arm or 'none named'}. Give {name}:ARM, such as "
                f"{name}:{arms[-1]}"
            )
        table = table[table["arm"] == arm].drop(columns="arm")
        unmeasured = [name for name in table if str(name).startswith("native_") and table[name].isna().all()]
        table = table.drop(columns=unmeasured)  # masks on the cases' own grids are scored of two arms alone
    elif arm:
        raise DataError(f"run {name}: has no arms, found {arm!r}. Give {name}")
    return Source(given, read_per_case(table, f"run {given}"), *_known(run.id), units=_units(run))


def _units(run: PastRun) -> tuple[str, str] | None:
    phase = run.tags.get("medexp.phase")
    return phases()[phase].units if phase in phases() else None


def _read(file: Path, given: str) -> pd.DataFrame:
    separator = _TABLES[file.suffix.lower()]
    (_, names), *lines = lines_of(file, separator) or [(1, [])]
    names = [name.strip() for name in names]
    problems = [f"the column {name} stands {count} times" for name, count in Counter(names).items() if count > 1]
    problems += [
        f"line {number}: {len(row)} values, the header has {len(names)}" for number, row in lines if len(row) != len(names)
    ]
    if problems or not lines:
        raise DataError(all_problems(given, problems[:_TOLD] or ["is no table: it holds no rows"], "Correct the table."))
    table = pd.DataFrame([[value.strip() for value in row] for _, row in lines], columns=names, dtype=str)
    return table.mask(table.isin(_EMPTY) & ~table.columns.isin(NAMES))


def _known(run_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Digest and split by case, and by scan, of the cases that a run was given; empty where the store does not hold them."""
    with tempfile.TemporaryDirectory() as folder:
        path = artifact(run_id, "manifest.csv", Path(folder)) if run_id else None
        if path is None:
            return {}, {}
        rows = read_csv(path, only_text=True)
    digests, splits = (dict(zip(rows["case"], rows[column], strict=True)) for column in ("sha256", "split"))
    if "scan" in rows:
        of_scans = rows.sort_values("case").groupby("scan")
        digests = of_scans["sha256"].agg(" ".join).to_dict() | digests
        splits = of_scans["split"].first().to_dict() | splits
    return digests, splits


def _demand_same_data(one: Source, other: Source) -> None:
    """Raises a DataError where what is known of both says that they were judged on other data."""
    shared = sorted(set(one.table["case"]) & set(other.table["case"]))
    unlike = [
        case
        for case in shared
        if one.digests.get(case, "") and other.digests.get(case, "") and one.digests[case] != other.digests[case]
    ]
    if unlike:
        raise DataError(
            f"{one.called} and {other.called}: other data: {len(unlike)} of {len(shared)} cases of the same name have other "
            f"voxels, masks or labels (sha256): {some(unlike, 3)}. Judge both on the same files"
        )
    splits = [sorted({str(each.splits[case]) for case in each.table["case"] if case in each.splits}) for each in (one, other)]
    if all(splits) and splits[0] != splits[1] and len(shared) < len(one.table):
        told = [f"{each.called} was judged on {' and '.join(of)}" for each, of in zip((one, other), splits, strict=True)]
        raise DataError(f"other splits: {', '.join(told)}; {len(shared)} cases in both. Judge both on the same split")
    if (
        one.data_digest
        and other.data_digest
        and one.data_digest != other.data_digest
        and len(shared) == len(one.table) == len(other.table)
    ):
        raise DataError(
            f"{one.called} and {other.called}: other data: cases of the same names with the digests {one.data_digest[:12]} "
            f"and {other.data_digest[:12]}. Judge both on the same files"
        )


def show(found: Comparison, one: str, other: str, most: int = 3) -> None:
    """A table of the metrics, the sentences, and the cases in which the second gains least and most, in the terminal."""
    rows = [
        [
            row.metric,
            "more" if direction(row.metric) > 0 else "less",
            str(row.cases),
            f"{row.one:.4f}",
            f"{row.other:.4f}",
            row.gain.as_gain,
        ]
        for row in found.rows
    ]
    show_table(["metric", "better", "cases", "A", "B", "gain of B"], rows, f"A: {one}   B: {other}")
    console = terminal()
    for row in found.rows:
        console.print(row.told)
    for row in found.rows:
        if found.cases.loc[found.cases["metric"] == row.metric, "gain"].any():
            least, gained = (
                ", ".join(f"{case.case} {case.gain:+.3f}" for case in rows.itertuples())
                for rows in found.extremes(row.metric, most)
            )
            console.print(f"{row.metric}: least {least}; most {gained}")
    for line in found.left_out:
        console.print(f"Left out: {line}")
    for line in found.notes:
        console.print(f"Note: {line}")


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison for programs; what is not defined is null."""
    rows = [{**asdict(row), "gain": {**asdict(row.gain)}} for row in found.rows]
    plain = json.loads(json.dumps(rows), parse_constant=lambda _: None)
    return {"metrics": plain, "left_out": list(found.left_out), "notes": list(found.notes)}


def write(found: Comparison, folder: str, title: str) -> None:
    """`comparison.csv` (a row a metric), `cases.csv` (a row a case and metric) and `differences.png`.

    Raises:
        StorageError: The folder cannot be written.
    """
    place = local_path(folder)
    rows = [
        {"metric": row.metric, "cases": row.cases, "one": row.one, "other": row.other}
        | {"gain": row.gain.estimate, "low": row.gain.low, "high": row.gain.high, "patients": row.gain.patients}
        | {"told": row.told}
        for row in found.rows
    ]
    try:
        place.mkdir(parents=True, exist_ok=True)
        with replacing(place / "comparison.csv") as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
        with replacing(place / "cases.csv") as temporary:
            found.cases.to_csv(temporary, index=False)
        with replacing(place / "differences.png") as temporary:
            as_written(differences(found.cases, title)).savefig(temporary, format="png")
    except OSError as error:
        raise StorageError(f"--output {folder}: cannot be written ({error.strerror})") from error
    print(f"Written: comparison.csv, cases.csv and differences.png in {place}")
