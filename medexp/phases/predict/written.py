"""What is written of predictions, in a folder that is claimed by one model and goes on where it was left.

predictions.json        which model, and with what settings: written first, so that no other model's answers come in between
CASE.nii.gz, CASE.png   a segmenter's mask, on the grid of the case's files
CASE.json               a case's sidecar: model, what was done, what of it lies outside; written last: with it the case is done
predictions.csv         all cases, a row each; of an encoder features.parquet and features.safetensors too
scores.csv              of the cases beside which a truth lies
errors.csv              the cases that could not be predicted, and why
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save

from medexp.data.inputs import fingerprint
from medexp.errors import ConfigError, DataError, all_problems
from medexp.files import replacing
from medexp.registry.predictors import Prediction, as_columns, save_mask

CLAIM = "predictions.json"
Record = dict[str, Any]
"""A sidecar."""

_LONGEST = 200  # bytes of a part of a path: what is being written has a longer name, and file systems take 255


def claim(folder: Path, inputs: Sequence[Path], made_with: Mapping[str, Any]) -> None:
    """Make a folder the place of one model's predictions.

    Args:
        folder: Not there yet, empty, or claimed by the same model with the same settings.
        inputs: What is predicted.
        made_with: The model and the settings that answers follow from.

    Raises:
        ConfigError: The folder lies in one of the inputs, holds something else, or another model's predictions; nothing is
            written.
        StorageError: It cannot be written.
    """
    place = folder.resolve()
    for one in inputs:
        if one.is_dir() and place.is_relative_to(one.resolve()):
            raise ConfigError(
                f"output: {folder} lies in the input {one}, and would be found as a case of it next time; give another"
            )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {folder} is a file; give a folder that is not there yet")
    known = folder / CLAIM
    if known.is_file():
        before = _mapping(known)
        if not before:
            raise ConfigError(f"output: {known} is damaged: nobody knows whose predictions these are. Give another output")
        differ = [
            f"{key}: {before.get(key)} there, {made_with[key]} now" for key in made_with if before.get(key) != made_with[key]
        ]
        if differ:
            advice = "Give another output, or the model and settings that it was begun with."
            raise ConfigError(all_problems(f"output: {folder} holds other predictions", differ, advice))
        return
    if folder.is_dir() and (there := sorted(path.name for path in folder.iterdir() if not path.name.endswith(CLAIM))):
        shown = ", ".join(there[:3]) + (", …" if len(there) > 3 else "")
        raise ConfigError(
            f"output: {folder} exists and holds {shown}; nothing is overwritten. Give a folder that is not there yet"
        )
    try:
        with replacing(known) as temporary:
            temporary.write_text(json.dumps(made_with, indent=2) + "\n")
            _link(temporary, known)
    except _Taken:
        claim(folder, inputs, made_with)


class _Taken(Exception):
    """Another process claimed the folder just now."""


def _link(whole: Path, known: Path) -> None:
    try:
        os.link(whole, known)
    except FileExistsError:
        raise _Taken from None
    except OSError:  # a file system without links, on which the last one stays
        pass


def release(folder: Path) -> None:
    """Give back a folder that was claimed and got nothing."""
    if [path.name for path in folder.iterdir()] == [CLAIM]:
        (folder / CLAIM).unlink()
        folder.rmdir()


def record_of(folder: Path, case: str) -> Record:
    """A case's sidecar; empty where it is not done, or its mask is not there any more.

    Raises:
        DataError: The id of the case is no name of a file in the folder; its sidecar or its mask is not what was written.
    """
    path = _sidecar(folder, case)
    if not path.is_file():
        return {}
    record = _mapping(path)
    if record.pop("seal", "") != _seal(record) or record["case"] != case:
        raise DataError(f"case {case}: {path} is not what was written there; remove it, and the case is predicted again")
    if "mask" not in record:
        return record
    if not (mask := folder / record["mask"]).is_file():
        return {}
    if fingerprint([mask]) != record["mask_sha256"]:
        raise DataError(f"case {case}: {mask} is not what was written there; move it away, and the case is predicted again")
    return record


def write_mask(folder: Path, prediction: Prediction) -> dict[str, str]:
    """A case's mask, where it has one: its place, under `mask`, and what it is known by, under `mask_sha256`.

    Raises:
        StorageError: The folder cannot be written.
    """
    if prediction.mask is None:
        return {}
    mask = save_mask(prediction.mask, folder / prediction.case)
    return {"mask": mask.relative_to(folder).as_posix(), "mask_sha256": fingerprint([mask])}


def write_record(folder: Path, prediction: Prediction, record: Record) -> Record:
    """A case's sidecar, with what there is of features and probabilities; it is returned.

    Raises:
        StorageError: The folder cannot be written.
    """
    if prediction.features is not None:
        record = record | {"features": [float(value) for value in prediction.features]}
    if prediction.probabilities is not None:
        record = record | {"probabilities": dict(prediction.probabilities)}
    with replacing(_sidecar(folder, prediction.case)) as temporary:
        temporary.write_text(json.dumps(record | {"seal": _seal(record)}, indent=2) + "\n")
    return record


def tables(folder: Path, records: Sequence[Record], problems: Mapping[str, str]) -> pd.DataFrame:
    """All cases in one table, and what else stands in tables; they are written anew from the sidecars."""
    rows = pd.DataFrame([_row(record) for record in records])
    _write(rows, folder / "predictions.csv")
    if encoded := {record["case"]: record["features"] for record in records if "features" in record}:
        features = pd.DataFrame.from_dict(encoded, orient="index").astype(np.float32)
        features.columns = pd.Index([f"f{index}" for index in range(features.shape[1])])
        with replacing(folder / "features.parquet") as temporary:
            features.rename_axis("case").to_parquet(temporary)
        with replacing(folder / "features.safetensors") as temporary:
            temporary.write_bytes(save({name: np.asarray(values, np.float32) for name, values in encoded.items()}))
    if problems:
        _write(pd.DataFrame(list(problems.items()), columns=["case", "problem"]), folder / "errors.csv")
    else:
        (folder / "errors.csv").unlink(missing_ok=True)
    if scored := [
        {key: record[key] for key in ("case", "patient")} | record["scores"] for record in records if record["scores"]
    ]:
        _write(pd.DataFrame(scored), folder / "scores.csv")
    else:
        (folder / "scores.csv").unlink(missing_ok=True)
    return rows


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {key: record[key] for key in ("case", "patient", "mask") if key in record}
    row |= {f"{region}_mm3": volume for region, volume in record.get("mm3", {}).items()}
    if "probabilities" in record:
        row |= as_columns(record["probabilities"]) | {"calibration": record["calibration"]}
    return row | {"outside": "; ".join(record["outside"])}


def _write(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def _sidecar(folder: Path, case: str) -> Path:
    """The place of a sidecar: no other id's, and in the folder.

    Raises:
        DataError: There is none.
    """
    parts, name = PurePosixPath(case).parts, case.encode(errors="replace")
    if (
        not parts
        or "/".join(parts) != case  # a//b and ./a would be a/b and a
        or {"/", ".."} & {*parts}
        or b"\0" in name
        or name.decode() != case  # bytes that are no text stand in no table
        or max(map(len, name.split(b"/"))) > _LONGEST
        or f"{case}.json" == CLAIM
        or not (folder / case).resolve().is_relative_to(folder.resolve())
    ):
        raise DataError(f"case {case!r}: is no name of a file in the output; give another id, in the column id of a table")
    return folder / f"{case}.json"


def _mapping(path: Path) -> Record:
    """What a JSON file holds; empty where that is no mapping."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _seal(record: Mapping[str, Any]) -> str:
    """sha256 of a sidecar's content: tables say that it comes from the model."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
