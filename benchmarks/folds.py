"""What does an interval over out-of-fold cases cover? `python -m benchmarks.folds`

Labels that mean nothing (the truth is an AUROC of 0.5): logistic regression on normal features, five folds of one patient a
case, and the interval of 95 % over all of them. A bootstrap of cases takes the trainings as they are; that folds share their
training cases makes the figure vary more than it says.
"""

from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from medexp.config.shared import Resampling
from medexp.data.folds import draw_folds
from medexp.evaluation.classification import Predictions, auroc
from medexp.evaluation.intervals import by_patient

ROUNDS, FOLDS = 200, 5


def out_of_fold(count: int, width: int, seed: int) -> Predictions:
    """What five folds say of cases without any signal, one half of each class."""
    rng = np.random.default_rng((count, width, seed))
    features, labels = rng.normal(size=(count, width)), rng.permutation(np.arange(count) % 2)
    names = [f"{case:04d}" for case in range(count)]
    strata = dict(zip(names, map(str, labels), strict=True))
    fold_of = draw_folds([[name] for name in names], strata, FOLDS, seed)
    fold, probabilities = np.array([fold_of[name] for name in names]), np.zeros((count, 2))
    for number in range(1, FOLDS + 1):
        fit = fold != number
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(features[fit], labels[fit])
        probabilities[~fit] = model.predict_proba(features[~fit])
    return Predictions(labels, probabilities)


def main() -> None:
    with threadpool_limits(1):
        for count in (50, 192):
            for width in (2, 256):
                intervals = []
                for seed in range(ROUNDS):
                    found = out_of_fold(count, width, seed)
                    resampling = Resampling(200, 0.95, seed)
                    intervals.append(by_patient(partial(auroc, found), [str(case) for case in range(count)], resampling))
                estimates = np.array([one.estimate for one in intervals])
                held = np.mean([one.low <= 0.5 <= one.high for one in intervals])
                alone = ((count + 1) / 3) ** 0.5 / count
                print(
                    f"folds, {count} cases, {width} features: AUROC {estimates.mean():.3f}, SD {estimates.std():.3f} (of "
                    f"independent cases {alone:.3f}); intervals of 95 % that hold 0.5: {held:.1%} of {ROUNDS}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
