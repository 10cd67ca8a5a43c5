"""What can be read from features by a linear model: ridge regression, and R2 of what it predicts."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from medexp.arrays import Array

FOLDS = 5
PENALTIES = np.logspace(-1, 5, 13)
"""Of standardised features: from nearly none to one that leaves nothing but the mean of the targets."""


def ridge(train: Array, train_targets: Array, patients: Sequence[str], held_out: Array) -> Array:
    """Predictions of ridge regressions on standardised features, the penalty chosen on patients left out in turn.

    By patient: with another scan of the same one still among the training cases, almost no penalty looks best, and what is
    then predicted of new patients is wild. No prediction leaves the range of the targets that it was fitted to: features far
    from all that were seen would be given a value that no case has, and R2 over dozens of cases would be that one's.

    Args:
        train: Features (N, D).
        train_targets: Targets (N, T).
        patients: Patient of each training case (N,).
        held_out: Features (M, D).

    Returns:
        Predictions (M, T); NaN with fewer than two training patients, which no penalty can be chosen on.
    """
    folds = min(FOLDS, len(set(patients)))
    if folds < 2:
        return np.full((len(held_out), train_targets.shape[1]), np.nan)
    scaler = StandardScaler().fit(train)
    features, new = scaler.transform(train), scaler.transform(held_out)
    errors = np.zeros((len(PENALTIES), train_targets.shape[1]))
    for fit, score in GroupKFold(folds).split(train, groups=patients):
        for row, penalty in enumerate(PENALTIES):  # all targets at once, which RidgeCV with splits of its own does one by one
            told = _predicted(penalty, features[fit], train_targets[fit], features[score])
            errors[row] += ((told - train_targets[score]) ** 2).mean(axis=0)
    return _predicted(PENALTIES[errors.argmin(axis=0)], features, train_targets, new)


def _predicted(penalty: float | Array, features: Array, targets: Array, new: Array) -> Array:
    """Predictions (M, T) of features (M, D) by a ridge of (N, D) and targets (N, T), within the targets' range."""
    found = Ridge(penalty).fit(features, targets).predict(new)
    return np.clip(found.reshape(len(new), targets.shape[1]), targets.min(axis=0), targets.max(axis=0))


def r2(targets: Array, predictions: Array) -> Array:
    """Coefficient of determination of each target (T,), at most 1; 0 is what the mean of `targets` has.

    NaN where it is not defined: fewer than two rows, or a target that does not vary.

    Args:
        targets: The truth (rows, T).
        predictions: Of the same rows (rows, T).
    """
    residual = ((targets - predictions) ** 2).sum(axis=0)
    total = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), np.nan)


def r2_gains(targets: Array, predictions: Array, reference: Array) -> Array:
    """What each row adds to the gain in mean R2 of predictions over a reference: the mean over the rows is that gain.

    Resampling these, with the targets' variance held at the whole set's, is stable where resampling R2 itself divides by the
    variance of a few rows.

    Args:
        targets: The truth (rows, T).
        predictions: Of the same rows (rows, T).
        reference: Other predictions of them (rows, T).

    Returns:
        (rows,), over the columns where R2 is defined; NaN where it is defined in none.
    """
    variance = targets.var(axis=0)
    gains = ((targets - reference) ** 2 - (targets - predictions) ** 2)[:, variance > 0] / variance[variance > 0]
    return gains.mean(axis=1) if gains.shape[1] else np.full(len(targets), np.nan)


def mean_r2(targets: Array, predictions: Array) -> float:
    """Mean of `r2` over the targets where it is defined, at most 1; NaN where it is defined in none. Arguments (rows, T)."""
    values = r2(targets, predictions)
    return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")
