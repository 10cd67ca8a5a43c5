"""What a choice by a score makes of that score: the best of many is chosen for its luck too, and new cases bring it back.

Where epochs, or trials of a search, are compared on few cases, the score of the chosen one on these same cases is too good.
How much too good follows from the scores per case that are there anyway; nothing is trained again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation.classification import Predictions
from medexp.evaluation.intervals import MIN_PATIENTS


@dataclass(frozen=True)
class Optimism:
    """A score by which one of several was chosen, and what new patients are expected to say of it.

    Attributes:
        chosen: Index of the candidate that the cases choose.
        score: Its score on the cases that chose it.
        expected: The score that is expected on new patients; NaN where there are fewer than MIN_PATIENTS.
        patients: Patients resampled.
    """

    chosen: int
    score: float
    expected: float
    patients: int

    @property
    def change(self) -> float:
        """What the score is expected to change by on new patients; NaN where that cannot be told."""
        return self.expected - self.score

    def told(self, what: str) -> str:
        """The same in a sentence that begins with what was chosen."""
        if math.isnan(self.expected):
            return f"{what} {self.score:.3f}; what new patients would say cannot be told from {self.patients}."
        if f"{self.change:.3f}".lstrip("-") == "0.000":
            return f"{what} {self.score:.3f}, which the choice did not flatter: new patients are expected to say the same."
        return f"{what} {self.score:.3f}; chosen for its luck too, it is expected to be {self.expected:.3f} on new patients."


def as_one_mean(*groups: pd.Series) -> pd.Series:
    """Values whose mean is the mean of the groups' means, so that `optimism` can judge a choice by that.

    To first order they move with a resample as that mean does: each is the whole mean and, by its group's share in it, what
    the case deviates from its group (the infinitesimal jackknife; Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993, chapter 21). What comes of it can be a group in turn.

    Args:
        groups: Values of cases, by patient; one without cases counts for nothing.

    Returns:
        All their values, one after another, by patient.
    """
    there = [group for group in groups if len(group)]
    count, whole = sum(map(len, there)), float(np.mean([group.mean() for group in there]))
    return pd.concat([whole + (group - group.mean()) * count / (len(there) * len(group)) for group in there])


def balanced_by_case(predictions: Predictions, patients: Sequence[str]) -> pd.Series:
    """Values of cases whose mean is the balanced accuracy, the mean over classes of a share of cases, as of `as_one_mean`."""
    right = pd.Series((predictions.predicted == predictions.truth).astype(float), pd.Index(patients))
    return as_one_mean(*(right[predictions.truth == label] for label in np.unique(predictions.truth)))


def optimism(
    scores: Array, patients: Sequence[str], direction: Literal["maximize", "minimize"], resampling: Resampling
) -> Optimism:
    """Bootstrap of a choice: made on resampled patients, and judged on those that the resample left out.

    The leave-one-out bootstrap (Efron, "Estimating the error rate of a prediction rule", 1983) with the choice as the rule: a
    case's score is the mean over the resamples without its patient, of the candidate that each chose. Where all choose the
    same one, that is the candidate's own score, and nothing is lost. A resample holds 63 % of the patients, so it chooses
    somewhat worse than all of them do: the change is told too large rather than too small.

    Args:
        scores: Of each candidate and case (candidates, cases). The mean over cases is what is chosen by; a candidate with a
            NaN is never chosen.
        patients: Patient of each case.
        direction: Whether the largest or the smallest mean is the best; the first of equals.
        resampling: How resamples are drawn.

    Raises:
        ValueError: No candidate is without a NaN.
    """
    able = np.flatnonzero(np.isfinite(scores).all(axis=1))
    if not len(able):
        raise ValueError("no candidate has a score on every case")
    sign = 1 if direction == "maximize" else -1
    values = scores[able]
    best = int((sign * values.mean(axis=1)).argmax())
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    score, chosen = float(values[best].mean()), int(able[best])
    if len(names) < MIN_PATIENTS:
        return Optimism(chosen, score, math.nan, len(names))
    drawn = np.random.default_rng(resampling.seed).integers(0, len(names), (resampling.samples, len(names)))
    times = np.stack([np.bincount(sample, minlength=len(names)) for sample in drawn])[:, patient]
    choices = (sign * (times @ values.T) / times.sum(axis=1, keepdims=True)).argmax(axis=1)
    out = times == 0
    left = np.where(out, values[choices], 0).sum(axis=0) / np.maximum(out.sum(axis=0), 1)
    return Optimism(chosen, score, float(np.where(out.any(axis=0), left, values[best]).mean()), len(names))
