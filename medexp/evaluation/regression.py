"""What can be read from features by a linear model: ridge regression, and R2 of what it predicts."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medexp.arrays import Array


def ridge(train: Array, train_targets: Array, held_out: Array) -> Array:
    """Predictions of ridge regressions on standardised features, the penalty chosen by leave-one-out on the training cases.

    Args:
        train: Features (N, D).
        train_targets: Targets (N, T).
        held_out: Features (M, D).

    Returns:
        Predictions (M, T); NaN with fewer than two training cases, which no penalty can be chosen on.
    """
    if len(train) < 2:
        return np.full((len(held_out), train_targets.shape[1]), np.nan)
    penalties = np.logspace(-1, 5, 13)
    columns = [
        make_pipeline(StandardScaler(), RidgeCV(alphas=penalties)).fit(train, target).predict(held_out)
        for target in train_targets.T
    ]
    return np.stack(columns, axis=1)


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
