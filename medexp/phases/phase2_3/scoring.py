"""How well one network does both tasks: what it says of the cases of a split, and the criterion that its training goes by."""

import numpy as np
import pandas as pd

from medexp.evaluation.classification import balanced_accuracy
from medexp.evaluation.optimism import as_one_mean, balanced_by_case
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.shared.classification import as_table, predictions_in
from medexp.phases.shared.folds import Tables
from medexp.phases.shared.images import Images, predict_and_dice


def told(images: Images, net: MultiTaskModel, split: str) -> Tables:
    """What a network says of each image, and Dice of each scan."""
    found, scans = predict_and_dice(images, net, split)
    return as_table(images.data.rows(split), found), scans


def both_tasks(images: Images, tables: Tables, split: str) -> dict[str, float]:
    """Mean Dice over scans, balanced accuracy, and the mean of the two, `both`."""
    found = predictions_in(tables[0], images.data.rows(split))
    balanced = float(balanced_accuracy(found, np.ones((1, len(found.truth))))[0])
    scores = {"dice": float(tables[1]["dice"].mean()), "balanced_accuracy": balanced}
    return scores | {"both": sum(scores.values()) / 2}


def both_by_patient(images: Images, tables: Tables, split: str) -> pd.Series:
    """Values whose mean is `both`, for who chooses by it."""
    rows = images.data.rows(split)
    balanced = balanced_by_case(predictions_in(tables[0], rows), list(rows["patient"]))
    return as_one_mean(tables[1].set_index("patient")["dice"].dropna(), balanced)
