"""What predictions are worth where a truth lies beside the cases: external validation, with intervals by patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes

from medexp.config.editions import EDITIONS, fitting
from medexp.config.shared import resampling
from medexp.data.images.kaggle import CLASSES as FOLDERS
from medexp.data.inputs import Inputs, fingerprint
from medexp.data.volumes.brats import UnfitLabels, read_label
from medexp.data.volumes.regions import REGIONS, values_in_masks
from medexp.errors import DataError
from medexp.evaluation.classification import CALIBRATION, DIAGNOSTIC, Predictions
from medexp.evaluation.classification import scores as scores_of
from medexp.evaluation.intervals import UNIT, Interval, mean_by_patient
from medexp.evaluation.segmentation import case_scores, native_scores
from medexp.phases.predict.config import PredictConfig
from medexp.phases.shared.images import CLASSES
from medexp.registry.predictors import Prediction, Predictor, Ready

_GRID = [f"{where}dice_{region}" for where in ("native_", "") for region in REGIONS]


@dataclass(frozen=True)
class Truth:
    """What is known of cases that nobody needs to predict them.

    Attributes:
        classes: From the values in segmentations to classes 0 to 3; None of a model that segments no volumes.
        painted: The value of each region in the masks that are written.
        labels: Index of the class of each case that has a label, by id.
        names: Of the classes; none of a model that classifies nothing.
    """

    classes: Mapping[int, int] | None
    painted: Mapping[str, int | None]
    labels: Mapping[str, int]
    names: tuple[str, ...] = ()

    def of(self, case: Any) -> str | None:
        """By what the truth of a case is known again: its class, or the content of its segmentation and how that is read."""
        if case.id in self.labels:
            return self.names[self.labels[case.id]]
        if self.classes is None or case.label is None:
            return None
        return f"{fingerprint([case.label])}, {dict(sorted(self.classes.items()))}"


def truth_of(predictor: Predictor, inputs: Inputs, config: PredictConfig) -> Truth:
    """What lies beside the cases, as the model's contract reads it.

    Raises:
        DataError: A label is no class of the model.
    """
    said = {meaning["what"]: meaning for meaning in predictor.outputs.values()}
    classes: Mapping[int, int] | None = None
    painted: Mapping[str, int | None] = {}
    if "regions" in said:
        trained = {int(value): network for value, network in said["regions"].get("classes", {}).items()}
        edition = EDITIONS.get(config.data.labels or "")
        given = edition.classes if edition else config.data.label_map
        classes = given or trained or EDITIONS["brats2023"].classes
        painted = values_in_masks(classes) if given else said["regions"]["painted"]
    named = said.get("classes") or said.get("answers")
    names = tuple(named["classes"]) if named else ()
    return Truth(classes, painted, _labels(names, inputs.labels) if names else {}, names)


def _labels(names: Sequence[str], labels: Mapping[str, str]) -> dict[str, int]:
    known = {name.lower(): index for index, name in enumerate(names)}
    if tuple(names) == CLASSES:
        known = FOLDERS | known
    unknown = sorted({label for label in labels.values() if label.lower() not in known})
    if unknown:
        raise DataError(
            f"label: {', '.join(map(repr, unknown))} is no class of the model, which tells {' or '.join(names)} apart"
        )
    return {case: known[label.lower()] for case, label in labels.items()}


def why_not_read(error: DataError) -> str:
    """Why a segmentation was not read, in a line, and what the values that it holds could be."""
    fit = fitting(error.values) if isinstance(error, UnfitLabels) else []
    return " ".join([*str(error).split(), *(["These fit:", "; ".join(fit)] if fit else [])])


def scored(predictor: Predictor, truth: Truth, ready: Ready, prediction: Prediction) -> dict[str, Any]:
    """The scores of a case of which the truth is known: of a segmentation those of `evaluate_segmentation`, on the network's
    grid and on that of the case's files; of a class `label`."""
    if prediction.logits is not None and ready.label is not None:
        assert truth.classes is not None
        assert ready.own is not None
        assert ready.affine is not None
        item = {"case": prediction.case, "label": ready.label}
        label, _ = read_label(ready.case.label, truth.classes)
        native = native_scores(np.asarray(prediction.mask.dataobj), truth.classes, label, ready.own)
        row = case_scores(item, prediction.logits[None], voxel_sizes(ready.affine.numpy()).tolist())
        scores = {key: value for key, value in row.items() if key != "case"} | native
        return {key: None if np.isnan(value) else value for key, value in scores.items()}  # NaN is no JSON
    if prediction.probabilities is not None and prediction.case in truth.labels:
        return {"label": truth.labels[prediction.case]}
    return {}


def intervals(scores: pd.DataFrame, truth: Truth, config: PredictConfig) -> dict[str, Interval]:
    """Figures of all cases that have a truth, with intervals by patient.

    Args:
        scores: One row a case: `patient`, and what `scored` gives; of classes `probability_<name>` too.
        truth: What is known.
        config: How resamples are drawn.
    """
    found: dict[str, Interval] = {}
    for column in _GRID:
        values = scores[column].astype(float).dropna() if column in scores else scores.iloc[:0]
        if len(values):
            patients = scores.loc[values.index, "patient"].tolist()
            found[column] = mean_by_patient(values.to_numpy(), patients, resampling(config), UNIT)
    if "label" in scores:
        rows = scores.dropna(subset=["label"])
        shares = rows[[f"probability_{name}" for name in truth.names]].to_numpy(float)
        told = Predictions(rows["label"].to_numpy(int), shares)
        found |= scores_of(told, rows["patient"].tolist(), resampling(config), {**DIAGNOSTIC, **CALIBRATION})
    return {name: interval for name, interval in found.items() if np.isfinite(interval.estimate)}
