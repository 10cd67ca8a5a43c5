"""What `mlflow.pyfunc` answers for a registered model, also behind `mlflow models serve`: to arrays and to paths."""

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from medexp.addresses import local_path
from medexp.data.volumes.regions import volumes_in_mm3
from medexp.errors import DataError, RegistryError, all_problems
from medexp.models.kinds import ONLY, Architecture, kind_of, kinds, outputs_of
from medexp.models.swin.features import KINDS
from medexp.registry.arrays import demand_prepared
from medexp.registry.contracts import FEATURES, OUTPUT, PATH, takes_paths
from medexp.registry.loading import load_package
from medexp.registry.packages import network_of, read_json, verify_package
from medexp.registry.predictors import MASKS, Prediction, Predictor, as_columns, from_package, save_mask

ROOT = "MEDEXP_SERVE_ROOT"
"""The environment variable that names the one folder that paths, and masks, may lie in."""

_log = logging.getLogger(__name__)
Answer = Callable[[Any, Mapping[str, Any]], Any]
"""From what MLflow hands over, and its parameters, to an array, several by name, or a data frame."""
_Made = Callable[[Any], Predictor]


def serve(folder: Path) -> Answer:
    """What answers for a package, on the CPU or on what MLFLOW_DEFAULT_PREDICTION_DEVICE names.

    Args:
        folder: The package; verified here.

    Raises:
        RegistryError: The package was altered, or its contract names something that this version of medexp does not know.
    """
    contract = read_json(folder, "contract.json")
    architecture = network_of(contract)
    if architecture["kind"] not in kinds() or not takes_paths(contract):  # an adapter of an unknown base says what to do
        return functools.partial(_of_named_arrays, load_package(folder), architecture)
    verify_package(folder)
    device = os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE", "cpu")
    made = functools.cache(functools.partial(from_package, folder, contract["name"], device))  # by kind of features
    return functools.partial(_of_paths_or_array, made, made(None))


def _of_named_arrays(net: torch.nn.Module, architecture: Architecture, given: Any, params: Mapping[str, Any]) -> Any:
    tensors = {
        name: torch.as_tensor(given[name], dtype=getattr(torch, spec.dtype))
        for name, spec in kind_of(architecture).inputs(architecture).items()
    }
    with torch.inference_mode():
        return _as_arrays(outputs_of(net, architecture, tensors))


def _of_paths_or_array(made: _Made, model: Predictor, given: Any, params: Mapping[str, Any]) -> Any:
    values: Any = given[PATH] if isinstance(given, pd.DataFrame | Mapping) else given
    if paths := _paths(values):
        return _of_paths(_chosen(made, model, params.get(FEATURES)), paths, params.get(OUTPUT))
    spec = kind_of(model.architecture).inputs(model.architecture).get(ONLY)
    if spec is None:
        raise RegistryError(f"{PATH} for {model.called}: is no path; give a data frame with a column {PATH} to {model.takes}")
    try:
        array = np.asarray(values).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise RegistryError(f"array for {model.called}: no numbers, or rows of unequal length ({error})") from error
    for told in demand_prepared(model.preprocessing, spec, array, model.called):
        _log.warning(told)
    with torch.inference_mode():
        return _as_arrays(outputs_of(model.net, model.architecture, {ONLY: torch.from_numpy(array).to(model.device)}))


def _paths(values: Any) -> list[Any]:
    """What was given for paths; nothing where it is an array of numbers. MLflow makes arrays of text in several ways."""
    listed = values if isinstance(values, list | tuple) else np.asarray(values, object).ravel() if np.ndim(values) < 2 else ()
    found = [one.item() if isinstance(one, np.ndarray) and one.ndim == 0 else one for one in listed]
    return found if any(isinstance(one, str | os.PathLike) for one in found) else []


def _chosen(made: _Made, model: Predictor, features: str | None) -> Predictor:
    """The model with the kind of features that was asked for, or as it is."""
    if features is not None and features not in KINDS:
        raise RegistryError(f"{FEATURES}: found {features!r}; {model.called} may be asked for {', '.join(KINDS)}")
    return made(features) if features else model


def _as_arrays(output: Mapping[str, torch.Tensor]) -> NDArray[Any] | dict[str, NDArray[Any]]:
    arrays = {name: value.cpu().numpy() for name, value in output.items()}
    return arrays.get(ONLY, arrays)


def _of_paths(model: Predictor, paths: Sequence[Any], output: str | None) -> pd.DataFrame:
    """A row a path, in their order.

    Columns, as `medexp predict` calls them: `path`, `case`; of a classifier `predicted`, and for each class
    `probability_CLASS`; of an encoder `f0`, `f1`, ..., after `features`, their kind, where one was asked for; of a segmenter
    `WT_mm3`, `TC_mm3`, `ET_mm3` or `tumour_pixels`, and `mask`, the file that was written, where `output` names a folder;
    `outside`, what of the case lies outside what the model saw.

    Raises:
        DataError: Before anything is computed, all paths that do not name one case, and masks that are there already; then
            what is wrong with the files of a case.
    """
    cases, masks, problems = [], [], []
    for number, path in enumerate(paths):
        try:
            if not isinstance(path, str | os.PathLike) or not str(path):
                raise DataError(f"{PATH} of row {number} is {path!r}; a case's folder or a file is wanted")
            case = _allowed(model.one(_place(path)), path)
            mask = _place(output) / Path(case.id).name if output else None  # an id may come from a table
            if mask and (mask in masks or any(mask.with_name(mask.name + ending).exists() for ending in MASKS)):
                raise DataError(f"{path}: a mask of {case.id} is in {output} already; give another {OUTPUT}")
            cases.append(case)
            masks.append(mask)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(all_problems(f"{PATH} for {model.called}", problems))
    rows = []
    for path, case, mask in zip(paths, cases, masks, strict=True):
        found = model.answer(model.ready(case))
        row = {PATH: str(path), "case": case.id, **_told(model, found)}
        if mask and found.mask is not None:
            row["mask"] = str(save_mask(found.mask, mask.absolute()))
        rows.append(row | {"outside": "; ".join(found.outside)})
    return pd.DataFrame(rows)


def _told(model: Predictor, found: Prediction) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if found.probabilities:
        told |= as_columns(found.probabilities)
    if found.features is not None:
        told |= {FEATURES: model.features} if model.features else {}
        told |= {f"f{index}": float(value) for index, value in enumerate(found.features)}
    if isinstance(found.mask, nib.Nifti1Image):
        mask, painted = np.asarray(found.mask.dataobj), model.outputs[ONLY]["painted"]
        told |= {f"{region}_mm3": one for region, one in volumes_in_mm3(mask, found.mask.affine, painted).items()}
    elif found.mask is not None:
        told["tumour_pixels"] = int(np.count_nonzero(found.mask))
    return told


def _place(path: str | os.PathLike[str]) -> Path:
    """Where a path is; in the one folder where there is one.

    Raises:
        DataError: It is not in it.
    """
    root = os.environ.get(ROOT)
    place = Path(root or "") / local_path(path)
    if root and not place.resolve().is_relative_to(Path(root).resolve()):
        raise DataError(f"{path}: is not in the folder that {ROOT} names, the only one that is read from and written to")
    return place


def _allowed(case: Any, path: str | os.PathLike[str]) -> Any:
    """A case whose files, which a link or a table may name, are in the one folder too."""
    for file in case.images:
        try:
            _place(file)
        except DataError:
            raise DataError(f"{path}: names files that are not in the folder that {ROOT} names") from None
    return case
