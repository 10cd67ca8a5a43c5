"""What was judged in runs: read, held against each other, and put together, each thing under a name of its own."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medexp.config.keys import protocol
from medexp.data.folds import folds_of
from medexp.data.manifest import data_digest
from medexp.errors import ConfigError, DataError, all_problems
from medexp.evaluation.comparison import read_per_case
from medexp.evaluation.intervals import NOISE
from medexp.evaluation.leaderboard import Kind, spread_table
from medexp.files import parse_yaml, read_csv
from medexp.phases import phase
from medexp.phases.shared.leaderboard import PREDICTIONS, Judging, read_run
from medexp.tracking.past import PastRun, artifact, find_run, finished
from medexp.words import some

_RANDOM = ("random", "untrained")
_CONTROLS = ("majority", "headers", "classical", "shape", "intensity", "layers", "thickness")
_CALLED = {"majority": "the majority class", "headers": "the files' headers alone", "untrained": "an untrained network"}
_SHARE, _SHOWN = "probability_", 40
JUDGED = "judged"
"""Split of the rows of several runs together."""


@dataclass(frozen=True)
class Given:
    """What was judged in a run.

    Attributes:
        run: The run.
        called: What messages call it.
        rows: Its judged rows, with the columns of `medexp.evaluation.leaderboard.PREDICTIONS`.
        spread: As of `medexp.evaluation.leaderboard.spread_table`; empty where the run says nothing of it.
        folds: How many trainings judged the cases, as of `medexp.config.shared.Resampling`.
        judging: What it says of its own leaderboard; None where it has none.
        cases_digest: Of the files of the judged participants; empty where the run does not hold it.
        protocol: Digest of what was trained on the encoders, and how; empty where the run does not hold it.
    """

    run: PastRun
    called: str
    rows: pd.DataFrame
    spread: pd.DataFrame
    folds: int
    judging: Judging | None
    cases_digest: str
    protocol: str

    @property
    def digest(self) -> str:
        """Of all data that the run was given; empty where it does not say."""
        return self.run.tags.get("medexp.data_digest", "")


def read_runs(named: Sequence[str]) -> list[Given]:
    """What was judged in runs, on the same data.

    Args:
        named: Ids or names; empty: the latest run of oct that ended well, and all earlier ones that were judged on the same
            cases of the same data; those that were not, or cannot be read, are named.

    Raises:
        ConfigError: There is no such run, or none at all.
        DataError: A run judged nothing, or they were judged on different data; all problems at once.
    """
    runs = {run.id: run for run in ([find_run(name) for name in named] if named else _latest())}
    given, problems = [], []
    for run in runs.values():
        try:
            given.append(_read(run))
        except DataError as error:
            problems.append(str(error))
    if named or not given:
        if problems:
            raise DataError(all_problems("runs", problems))
        _demand_same_data(given)
        return given
    others = [one.called for one in given if _cases(one) != _cases(given[0])]
    for line in [*problems, *(f"run {called}: was judged on other cases" for called in others)]:
        print(f"Left out, {line}", flush=True)
    return [one for one in given if one.called not in others]


def put_together(given: Sequence[Given]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows and the spreads of all runs. What has one name in several is called by the run too, but for a control that says
    the same in each, which stands there once. The same weights under two protocols are no copies: they are compared."""
    rows, spreads = [], []
    several = len({one.protocol for one in given}) > 1
    for arm in dict.fromkeys(arm for one in given for arm in one.rows["arm"]):
        parts = [(one, part) for one in given if len(part := one.rows[one.rows["arm"] == arm])]
        if all(_is_control_like(part, parts[0][1]) for _, part in parts):
            parts = parts[:1]
        for one, part in parts:
            suffix = f" ({one.called})" if len(parts) > 1 else ""
            rows.append(part.assign(arm=arm + suffix, called=part["called"] + suffix, split=JUDGED))
            spread = one.spread[one.spread["arm"] == arm].assign(arm=arm + suffix)
            if several:
                spread["digest"] = [f"{digest} {one.protocol}".strip() if digest else "" for digest in spread["digest"]]
            spreads.append(spread)
    return pd.concat(rows, ignore_index=True), pd.concat(spreads, ignore_index=True)


def _latest() -> list[PastRun]:
    runs = finished("oct")
    if not runs:
        raise ConfigError(
            "runs: no run of oct ended well in this store; make one with mlflow run . -e oct, or give runs=[RUN1,RUN2]"
        )
    digest = runs[0].tags.get("medexp.data_digest")
    return [run for run in runs if run.tags.get("medexp.data_digest") == digest]


