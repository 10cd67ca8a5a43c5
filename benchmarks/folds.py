"""What does an interval over out-of-fold cases cover? `python -m benchmarks.folds`

Labels that mean nothing (the truth is an AUROC of 0.5), and labels that do (the truth is the mean of all rounds): logistic
regression on normal features, five folds of one patient a case, and the interval of 95 % over all of them. A bootstrap of
cases takes the trainings as they are; that folds share their training cases makes the figure vary more than it says, and
`Resampling.excess` answers for it. Both are printed.
"""

from itertools import product

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from medexp.config.shared import Resampling
from medexp.data.folds import draw_folds
from medexp.evaluation.classification import Predictions, auroc, scores

ROUNDS, FOLDS = 200, 5
AUROC = {"auroc": auroc}


def out_of_fold(count: int, width: int, signal: float, seed: int) -> Predictions:
    """What five folds say of cases, one half of each class, whose first feature lies `signal` SD apart."""
    rng = np.random.default_rng((count, width, seed))
    features, labels = rng.normal(size=(count, width)), rng.permutation(np.arange(count) % 2)
    features[:, 0] += signal * labels
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
        for signal, count, width in product((0.0, 1.0), (50, 192), (2, 256)):
            names, held = [str(case) for case in range(count)], {0: 0, FOLDS: 0}
            found = [out_of_fold(count, width, signal, seed) for seed in range(ROUNDS)]
            told = [float(auroc(one, np.ones((1, count)))[0]) for one in found]
            truth = float(np.mean(told)) if signal else 0.5
            for folds in held:
                drawn = (scores(one, names, Resampling(200, 0.95, seed, folds), AUROC) for seed, one in enumerate(found))
                held[folds] = sum(one["auroc"].low <= truth <= one["auroc"].high for one in drawn)
            print(
                f"{'signal' if signal else 'no signal'}, {count} cases, {width} features: AUROC {np.mean(told):.3f}, "
                f"SD {np.std(told):.3f}; intervals of 95 % that hold {truth:.2f}: {held[0] / ROUNDS:.1%} as if the cases were "
                f"independent, {held[FOLDS] / ROUNDS:.1%} as medexp gives them",
                flush=True,
            )


if __name__ == "__main__":
    main()
