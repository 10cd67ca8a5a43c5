"""How far two networks' scores differ from patient to patient, from what earlier versions of a model were measured to do.

It is what a comparison's power hangs on, and is known before the next network is trained. Nothing of a network is fetched.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from medexp.config.shared import Resampling
from medexp.evaluation.comparison import paired
from medexp.evaluation.intervals import NOISE, mean_by_patient
from medexp.files import read_csv
from medexp.registry.client import answering, pages, quoted
from medexp.registry.packages import read_json
from medexp.registry.store import PACKAGE, location_of

CONTROL, BASE = "control", "baseline"
"""The arms of a run, by the column `arm` of its `per_case.csv`, that stand beside the one that a version is of."""
_DOUBTS = {
    CONTROL: "Arms of one run differ less than two models do: it may take more.",
    BASE: "Two models that were adapted differ less than one from its base: it may take far fewer.",
}
LEAST = 0.02
"""SD of scores, of a range of 1, below which they say nothing of differences: a network that always fails is no measure."""
_SAMPLES = 2000
_LOOKED_AT = 10  # versions back; of more a registry may have thousands


@dataclass(frozen=True)
class Spread:
    """The SD of paired differences by patient, in the metric's unit, and where it is from.

    Attributes:
        value: The SD.
        patients: On which it was measured.
        source: What differs from what, in words.
        doubt: How two models may differ otherwise than these; empty where these are two.
    """

    value: float
    patients: int
    source: str
    doubt: str = ""


def spread_of(name: str, columns: Sequence[str], version: str | None = None, *, digest: str | None = None) -> Spread | None:
    """The spread of differences between a version and what it was compared with.

    In this order: the control of the version's own run; the latest other version that was judged on the same cases; the
    run's base; the version's scores alone, as if another's had nothing to do with them. Versions whose checks failed
    come last, and the source says it of them.

    Args:
        name: Name of the model.
        columns: Of its `per_case.csv`, which are averaged.
        version: The version; None: the latest that has these scores.
        digest: Of the cases that are to be judged; the source says where the version was judged on others. None: not known.

    Returns:
        None where no version has such scores of two patients or more, or scores alone scatter too little (`spread_alone`).

    Raises:
        StorageError: The registry does not answer.
    """
    with answering():
        found = pages(MlflowClient().search_model_versions, filter_string=f"name = {quoted(name)}", max_results=100)
        latest = sorted(found, key=lambda one: (not _failed(one), int(one.version)), reverse=True)
        wanted = [one for one in latest if version in (None, str(one.version))][:_LOOKED_AT]
        for one in wanted:
            table = _stored(one, columns)
            if table is not None:
                others = [other for other in latest if other is not one][:_LOOKED_AT]
                spread = _measured(one, *table, others, columns)
                said = "; its checks failed" if _failed(one) else ""
                said += "; judged on other cases" if digest is not None and table[1] != digest else ""
                return replace(spread, source=spread.source + said) if spread else None
    return None


def per_case_of(version: ModelVersion) -> pd.DataFrame | None:
    """The scores that a version was registered with, unverified; None where the store holds none."""
    with answering():
        return _table(f"{location_of(version)}/{PACKAGE}/per_case.csv")


def spread_between(one: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str], source: str) -> Spread | None:
    """That of two tables' differences; None of fewer than two patients, and where nothing differs.

    Args:
        one: As of `paired`.
        other: Other scores of the same cases.
        columns: They are averaged.
        source: What these are, in words.
    """
    both = paired(one, other, columns).dropna()
    return _spread(both["gain"], both["patient"], source)


def spread_alone(table: pd.DataFrame, columns: Sequence[str], source: str) -> Spread | None:
    """The spread that differences have where another network's scores have nothing to do with these; arguments as above.

    It is no bound: the other may scatter more. None where these scatter by less than LEAST.
    """
    alone = table.set_index("case")[list(columns)].mean(axis=1).dropna()
    patients = table.set_index("case")["patient"].loc[alone.index]
    found = _spread(alone, patients, f"{source}, as if another's had nothing to do with them")
    return replace(found, value=found.value * 2**0.5) if found and found.value >= LEAST else None


def _measured(
    version: ModelVersion, table: pd.DataFrame, digest: str | None, others: Sequence[ModelVersion], columns: Sequence[str]
) -> Spread | None:
    named = f"version {version.version} of {version.name}"
    arms = _arms(version, columns)

    def beside(arm: str) -> Spread | None:
        source = f"differences of {named} from the arm {arm} of its run"
        found = spread_between(table, arms[arm], columns, source) if arm in arms else None
        return replace(found, doubt=_DOUBTS[arm]) if found else None

    if found := beside(CONTROL):
        return found
    for other in others:
        before = _stored(other, columns)
        if before and digest is not None and before[1] == digest:
            what = f"differences between versions {version.version} and {other.version} of {version.name}"
            what += ", whose checks failed" if _failed(other) else ""
            if spread := spread_between(table, before[0], columns, what):
                return spread
    return beside(BASE) or spread_alone(table, columns, f"scores of {named} alone")


def _failed(version: ModelVersion) -> bool:
    return version.tags.get("medexp.verdict") == "FAILED"


def _spread(values: pd.Series, patients: pd.Series, source: str) -> Spread | None:
    if patients.nunique() < 2:
        return None
    interval = mean_by_patient(values.to_numpy(float), patients.astype(str).tolist(), Resampling(_SAMPLES, 0.95, 0))
    return Spread(interval.spread, interval.patients, source) if interval.spread > NOISE else None


def _stored(version: ModelVersion, columns: Sequence[str]) -> tuple[pd.DataFrame, str | None] | None:
    """A version's scores and the digest of the cases; None where it lacks a column."""
    table = per_case_of(version)
    if table is None or not {"case", "patient", *columns} <= set(table.columns) or table["patient"].nunique() < 2:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location_of(version)}/{PACKAGE}/evaluation.json", dst_path=folder
            )
        except (MlflowException, OSError):  # a table without an account of its cases is compared with no other
            return table, None
        return table, read_json(Path(folder), "evaluation.json").get("data_digest")


def _arms(version: ModelVersion, columns: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The arms of the run that made a version, each with its rows; nothing where the run or its table is gone."""
    table = _table(f"runs:/{version.run_id}/per_case.csv") if version.run_id else None
    if table is None or not {"case", "arm", *columns} <= set(table.columns):
        return {}
    arms = {arm: table[table["arm"] == arm] for arm in (CONTROL, BASE)}
    return {arm: rows for arm, rows in arms.items() if len(rows) and rows["case"].is_unique}


def _table(uri: str) -> pd.DataFrame | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            return read_csv(Path(file))
        except (MlflowException, OSError, ValueError) as error:
            if isinstance(error, MlflowException) and error.message.startswith("API request to"):
                raise  # the store does not answer, which is another thing than that it holds none
            return None