def _read(run: PastRun) -> Given:
    name = run.tags.get("mlflow.runName", "")
    called = f"{name}, {run.id[:8]}" if name else run.id[:8]
    with tempfile.TemporaryDirectory() as folder:
        files = (PREDICTIONS, "per_case.csv", "manifest.csv", "config.yaml")
        kept, scored, listed, settings = (artifact(run.id, name, Path(folder)) for name in files)
        if kept is None and scored is None:
            raise DataError(
                f"run {called}: logged neither {PREDICTIONS} nor per_case.csv. Give a run of a phase that judges cases"
            )
        manifest = read_csv(listed, only_text=True) if listed else None
        if kept is not None:
            saved, judging, table = read_run(run.id, called)
            rows, spread, folds = table[table["split"] == judging.split], spread_table(saved.entries), judging.resampling.folds
        else:
            judging, table = None, read_csv(scored or Path())
            rows, spread, folds = _of_per_case(table, run, called), spread_table([]), folds_of(table)
        how = _protocol(run.tags["medexp.phase"], settings, folds) if settings else ""
    digest = ""
    if manifest is not None and {"case", "patient", "sha256"} <= {*manifest}:
        digest = data_digest(manifest[manifest["patient"].isin(set(rows["patient"]))])
    return Given(run, called, rows, spread, folds, judging, digest, how)


def _protocol(ran: str, settings: Path, folds: int) -> str:
    """Digest of the part of a run's configuration that says what was trained on an encoder, and how."""
    said = pd.json_normalize(parse_yaml(settings.read_text())).filter(items=sorted(protocol(phase(ran).config)))
    return hashlib.sha256(f"{ran} {said.to_json(orient='records')} {folds}".encode()).hexdigest()[:8]


def _of_per_case(table: pd.DataFrame, run: PastRun, called: str) -> pd.DataFrame:
    """Rows of a classifier's `per_case.csv`, in which one network without a name is called by its phase."""
    if not {"label", "predicted", "patient"} <= {*table}:
        raise DataError(f"run {called}: per_case.csv is no classifier's, found {some([*map(str, table)], 8)}")
    arms = table if "arm" in table else table.assign(arm=run.tags.get("medexp.phase", "model"))
    parts = []
    for arm, part in arms.groupby("arm", sort=False):
        read = read_per_case(part.drop(columns=["arm", "correct", "cross_entropy"], errors="ignore"), f"run {called}, {arm}")
        shares = sorted(str(name) for name in read if str(name).startswith(_SHARE))
        if not shares:
            raise DataError(f"run {called}: per_case.csv has no probabilities of {arm}")
        kind: Kind = "random" if arm in _RANDOM else "control" if arm in _CONTROLS else "checkpoint"
        words = _CALLED.get(str(arm), str(arm))
        known = read[["case", "patient", "label", "predicted", *shares]]
        parts.append(known.assign(split=JUDGED, arm=str(arm), kind=kind, called=words, seed=0))
    return pd.concat(parts, ignore_index=True)


def _demand_same_data(given: Sequence[Given]) -> None:
    """Raises a DataError that says which run has which data, where they are not the same."""
    told = "judged on different data, which no figure compares"
    advice = "Give runs on the same data, or judge them anew."
    differ = (
        ("data digest", {one.called: one.digest or "none" for one in given}),
        (
            "classes",
            {
                one.called: some(sorted(n.removeprefix(_SHARE) for n in map(str, one.rows) if n.startswith(_SHARE)))
                for one in given
            },
        ),
        ("judged cases and labels", {one.called: _cases(one) for one in given}),
        ("files of the judged", {one.called: one.cases_digest for one in given if one.cases_digest}),
    )
    for what, found in differ:
        if len(set(found.values())) > 1 or (len(given) > 1 and "none" in found.values()):
            has = [f"run {called} has the {what} {value[:_SHOWN]}" for called, value in found.items()]
            raise DataError(f"runs: {told}: {'; '.join(has)}. {advice}")


def _cases(one: Given) -> str:
    """Digest of a run's judged cases and their labels."""
    return data_digest(one.rows.drop_duplicates("case").assign(sha256=lambda rows: rows["label"]))


def _is_control_like(part: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether both are one control, which says the same."""
    shares = [name for name in part if str(name).startswith(_SHARE)]
    one, two = (rows.sort_values(["seed", "case"])[[*shares]].to_numpy(float) for rows in (part, other))
    alike = one.shape == two.shape and np.allclose(one, two, rtol=0, atol=NOISE)
    return bool(alike and (part["kind"] == "control").all() and (other["kind"] == "control").all())
