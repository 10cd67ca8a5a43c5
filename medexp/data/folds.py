"""Folds by patient: each case is judged by a training that has seen nobody of its fold."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold


def folds_of(per_case: pd.DataFrame) -> int:
    """How many trainings judged the cases of a table: its column `fold` says which one each; 0 where one judged all."""
    return int(per_case["fold"].nunique()) if "fold" in per_case else 0


def draw_folds(groups: Sequence[Sequence[str]], strata: Mapping[str, str], count: int, seed: int) -> dict[str, int]:
    """The fold of each case, from 1: scikit-learn's StratifiedGroupKFold, shuffled by a seed.

    The groups stay together and each fold gets about as many cases of each stratum, as far as the groups allow: a fold may
    lack a stratum, and where there are few groups be empty. The same cases give the same folds in whatever order they come.

    Args:
        groups: Cases that stay together, such as `medexp.data.splits.patient_groups`; at least `count` of them.
        strata: By case, what is spread evenly: its label, or a bin of its tumour's size.
        count: Number of folds, at least 2.
        seed: Seed of the draw.
    """
    owner = {case: index for index, group in enumerate(sorted(sorted(group) for group in groups)) for case in group}
    cases = sorted(owner)
    members, belongs = [strata[case] for case in cases], [owner[case] for case in cases]
    if max(np.unique(members, return_counts=True)[1]) < count:  # scikit-learn refuses what cannot be spread evenly
        members = [""] * len(cases)
    drawn = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of strata with fewer cases than folds
        parts = [judged for _, judged in drawn.split(cases, members, belongs)]
    return {cases[index]: number for number, judged in enumerate(parts, 1) for index in judged}


def thirds(values: Mapping[str, float]) -> dict[str, str]:
    """Which third of the cases each is in by its value, as strata; equal values by their case."""
    ordered = sorted(values, key=lambda case: (values[case], case))
    return {case: ("small", "medium", "large")[place * 3 // len(ordered)] for place, case in enumerate(ordered)}
